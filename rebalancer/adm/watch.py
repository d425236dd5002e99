"""This module watches a job until it ends: redrawn on a terminal, else line by line."""

import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import trio
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.text import Text

from rebalancer.adm.client import AdmError, Manager
from rebalancer.adm.output import can_redraw, json_text
from rebalancer.adm.printing import printable
from rebalancer.adm.progress import (
    Glance,
    glance,
    notes,
    subject,
    wait_line,
)
from rebalancer.adm.screens import flow, job_block, job_destinations_screen, listed
from rebalancer.adm.tables import counts_table
from rebalancer.api.jobs import JobShown, Summary
from rebalancer.domain.states import GOING
from rebalancer.progress import settled
from rebalancer.rates import Rates

#: Seconds between two looks at a job that is watched.
WATCH_S = 0.5
#: Rates are means over this many seconds, where the manager tells none.
RATE_WINDOW_S = 10.0
#: A manager that was there and is away is waited for this many seconds.
PATIENCE_S = 60.0
#: Without a terminal, a line is printed after so many seconds, or when something else begins.
LINE_S = 5.0
AWAY = "the manager does not answer: asking again"
#: As many of the busiest destinations are shown.
DESTINATIONS = 8


@attrs.frozen
class Look:
    """A job at one moment; `summary` is None where the manager has none.

    `json` has both as the manager wrote them.
    """

    job_id: str
    view: JobShown
    summary: Summary | None
    glance: Glance
    json: Mapping[str, Any]


Show = Callable[[Look], None]


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


async def watch_job(
    manager: Manager, job_id: str, console: Console, *, patient: bool = False
) -> JobShown:
    """Show progress until the job goes no further by itself; its last view.

    A manager that is being restarted is waited for, once it was seen; if `patient`, also before.

    Raises:
      AdmError: the manager refuses, or was gone for a minute.
    """
    with _showing(console) as show:
        view = await follow(manager, job_id, show, patient=patient)
    console.print(counts_table(view))
    for note in notes(attrs.evolve(view, error=None)):  # whoever asked says why it failed
        # The terminal breaks its lines, so that a command can be copied from them.
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    return view


async def follow(manager: Manager, job_id: str, show: Show, *, patient: bool = False) -> JobShown:
    """Let `show` have a look at the job again and again until it goes no further; its last view.

    Raises:
      AdmError: the manager refuses, or was gone for a minute.
    """
    rates, last, seen_at = Rates(RATE_WINDOW_S), None, time.monotonic()
    has_summary = True
    while True:
        try:
            job = await manager.job(job_id)
            summary = await manager.summary(job_id) if has_summary else None
        except AdmError as exc:
            is_away = exc.status is None or exc.status >= 500
            may_wait = is_away and (last is not None or patient)
            if not may_wait or time.monotonic() - seen_at > PATIENCE_S:
                raise
            if last is not None:
                away = attrs.evolve(last.glance, phase=AWAY, scanned=None)
                show(attrs.evolve(last, glance=away))
            await trio.sleep(WATCH_S)
            continue
        seen_at, has_summary = time.monotonic(), summary is not None
        view, known = job.read(), None if summary is None else summary.read()
        rates.add(seen_at, settled(view.results)[0], view.bytes.complete)
        told = {**job.json, "summary": None if summary is None else summary.json}
        last = Look(job_id, view, known, glance(view, known, rates, _now()), told)
        show(last)
        if view.state not in GOING:
            return view
        await trio.sleep(WATCH_S)


def as_json(write: Callable[[str], None]) -> Show:
    """Return each look at the job as a line of JSON."""

    def show(look: Look) -> None:
        write(json_text({**look.json, "progress": attrs.asdict(look.glance)}, indent=None))

    return show


@contextmanager
def _showing(console: Console) -> Iterator[Show]:
    if not can_redraw(console):
        yield _lines(console)
        return
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        yield lambda look: live.update(drawn(look, console.width, console.height, _now()))


def drawn(look: Look, width: int, height: int, now: datetime.datetime) -> Group:
    """Return a watched job as a terminal of this size shows it."""
    done, known = look.glance.done, max(look.glance.known, 1)
    # A bar without a colour of its own for an end: what is done may be a failure.
    bar = ProgressBar(total=known, completed=min(done, known), finished_style="bar.complete")
    above, below = watched_screen(look, width, height, now)
    # Padded, because a bar alone does not end its line.
    return Group(*map(_line, above), Padding(bar), *map(_line, below))


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def watched_screen(
    look: Look, width: int, height: int, now: datetime.datetime
) -> tuple[list[str], list[str]]:
    """Return the lines above and below the bar of a watched job; the last ones may not fit."""
    row = listed(look.job_id, look.view, look.summary)
    above = job_block(row, width, now, phase=look.glance.what)
    below = list[str]()
    for note in notes(attrs.evolve(look.view, waiting=(), error=None)):
        below += flow([note], width, indent="  ")
    if look.summary is not None and look.summary.destinations:
        # Besides the bar, an empty line and the cursor.
        left = height - len(above) - len(below) - 3
        for at_most in range(DESTINATIONS, 0, -1):
            rows = job_destinations_screen(look.summary.destinations, width, now, at_most)
            if len(rows) <= left:
                return above, [*below, "", *rows]
    return above, below


def _lines(console: Console) -> Show:
    """Print a line at each change of the phase or of a wait, and every few seconds meanwhile."""
    begun, shown_at, told = "", 0.0, set[tuple[str, str | None]]()

    def show(look: Look) -> None:
        nonlocal begun, shown_at, told
        if not begun:
            head = f"job {look.job_id}: {subject(look.view)}"
            console.print(printable(head), highlight=False, markup=False, soft_wrap=True)
        known, told = told, set()
        for one in look.view.waiting:
            told.add((one.subject, one.since))
            if (one.subject, one.since) not in known:
                console.print(
                    printable(wait_line(one)), highlight=False, markup=False, soft_wrap=True
                )
        phase, now = look.glance.phase, time.monotonic()
        if phase != begun or now - shown_at >= LINE_S or look.view.state not in GOING:
            begun, shown_at = phase, now
            line = f"{look.glance.begun}   {look.glance.line}"
            console.print(printable(line), highlight=False, markup=False, soft_wrap=True)

    return show
