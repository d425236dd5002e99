"""This module decides which queued jobs begin: a pure choice, and the loop that makes it."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from rebalancer.actions import DECLARED
from rebalancer.domain.states import JobState
from rebalancer.manager.jobs.rows import JobRow

#: States of cancelled jobs whose agents still finish assignments; such a job needs no turn.
_DRAINING = (JobState.CANCELLING, JobState.DRAINING)
#: The most jobs that a text names of those that another job waits for.
SHOWN = 4


def to_start(rows: Iterable[JobRow], running: Sequence[JobRow], limit: int) -> list[JobRow]:
    """Return the jobs that begin now, in this order.

    `rows` are all jobs that have not ended, in the order of their turns; `running` are the jobs
    that run already.  At most `limit` jobs run at a time, and at most one for each node.
    """
    started = list[JobRow]()
    for row in rows:
        at_work = [*running, *started]
        if row.state is JobState.PAUSED or any(_excludes(other, row) for other in at_work):
            continue
        turns_taken = sum(other.state not in _DRAINING for other in at_work)
        if row.state in _DRAINING or turns_taken < limit:
            started.append(row)
    return started


def ahead_of(row: JobRow, running: Sequence[JobRow], limit: int) -> list[JobRow]:
    """Return the running jobs that keep the queued job `row` from beginning."""
    for other in running:
        if _excludes(other, row):
            return [other]
    having_turns = [other for other in running if other.state not in _DRAINING]
    return having_turns if len(having_turns) >= limit else []


def why_queued(
    row: JobRow, rows: Iterable[JobRow], running: Sequence[JobRow], limit: int
) -> str | None:
    """Return what keeps the queued job `row` from beginning, for a person; None if nothing does.

    The other arguments are those of `to_start`.
    """
    ahead = ahead_of(row, running, limit)
    if not ahead:
        return None
    if _excludes(ahead[0], row):
        return f"{_named(ahead[0])} is for the same storage node, and comes first"
    shown = [_named(other) for other in ahead[:SHOWN]]
    if len(ahead) > SHOWN:
        shown.append(f"and {len(ahead) - SHOWN:,} more")
    queued = [other.id for other in rows if other.state is JobState.QUEUED]
    before = queued.index(row.id) if row.id in queued else 0
    return f"as many jobs run as may (max_concurrent_jobs is {limit:,}): {', '.join(shown)}" + (
        f"; {before:,} queued before this one" if before else ""
    )


def _named(row: JobRow) -> str:
    """Return a short id of a job for a person, with its action and what the job is about."""
    about = f", {DECLARED[row.action].subject(row.params)}" if row.action in DECLARED else ""
    return f"job {row.id[:8]} ({row.action}{about})"


def _excludes(other: JobRow, row: JobRow) -> bool:
    """Tell whether `row` must not run while `other` does: they are one job, or for one node."""
    return other.id == row.id or (row.node is not None and other.node == row.node)


class Scheduler:
    """This object chooses anew which jobs begin, whenever the choice may have another result.

    Mutable state: the event that `wake` sets.
    """

    def __init__(self) -> None:
        self._woken = trio.Event()

    def wake(self) -> None:
        """Choose anew, because a job was added or changed, or has ended."""
        self._woken.set()

    async def run(self, start_due: Callable[[], Awaitable[None]]) -> None:
        """Call `start_due`, which starts jobs that may run, at once and after each `wake`."""
        while True:
            self._woken = trio.Event()
            await start_due()
            await self._woken.wait()
