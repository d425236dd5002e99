"""This module runs a job from its first object to its last, through stages and channels.

Its rules: (1) Each stage owns its ends of the channels and closes them, so that the end of the job
travels down the line by itself.  (2) Record in the store, then send: what is in a channel is on
disk, so losing it costs nothing.  (3) Channels form a line.  Objects go back as rows of the
store, claims by calls of the ledger.  (4) Stopping is cancelling; starting is recovery.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from rebalancer.domain.assignments import Assignment
from rebalancer.domain.completeness import NO_SHARD, NeededScan, UnfinishedScan, needed, unfinished
from rebalancer.domain.reasons import CANCELLED
from rebalancer.domain.states import OPEN_OBJECTS, AssignmentState
from rebalancer.domain.tiers import shard_name
from rebalancer.errors import JobFailed
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.pipeline.stages.discover import discover
from rebalancer.manager.pipeline.stages.final_scan import next_round
from rebalancer.manager.pipeline.stages.place import place
from rebalancer.manager.pipeline.stages.poll import poll
from rebalancer.manager.pipeline.stages.post import post
from rebalancer.manager.pipeline.stages.probe import probe
from rebalancer.manager.pipeline.stages.update import update, update_links
from rebalancer.manager.store import assignments, final_scans, orphans, scans, unplaced
from rebalancer.manager.store.records import ScanProgress

#: Advice to an operator who has taken a shard out of the configuration.
PUT_BACK = "the shard is not configured; put it back, then retry the job"
#: Messages that a channel between two stages can hold, each of up to an assignment of objects.
QUEUE = 2


async def run(job: Job) -> None:
    """Run `job`, from wherever an earlier run left it, to its end.

    A cancelled job ends when its agents are done: objects without an assignment are skipped.
    Once all objects that were found are at an end, a final scan of the live metadata looks for
    records that name the evacuated node nevertheless, and their objects go the same way.

    Raises:
      ExceptionGroup: a stage failed; a JobFailed in it says why, unless the cause is a bug.
      JobFailed: the scan of some shard did not finish; all other work is done.
    """
    await job.unless_cancelled(partial(job.node_list.ready, job.waits))
    if job.scans_shards:
        await job.store.write(scans.add_shards, tuple(job.shards))
    left = await _unfinished(job)
    # An earlier round may be unfinished too, on shards that were configured after it.
    scan_round = left[0].round if left else await job.store.read(final_scans.last_round)
    while True:
        async with trio.open_nursery() as beside:
            beside.start_soon(probe, job)
            beside.start_soon(job.bandwidth.keep, lambda: job.ledger.at_work)
            await _drain(job, scan_round)
            beside.cancel_scope.cancel()
        await update_links(job)
        if job.cancelled.is_set():
            while await job.store.write(unplaced.skip_page, CANCELLED):
                pass
        if job.listing is not None:
            await job.store.write(orphans.list_unused)
        if job.cancelled.is_set():
            return
        if await job.store.take_changes():
            continue  # a person has made objects unplaced again, in the file itself
        await _check_end(job, scan_round)
        left = await _unfinished(job)
        due = left[0].round if left else await next_round(job)
        if due is None:
            return
        scan_round = due


async def _drain(job: Job, scan_round: int) -> None:
    """Bring to an end what an earlier run left over, and what the scans of one round find."""
    # Read before any stage runs, or rows that a stage has just moved would be fed twice.
    left_over = await job.store.read(assignments.read_open)
    last_row = await job.store.read(unplaced.last_row)
    to_place, feeds = trio.open_memory_channel[Feed](QUEUE)
    to_post, placed = trio.open_memory_channel[Assignment](QUEUE)
    to_poll, posted = trio.open_memory_channel[Assignment](QUEUE)
    to_update, copied = trio.open_memory_channel[Assignment](QUEUE)
    queues = {"found": feeds, "ready": placed, "sent": posted, "moved": copied}
    with job.metrics.watching({name: _length(queue) for name, queue in queues.items()}):
        async with trio.open_nursery() as nursery:
            start = nursery.start_soon
            async with to_place, feeds, to_post, placed, to_poll, posted, to_update, copied:
                _claim(job, left_over)
                start(_recover, left_over, to_poll.clone(), to_update.clone())
                start(discover, job, scan_round, last_row, to_place.clone())
                start(place, job, feeds.clone(), to_post.clone())
                start(post, job, placed.clone(), to_poll.clone())
                start(poll, job, posted.clone(), to_update.clone())
                start(update, job, copied.clone())


def _length(queue: trio.MemoryReceiveChannel[Any]) -> Callable[[], int]:
    return lambda: queue.statistics().current_buffer_used


def _claim(job: Job, left_over: list[Assignment]) -> None:
    """Enter into the ledger the assignments that an earlier run left with agents."""
    for assignment in left_over:
        if assignment.state is not AssignmentState.AGENT_COMPLETE:
            job.ledger.claim(assignment.shark, assignment.size)
            job.ledger.posted(assignment.shark)


async def _recover(
    left_over: list[Assignment],
    to_poll: trio.MemorySendChannel[Assignment],
    to_update: trio.MemorySendChannel[Assignment],
) -> None:
    """Feed each assignment that an earlier run left into the stage that its state calls for."""
    async with to_poll, to_update:
        for assignment in left_over:
            is_copied = assignment.state is AssignmentState.AGENT_COMPLETE
            await (to_update if is_copied else to_poll).send(assignment)


async def _unfinished(job: Job) -> list[NeededScan]:
    """Return the scans that are left; none if the job takes no more objects."""
    progress = await job.store.read(scans.read_progress)
    shards = progress.shards if job.scans_shards else ()
    listed = () if job.listing is None else job.listing.parts
    left = unfinished(needed(shards, progress.rounds, listed), progress.scans)
    return [] if job.has_enough else left


async def _why_failed(job: Job, scan_round: int) -> list[str]:
    """Return the failures of the rounds up to `scan_round`, which make the job fail."""
    progress = await job.store.read(scans.read_progress)
    noted = {(scan.round, scan.shard) for scan in job.failed_scans}
    left_out = [
        f"listed records of {where} were left out: {PUT_BACK}"
        for where in map(_place_of_listed, progress.dropped)
    ]
    others = list[str]()
    for part in await _unfinished(job):
        if part.round > scan_round or (part.round, part.shard) in noted:
            continue
        noted.add((part.round, part.shard))
        is_there = part.shard == NO_SHARD or part.shard in job.shards
        why = _position(part, progress) if is_there else PUT_BACK
        others.append(str(UnfinishedScan(part.round, part.shard, why)))
    return [*map(str, job.failed_scans), *left_out, *others]


def _place_of_listed(shard: int) -> str:
    """Say where listed records are, whose listing may have named no shard."""
    return "a tier without shards" if shard == NO_SHARD else shard_name(shard)


def _position(left: NeededScan, progress: ScanProgress) -> str:
    """Say how far an unfinished scan has come."""
    for scan in progress.scans:
        is_same = (scan.round, scan.shard) == (left.round, left.shard)
        if is_same and scan.position < scan.until:
            return f"it stands at {scan.position:,} of {scan.until:,} in {scan.column}"
    return "it has not begun"


async def _check_end(job: Job, scan_round: int) -> None:
    """Check that all rounds so far, and all objects that they found, are at an end.

    Raises:
      JobFailed: they are not; its text says why.
    """
    failures = await _why_failed(job, scan_round)
    status = await job.store.status()
    left = [f"{count:,} {name}" for name in OPEN_OBJECTS if (count := status.objects(name))]
    if left:
        failures.append(f"objects were left unfinished: {', '.join(left)}")
    if failures:
        raise JobFailed("; ".join(failures))
