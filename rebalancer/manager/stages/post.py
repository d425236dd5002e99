"""Posting: handing recorded assignments to their agents."""

import trio

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.job import COPY_PATH, Job, Ready, Sent
from rebalancer.peers.agents import Posted
from rebalancer.retry import pauses
from rebalancer.wire import Assignment

#: Tries before another destination is sought for the objects.
TRIES = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0

log = get_logger()


async def post(
    job: Job,
    ready: trio.MemoryReceiveChannel[Ready],
    sent: trio.MemorySendChannel[Sent],
) -> None:
    """Post assignments; give back the objects of those no agent took."""
    async with ready, sent:
        async for item in ready:
            refusal = await _deliver(job, item)
            if refusal is None:
                await job.store.accepted(item.id)
                ids = frozenset(obj.object_id for obj, _ in item.tasks)
                await sent.send(Sent(item.id, item.destination, ids, item.size))
            else:
                await _withdraw(job, item, *refusal)


async def _deliver(job: Job, item: Ready) -> tuple[Reason, str] | None:
    """None when the agent has the assignment, else why not, for the column and for a person."""
    tasks = tuple(job.action.task(obj, source) for obj, source in item.tasks)
    assignment = Assignment(item.id, tasks)
    shark = item.destination.manta_storage_id
    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    failure, wait = (reasons.DESTINATION_UNREACHABLE, ""), 0.0
    for _ in range(TRIES):
        await trio.sleep(wait)
        try:
            answer = await job.agents.post(shark, assignment)
        except PeerError as exc:
            failure, wait = (reasons.DESTINATION_UNREACHABLE, str(exc)), next(waits)
            continue
        if answer.outcome is Posted.ACCEPTED:
            return None
        if answer.outcome is Posted.REJECTED:
            return reasons.ASSIGNMENT_REJECTED, answer.detail
        failure, wait = (reasons.AGENT_BUSY, answer.detail), answer.retry_after_s
    return failure


async def _withdraw(job: Job, item: Ready, reason: Reason, detail: str) -> None:
    shark = item.destination.manta_storage_id
    log.warning("assignment not taken", id=item.id, destination=shark, reason=detail)
    # What an agent refuses as such, others will refuse too.
    attempts = 0 if reason == reasons.ASSIGNMENT_REJECTED else job.config.max_attempts
    await give_back(job, item.id, shark, item.size, reason, detail, max_attempts=attempts)


async def give_back(
    job: Job,
    assignment_id: str,
    shark: str,
    size: int,
    reason: Reason,
    detail: str,
    *,
    max_attempts: int,
) -> None:
    """Return the objects of an assignment that came to nothing to placement.

    Those that came back `max_attempts` times are skipped with `reason`.
    """
    before = job.store.unsettled
    waiting = await job.store.give_back(
        assignment_id, reason, max_attempts=max_attempts, path=COPY_PATH, detail=detail
    )
    job.metrics.skipped(reason, max(0, before - job.store.unsettled))
    if waiting:
        job.given_back.append(assignment_id)
    job.ledger.done(shark, size, copied=False)
