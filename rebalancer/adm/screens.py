"""This module lays out what a terminal shows of jobs and destinations, at any width.  Pure.

A job is a block: a line with its id, state and share, then what there is to say of it, which flows
into as many lines as the width needs.  Times are UTC, as the manager writes them.
"""

import datetime
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from rebalancer import units
from rebalancer.adm.printing import printable
from rebalancer.adm.progress import (
    counted,
    has_ended,
    percent,
    state_word,
    subject,
)
from rebalancer.api.jobs import (
    Destination,
    JobListed,
    JobShown,
    Standing,
    Summary,
    Wait,
)
from rebalancer.api.status import Status
from rebalancer.domain.states import GOING, JobState
from rebalancer.progress import scanned_share, seconds_between

#: Characters of a job's id that are shown; commands take as few.
SHORT = 8
#: Destinations with nothing to say are left out behind so many lines, and ended jobs of a status.
MOST_IDLE, MOST_ENDED = 12, 3
_INDENT = " " * (SHORT + 2)
_GAP = "   "
#: How what is waited for begins, if it is a storage node or its agent; what a queued job waits for;
#: and what deferred objects wait for.
_NODES = ("the agent of ", "storage node ")
_TURN = "its turn"
_PLACES = "a destination for what is left"
#: So many storage nodes are named that do not answer.
_NAMED = 3


def flow(
    segments: Iterable[str], width: int, *, first: str = "", indent: str = _INDENT
) -> list[str]:
    """Put segments onto lines of at most `width`; the first line begins with `first`.

    A segment is only broken where it is longer than a line.
    """
    lines, line = list[str](), first or indent
    begun = len(line)
    for segment in map(printable, filter(None, segments)):
        joined = line + (_GAP if len(line) > begun else "") + segment
        if len(joined) <= width:
            line = joined
            continue
        if len(line) > begun:
            lines.append(line)
            line = indent
        *whole, line = textwrap.wrap(
            segment, max(width, len(indent) + 20), initial_indent=line, subsequent_indent=indent
        )
        lines += whole
        begun = len(indent)
    return [*lines, line.rstrip()]


def clock(time: str, now: datetime.datetime) -> str:
    """Return a time of the manager as shortly as is clear: of today the time, else the day too."""
    with suppress(ValueError):
        then = datetime.datetime.fromisoformat(time).astimezone(datetime.UTC)
        if then.date() == now.date():
            return f"{then:%H:%M}"
        return f"{then:%m-%d %H:%M}" if then.year == now.year else f"{then:%Y-%m-%d}"
    return time


def wait_lines(waiting: Sequence[Wait], deferred: int, now: datetime.datetime) -> list[str]:
    """Return what a job waits for, a line each: all nodes that do not answer are one cause."""
    nodes = [one for one in waiting if one.subject.startswith(_NODES)]
    causes = [_nodes_away(nodes, now)] if nodes else []
    for one in waiting:
        if one in nodes:
            continue
        if one.subject == _PLACES:
            causes.append(f"no destination now; {one.detail.rpartition('; ')[2]}")
        else:
            causes.append(f"{one.subject}{_since(one, now)}: {one.detail}")
    if not causes:
        return [f"{deferred:,} wait for a destination"] if deferred else []
    first = f"{deferred:,} wait" if deferred else "waits"
    return [f"{first}: {causes[0]}", *(f"waits: {cause}" for cause in causes[1:])]


def _nodes_away(nodes: Sequence[Wait], now: datetime.datetime) -> str:
    names = [one.subject.rpartition(" ")[2] for one in nodes]
    named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    count = f"{len(nodes):,} destination{'s' * (len(nodes) > 1)} unreachable"
    return f"{count}{_since(nodes[0], now)} ({named})"


def _since(wait: Wait, now: datetime.datetime) -> str:
    return "" if wait.since is None else f" since {clock(wait.since, now)}"


# --- jobs --------------------------------------------------------------------------------------


def jobs_screen(rows: Sequence[JobListed], width: int, now: datetime.datetime) -> list[str]:
    """Return the lines of a list of jobs, oldest first."""
    words = [state_word(row.state, row.wish) for row in rows]
    across = max([len("STATE"), *map(len, words)])
    if not rows:
        return ["no jobs"]
    lines = [f"{'JOB':<{SHORT}}  {'STATE':<{across}}  DONE  ABOUT (times in UTC)"]
    for row in rows:
        lines += job_block(row, width, now, across=across)
    return lines


def job_block(
    row: JobListed, width: int, now: datetime.datetime, *, phase: str = "", across: int = 0
) -> list[str]:
    """Return the lines about one job; `phase` says what it is at, if that is known."""
    word = printable(state_word(row.state, row.wish))
    share = percent(row.state, row.results, row.scanned, row.verdict)
    head = f"{printable(row.id[:SHORT]):<{SHORT}}  {word:<{across}}  {share:>4}  "
    verdict = "" if row.verdict is None else row.verdict.replace("_", " ")
    lines = flow([f"{row.action.lower()} {row.subject}".rstrip(), verdict], width, first=head)
    if details := [*_how_far(row, word, phase), *_times(row, word, now)]:
        lines += flow(details, width)
    for line in wait_lines(_but_turn(row), row.deferred, now):
        lines += flow([line], width)
    if row.error:
        lines += flow([row.error], width)
    return lines


def _but_turn(row: JobListed) -> list[Wait]:
    """Return what a job waits for, without its turn where the jobs that come first are known."""
    return [one for one in row.waiting if not (row.behind and one.subject == _TURN)]


def _how_far(row: JobListed, word: str, phase: str) -> Iterator[str]:
    if row.behind:
        more = f" and {len(row.behind) - 1:,} more" if len(row.behind) > 1 else ""
        yield f"behind {row.behind[0][:SHORT]}{more}"
    if row.results is not None and row.results.total:
        yield counted(row.results)
    if row.state == "Running" and (phase or row.scanned < 1):
        yield phase or f"{row.scanned:.0%} scanned"
    if row.rate is not None:
        yield f"{row.rate.objects_per_s:,.0f} objects/s, {units.size(row.rate.bytes_per_s)}/s"
    elif row.bytes.complete:
        yield f"{units.size(row.bytes.complete)} moved"
    if row.eta_s is not None and word == JobState.RUNNING:
        yield f"{units.duration(row.eta_s)} left"


def _times(row: JobListed, word: str, now: datetime.datetime) -> Iterator[str]:
    if row.created:
        yield f"created {clock(row.created, now)}"
    took = seconds_between(row.started, row.finished, now)
    if row.finished is None or row.state in GOING:
        if row.state == "Running" and took is not None:
            yield f"began {units.duration(took)} ago"  # with pauses: nobody notes their times
        return
    after = "" if took is None else f", after {units.duration(took)}"
    yield f"{'paused' if word == JobState.PAUSED else 'ended'} {clock(row.finished, now)}{after}"


# --- the manager -------------------------------------------------------------------------------


def status_screen(
    status: Status, rows: Sequence[JobListed], width: int, now: datetime.datetime
) -> list[str]:
    """Return the lines about the manager, its jobs and the destinations."""
    age_s = status.storinfo.age_s
    told = "never read" if age_s is None else f"read {units.duration(age_s)} ago"
    turns = f"{len(status.running):,} of {status.max_concurrent_jobs:,} turns taken"
    nodes = f"{status.storinfo.nodes:,} storage nodes by storinfo, {told}"
    lines = flow(
        [turns, nodes], width, first=printable(f"manager {status.version}{_GAP}"), indent="  "
    )
    shown = [row for row in rows if not has_ended(row)]
    ended = [row for row in rows if has_ended(row)]
    shown += ended[-MOST_ENDED:]
    lines += ["", *jobs_screen(shown, width, now)]
    if hidden := len(ended[:-MOST_ENDED]):
        lines.append(f"and {hidden:,} that ended earlier: job list")
    if status.destinations:
        lines += ["", *destinations_screen(status.destinations, width, now)]
    return lines


def destinations_screen(
    standings: Iterable[Standing], width: int, now: datetime.datetime
) -> list[str]:
    """Return the lines about destinations: those with work or trouble first, idle ones last."""
    listed = sorted(standings, key=lambda one: (-one.assignments, not _note(one, now)))
    idle = [one for one in listed if not one.assignments and not _note(one, now)]
    hidden = len(idle[MOST_IDLE:])
    heads = ("DESTINATION", "FULL", "FREE", "ASSIGNMENTS", "FAILURES", "PROMISED")
    rows = [(_figures(one), _note(one, now)) for one in listed[: len(listed) - hidden]]
    more = [f"and {hidden:,} more, idle: status --json lists them"] if hidden else []
    return [*_table(heads, rows, width), *more]


def _figures(one: Standing) -> tuple[str, ...]:
    return (
        one.shark,
        "-" if one.percent_used is None else f"{one.percent_used}%",
        "-" if one.available is None else units.size(one.available),
        f"{one.assignments:,}",
        f"{one.failures:,}",
        units.size(one.claimed) if one.claimed else "-",
    )


def job_destinations_screen(
    destinations: Iterable[Destination], width: int, now: datetime.datetime, at_most: int
) -> list[str]:
    """Return the lines about a job's destinations, `at_most` rows of them, the busiest first."""

    def under_way(one: Destination) -> int:
        return max(one.tasks - one.copied - one.failed, 0)

    listed = sorted(destinations, key=lambda one: (-under_way(one), one.shark))
    heads = ("DESTINATION", "UNDER WAY", "COPIED", "FAILED", "GIVEN")
    rows = []
    for one in listed[:at_most]:
        counts = (f"{count:,}" for count in (under_way(one), one.copied, one.failed))
        note = "" if one.now is None else _note(one.now, now)
        rows.append(((one.shark, *counts, units.size(one.bytes)), note))
    hidden = len(listed[at_most:])
    return [*_table(heads, rows, width), *([f"and {hidden:,} more"] if hidden else [])]


def _table(
    heads: Sequence[str], rows: Sequence[tuple[Sequence[str], str]], width: int
) -> list[str]:
    """Return rows of cells, each with a note, which has a line of its own where there is no room.

    The last column is left out where the others leave none for it.
    """
    cells = [heads, *([printable(cell) for cell in row] for row, _ in rows)]
    across = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if sum(across) + 2 * len(across) - 2 > width:
        across.pop()
    lines = []
    for row, note in zip(cells, ["", *(note for _, note in rows)], strict=True):
        name, *figures = (
            f"{cell:>{wide}}" if place else f"{cell:<{wide}}"
            for place, (cell, wide) in enumerate(zip(row, across, strict=False))
        )
        line, note = "  ".join([name, *figures]), printable(note)
        if note and len(line) + 2 + len(note) <= width:
            line, note = f"{line}  {note}", ""
        lines += [line.rstrip(), *(flow([note], width, indent="  ") if note else [])]
    return lines


def _note(one: Standing, now: datetime.datetime) -> str:
    if one.unused is not None:
        return f"not used: {one.unused}"
    until = now + datetime.timedelta(seconds=one.avoided_for_s)
    return f"avoided until {until:%H:%M:%S}" if one.avoided_for_s else ""


# --- a watched job -----------------------------------------------------------------------------


def listed(job_id: str, view: JobShown, summary: Summary | None) -> JobListed:
    """Return a job that was asked for alone, as the list of jobs has it."""
    return JobListed(
        id=job_id,
        action=str(view.config.get("action", "")),
        state=view.state,
        subject=subject(view),
        created=view.created,
        started=view.started,
        finished=view.finished,
        results=view.results,
        bytes=view.bytes,
        deferred=view.deferred,
        # One that says nothing of scans may still find more.
        scanned=1.0 if view.scans is None else scanned_share(view.scans, 0),
        rate=None if summary is None else summary.rates.minute,
        eta_s=None if summary is None else summary.eta_s,
        waiting=view.waiting,
        wish=view.wish,
        error=view.error,
        verdict=None if view.verdict is None else view.verdict.verdict,
    )
