"""Discovery: all that needs a destination, whether new, left by an earlier run or given back."""

import json

import trio

from rebalancer.domain.objects import read_object
from rebalancer.manager.job import Found, Job
from rebalancer.manager.stages.sources import find, send


async def discover(job: Job, last_row: int, found: trio.MemorySendChannel[Found]) -> None:
    """Feed placement with all that needs a destination, until nothing can any more.

    That is: what an earlier run stored (rows up to `last_row`), what the scans find, and the
    objects of assignments that came to nothing, for as long as any are under way.
    """
    scanned = trio.Event()
    async with found, trio.open_nursery() as nursery:
        nursery.start_soon(_feed_given_back, job, scanned, found)
        async with trio.open_nursery() as scans:
            scans.start_soon(_feed_stored, job, last_row, found)
            scans.start_soon(find, job, found)
        await found.send(Found((), flush=True))
        scanned.set()
        job.store.wake()


async def _feed_stored(job: Job, last_row: int, found: trio.MemorySendChannel[Found]) -> None:
    row = 0
    while row < last_row:
        row, texts = await job.store.unprocessed(row, last_row)
        await send(found, [read_object(json.loads(text)) for text in texts])


async def _feed_given_back(
    job: Job, scanned: trio.Event, found: trio.MemorySendChannel[Found]
) -> None:
    while True:
        while job.given_back:
            texts = await job.store.returned(job.given_back.popleft())
            objects = tuple(read_object(json.loads(text)) for text in texts)
            await found.send(Found(objects, flush=True))
        if scanned.is_set() and not job.store.unsettled:
            return
        await job.store.wait_change()
