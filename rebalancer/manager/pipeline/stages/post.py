"""This stage posts recorded assignments to their agents."""

import enum

import attrs
import trio

from rebalancer import agent_protocol
from rebalancer.domain import reasons
from rebalancer.domain.assignments import Assignment, Task
from rebalancer.domain.copies import parts_of
from rebalancer.domain.reasons import Reason
from rebalancer.domain.states import AssignmentEvent
from rebalancer.errors import PeerError
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.pipeline.requeue import end_lost, withdraw
from rebalancer.manager.store import assignments
from rebalancer.peers.agents import PostResult
from rebalancer.retry import pauses

#: Tries before another destination is sought for the objects.
TRIES = 5
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0


async def post(
    job: Job,
    placed: trio.MemoryReceiveChannel[Assignment],
    posted: trio.MemorySendChannel[Assignment],
) -> None:
    """Post each assignment as soon as it comes; requeue its objects if no agent takes it.

    No assignment waits for another one, so that a slow agent holds up only its own.  The ledger
    bounds how many there are at a time.
    """
    async with placed, posted, trio.open_nursery() as nursery:
        async for assignment in placed:
            nursery.start_soon(_post, job, assignment, posted)


async def _post(
    job: Job, assignment: Assignment, posted: trio.MemorySendChannel[Assignment]
) -> None:
    """Post an assignment, and send it on if the agent has it or may have it.

    If the job is cancelled before, or the agent is away and cannot have it, it is withdrawn, which
    counts against none of its objects.
    """
    shark = assignment.shark
    if not (job.cancelled.is_set() or job.health.is_away(shark)):
        await job.bandwidth.announce(shark)
    if job.cancelled.is_set() or job.health.is_away(shark):
        await withdraw(job, assignment)
        return
    with job.metrics.timed("post"):
        result = await _deliver(job, assignment)
    match result.delivery:
        case _Delivery.TAKEN:
            await job.store.write(assignments.accept, assignment.id)
            await posted.send(assignment.after(AssignmentEvent.ACCEPTED))
        case _Delivery.IN_DOUBT:
            await posted.send(assignment.in_doubt())
        case _Delivery.NEVER_SENT:
            await withdraw(job, assignment)
        case _Delivery.REFUSED:
            await end_lost(job, assignment, result.reason, result.detail)


class _Delivery(enum.Enum):
    """A delivery is how the tries to post an assignment ended."""

    TAKEN = enum.auto()
    REFUSED = enum.auto()
    NEVER_SENT = enum.auto()
    IN_DOUBT = enum.auto()


@attrs.frozen
class _Result:
    """A result is how a delivery ended, and why: `reason` for the column, `detail` for people."""

    delivery: _Delivery
    reason: Reason = reasons.DESTINATION_UNREACHABLE
    detail: str = ""


def to_wire(task: Task) -> agent_protocol.Task:
    """Return a task as an agent is sent it: the name of its copy is in three fields there."""
    object_id, *of_bucket = parts_of(task.object_id)
    return agent_protocol.Task(
        object_id, task.account, task.md5, task.source, agent_protocol.PENDING, *of_bucket
    )


async def _deliver(job: Job, assignment: Assignment) -> _Result:
    """Try to post an assignment until the agent takes it, or no further try is worth its time."""
    shark = assignment.shark
    body = agent_protocol.Assignment(assignment.id, tuple(map(to_wire, assignment.tasks)))
    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    result, was_sent = _Result(_Delivery.NEVER_SENT), False
    for tries_left in reversed(range(TRIES)):
        wait = next(waits)
        try:
            answer = await job.agents.post(shark, body)
        except PeerError as exc:
            was_sent = was_sent or getattr(exc, "was_sent", True)
            # An agent that answers, but takes no assignment, is given up in the end too.
            is_over = job.health.untaken_s(shark) >= job.config.agent_timeout
            job.health.no_answer(shark, str(exc), to_post=True)
            unsent = _Delivery.REFUSED if is_over else _Delivery.NEVER_SENT
            result = _Result(_Delivery.IN_DOUBT if was_sent else unsent, detail=str(exc))
            if job.health.is_away(shark):
                break
        else:
            job.health.took(shark)
            if answer.result is PostResult.ACCEPTED:
                return _Result(_Delivery.TAKEN)
            if answer.result is PostResult.UNABLE:
                job.health.announced(shark, ())
            if answer.result in (PostResult.REJECTED, PostResult.UNABLE):
                return _Result(_Delivery.REFUSED, reasons.ASSIGNMENT_REJECTED, answer.detail)
            result = _Result(_Delivery.REFUSED, reasons.AGENT_BUSY, answer.detail)
            wait = max(wait, answer.retry_after_s)
        # Once another assignment was given up there, more tries are not worth their time: the
        # objects have other destinations.
        if not tries_left or job.health.is_avoided(shark):
            break
        with trio.move_on_after(wait):
            await job.cancelled.wait()
            break
    return result
