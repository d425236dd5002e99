"""Posting: handing recorded assignments to their agents."""

import trio

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.job import COPY_PATH, Job, Ready, Sent
from rebalancer.manager.records import Uncopied
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
    """Post assignments; give back the objects of those no agent took.

    Once the job is cancelled, what has not been posted is withdrawn.
    """
    async with ready, sent:
        async for item in ready:
            if job.cancelled.is_set():
                await _withdraw(job, item)
                continue
            await job.throttle.tell(item.destination.manta_storage_id)
            with job.metrics.timed("post"):
                refusal = await _deliver(job, item)
            if refusal is None:
                await job.store.accepted(item.id)
                ids = frozenset(obj.object_id for obj, _ in item.tasks)
                await sent.send(Sent(item.id, item.destination, ids, item.size))
            else:
                shark = item.destination.manta_storage_id
                await give_back(job, item.id, shark, item.size, *refusal)


async def _deliver(job: Job, item: Ready) -> tuple[Reason, str] | None:
    """None when the agent has the assignment, else why not, for the column and for a person."""
    tasks = tuple(job.action.task(obj, source) for obj, source in item.tasks)
    assignment = Assignment(item.id, tasks)
    shark = item.destination.manta_storage_id
    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    for _ in range(TRIES):
        wait = next(waits)
        try:
            answer = await job.agents.post(shark, assignment)
        except PeerError as exc:
            failure = reasons.DESTINATION_UNREACHABLE, str(exc)
        else:
            if answer.outcome is Posted.ACCEPTED:
                return None
            if answer.outcome is Posted.REJECTED:
                return reasons.ASSIGNMENT_REJECTED, answer.detail
            failure = reasons.AGENT_BUSY, answer.detail
            wait = max(wait, answer.retry_after_s)
        # Once another assignment has been given up there, this one is not worth its own tries:
        # those behind it have other destinations.
        if job.ledger.is_avoided(shark):
            break
        with trio.move_on_after(wait):
            await job.cancelled.wait()
            break
    return failure


async def _withdraw(job: Job, item: Ready) -> None:
    await job.store.withdraw(item.id)
    job.ledger.unsent(item.destination.manta_storage_id, item.size)


async def give_back(
    job: Job, assignment_id: str, shark: str, size: int, reason: Reason, detail: str
) -> None:
    """An assignment came to nothing: its objects return to placement, or are skipped."""
    log.warning("assignment lost", id=assignment_id, destination=shark, reason=detail)
    uncopied = await job.store.give_back(
        assignment_id,
        reason,
        max_attempts=job.config.max_attempts,
        path=COPY_PATH,
        detail=detail,
    )
    job.ledger.failed(shark, size)
    note_uncopied(job, assignment_id, uncopied)


def note_uncopied(job: Job, assignment_id: str, uncopied: Uncopied) -> None:
    """Let `discover` feed those objects of an assignment that are to be tried again."""
    for reason, count in uncopied.skipped.items():
        job.metrics.skipped(reason, count)
    if uncopied.waiting:
        job.given_back.append(assignment_id)
        job.store.wake()
