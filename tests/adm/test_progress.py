"""What the operator's command makes of a job's views."""

from typing import Any

import attrs
import pytest

from rebalancer.adm.progress import exit_code, glance, how_it_ended, notes, state_words
from rebalancer.adm.tables import what_does_not_fit
from rebalancer.api.jobs import JobShown, Rate, Summary, SummaryRates
from rebalancer.api.plan import Plan, PlannedSkip
from rebalancer.converter import structure
from rebalancer.rates import Rates

RESULTS = ("Total", "Unprocessed", "Assigned", "Skipped", "Error", "Post Processing", "Complete")


def scan(position: int, until: int, **fields: int) -> dict[str, Any]:
    return {"shard": 1, "column": "_id", "position": position, "until": until, **fields}


def running(complete: int = 0, total: int = 0, **fields: Any) -> dict[str, Any]:
    """A job as a manager answers it that shows no more than the predecessor, but for `fields`."""
    results = {**dict.fromkeys(RESULTS, 0), "Duplicates": 0, "Complete": complete, "Total": total}
    return {"config": {}, "state": "Running", "results": results, **fields}


def shown(complete: int = 0, total: int = 0, **fields: Any) -> JobShown:
    return structure(running(complete, total, **fields), JobShown)


#: What a manager tells of a job of which there is nothing to tell.
SUMMARY = Summary(
    id="0fd6",
    state="Running",
    counts=(),
    rates=SummaryRates(),
    eta_s=None,
    scans=(),
    rounds=(),
    warnings=(),
    destinations=(),
    tuning={},
)


def scanned(number: int, remaining: int) -> dict[str, Any]:
    return {"round": number, "started": "", "found": 0, "remaining": remaining}


def ten_a_second() -> Rates:
    rates = Rates(10.0)
    rates.add(0.0, 0, 0)
    rates.add(10.0, 100, 5_000_000)
    return rates


def test_notes_tell_what_counts_do_not() -> None:
    """Warnings, and what the last final scan listed; nothing where there is nothing."""
    rounds = [scanned(1, 7), scanned(2, 2)]
    warnings = [{"check": "agent", "detail": "2.stor is away"}]
    assert notes(shown(rounds=rounds, warnings=warnings)) == [
        "warning: agent: 2.stor is away",
        "2 records still name the node: job report lists them",
    ]
    assert notes(shown(rounds=[scanned(1, 7), scanned(2, 0)])) == []
    view = shown(rounds=rounds)
    assert notes(attrs.evolve(SUMMARY, rounds=view.rounds)) == notes(view)
    assert notes(shown()) == []  # another manager's


@pytest.mark.parametrize(
    ("scans", "begins"),
    [
        ([scan(10, 10), scan(10, 30)], "discovery: 50% scanned   "),
        ([scan(10, 10)], "all objects found   "),
        ([scan(10, 10), scan(3, 12, round=1), scan(3, 12, round=1)], "final scan 1: 25% scanned "),
        ([], "running   "),
    ],
)
def test_progress_is_that_of_the_last_round(scans: list[dict[str, Any]], begins: str) -> None:
    """A final scan begins at nothing again, and says so."""
    assert glance(shown(scans=scans), None, Rates(10.0)).line.startswith(begins)


def test_an_ended_job_has_no_rate_and_no_time_left() -> None:
    """It is not unknown how long it takes on."""
    line = glance(shown(100, 200, state="Failed"), None, ten_a_second()).line
    assert line == "failed   100/200 objects settled"


def test_what_is_left_of_a_job_is_said_once() -> None:
    """By its verdict; the message of the exit code repeats the word only."""
    verdict = {"verdict": "not_empty", "line": "not empty: 2 records", "causes": []}
    view = shown(state="Complete", rounds=[scanned(1, 2)], verdict=verdict)
    assert notes(view) == ["not empty: 2 records"]
    assert how_it_ended("0fd6", view) == "job 0fd6 is complete, but not empty"


def test_the_time_left_allows_for_what_is_not_found_yet() -> None:
    """Half of the shards has been looked at, so there may be as many objects again."""
    seen = glance(shown(100, 200, scans=[scan(5, 10)]), None, ten_a_second())

    assert (seen.objects_per_s, seen.bytes_per_s, seen.left_s) == (10, 500_000, 30)
    assert seen.line.endswith("10 objects/s   500.0 kB/s   time left: 30 s")


def test_a_manager_that_tells_nothing_of_scans_is_watched_too() -> None:
    """The deployed one: the time left is for the objects that it knows of."""
    seen = glance(shown(100, 200), None, ten_a_second())

    assert (seen.phase, seen.scanned, seen.left_s) == ("running", None, 10)


def test_the_managers_own_rates_come_first() -> None:
    """It has seen the last minute, the operator who has just begun to watch has not."""
    minute = Rate(objects_per_s=50.0, bytes_per_s=9.0)
    told = attrs.evolve(SUMMARY, rates=SummaryRates(minute=minute), eta_s=7200.0)
    view = shown(100, 200, scans=[scan(10, 10)])

    assert glance(view, told, ten_a_second()).line.endswith("time left: 2 h 00 min")
    assert glance(view, SUMMARY, ten_a_second()).left_s == 10
    assert glance(view, None, Rates(10.0)).line.endswith("time left: unknown")


@pytest.mark.parametrize(
    ("state", "wish", "words", "cause"),
    [
        ("Complete", None, "complete", "job 0fd6: no shard answers"),
        ("Setup", None, "waiting for its turn", None),
        ("Running", "cancel", "being cancelled", None),
        ("Running", "pause", "being paused", None),
        ("Stopped", "pause", "paused", "job 0fd6 is paused: job resume lets it go on"),
        (
            "Stopped",
            "cancel",
            "cancelled",
            "job 0fd6 was cancelled: job retry takes up what it left",
        ),
        ("Failed", None, "failed", "job 0fd6 failed: no shard answers"),
        ("Odd", None, "odd", "job 0fd6 is odd"),
    ],
)
def test_a_state_is_told_with_what_was_asked_for(
    state: str, wish: str | None, words: str, cause: str | None
) -> None:
    """A job that goes no further says why, and what can be done."""
    view = shown(state=state, error="no shard answers", wish=wish)

    assert state_words(view) == words
    if cause is not None:
        assert how_it_ended("0fd6", view) == cause


@pytest.mark.parametrize(
    ("state", "word", "fields", "code"),
    [
        ("Complete", None, {}, 4),  # of a manager that has no verdicts, or cannot read the file
        ("Complete", "unheard_of", {}, 4),
        ("Complete", None, {"error": "its file is damaged"}, 1),
        ("Complete", "empty", {}, 0),
        ("Complete", "right", {}, 0),
        ("Complete", "not_empty", {}, 3),
        ("Complete", "partial", {}, 4),
        ("Failed", "faults", {}, 1),
        ("Stopped", "not_done", {"wish": "cancel"}, 1),
        ("Stopped", None, {"wish": "pause"}, 1),
    ],
)
def test_the_exit_code_is_0_only_if_nothing_is_left(
    state: str, word: str | None, fields: dict[str, Any], code: int
) -> None:
    """And there is a text for each other one."""
    verdict = None if word is None else {"verdict": word, "line": "", "causes": []}
    view = shown(state=state, verdict=verdict, **fields)
    assert exit_code(view) == code
    assert bool(how_it_ended("0fd6", view)) == bool(code)


def test_what_does_not_fit_is_told_with_its_reason() -> None:
    """But not what is left alone at the operator's wish."""
    skipped = (
        PlannedSkip(reason="destination_insufficient_space", objects=1200, bytes=1),
        PlannedSkip(reason="excluded", objects=3, bytes=1),
    )
    crowded = Plan(
        objects=1203,
        bytes=2,
        fits=False,
        destinations=(),
        skipped=skipped,
        errors=(),
        duplicates=0,
        warnings=(),
        failures=("shard 2: away",),
    )

    assert what_does_not_fit(crowded) == [
        "1,200 objects without room anywhere: destination_insufficient_space",
        "shard 2: away",
    ]
    assert what_does_not_fit(attrs.evolve(crowded, fits=True)) == []


def test_what_a_job_waits_for_is_noted() -> None:
    """A line each: what, since when, and why."""
    waiting = [
        {"for": "storinfo", "since": "2026-11-25T12:03:00Z", "detail": "no answer"},
        {"for": "shard 2", "since": "2026-11-25T12:04:00Z", "detail": "connection refused"},
        {"for": "its turn", "since": None, "detail": "others run"},
    ]
    assert notes(shown(waiting=waiting)) == [
        "waits for storinfo since 2026-11-25T12:03:00Z: no answer",
        "waits for shard 2 since 2026-11-25T12:04:00Z: connection refused",
        "waits for its turn: others run",
    ]
