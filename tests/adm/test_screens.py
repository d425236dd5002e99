"""What a terminal shows at every width: everything that must be visible is, and no line is cut."""

import datetime
import io
import json
from typing import Any

import attrs
import pytest
from rich.console import Console

from rebalancer.adm.progress import glance, percent, state_word
from rebalancer.adm.screens import (
    MOST_IDLE,
    clock,
    destinations_screen,
    flow,
    job_destinations_screen,
    jobs_screen,
    status_screen,
    wait_lines,
)
from rebalancer.adm.watch import Look, drawn, watch_job
from rebalancer.api.jobs import Destination, JobListed, JobShown, Results, Standing, Wait
from rebalancer.api.status import Status, Storinfo
from rebalancer.converter import structure
from rebalancer.progress import seconds_between
from rebalancer.rates import Rates
from tests.adm.scripted import scripted
from tests.adm.test_progress import SUMMARY, running, scan

NOW = datetime.datetime(2026, 11, 26, 12, 30, tzinfo=datetime.UTC)
WIDTHS = (60, 80, 100, 120, 200)
ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
OTHER = "7c0a11ee-f29d-4da9-953f-48f1a09f76b5"


def wait(subject: str, since: str | None = None, detail: str = "refused") -> dict[str, Any]:
    return {"for": subject, "since": since, "detail": detail}


def entry(**fields: Any) -> JobListed:
    given = {
        "id": ID,
        "action": "Evacuate",
        "state": "Running",
        "subject": "1.stor.lab.example.com",
    }
    return structure({**given, "created": "2026-11-26T09:14:00.123Z", **fields}, JobListed)


def results(total: int, **counts: int) -> dict[str, int]:
    names = ("Unprocessed", "Assigned", "Skipped", "Error", "Post Processing", "Complete")
    return {"Total": total, "Duplicates": 0, **dict.fromkeys(names, 0), **counts}


#: Jobs in all states.
JOBS = [
    entry(
        results=results(50_000, Complete=12_345, Skipped=100, Error=7),
        scanned=1.0,
        rate={"objects_per_s": 1234.5, "bytes_per_s": 81e6},
        eta_s=180.0,
        started="2026-11-26T09:15:00Z",
        deferred=16_266,
        waiting=[wait("the agent of 2.stor.lab", "2026-11-26T12:03:00Z")],
    ),
    entry(id=OTHER, state="Setup", behind=[ID], waiting=[wait("its turn")]),
    entry(id=OTHER, state="Stopped", wish="pause", finished="2026-11-26T10:00:00Z"),
    entry(id=OTHER, state="Stopped", wish="cancel", verdict="not_done"),
    entry(
        id=OTHER,
        state="Complete",
        verdict="empty",
        results=results(9, Complete=9),
        started="2026-11-25T09:15:00Z",
        finished="2026-11-25T10:15:00Z",
    ),
    entry(id=OTHER, state="Failed", error="discovery on shard 2 did not finish: no answer"),
]


def standing(name: str, **fields: Any) -> Standing:
    known = {"percent_used": 62, "available": 10_200_000_000, "datacenter": "dc1"}
    counts = {"claimed": 0, "assignments": 0, "failures": 0, "avoided_for_s": 0}
    return structure({"shark": name, **counts, **known, **fields}, Standing)


STATUS = Status(
    version="1.2.3",
    jobs={"Running": 1},
    running=(ID,),
    max_concurrent_jobs=1,
    storinfo=Storinfo(nodes=8, age_s=3.0),
    destinations=(
        standing("1.stor.lab", unused="a job empties it"),
        standing("2.stor.lab", assignments=3, claimed=5_000_000),
        standing("3.stor.lab", failures=2, avoided_for_s=40.0, assignments=1),
        standing("4.stor.lab"),
    ),
)


def fits(lines: list[str], width: int) -> str:
    assert all(len(line) <= width for line in lines), [line for line in lines if len(line) > width]
    return "\n".join(lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_list_of_jobs_shows_everything_at_any_width(width: int) -> None:
    """States in one column, so that an eye runs down them; paused and cancelled are two."""
    lines = jobs_screen(JOBS, width, NOW)
    text = fits(lines, width)
    heads = [line for line in lines if not line.startswith(" ")][1:]
    column = lines[0].index("STATE")
    states = ["running", "queued", "paused", "cancelled", "complete", "failed"]
    assert [line[column:].split()[0] for line in heads] == states
    for words in (
        "evacuate 1.stor.lab.example.com",
        " 24%",
        "12,452 of 50,000 objects, 100 skipped, 7 failed",
        "1,234 objects/s, 81.0 MB/s",
        "3 min left",
        "created 09:14",
        "behind 0fd630f1",
        "not done",
        "empty",
        "ended 11-25 10:15, after 1 h 00 min",
        "paused 10:00",
    ):
        assert words in text, words
    flat = " ".join(text.split())
    assert "16,266 wait: 1 destination unreachable since 12:03 (2.stor.lab)" in flat
    assert "discovery on shard 2 did not finish: no answer" in flat
    assert "its turn" not in text


@pytest.mark.parametrize("width", WIDTHS)
def test_the_status_shows_jobs_and_why_a_destination_gets_nothing(width: int) -> None:
    """One that is avoided is not called unused, for it may be receiving."""
    lines = status_screen(STATUS, JOBS, width, NOW)
    text = fits(lines, width)
    for words in (
        "manager 1.2.3",
        "1 of 1 turns taken",
        "8 storage nodes by storinfo, read 3 s ago",
        "0fd630f1  running ",
        "not used: a job empties it",
        "avoided until 12:30:40",
        "62%",
        "10.2 GB",
    ):
        assert words in text, words
    assert "left out" not in text
    heads = [line for line in lines if ".stor.lab " in line and "  62%" in line]
    assert [line.split()[0] for line in heads[:2]] == ["2.stor.lab", "3.stor.lab"]
    assert len({line.index("62%") for line in heads}) == 1


def test_idle_destinations_and_old_jobs_are_counted_only() -> None:
    """A region has a thousand nodes, and a manager keeps jobs for years."""
    many = [standing(f"{number}.stor.lab") for number in range(1000)]
    lines = destinations_screen([*many, standing("x.stor", failures=1, unused="full")], 80, NOW)
    assert len(lines) == 1 + 1 + MOST_IDLE + 1
    assert lines[1].startswith("x.stor")
    assert lines[-1] == f"and {1000 - MOST_IDLE} more, idle: status --json lists them"
    ended = [entry(state="Complete", finished="2026-11-26T10:00:00Z")] * 9
    assert "and 6 that ended earlier: job list" in status_screen(STATUS, ended, 80, NOW)
    assert jobs_screen([], 80, NOW) == ["no jobs"]


def test_a_job_of_another_manager_is_listed() -> None:
    """The predecessor has id, action and state only."""
    row = structure({"id": ID, "action": "Evacuate", "state": "Stopped"}, JobListed)
    assert jobs_screen([row], 80, NOW)[1].split() == ["0fd630f1", "stopped", "-", "evacuate"]


CONFIG = {"action": "Evacuate", "from_shark": {"manta_storage_id": "1.stor.lab"}}


def looked(view: dict[str, Any], **summary: Any) -> Look:
    known = structure(view, JobShown)
    told = attrs.evolve(SUMMARY, **summary)
    return Look(ID, known, told, glance(known, told, Rates(10.0), NOW), {})


PLACES = tuple(
    Destination(
        shark=f"{number}.stor.lab",
        datacenter="dc1",
        assignments=2,
        tasks=50 + number,
        bytes=5_000_000,
        copied=40,
        failed=2,
        now=standing(f"{number}.stor.lab", avoided_for_s=40.0 * (number == 7)),
    )
    for number in range(2, 12)
)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [14, 24, 60])
def test_a_watched_job_fits_its_terminal(width: int, height: int) -> None:
    """Id, state, share, for how long, causes; as many destinations as there is room for."""
    view = running(
        12_000,
        50_000,
        config=CONFIG,
        scans=[scan(10, 10)],
        started="2026-11-26T12:00:00Z",
        created="2026-11-26T12:00:00Z",
        deferred=16_266,
        waiting=[wait("the agent of 2.stor.lab", "2026-11-26T12:03:00Z")],
    )
    view["warnings"] = [{"check": "storinfo", "detail": "storinfo lists 1.stor.lab"}]
    look = looked(view, destinations=PLACES)
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with console.capture() as capture:
        console.print(drawn(look, width, height, NOW))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    assert len(lines) < height
    (bar,) = (place for place, line in enumerate(lines) if set(line) <= set("━╸╺ ") and line)
    above, below = lines[:bar], lines[bar + 1 :]
    assert below[0] == "  warning: storinfo: storinfo lists 1.stor.lab"
    text = fits(above, width)
    for words in ("0fd630f1", "running", "24%", "all objects found", "12,000 of 50,000 objects"):
        assert words in text, words
    assert "began 30 min ago" in text
    assert "16,266 wait: 1 destination unreachable" in " ".join(text.split())
    rest = fits(below, width)
    # In a small one the causes come first, and what does not fit is left out.
    assert height == 14 or ("UNDER WAY" in rest and "11.stor.lab" in rest)
    assert height != 60 or "avoided until 12:30:40" in rest


def test_segments_stay_whole_where_they_can() -> None:
    """A text that is longer than a line is broken between words, and goes on below itself."""
    assert flow(["aaaa", "bbbb"], 20, indent="  ") == ["  aaaa   bbbb"]
    assert flow(["aaaa", "bbbb"], 12, indent="  ") == ["  aaaa", "  bbbb"]
    long = flow(["head", "one two three four five six seven"], 24, first="1: ", indent="  ")
    assert long[0] == "1: head"
    assert all(line.startswith("  ") and len(line) <= 24 for line in long[1:])
    assert " ".join(" ".join(long).split()) == "1: head one two three four five six seven"


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        ("2026-11-26T09:14:59.9Z", "09:14"),
        ("2026-11-26T01:14:00+02:00", "11-25 23:14"),
        ("2026-01-02T09:14:00Z", "01-02 09:14"),
        ("2025-01-02T09:14:00Z", "2025-01-02"),
        ("yesterday", "yesterday"),
    ],
)
def test_a_time_is_as_short_as_is_clear(time: str, shown: str) -> None:
    """In UTC, like the manager's log."""
    assert clock(time, NOW) == shown


@pytest.mark.parametrize(
    ("state", "wish", "word"),
    [
        ("Init", None, "queued"),
        ("Setup", None, "queued"),
        ("Setup", "cancel", "cancelling"),
        ("Running", "cancel", "cancelling"),
        ("Running", "pause", "pausing"),
        ("Stopped", "pause", "paused"),
        ("Stopped", "cancel", "cancelled"),
        ("Stopped", None, "stopped"),
        ("Complete", "pause", "complete"),
        ("Odd", None, "odd"),
    ],
)
def test_a_state_has_one_word(state: str, wish: str | None, word: str) -> None:
    """Which tells a paused job from a cancelled one."""
    assert state_word(state, wish) == word


def test_only_a_complete_job_is_done() -> None:
    """What is not scanned yet counts as not done."""
    nearly = structure(results(1000, Complete=999), Results)
    every = structure(results(1000, Complete=1000), Results)
    assert percent("Running", nearly, 1.0) == percent("Running", every, 1.0) == "99%"
    assert percent("Running", every, 0.25) == "25%"
    assert percent("Complete", nearly, 1.0) == "100%"
    assert percent("Failed", every, 1.0, "not_done") == "99%"
    assert percent("Failed", every, 1.0, "faults") == "100%"
    assert percent("Failed", every, 0.5, "faults") == "50%"
    assert (
        percent("Setup", None, 0.0) == percent("Running", structure(results(0), Results), 0) == "-"
    )


def test_waits_are_told_by_their_cause() -> None:
    """All nodes that do not answer are one; others keep their words."""
    names = [Wait(subject=f"the agent of {n}.stor", since=None, detail="") for n in range(5)]
    places = Wait(
        subject="a destination for what is left",
        since=None,
        detail="7 objects have none yet; the next try is within 55 s",
    )
    other = Wait(subject="storinfo", since="2026-11-26T12:03:00Z", detail="no answer")
    assert wait_lines([*names, places, other], 7, NOW) == [
        "7 wait: 5 destinations unreachable (0.stor, 1.stor, 2.stor, ...)",
        "waits: no destination now; the next try is within 55 s",
        "waits: storinfo since 12:03: no answer",
    ]
    assert wait_lines([], 7, NOW) == ["7 wait for a destination"]
    assert wait_lines([], 0, NOW) == []
    assert seconds_between("odd", None, NOW) is seconds_between(None, None, NOW) is None


def test_a_narrow_table_drops_its_last_column() -> None:
    """The others stay aligned."""
    wide, narrow = (job_destinations_screen(PLACES, width, NOW, 3) for width in (80, 45))
    assert (wide[0].split()[-1], narrow[0].split()[-1]) == ("GIVEN", "FAILED")
    assert wide[-1] == narrow[-1] == "and 7 more"


async def test_a_terminal_that_obeys_no_orders_gets_lines() -> None:
    """With id, share, time and verdict; nothing is redrawn."""
    verdict = {"verdict": "empty", "line": "empty: all moved", "causes": []}
    view = {
        **running(9, 9, config=CONFIG, verdict=verdict, started="2026-11-26T12:00:00Z"),
        "finished": "2026-11-26T12:01:00Z",
        "state": "Complete",
    }
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, _environ={"TERM": "dumb"})
    async with scripted(**{f"jobs/{ID}": json.dumps(view)}) as (_, manager):
        await watch_job(manager, ID, console)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith(f"job {ID}")
    assert lines[1].startswith("100%   60 s   complete")
    assert "empty: all moved" in lines
    assert "\x1b" not in out.getvalue()
