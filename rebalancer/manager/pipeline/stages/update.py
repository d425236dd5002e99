"""This stage has each record of a copied object name the new copy, if nobody was quicker."""

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from rebalancer.domain import reasons
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.objects import account_of, copy_path
from rebalancer.domain.reasons import Column
from rebalancer.domain.states import AssignmentState, ObjectEvent
from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.pipeline.stages.forget import Forgetting, forgetting
from rebalancer.manager.pipeline.stages.rewrite import Rewriter
from rebalancer.manager.pipeline.stages.update_batches import (
    Member,
    Outcome,
    as_discovered,
    chunks,
)
from rebalancer.manager.store import links, updates
from rebalancer.manager.store.records import StoredRecord, UpdateResult

log = get_logger()


async def update(job: Job, copied: trio.MemoryReceiveChannel[Assignment]) -> None:
    """Update the records of each assignment, as many at a time as `job.update_limiter` allows."""
    async with copied, forgetting(job) as agents, trio.open_nursery() as nursery:
        async for assignment in copied:
            # Before the task starts, so that no more of them exist than may work.
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
    records = await job.store.write(updates.read_pending, assignment.id)
    by_shard: defaultdict[int, list[StoredRecord]] = defaultdict(list)
    for record in records:
        by_shard[record.shard].append(record)
    parts = [(shard, chunk) for shard, members in by_shard.items() for chunk in chunks(members)]
    for left, (shard, chunk) in zip(reversed(range(len(parts))), parts, strict=True):
        done = await _update_chunk(job, shard, chunk)
        results = [_result_of(member, outcome) for member, outcome in done]
        await job.store.write(updates.record_updates, results, None if left else assignment.id)
        _count(job, [outcome for _, outcome in done])
    if not parts:
        await job.store.write(updates.record_updates, (), assignment.id)
    log.debug("assignment", id=assignment.id, state=AssignmentState.POST_PROCESSED)


async def _update_chunk(
    job: Job, shard: int, records: list[StoredRecord]
) -> list[tuple[Member, Outcome]]:
    members = [as_discovered(record) for record in records]
    if (moray := job.moray.get(shard)) is None:
        return [(member, _no_such_shard(shard)) for member in members]
    batched = job.config.options.use_batched_updates
    await Rewriter(shard, moray, job.decisions, job.update_limiter, batched).rewrite(members)
    return [(member, member.outcome) for member in members if member.outcome is not None]


def _no_such_shard(shard: int) -> Outcome:
    detail = f"shard {shard} is not configured any more"
    return Outcome(ObjectEvent.UNUSABLE, reasons.BAD_SHARD_NUMBER, detail=detail)


def _result_of(member: Member, outcome: Outcome) -> UpdateResult:
    record, orphan = member.record, None
    if not outcome.is_complete:
        known = json.loads(record.text)  # as it was copied; `member.value` may be another object
        orphan = copy_path(account_of(known), record.id)
    return UpdateResult(record.number, outcome.event, outcome.reason, outcome.detail, orphan)


def _count(job: Job, outcomes: list[Outcome]) -> None:
    job.metrics.completed("evacuate", sum(outcome.is_complete for outcome in outcomes))
    for outcome in outcomes:
        if outcome.reason is not None and outcome.reason.column is Column.ERROR:
            job.metrics.failed(outcome.reason)


async def _update_link(job: Job, link: StoredRecord) -> None:
    ((_, outcome),) = await _update_chunk(job, link.shard, [link])
    reason = None if outcome.reason is None else outcome.reason.word
    detail = outcome.detail or reason
    if not await job.store.write(links.record_update, link, outcome.event, detail):
        log.warning("link changed by hand", job=job.id, key=link.key, update=outcome.event)
