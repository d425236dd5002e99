"""This module has agents forget the assignments that are done with, for tidiness only."""

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from rebalancer.domain.assignments import Assignment
from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Job
from rebalancer.retry import pauses

#: Deletes that one destination may have under way; further ones are left out.
AT_ONE = 8
TRIES = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
#: Seconds that the end of all other work waits for deletes.
LAST_S = 5.0

log = get_logger()


class Forgetting:
    """This object deletes assignments in the background; one that stays is only clutter.

    Mutable state: how many are under way, by destination.
    """

    def __init__(self, job: Job, nursery: trio.Nursery) -> None:
        self._job = job
        self._nursery = nursery
        self._under_way: Counter[str] = Counter()

    def forget(self, assignment: Assignment) -> None:
        """Have the agent drop an assignment, if the job wants that and the agent keeps up."""
        if not self._job.config.delete_assignments:
            return
        shark = assignment.shark
        if self._under_way[shark] < AT_ONE:
            self._under_way[shark] += 1
            self._nursery.start_soon(self._delete, shark, assignment)
        else:
            log.info(
                "assignment left at its agent, which deletes slowly", id=assignment.id, shark=shark
            )

    async def _delete(self, shark: str, assignment: Assignment) -> None:
        try:
            await _delete(self._job, assignment)
        finally:
            self._under_way[shark] -= 1


@asynccontextmanager
async def forgetting(job: Job) -> AsyncIterator[Forgetting]:
    """Have assignments deleted in the background; leaving waits a few seconds for the rest."""
    async with trio.open_nursery() as nursery:
        yield Forgetting(job, nursery)
        nursery.cancel_scope.deadline = trio.current_time() + LAST_S


async def _delete(job: Job, assignment: Assignment) -> None:
    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    for _ in range(TRIES):
        try:
            await job.agents.delete(assignment.shark, assignment.id)
        except PeerError as exc:
            error = str(exc)
        else:
            return
        await trio.sleep(next(waits))
    log.info("assignment not deleted at its agent", id=assignment.id, error=error)
