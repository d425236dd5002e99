"""This module ends assignments that were not copied whole, and requeues what was not copied."""

from rebalancer.domain.assignments import Assignment
from rebalancer.domain.reasons import Reason
from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.store import assignments

log = get_logger()


async def withdraw(job: Job, assignment: Assignment) -> None:
    """End an assignment that no agent has, through no fault of its objects, and requeue them.

    If it is in doubt whether the agent got it, the copies that may exist are listed as orphans.
    """
    is_in_doubt = assignment.is_in_doubt
    await job.store.write(assignments.withdraw, assignment.id, is_in_doubt=is_in_doubt)
    job.ledger.unsent(assignment.shark, assignment.size)
    job.requeue(assignment)
    log.debug("assignment", id=assignment.id, destination=assignment.shark, state="withdrawn")


async def end_lost(job: Job, assignment: Assignment, reason: Reason, detail: str) -> None:
    """End an assignment that came to nothing: its objects are requeued, or skipped."""
    log.warning("assignment lost", id=assignment.id, destination=assignment.shark, reason=detail)
    requeued = await job.store.write(
        assignments.requeue_lost,
        assignment.id,
        reason,
        max_attempts=job.config.max_attempts,
        detail=detail,
    )
    job.ledger.failed(assignment.shark, assignment.size)
    if requeued:
        job.requeue(assignment)
