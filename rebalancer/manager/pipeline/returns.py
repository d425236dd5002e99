"""This module ends assignments that were not copied whole, and returns what was not copied."""

from rebalancer.domain.reasons import Reason
from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.store import assignments
from rebalancer.manager.store.records import UncopiedCounts

log = get_logger()


async def withdraw(
    job: Job, assignment_id: str, shark: str, size: int, *, is_in_doubt: bool = False
) -> None:
    """End an assignment that no agent has, for which none is to blame: its objects are as before.

    One that is in doubt may have come to its agent after all, so its copies are listed.
    """
    await job.store.write(assignments.withdraw, assignment_id, is_in_doubt=is_in_doubt)
    job.ledger.unsent(shark, size)
    job.given_back.append(assignment_id)
    job.store.wake()
    log.debug("assignment", id=assignment_id, destination=shark, state="withdrawn")


async def give_back(
    job: Job, assignment_id: str, shark: str, size: int, reason: Reason, detail: str
) -> None:
    """End an assignment that came to nothing: its objects return to placement, or are skipped."""
    log.warning("assignment lost", id=assignment_id, destination=shark, reason=detail)
    uncopied = await job.store.write(
        assignments.give_back,
        assignment_id,
        reason,
        max_attempts=job.config.max_attempts,
        detail=detail,
    )
    job.ledger.failed(shark, size)
    note_uncopied(job, assignment_id, uncopied)


def note_uncopied(job: Job, assignment_id: str, uncopied: UncopiedCounts) -> None:
    """Let `discover` feed those objects of an assignment that are to be tried again."""
    for reason, count in uncopied.skipped.items():
        job.metrics.skipped(reason, count)
    if uncopied.requeued:
        job.given_back.append(assignment_id)
        job.store.wake()
