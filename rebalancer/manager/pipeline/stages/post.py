"""This stage posts recorded assignments to their agents."""

import enum

import attrs
import trio

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from rebalancer.errors import PeerError
from rebalancer.manager.pipeline.job import Job, Ready, Sent
from rebalancer.manager.pipeline.returns import give_back, withdraw
from rebalancer.manager.store import assignments
from rebalancer.peers.agents import Posted
from rebalancer.retry import pauses
from rebalancer.wire import Assignment

#: Tries before another destination is sought for the objects.
TRIES = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0


async def post(
    job: Job,
    ready: trio.MemoryReceiveChannel[Ready],
    sent: trio.MemorySendChannel[Sent],
) -> None:
    """Post each assignment as soon as it comes; give back the objects of those no agent took.

    None waits for another one, so that a slow agent holds up its own only.  There are no more of
    them at a time than all destinations may have, which the ledger bounds.
    """
    async with ready, sent, trio.open_nursery() as nursery:
        async for item in ready:
            nursery.start_soon(_post, job, item, sent)


async def _post(job: Job, item: Ready, sent: trio.MemorySendChannel[Sent]) -> None:
    """Post an assignment.

    Once the job is cancelled, what has not been posted is withdrawn.  So is what cannot have come
    to its agent, which is away: that is no failure of the objects.  An agent that may have the
    assignment is asked for it by polling.
    """
    shark = item.destination.manta_storage_id
    if not (job.cancelled.is_set() or job.health.is_away(shark)):
        await job.bandwidth.announce(shark)
    if job.cancelled.is_set() or job.health.is_away(shark):
        await withdraw(job, item.id, shark, item.size)
        return
    with job.metrics.timed("post"):
        result = await _deliver(job, item)
    ids = frozenset(obj.object_id for obj, _ in item.tasks)
    match result.delivery:
        case _Delivery.TAKEN:
            await job.store.write(assignments.accept, item.id)
            await sent.send(Sent(item.id, item.destination, ids, item.size))
        case _Delivery.IN_DOUBT:
            await sent.send(Sent(item.id, item.destination, ids, item.size, False, True))
        case _Delivery.NEVER_SENT:
            await withdraw(job, item.id, shark, item.size)
        case _Delivery.REFUSED:
            await give_back(job, item.id, shark, item.size, result.reason, result.detail)


class _Delivery(enum.Enum):
    TAKEN = enum.auto()
    REFUSED = enum.auto()
    NEVER_SENT = enum.auto()
    IN_DOUBT = enum.auto()


@attrs.frozen
class _Result:
    """This tells how a delivery ended; of a refused one also why, for a column and for a person."""

    delivery: _Delivery
    reason: Reason = reasons.DESTINATION_UNREACHABLE
    detail: str = ""


async def _deliver(job: Job, item: Ready) -> _Result:
    tasks = tuple(job.action.task(obj, source) for obj, source in item.tasks)
    assignment = Assignment(item.id, tasks)
    shark = item.destination.manta_storage_id
    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    result, was_sent = _Result(_Delivery.NEVER_SENT), False
    for _ in range(TRIES):
        wait = next(waits)
        try:
            answer = await job.agents.post(shark, assignment)
        except PeerError as exc:
            was_sent = was_sent or getattr(exc, "was_sent", True)
            # Also one whose agent answers, but to no assignment, comes to its end.
            is_over = job.health.untaken_s(shark) >= job.config.agent_timeout
            job.health.no_answer(shark, str(exc), to_post=True)
            unsent = _Delivery.REFUSED if is_over else _Delivery.NEVER_SENT
            result = _Result(_Delivery.IN_DOUBT if was_sent else unsent, detail=str(exc))
            if job.health.is_away(shark):
                break
        else:
            job.health.took(shark)
            if answer.outcome is Posted.ACCEPTED:
                return _Result(_Delivery.TAKEN)
            if answer.outcome is Posted.REJECTED:
                return _Result(_Delivery.REFUSED, reasons.ASSIGNMENT_REJECTED, answer.detail)
            result = _Result(_Delivery.REFUSED, reasons.AGENT_BUSY, answer.detail)
            wait = max(wait, answer.retry_after_s)
        # Once another assignment has been given up there, this one is not worth its own tries:
        # those behind it have other destinations.
        if job.health.is_avoided(shark):
            break
        with trio.move_on_after(wait):
            await job.cancelled.wait()
            break
    return result
