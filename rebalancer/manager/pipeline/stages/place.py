"""This stage records assignments of the objects that discovery sends, as its placer decides."""

import math
from collections.abc import Iterable, Sequence

import trio

from rebalancer.domain.assignments import Assignment
from rebalancer.domain.batches import Batch
from rebalancer.domain.objects import MantaObject
from rebalancer.domain.placer import Conditions, Hold, Placer
from rebalancer.domain.reasons import Reason
from rebalancer.log import get_logger
from rebalancer.manager.fleet import node_list
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.store import assignments, unplaced

#: The name of the wait while no destination can be given anything.
DESTINATIONS = "any destination"

log = get_logger()


async def place(
    job: Job,
    feeds: trio.MemoryReceiveChannel[Feed],
    placed: trio.MemorySendChannel[Assignment],
) -> None:
    """Turn unplaced objects into recorded assignments; defer or skip those that fit nowhere.

    Once the job is cancelled, objects without an assignment stay as they are.
    """
    now = trio.current_time()
    placer = Placer(job.decisions.choose, job.ledger, job.health, job.rng, _conditions(job), now)
    async with feeds, placed:
        is_over = False
        while not is_over:
            feed = Feed(())
            with trio.move_on_at(placer.due_at(job.batch_limits)):
                try:
                    feed = await feeds.receive()
                except trio.EndOfChannel:
                    is_over = True
            await _place(job, placer, feed.objects, placed)
            if feed.is_flush or is_over:
                await _send(job, placer.take_all(), placed)
            else:
                await _send_due(job, placer, placed)


def _conditions(job: Job) -> Conditions:
    excluded = frozenset((*job.ledger.evacuated, job.decisions.origin.manta_storage_id))
    return Conditions(
        job.node_list.nodes, job.rules, job.batch_limits, excluded, job.config.agent_timeout
    )


async def _place(
    job: Job,
    placer: Placer,
    objects: Sequence[MantaObject],
    placed: trio.MemorySendChannel[Assignment],
) -> None:
    """Bring each object into a batch; defer or skip those that fit nowhere."""
    refused, deferred = list[tuple[str, Reason]](), list[str]()
    try:
        while objects and not job.cancelled.is_set():
            step = placer.place(objects, _conditions(job), trio.current_time())
            # No await between a step and its claims, or another job is promised the same room.
            for shark, size in step.claims.items():
                job.ledger.claim(shark, size)
            seen = job.ledger.changes
            job.absence.note(len(step.deferred), job.health.times_back)
            refused += step.refused
            deferred += step.deferred
            if step.hold is None:
                job.waits.end(DESTINATIONS)
            await _send(job, step.full, placed)
            if step.hold is not None:
                await _wait(job, placer, step.hold, seen)
                await _send_due(job, placer, placed)
            objects = step.rest
    finally:
        job.waits.end(DESTINATIONS)
    await _record_unplaceable(job, refused, deferred)


async def _wait(job: Job, placer: Placer, hold: Hold, seen: int) -> None:
    """Wait until a destination may be given something again, or a batch is due.

    `seen` are the changes of which the step knew: others came while its batches were sent on.
    """
    if job.ledger.changes != seen:
        return
    if hold is Hold.ALL_AWAY:
        job.waits.begin(DESTINATIONS, f"none of {placer.destinations} answers")
    # storinfo may list new destinations meanwhile.
    look_at = math.inf if hold is Hold.BUSY else trio.current_time() + node_list.PERIOD_S
    with trio.move_on_at(min(placer.due_at(job.batch_limits), look_at)):
        await job.ledger.wait_change()


async def _record_unplaceable(
    job: Job, refused: Sequence[tuple[str, Reason]], deferred: Sequence[str]
) -> None:
    if deferred:
        await job.store.write(unplaced.defer, deferred)
    if refused:
        await job.store.write(unplaced.refuse, refused, max_attempts=job.config.max_attempts)


async def _send_due(job: Job, placer: Placer, placed: trio.MemorySendChannel[Assignment]) -> None:
    await _send(job, placer.take_due(job.batch_limits, trio.current_time()), placed)


async def _send(
    job: Job, batches: Iterable[Batch], placed: trio.MemorySendChannel[Assignment]
) -> None:
    """Record the assignments of some batches and send them on; drop those of a cancelled job."""
    for batch in batches:
        shark = batch.destination.manta_storage_id
        if job.cancelled.is_set():
            job.ledger.unclaim(shark, batch.size)
            continue
        assignment = batch.close(job.new_id())
        job.ledger.posted(shark)
        await job.store.write(assignments.assign, assignment)
        await placed.send(assignment)
        log.debug(
            "assignment",
            id=assignment.id,
            destination=shark,
            tasks=len(assignment.tasks),
            state=assignment.state,
        )
