"""Agents forget the assignments that are done with, for tidiness only."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.job import Job, Moved
from rebalancer.retry import pauses

#: Deletes at a time, and those that may wait; further ones are left out.
AT_A_TIME, WAITING = 8, 64
TRIES = 3
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0
#: Seconds that the end of all other work waits for deletes.
LAST_S = 5.0

log = get_logger()


class Forgetting:
    """Deletes of assignments, which nothing ever waits for: one that stays is only clutter."""

    def __init__(self, job: Job, send: trio.MemorySendChannel[Moved]) -> None:
        self._job = job
        self._send = send

    def forget(self, item: Moved) -> None:
        """Have its agent drop an assignment, if the job wants that and agents keep up with it."""
        if not self._job.config.delete_assignments:
            return
        try:
            self._send.send_nowait(item)
        except trio.WouldBlock:
            log.info("assignment left at its agent, others are deleted slowly", id=item.id)


@asynccontextmanager
async def forgetting(job: Job) -> AsyncIterator[Forgetting]:
    """Have assignments dropped in the background; on leaving, the rest has a few seconds."""
    send, receive = trio.open_memory_channel[Moved](WAITING)
    async with trio.open_nursery() as nursery:
        async with receive:
            for _ in range(AT_A_TIME):
                nursery.start_soon(_delete_each, job, receive.clone())
        async with send:
            yield Forgetting(job, send)
        nursery.cancel_scope.deadline = trio.current_time() + LAST_S


async def _delete_each(job: Job, receive: trio.MemoryReceiveChannel[Moved]) -> None:
    async with receive:
        async for item in receive:
            await _delete(job, item)


async def _delete(job: Job, item: Moved) -> None:
    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    for _ in range(TRIES):
        try:
            await job.agents.delete(item.destination.manta_storage_id, item.id)
        except PeerError as exc:
            error = str(exc)
        else:
            return
        await trio.sleep(next(waits))
    log.info("assignment not deleted at its agent", id=item.id, error=error)
