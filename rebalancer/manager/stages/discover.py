"""Discovery: all that needs a destination, whether new, left by an earlier run or given back."""

import json

import attrs
import trio

from rebalancer.domain.objects import MantaObject, read_object
from rebalancer.manager.job import Found, Job
from rebalancer.manager.stages.final import look_again
from rebalancer.manager.stages.sources import find, send


async def discover(
    job: Job, scan_round: int, last_row: int, found: trio.MemorySendChannel[Found]
) -> None:
    """Feed placement with all that needs a destination, until nothing can any more.

    That is: what an earlier run stored (rows up to `last_row`), what the scans of this round
    find, and the objects of assignments that came to nothing, for as long as any are under way.
    """
    scanned = trio.Event()
    async with found, trio.open_nursery() as nursery:
        nursery.start_soon(_feed_given_back, job, scanned, found)
        # First, because a final scan makes stored rows unprocessed again.
        await _feed_stored(job, last_row, found)
        if scan_round:
            await look_again(job, scan_round, found)
        else:
            await find(job, found)
        await found.send(Found((), flush=True))
        scanned.set()
        job.store.wake()


async def _feed_stored(job: Job, last_row: int, found: trio.MemorySendChannel[Found]) -> None:
    row = 0
    while row < last_row:
        row, stored = await job.store.unprocessed(row, last_row)
        await send(found, [_read(*one) for one in stored])


async def _feed_given_back(
    job: Job, scanned: trio.Event, found: trio.MemorySendChannel[Found]
) -> None:
    while True:
        while job.given_back:
            returned = await job.store.returned(job.given_back.popleft())
            await found.send(Found(tuple(_read(*one) for one in returned), flush=True))
        if scanned.is_set() and not job.store.unsettled:
            return
        await job.store.wait_change()


def _read(text: str, earlier: str | None) -> MantaObject:
    return attrs.evolve(read_object(json.loads(text)), earlier=earlier)
