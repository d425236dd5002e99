"""This stage finds all that needs a destination: new, left by an earlier run, or requeued."""

from functools import partial

import trio

from rebalancer.manager.fleet import ledger, node_list
from rebalancer.manager.pipeline.job import Job, Unplaced, send_unplaced, unless
from rebalancer.manager.pipeline.stages.final_scan import look_again
from rebalancer.manager.pipeline.stages.read_listing import read_listing
from rebalancer.manager.pipeline.stages.scan_shards import read_rows, scan_shards
from rebalancer.manager.store import discovery, unplaced
from rebalancer.manager.store.records import ScanPosition
from rebalancer.peers import scan
from rebalancer.sqlite import Kept

#: Seconds before objects for which there was no room are tried again: storinfo has told by then
#: of all that was copied.
ROOM_S = ledger.UNREPORTED_S + node_list.PERIOD_S

#: What is waited for, in words, while there is no destination for what is left.
PLACES = "a destination for what is left"


async def discover(
    job: Job, scan_round: int, last_row: int, found: trio.MemorySendChannel[Unplaced]
) -> None:
    """Feed placement with all that needs a destination, until nothing can any more.

    That is: what an earlier run stored (rows up to `last_row`), what the scans of this round
    find, and the objects that were not copied, for as long as any are under way.  When nothing
    else is, those that there was no destination for are fed again.  Of a cancelled job nothing is
    fed any more.
    """
    scanned = trio.Event()
    async with found, trio.open_nursery() as nursery:
        nursery.start_soon(_feed_requeued, job, scanned, found)
        async with trio.open_nursery() as looking:
            looking.start_soon(_end_when_cancelled, job, looking.cancel_scope)
            # First, because a final scan makes stored rows unprocessed again.
            await _feed_stored(job, last_row, found)
            if scan_round:
                await look_again(job, scan_round, found)
            else:
                await find(job, found)
            looking.cancel_scope.cancel()
        await found.send(Unplaced((), is_flush=True))
        scanned.set()
        job.store.wake()


async def find(job: Job, found: trio.MemorySendChannel[Unplaced]) -> None:
    """Send on every object that the job has to move, each once, behind the stored positions.

    A shard that waiting cannot help is noted in `job.unfinished`; the others go on.
    """
    if job.listing is not None:
        await read_listing(job, job.listing, found)
    if not job.scans:
        return

    async def keep(scanned: ScanPosition, rows: list[scan.FoundRow]) -> None:
        records = read_rows(job, scanned.shard, rows)
        new = await job.store.write(
            discovery.store_found, Kept(records), scanned, limit=job.max_objects
        )
        await send_unplaced(found, new)

    await scan_shards(job, job.scanned, keep)


async def _end_when_cancelled(job: Job, scope: trio.CancelScope) -> None:
    await job.cancelled.wait()
    scope.cancel()


async def _feed_stored(job: Job, last_row: int, found: trio.MemorySendChannel[Unplaced]) -> None:
    row = 0
    while row < last_row:
        row, objects = await job.store.read(unplaced.read_new, row, last_row)
        await send_unplaced(found, objects)


async def _feed_requeued(
    job: Job, scanned: trio.Event, found: trio.MemorySendChannel[Unplaced]
) -> None:
    try:
        while not job.cancelled.is_set():
            if job.requeued:
                returned = job.requeued.popleft()
                objects = await job.store.read(unplaced.read_returned, returned)
                await found.send(Unplaced(tuple(objects), is_flush=True))
                continue  # the job may have been cancelled meanwhile, and nothing else tells of it
            if scanned.is_set() and job.store.uncopied == job.store.deferred:
                if not job.store.deferred:
                    return
                await _await_places(job)
                if not job.cancelled.is_set():
                    job.absence.forget()
                    await _feed_deferred(job, found)
                continue
            if job.ledger.at_work:
                job.waits.end(PLACES)
            await job.store.wait_change()
    finally:
        job.waits.end(PLACES)


async def _await_places(job: Job) -> None:
    """Wait until there may be a destination for what is put off, or the job is cancelled."""
    detail = f"{job.store.deferred:,} objects have none yet; the next try is within {ROOM_S:.0f} s"
    job.waits.begin(PLACES, detail)
    with trio.move_on_after(ROOM_S):
        await unless(job.cancelled, partial(_await_return, job))


async def _await_return(job: Job) -> None:
    """Return when a destination is back that all of the objects which are put off may wait for.

    One that lacked room is not tried sooner for that: each try is one of its attempts.
    """
    while job.absence.objects < job.store.deferred or job.health.returns == job.absence.returns:
        await job.ledger.wait_change()


async def _feed_deferred(job: Job, found: trio.MemorySendChannel[Unplaced]) -> None:
    """Feed each object that was put off once: what placement puts off again lies behind."""
    row, objects = await job.store.write(unplaced.requeue_deferred, 0)
    while objects:
        await send_unplaced(found, objects)
        row, objects = await job.store.write(unplaced.requeue_deferred, row)
    await found.send(Unplaced((), is_flush=True))
