"""This stage feeds unplaced objects to placement: found, left by an earlier run, or requeued."""

from functools import partial

import trio

from rebalancer.manager.fleet import ledger, node_list
from rebalancer.manager.pipeline.job import Feed, Job, feed_placement, unless
from rebalancer.manager.pipeline.stages.final_scan import run_final_scan
from rebalancer.manager.pipeline.stages.read_listing import read_listing
from rebalancer.manager.pipeline.stages.scan_shards import read_rows, scan_shards
from rebalancer.manager.store import discovery, unplaced
from rebalancer.manager.store.records import ScanPosition
from rebalancer.peers import scan
from rebalancer.sqlite import Kept

#: Seconds until placement is given deferred objects again: by then storinfo's list shows how much
#: room is left beside the new copies.
ROOM_S = ledger.UNREPORTED_S + node_list.PERIOD_S

#: The name of the wait while only deferred objects are left.
PLACES = "a destination for what is left"


async def discover(
    job: Job, scan_round: int, last_row: int, feeds: trio.MemorySendChannel[Feed]
) -> None:
    """Feed unplaced objects to placement, until no object of the job can become unplaced any more.

    Objects that an earlier run stored (rows up to `last_row`) come first, then objects that the
    scans of this round find; requeued objects come in between.  Deferred objects are fed when
    nothing else is under way.  Once the job is cancelled, no object is fed any more.
    """
    scanned = trio.Event()
    async with feeds, trio.open_nursery() as nursery:
        nursery.start_soon(_feed_requeued, job, scanned, feeds)
        await job.unless_cancelled(partial(_feed_round, job, scan_round, last_row, feeds))
        await feeds.send(Feed((), is_flush=True))
        scanned.set()
        job.store.wake()


async def _feed_round(
    job: Job, scan_round: int, last_row: int, feeds: trio.MemorySendChannel[Feed]
) -> None:
    # Stored rows come first: a final scan reopens some, which would then be fed twice.
    await _feed_stored(job, last_row, feeds)
    if scan_round:
        await run_final_scan(job, scan_round, feeds)
    else:
        await run_discovery(job, feeds)


async def run_discovery(job: Job, feeds: trio.MemorySendChannel[Feed]) -> None:
    """Send on every object that the job has to move, each once, from the stored positions on.

    If waiting cannot help a shard, its scan is noted in `job.failed_scans`, and the others go on.
    """
    if job.listing is not None:
        await read_listing(job, job.listing, feeds)
    if not job.scans_shards:
        return

    async def keep(scanned: ScanPosition, rows: list[scan.FoundRow]) -> None:
        records = read_rows(job, scanned.shard, rows)
        new = await job.store.write(
            discovery.store_found, Kept(records), scanned, limit=job.max_objects
        )
        await feed_placement(feeds, new)

    await scan_shards(job, job.scanned, keep)


async def _feed_stored(job: Job, last_row: int, feeds: trio.MemorySendChannel[Feed]) -> None:
    row = 0
    while row < last_row:
        row, objects = await job.store.read(unplaced.read_new, row, last_row)
        await feed_placement(feeds, objects)


async def _feed_requeued(
    job: Job, scanned: trio.Event, feeds: trio.MemorySendChannel[Feed]
) -> None:
    try:
        while not job.cancelled.is_set():
            if job.requeued:
                assignment_id = job.requeued.popleft()
                objects = await job.store.read(unplaced.read_requeued, assignment_id)
                await feeds.send(Feed(tuple(objects), is_flush=True))
                continue  # to look whether the job was cancelled during the `send`
            if scanned.is_set() and job.store.uncopied == job.store.deferred:
                if not job.store.deferred:
                    return
                await _await_destinations(job)
                if not job.cancelled.is_set():
                    job.absence.forget()
                    await _feed_deferred(job, feeds)
                continue
            if job.ledger.at_work:
                job.waits.end(PLACES)
            await job.store.wait_change()
    finally:
        job.waits.end(PLACES)


async def _await_destinations(job: Job) -> None:
    """Wait until deferred objects may have a destination, or the job is cancelled."""
    detail = f"{job.store.deferred:,} objects have none yet; the next try is within {ROOM_S:.0f} s"
    job.waits.begin(PLACES, detail)
    with trio.move_on_after(ROOM_S):
        await unless(job.cancelled, partial(_await_one_back, job))


async def _await_one_back(job: Job) -> None:
    """Wait until a destination is back, if every deferred object was deferred for want of one.

    If some objects lack room instead, wait until the caller gives up: fed early, each of them would
    lose an attempt.
    """
    while (
        job.absence.objects < job.store.deferred or job.health.times_back == job.absence.times_back
    ):
        await job.ledger.wait_change()


async def _feed_deferred(job: Job, feeds: trio.MemorySendChannel[Feed]) -> None:
    """Feed each deferred object once; one that placement defers anew lies behind the walk."""
    row, objects = await job.store.write(unplaced.requeue_deferred, 0)
    while objects:
        await feed_placement(feeds, objects)
        row, objects = await job.store.write(unplaced.requeue_deferred, row)
    await feeds.send(Feed((), is_flush=True))
