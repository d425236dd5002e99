"""Findings about a configuration, its user, claims and ports, by tables."""

import pytest

from rebalancer.doctor.findings import Level
from rebalancer.doctor.judge import setup
from rebalancer.doctor.judge.setup import Configuration, Holder, Port, Secret, User

OK, WARNING, STOPS = Level.OK, Level.WARNING, Level.STOPS


def test_each_fault_of_a_configuration_stops() -> None:
    """The program would not start with any of them."""
    good = list(setup.configuration(Configuration("agent", "/etc/a")))
    bad = list(setup.configuration(Configuration("agent", "/etc/a", ("one", "two"))))

    assert [one.level for one in good] == [OK]
    assert [(one.level, one.found) for one in bad] == [(STOPS, "one"), (STOPS, "two")]


@pytest.mark.parametrize(
    ("is_read", "is_written", "do"),
    [(True, False, "chmod o-rw"), (False, True, "chmod o-w"), (True, True, "chmod o-")],
)
def test_secrets_are_kept(is_read: bool, is_written: bool, do: str) -> None:
    """Of several files only those are named that are not."""
    (found,) = setup.secrets([Secret("/a", is_read, is_written), Secret("/b", False, False)])

    assert (found.level, found.found[:2]) == (WARNING, "/a")
    assert found.do.startswith(do)


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (User("root", "nobody", True), WARNING),
        (User("root", "root", True), OK),
        (User("root", None, True), OK),
        (User("nobody", "nobody", False), OK),
        (User("nobody", "root", False), OK),  # the check of folders says what that means
    ],
)
def test_root_is_told_to_try_as_the_owner(seen: User, level: Level) -> None:
    """Permissions mean nothing to root."""
    found = setup.user(seen)

    assert found.level is level
    assert ("--user nobody" in found.do) is (level is WARNING)


def test_a_claim_names_the_process() -> None:
    """A folder that cannot be claimed stops the next start."""
    held = Holder("/db", "rebalancer-manager, process 7, since noon")

    assert [one.found for one in setup.running([held, Holder("/tmp")])] == [
        "running: rebalancer-manager, process 7, since noon has /db"
    ]
    assert [one.found for one in setup.running([Holder("/db")])] == ["not running"]
    assert [one.level for one in setup.running([Holder("/db", trouble="no locks")])] == [STOPS]


@pytest.mark.parametrize(
    ("seen", "level", "do"),
    [
        (Port("API", ":80"), OK, ""),
        (Port("API", ":80", "in use", is_ours=True, is_in_use=True, holder="p"), OK, ""),
        (Port("API", ":80", "in use", is_in_use=True), STOPS, "end the program"),
        (Port("API", ":80", "denied", is_forbidden=True), STOPS, "net_privaddr"),
        (Port("API", "9.9.9.9:80", "not available"), STOPS, "address of this machine"),
    ],
)
def test_a_port_is_free_or_ours(seen: Port, level: Level, do: str) -> None:
    """Else the remedy depends on what the system says."""
    (found,) = setup.ports([seen])

    assert found.level is level
    assert do in found.do
