"""This stage asks each agent how its assignments stand, until they are done or given up."""

from collections.abc import Mapping

import attrs
import trio

from rebalancer.domain import assignments, reasons
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure
from rebalancer.domain.states import AssignmentState
from rebalancer.errors import PeerError, PeerUnreachable, PeerWantsToken
from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Job, Moved, Sent
from rebalancer.manager.pipeline.returns import give_back, note_uncopied, withdraw
from rebalancer.manager.store.assignments import record_copied, requeue_unaccounted
from rebalancer.wire import AssignmentReport

log = get_logger()


@attrs.define(eq=False)
class _Watched:
    """An assignment is under way: since when, when to ask next, how many tasks were processed."""

    item: Sent
    since: float
    ask_at: float
    processed: int = 0


async def poll(
    job: Job,
    sent: trio.MemoryReceiveChannel[Sent],
    moved: trio.MemorySendChannel[Moved],
) -> None:
    """Watch every assignment, in one task a destination, until it is done."""
    watchers: dict[str, _Watcher] = {}
    async with sent, moved, trio.open_nursery() as nursery:
        async for item in sent:
            name = item.destination.manta_storage_id
            watcher = watchers.setdefault(name, _Watcher(job, name, moved))
            if watcher.add(item):
                nursery.start_soon(watcher.run)


class _Watcher:
    """A watcher asks for the assignments of one destination.

    Mutable state: those under way, and when one of them last made progress.
    """

    def __init__(self, job: Job, shark: str, moved: trio.MemorySendChannel[Moved]) -> None:
        self._job = job
        self._shark = shark
        self._moved = moved
        self._watched: dict[str, _Watched] = {}
        self._progress_at = 0.0
        self._added = trio.Event()

    def add(self, item: Sent) -> bool:
        """Watch `item` too; tells whether `run` must be started, because nothing was watched."""
        now = trio.current_time()
        idle = not self._watched
        if idle:
            self._progress_at = now
        self._watched[item.id] = _Watched(item, now, now + assignments.poll_interval(0))
        self._added.set()
        return idle

    async def run(self) -> None:
        """Ask until nothing is under way."""
        while self._watched:
            due = min(self._watched.values(), key=lambda watched: watched.ask_at)
            self._added = trio.Event()
            with trio.move_on_at(due.ask_at):
                await self._added.wait()
                continue
            await self._ask(due)

    async def _ask(self, watched: _Watched) -> None:
        item = watched.item
        try:
            report = await self._job.agents.get(self._shark, item.id)
        except PeerError as exc:
            if isinstance(exc, PeerUnreachable | PeerWantsToken):
                self._job.health.no_answer(self._shark, str(exc))
            await self._await_progress(watched, reasons.DESTINATION_UNREACHABLE, str(exc))
            return
        self._job.health.answered(self._shark)
        if report is None and not item.is_accepted:
            await self._untaken(item)
        elif report is None:
            await self._lose(item, reasons.AGENT_ASSIGNMENT_NO_ENT, "the agent does not know it")
        elif report.stats.failures is None:
            # No more progress than there are tasks, or an agent could count on for ever.
            if watched.processed < report.stats.complete <= len(item.object_ids):
                self._progress_at = trio.current_time()
                watched.processed = report.stats.complete
            await self._await_progress(watched, reasons.NETWORK_ERROR, "it makes no progress")
        else:
            await self._finish(item, report)

    async def _await_progress(self, watched: _Watched, reason: Reason, detail: str) -> None:
        """Ask again later, unless the agent has had its time."""
        now = trio.current_time()
        watched.ask_at = now + assignments.poll_interval(now - watched.since)
        # Agents work on one assignment after the other, so the progress of any counts for all;
        # and one that has just come has all the time that others have had.
        begun = max(self._progress_at, watched.since)
        if now - begun > self._job.config.agent_timeout:
            await self._lose(watched.item, reason, detail)

    async def _untaken(self, item: Sent) -> None:
        """Give up an assignment that its agent never accepted and does not have: it got lost."""
        ledger = self._job.ledger
        if item.in_doubt and ledger.health.untaken_s(self._shark) >= self._job.config.agent_timeout:
            detail = "the agent answers, but takes no assignment"
            await self._lose(item, reasons.DESTINATION_UNREACHABLE, detail)
            return
        if item.in_doubt:
            ledger.health.set_away(self._shark, "it did not answer to an assignment")
        await withdraw(self._job, item.id, self._shark, item.size, is_in_doubt=item.in_doubt)
        del self._watched[item.id]

    async def _lose(self, item: Sent, reason: Reason, detail: str) -> None:
        await give_back(self._job, item.id, self._shark, item.size, reason, detail)
        del self._watched[item.id]

    async def _finish(self, item: Sent, report: AssignmentReport) -> None:
        if report.uuid != item.id:
            log.error("report of another assignment", id=item.id, destination=self._shark)
            await self._lose(item, reasons.ASSIGNMENT_MISMATCH, _mismatch(item, report))
            return
        self._job.metrics.took("copy", trio.current_time() - self._watched[item.id].since)
        stats, listed = report.stats, report.stats.failures or ()
        account = assignments.account(
            item.object_ids,
            [task.object_id for task in listed],
            failed=stats.failed,
            complete=stats.complete,
            total=stats.total,
        )
        failed = assignments.failures(
            [
                (t.object_id, t.status.reason, t.source)
                for t in listed
                if t.object_id in account.failed
            ],
            self._job.action.origin.manta_storage_id,
        )
        for name, failure in failed.items():
            if not failure.reason.is_known:
                raw = failure.reason.name[:200]
                log.warning("unknown reason", object=name, destination=self._shark, reason=raw)
        if account.unaccounted:
            await self._ask_again(item, failed, _mismatch(item, report))
        else:
            await self._take(item, failed)

    async def _take(self, item: Sent, failed: Mapping[str, Failure]) -> None:
        """Record that all objects of `item` but the `failed` ones are copied."""
        attempts = self._job.config.max_attempts
        uncopied = await self._job.store.write(
            record_copied, item.id, failed, max_attempts=attempts
        )
        if assignments.is_useless(len(item.object_ids), failed.values()):
            self._job.ledger.failed(self._shark, item.size)
        else:
            self._job.ledger.done(self._shark, item.size)
        note_uncopied(self._job, item.id, uncopied)
        log.debug(
            "assignment", id=item.id, state=AssignmentState.AGENT_COMPLETE, failed=len(failed)
        )
        await self._moved.send(Moved(item.id, item.destination))
        # That may have taken long, in which nobody could see the others' progress.
        self._progress_at = trio.current_time()
        # Last, because `add` starts another `run` once nothing is watched.
        del self._watched[item.id]

    async def _ask_again(self, item: Sent, failed: Mapping[str, Failure], detail: str) -> None:
        """Ask once more for those objects of `item` that the agent does not account for."""
        log.warning(
            "assignment does not add up",
            id=item.id,
            destination=self._shark,
            reason=detail,
            asked_again=len(item.object_ids) - len(failed),
        )
        uncopied = await self._job.store.write(
            requeue_unaccounted,
            item.id,
            failed,
            max_attempts=self._job.config.max_attempts,
            detail=detail,
        )
        # The agent may have done its work and only have counted badly.
        self._job.ledger.done(self._shark, item.size)
        note_uncopied(self._job, item.id, uncopied)
        del self._watched[item.id]


def _mismatch(item: Sent, report: AssignmentReport) -> str:
    stats = report.stats
    return (
        f"posted {len(item.object_ids)} tasks as {item.id}; the agent reports {stats.complete} of"
        f" {stats.total} processed, {stats.failed} failed and lists {len(stats.failures or ())},"
        f" of {report.uuid}"
    )
