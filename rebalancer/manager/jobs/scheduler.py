"""This module decides which queued jobs begin: a pure choice, and the loop that makes it."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

import trio

from rebalancer.domain.states import JobState
from rebalancer.manager.jobs.rows import JobRow

#: Cancelled jobs of which agents still finish something; they take no turn.
_DRAINED = (JobState.CANCELLING, JobState.DRAINING)


def to_start(rows: Iterable[JobRow], running: Sequence[JobRow], limit: int) -> list[JobRow]:
    """Return the jobs that begin now, in this order.

    `rows` has all jobs that have not ended, in the order of their turns, `running` those of them
    that run; of these, `limit` may do so at a time.  No two jobs about one node run at a time.
    """
    started = list[JobRow]()
    for row in rows:
        at_work = [*running, *started]
        if row.state is JobState.PAUSED or any(_excludes(other, row) for other in at_work):
            continue
        taken = sum(other.state not in _DRAINED for other in at_work)
        if row.state in _DRAINED or taken < limit:
            started.append(row)
    return started


def _excludes(other: JobRow, row: JobRow) -> bool:
    return other.id == row.id or (row.node is not None and other.node == row.node)


class Scheduler:
    """This object repeats the choice whenever its result may differ.

    Mutable state: the event that wakes it.
    """

    def __init__(self) -> None:
        self._woken = trio.Event()

    def wake(self) -> None:
        """Repeat the choice: a job was added or changed, or has ended."""
        self._woken.set()

    async def run(self, start_due: Callable[[], Awaitable[None]]) -> None:
        """Call `start_due`, which starts jobs that may run, at once and after each `wake`."""
        while True:
            self._woken = trio.Event()
            await start_due()
            await self._woken.wait()
