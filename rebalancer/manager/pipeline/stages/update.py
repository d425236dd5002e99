"""This stage updates the records of copied objects, unless a user's write was quicker."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from rebalancer.domain import reasons
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.states import AssignmentState, ObjectEvent
from rebalancer.domain.tiers import shard_name
from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.pipeline.stages.forget import Forgetting, forgetting
from rebalancer.manager.pipeline.stages.update_batches import chunks
from rebalancer.manager.pipeline.stages.update_records import RecordUpdater
from rebalancer.manager.store import links, updates
from rebalancer.manager.store.records import Update, UpdateResult

log = get_logger()


async def update(job: Job, copied: trio.MemoryReceiveChannel[Assignment]) -> None:
    """Update the records of each assignment, as many at a time as `job.update_limiter` allows."""
    async with copied, forgetting(job) as agents, trio.open_nursery() as nursery:
        async for assignment in copied:
            # Before the task starts, so that no more tasks exist than may work.
            await job.update_limiter.acquire(assignment)
            work = partial(_update_timed, job, assignment, agents)
            nursery.start_soon(_release_after, job, assignment, work)


async def update_links(job: Job) -> None:
    """Update the further records of objects that have several, once their copies are made."""
    after = (-1, "")
    while page := await job.store.read(links.read_pending, after):
        async with trio.open_nursery() as nursery:
            for link in page:
                await job.update_limiter.acquire(link)
                nursery.start_soon(_release_after, job, link, partial(_update_link, job, link))
        after = (page[-1].shard, page[-1].key)


async def _release_after(job: Job, borrower: object, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    finally:
        job.update_limiter.release(borrower)


async def _update_timed(job: Job, assignment: Assignment, agents: Forgetting) -> None:
    with job.metrics.timed("update"):
        await _update_assignment(job, assignment)
    agents.forget(assignment)


async def _update_assignment(job: Job, assignment: Assignment) -> None:
    by_shard: defaultdict[int, list[Update]] = defaultdict(list)
    for pending in await job.store.write(updates.read_pending, assignment.id):
        by_shard[pending.shard].append(pending)
    parts = [(shard, chunk) for shard, all_ in by_shard.items() for chunk in chunks(all_)]
    for number, (shard, chunk) in enumerate(parts, 1):
        results = await _update_chunk(job, shard, chunk)
        finished = assignment.id if number == len(parts) else None
        await job.store.write(updates.record_updates, results, finished)
    if not parts:
        await job.store.write(updates.record_updates, {}, assignment.id)
    log.debug("assignment", id=assignment.id, state=AssignmentState.POST_PROCESSED)


async def _update_chunk(job: Job, shard: int, chunk: list[Update]) -> dict[int, UpdateResult]:
    """Write the records of one batch; return the results by the numbers of the objects' rows."""
    if (moray := job.shards.get(shard)) is None:
        detail = f"{shard_name(shard)} is not configured any more"
        failed = UpdateResult(ObjectEvent.UNUSABLE, reasons.BAD_SHARD_NUMBER, detail)
        return dict.fromkeys([pending.number for pending in chunk], failed)
    batched = job.config.options.use_batched_updates
    updater = RecordUpdater(shard, moray, job.decisions, job.update_limiter, batched)
    await updater.update(chunk)
    return {ended.number: ended.result for ended in chunk if ended.result is not None}


async def _update_link(job: Job, link: Update) -> None:
    (result,) = (await _update_chunk(job, link.shard, [link])).values()
    reason = None if result.reason is None else result.reason.word
    detail = result.detail or reason
    if not await job.store.write(links.record_update, link, result.event, detail):
        log.warning("link changed by hand", job=job.id, key=link.key, update=result.event)
