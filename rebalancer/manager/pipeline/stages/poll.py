"""This stage asks each agent how its assignments stand, until they are done or given up."""

from collections.abc import Mapping

import attrs
import trio

from rebalancer.agent_protocol import AssignmentReport
from rebalancer.domain import assignments, reasons
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure
from rebalancer.domain.states import AssignmentEvent, AssignmentState
from rebalancer.errors import PeerError, PeerUnreachable, PeerWantsToken
from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.pipeline.requeue import end_lost, withdraw
from rebalancer.manager.store.assignments import record_copied, requeue_unaccounted

log = get_logger()


@attrs.define(eq=False)
class _Watched:
    """A watched assignment is under way at its agent.

    Mutable state: when to ask for it next, and how many tasks it had processed in the last report.
    """

    assignment: Assignment
    since: float
    ask_at: float
    processed: int = 0


async def poll(
    job: Job,
    posted: trio.MemoryReceiveChannel[Assignment],
    copied: trio.MemorySendChannel[Assignment],
) -> None:
    """Watch every assignment, in one task a destination, until it is done."""
    watchers: dict[str, _Watcher] = {}
    async with posted, copied, trio.open_nursery() as nursery:
        async for assignment in posted:
            name = assignment.shark
            watcher = watchers.setdefault(name, _Watcher(job, name, copied))
            if watcher.add(assignment):
                nursery.start_soon(watcher.run)


class _Watcher:
    """A watcher polls the assignments of one destination.

    Mutable state: the assignments under way, and when any of them last made progress.
    """

    def __init__(self, job: Job, shark: str, copied: trio.MemorySendChannel[Assignment]) -> None:
        self._job = job
        self._shark = shark
        self._copied = copied
        self._watched: dict[str, _Watched] = {}
        self._progress_at = 0.0
        self._added = trio.Event()

    def add(self, assignment: Assignment) -> bool:
        """Watch an assignment; return whether it is the only one, so that `run` must be started."""
        now = trio.current_time()
        is_only = not self._watched
        if is_only:
            self._progress_at = now
        self._watched[assignment.id] = _Watched(assignment, now, now + assignments.poll_interval(0))
        self._added.set()
        return is_only

    async def run(self) -> None:
        """Poll until no assignment is under way."""
        while self._watched:
            due = min(self._watched.values(), key=lambda watched: watched.ask_at)
            self._added = trio.Event()
            with trio.move_on_at(due.ask_at):
                await self._added.wait()
                continue
            await self._ask(due)

    async def _ask(self, watched: _Watched) -> None:
        assignment = watched.assignment
        try:
            report = await self._job.agents.get(self._shark, assignment.id)
        except PeerError as exc:
            if isinstance(exc, PeerUnreachable | PeerWantsToken):
                self._job.health.no_answer(self._shark, str(exc))
            await self._await_progress(watched, reasons.DESTINATION_UNREACHABLE, str(exc))
            return
        self._job.health.answered(self._shark)
        if report is None and assignment.state is not AssignmentState.ASSIGNED:
            await self._end_unposted(assignment)
        elif report is None:
            detail = "the agent does not know it"
            await self._lose(assignment, reasons.AGENT_ASSIGNMENT_NO_ENT, detail)
        elif report.stats.failures is None:
            # Counting beyond the tasks is no progress, or an agent could count on for ever.
            if watched.processed < report.stats.complete <= len(assignment.object_ids):
                self._progress_at = trio.current_time()
                watched.processed = report.stats.complete
            await self._await_progress(watched, reasons.NETWORK_ERROR, "it makes no progress")
        else:
            await self._finish(assignment, report)

    async def _await_progress(self, watched: _Watched, reason: Reason, detail: str) -> None:
        """Poll again later, unless there was no progress for too long."""
        now = trio.current_time()
        watched.ask_at = now + assignments.poll_interval(now - watched.since)
        # Agents work on one assignment after the other, so the progress of any counts for all.
        # An assignment that was added later has its full time from then on.
        begun = max(self._progress_at, watched.since)
        if now - begun > self._job.config.agent_timeout:
            await self._lose(watched.assignment, reason, detail)

    async def _end_unposted(self, assignment: Assignment) -> None:
        """End an assignment that its agent never accepted and does not have: the post got lost."""
        ledger = self._job.ledger
        is_over = ledger.health.untaken_s(self._shark) >= self._job.config.agent_timeout
        if assignment.is_in_doubt and is_over:
            detail = "the agent answers, but takes no assignment"
            await self._lose(assignment, reasons.DESTINATION_UNREACHABLE, detail)
            return
        if assignment.is_in_doubt:
            ledger.health.set_away(self._shark, "it did not answer to an assignment")
        await withdraw(self._job, assignment)
        del self._watched[assignment.id]

    async def _lose(self, assignment: Assignment, reason: Reason, detail: str) -> None:
        await end_lost(self._job, assignment, reason, detail)
        del self._watched[assignment.id]

    async def _finish(self, assignment: Assignment, report: AssignmentReport) -> None:
        if report.uuid != assignment.id:
            log.error("report of another assignment", id=assignment.id, destination=self._shark)
            await self._lose(assignment, reasons.ASSIGNMENT_MISMATCH, _mismatch(assignment, report))
            return
        self._job.metrics.copied(trio.current_time() - self._watched[assignment.id].since)
        stats, listed = report.stats, report.stats.failures or ()
        tasks = assignments.sort_tasks(
            assignment.object_ids,
            [task.copy_name for task in listed],
            failed=stats.failed,
            complete=stats.complete,
            total=stats.total,
        )
        failed = assignments.failures(
            [
                (task.copy_name, task.status.reason, task.source)
                for task in listed
                if task.copy_name in tasks.failed
            ],
            self._job.decisions.origin.manta_storage_id,
        )
        for name, failure in failed.items():
            if not failure.reason.is_known:
                raw = failure.reason.name[:200]
                log.warning("unknown reason", object=name, destination=self._shark, reason=raw)
        if tasks.unaccounted:
            await self._requeue_unaccounted(assignment, failed, _mismatch(assignment, report))
        else:
            await self._record(assignment, failed)

    async def _record(self, assignment: Assignment, failed: Mapping[str, Failure]) -> None:
        """Record that all objects of `assignment` but the `failed` ones are copied."""
        attempts = self._job.config.max_attempts
        requeued = await self._job.store.write(
            record_copied, assignment.id, failed, max_attempts=attempts
        )
        if assignments.is_useless(len(assignment.object_ids), failed.values()):
            self._job.ledger.failed(self._shark, assignment.size)
        else:
            self._job.ledger.done(self._shark, assignment.size)
        if requeued:
            self._job.requeue(assignment)
        done = assignment.after(AssignmentEvent.AGENT_DONE)
        log.debug("assignment", id=done.id, state=done.state, failed=len(failed))
        await self._copied.send(done)
        # The `send` may have taken long, and the other assignments were not polled meanwhile.
        self._progress_at = trio.current_time()
        # Last, because `add` starts another `run` once nothing is watched.
        del self._watched[assignment.id]

    async def _requeue_unaccounted(
        self, assignment: Assignment, failed: Mapping[str, Failure], detail: str
    ) -> None:
        """Requeue the objects that the agent does not account for.

        They go to the same agent first, which finds any of them that it has copied.
        """
        log.warning(
            "assignment does not add up",
            id=assignment.id,
            destination=self._shark,
            reason=detail,
            asked_again=len(assignment.object_ids) - len(failed),
        )
        requeued = await self._job.store.write(
            requeue_unaccounted,
            assignment.id,
            failed,
            max_attempts=self._job.config.max_attempts,
            detail=detail,
        )
        # No failure of the destination: its agent may only have counted badly.
        self._job.ledger.done(self._shark, assignment.size)
        if requeued:
            self._job.requeue(assignment)
        del self._watched[assignment.id]


def _mismatch(assignment: Assignment, report: AssignmentReport) -> str:
    stats = report.stats
    return (
        f"posted {len(assignment.object_ids)} tasks as {assignment.id}; the agent reports"
        f" {stats.complete} of {stats.total} processed, {stats.failed} failed and lists"
        f" {len(stats.failures or ())}, of {report.uuid}"
    )
