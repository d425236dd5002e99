"""Findings about Python, libraries, limits and clocks, by tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.doctor.findings import Level
from rebalancer.doctor.judge import system
from rebalancer.doctor.judge.system import Clock, Files, Library, Native, Sqlite

OK, WARNING, STOPS = Level.OK, Level.WARNING, Level.STOPS


@pytest.mark.parametrize(
    ("names", "level"),
    [
        (["poll", "epoll"], OK),
        (["kqueue"], OK),
        (["poll", "select", "devpoll"], STOPS),
        ([], STOPS),
    ],
)
def test_an_event_loop_needs_one_of_two(names: list[str], level: Level) -> None:
    """Those that trio knows; a finding without says what to do."""
    found = system.event_loop(names)

    assert found.level is level
    assert ("Linux zone" in found.do) is (level is STOPS)


@pytest.mark.parametrize(
    ("version", "level"),
    [((3, 10, 9), STOPS), ((3, 11, 0), OK), ((3, 14, 2), OK), ((3, 15, 0), WARNING)],
)
def test_a_python_is_one_that_was_tested(version: tuple[int, ...], level: Level) -> None:
    """An older one lacks syntax; of a newer one nothing is known."""
    assert system.python(version).level is level


@pytest.mark.parametrize(
    ("seen", "level", "has"),
    [
        (Sqlite((3, 34, 1), 3), STOPS, "3.34.1"),
        (Sqlite((3, 45, 0), 3, ("json_each",)), STOPS, "without json_each"),
        (Sqlite((3, 45, 0), 0), STOPS, "single thread"),
        (Sqlite((3, 37, 0), 3), WARNING, "ON CONFLICT"),
        (Sqlite((3, 40, 1), 1), OK, "rare fault"),
        (Sqlite((3, 51, 2), 3), OK, "rare fault"),
        (Sqlite((3, 44, 6), 3), OK, ""),
        (Sqlite((3, 50, 7), 3), OK, ""),
        (Sqlite((3, 51, 3), 3), OK, ""),
        (Sqlite((3, 53, 0), 3), OK, ""),
    ],
)
def test_a_sqlite_is_new_enough_and_whole(seen: Sqlite, level: Level, has: str) -> None:
    """What it cannot do stops the program; what it does badly is said."""
    found = system.sqlite(seen)

    assert found.level is level
    assert has in found.found
    assert ("rare fault" in found.found) is (has == "rare fault")


def test_packages_are_named_that_are_missing_or_old() -> None:
    """Each with what to do; the others are counted, if all are new enough."""
    good, old = Library("trio", (0, 30), (0, 27)), Library("attrs", (23, 1, 0), (24, 2))
    missing = Library("h11", None, (0, 14))

    (brought,) = system.libraries([])  # by the one file
    assert "came with the program" in brought.found
    (fine,) = system.libraries([good])
    assert fine.level is OK
    both = list(system.libraries([good, old, missing]))
    assert [one.level for one in both] == [STOPS, STOPS]
    assert "attrs has version 23.1.0" in both[0].found
    assert "h11 is missing" in both[1].found


def test_a_native_library_stops_only_a_program_that_needs_it() -> None:
    """Else something else is done, and the finding says what."""
    seen = [
        Native("libpq", "16.3"),
        Native("libcurl", "", "no such file", False, "the plain engine pulls", "install it"),
        Native("libpq", "", "no such file", True, "", "install it"),
    ]
    fine, slow, none = system.natives(seen)

    assert [one.level for one in (fine, slow, none)] == [OK, WARNING, STOPS]
    assert "the plain engine pulls" in slow.found


@pytest.mark.parametrize(
    ("texts", "names", "level"),
    [
        ("UTF-8", "utf-8", OK),
        ("utf8", "utf_8", OK),
        ("ANSI_X3.4-1968", "utf-8", WARNING),
        ("UTF-8", "latin-1", WARNING),
    ],
)
def test_texts_are_utf8(texts: str, names: str, level: Level) -> None:
    """By any of its spellings."""
    assert system.encoding(texts, names).level is level


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (Files(256, 65536, 2000, is_raised=True), OK),
        (Files(256, 65536, 2000, is_raised=False), WARNING),
        (Files(256, 1024, 2000, is_raised=True), WARNING),
        (Files(None, None, 2000, is_raised=False), OK),
        (Files(2000, None, 2000, is_raised=False), OK),
    ],
)
def test_the_limit_that_counts_is_what_the_program_can_have(seen: Files, level: Level) -> None:
    """A manager raises its soft limit; an agent lives with it."""
    assert system.files(seen).level is level


@given(*(st.integers(1, n) for n in (500, 250, 500, 100)))
def test_more_connections_never_need_fewer_files(s: int, c: int, clones: int, jobs: int) -> None:
    """And what is left beside the share of HTTP is enough for them."""
    need = system.files_of_manager(s, c, clones, jobs)

    assert need >= jobs * (s * c + clones)
    assert need <= system.files_of_manager(s + 1, c, clones, jobs + 1)


def test_an_agents_processes_share_its_pulls() -> None:
    """Each has a limit of its own; without processes the agent itself pulls."""
    assert system.files_of_agent(100, 4) < system.files_of_agent(100, 1)
    assert system.files_of_agent(100, 0) == system.files_of_agent(100, 1)


@pytest.mark.parametrize(
    ("seen", "levels", "has"),
    [
        (Clock(1.8e9, 0.0, 0.01), [OK], ""),
        (Clock(1.8e9, None, 0.01), [OK], ""),
        (Clock(0.0, 0.0, 0.01), [WARNING], "never set"),
        (Clock(1.8e9, 0.0, 0.0), [STOPS], "stands still"),
        (Clock(1.8e9, -120.0, 0.01), [WARNING], "120 s behind"),
        (Clock(1.8e9, 3600.0, 0.01), [WARNING], "3,600 s ahead"),
        (Clock(1.0, 99.0, -1.0), [WARNING, STOPS, WARNING], "never set"),
    ],
)
def test_clocks_are_set_run_and_agree(seen: Clock, levels: list[Level], has: str) -> None:
    """Each that does not is a finding of its own."""
    found = list(system.clock(seen))

    assert [one.level for one in found] == levels
    assert has in found[0].found
