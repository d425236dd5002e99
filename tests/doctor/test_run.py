"""Checks are made at a time, within bounds, and none takes the others from the operator."""

import select
import threading
from pathlib import Path
from typing import Any

import attrs
import pytest

from rebalancer.doctor import run
from rebalancer.doctor.checks import BOTH, CHECKS, Check
from rebalancer.doctor.findings import Finding, Level, ok, stops, warning
from rebalancer.doctor.subject import AGENT, MANAGER, Subject
from rebalancer.errors import ConfigError
from tests.doctor.subjects import a_manager, an_agent
from tests.logs import capture_logs


def a_check(look: Any, *, name: str = "it", **more: Any) -> Check:
    def judge(seen: Any) -> Finding:
        return ok(str(seen))

    return Check(name, "it", look, judge, Level.STOPS, **more)


def test_a_check_that_hangs_or_fails_is_a_warning(tmp_path: Path) -> None:
    """All others have their findings, in the order of the list."""
    hangs = threading.Event()

    def fail(_subject: Subject) -> None:
        raise ZeroDivisionError("odd")

    checks = (
        a_check(lambda _: hangs.wait(), name="hangs"),
        a_check(fail, name="fails"),
        a_check(lambda _: "fine", name="fine"),
    )
    try:
        results = run.examine(a_manager(tmp_path), checks=checks, within_s=0.2)
    finally:
        hangs.set()
    found = [(one.check.name, one.finding.level, one.finding.found) for one in results]
    assert found == [
        ("hangs", Level.WARNING, "it has not ended within 0.2 s"),
        ("fails", Level.WARNING, "the check itself failed: ZeroDivisionError: odd"),
        ("fine", Level.OK, "fine"),
    ]


def test_what_cannot_be_looked_at_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a configuration, or without an event loop; and what is another program's."""
    alone = a_check(lambda _: "fine", needs_config=False)
    assert _levels(Subject(MANAGER, tmp_path), alone) == [Level.OK]
    assert _levels(Subject(MANAGER, tmp_path), a_check(lambda _: "fine")) == [Level.SKIPPED]
    waits = a_check(lambda _: "fine", needs_event_loop=True)
    assert _levels(a_manager(tmp_path), waits) == [Level.OK]
    for name in ("epoll", "kqueue"):
        monkeypatch.delattr(select, name, raising=False)
    assert _levels(a_manager(tmp_path), waits) == [Level.SKIPPED]
    assert _levels(an_agent(tmp_path), a_check(id, programs=frozenset({MANAGER}))) == []


def _levels(subject: Subject, check: Check) -> list[Level]:
    return [one.finding.level for one in run.examine(subject, checks=(check,))]


def test_a_start_logs_what_is_amiss_and_ends_for_what_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each warning, and nothing if all is well; checks for the doctor are not made."""
    found = {"mild": warning("low", "high", "raise it"), "good": ok("good")}

    def checks(*names: str) -> tuple[Check, ...]:
        made = [a_check(lambda _, n=name: n, name=name, at_start=True) for name in names]
        judged = [attrs.evolve(one, judge=found.__getitem__) for one in made]
        return (*judged, a_check(pytest.fail))

    monkeypatch.setattr(run, "CHECKS", checks("mild", "good"))
    with capture_logs() as logs:
        run.check_start(an_agent(tmp_path))
    assert [(one["check"], one["finding"]) for one in logs] == [
        ("mild", "low; expected high; raise it")
    ]
    found["bad"] = stops("broken", "whole", "mend it")
    monkeypatch.setattr(run, "CHECKS", checks("bad"))
    with pytest.raises(ConfigError, match="bad: broken; expected whole; mend it"):
        run.check_start(an_agent(tmp_path))


def test_checks_have_names_of_their_own_that_fit_a_column() -> None:
    """And those of a start write nothing and ask nobody."""
    names = [check.name for check in CHECKS]

    assert len(set(names)) == len(names)
    assert max(map(len, names)) < 15
    assert {check.name for check in CHECKS if check.at_start} == {
        "event loop",
        "file system",
        "locale",
        "open files",
        "python",
        "room",
        "secrets",
        "sqlite",
    }
    assert {AGENT, MANAGER} == BOTH
