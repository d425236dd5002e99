"""Polling: asking each agent how its assignments stand, until they are done or given up."""

import attrs
import trio

from rebalancer.domain import assignments, reasons
from rebalancer.domain.reasons import Reason
from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.job import Job, Moved, Sent
from rebalancer.manager.stages.post import give_back
from rebalancer.wire import AssignmentReport

log = get_logger()


@attrs.define(eq=False)
class _Watched:
    """An assignment under way: since when, when to ask next, how far it was."""

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
    """The assignments of one destination.

    Mutable state: those under way, and when one of them last made progress.
    """

    def __init__(self, job: Job, shark: str, moved: trio.MemorySendChannel[Moved]) -> None:
        self._job = job
        self._shark = shark
        self._moved = moved
        self._watched: dict[str, _Watched] = {}
        self._progress_at = 0.0
        self._answers = False
        self._added = trio.Event()

    def add(self, item: Sent) -> bool:
        """Watch `item` too; whether `run` must be started, because nothing was watched."""
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
            self._answers = False
            await self._await_progress(watched, str(exc))
            return
        self._answers = True
        if report is None:
            await self._lose(item, reasons.AGENT_ASSIGNMENT_NO_ENT, "the agent does not know it")
        elif report.stats.failures is None:
            if report.stats.complete > watched.processed:
                self._progress_at = trio.current_time()
                watched.processed = report.stats.complete
            await self._await_progress(watched, "it makes no progress")
        else:
            await self._finish(item, report)

    async def _await_progress(self, watched: _Watched, detail: str) -> None:
        """Ask again later, unless the agent has had its time."""
        now = trio.current_time()
        watched.ask_at = now + assignments.poll_interval(now - watched.since)
        if now - self._progress_at > self._job.config.agent_timeout:
            reason = reasons.NETWORK_ERROR if self._answers else reasons.DESTINATION_UNREACHABLE
            await self._lose(watched.item, reason, detail)

    async def _lose(self, item: Sent, reason: Reason, detail: str) -> None:
        log.warning("assignment lost", id=item.id, destination=self._shark, reason=detail)
        attempts = self._job.config.max_attempts
        await give_back(
            self._job, item.id, self._shark, item.size, reason, detail, max_attempts=attempts
        )
        del self._watched[item.id]

    async def _finish(self, item: Sent, report: AssignmentReport) -> None:
        stats, failed = report.stats, report.stats.failures or ()
        self._progress_at = trio.current_time()
        ids = [task.object_id for task in failed]
        if report.uuid != item.id or not assignments.adds_up(
            item.object_ids, ids, failed=stats.failed, complete=stats.complete, total=stats.total
        ):
            await self._distrust(item, report)
            return
        skipped = assignments.failures(
            [(task.object_id, task.status.reason, task.source) for task in failed],
            self._job.action.origin.manta_storage_id,
        )
        await self._job.store.copied(item.id, skipped)
        self._job.ledger.done(self._shark, item.size, copied=True)
        for reason in skipped.values():
            self._job.metrics.skipped(reason)
        log.debug("assignment", id=item.id, state="agent_complete", failed=len(skipped))
        await self._moved.send(Moved(item.id, item.destination))
        # Last, because `add` starts another `run` once nothing is watched.
        del self._watched[item.id]

    async def _distrust(self, item: Sent, report: AssignmentReport) -> None:
        """No telling which objects were copied: none may count."""
        stats = report.stats
        detail = (
            f"posted {len(item.object_ids)} tasks; the agent reports {stats.complete} of"
            f" {stats.total} processed, {stats.failed} failed and lists {len(stats.failures or ())}"
        )
        log.error("assignment does not add up", id=item.id, destination=self._shark, error=detail)
        await give_back(
            self._job,
            item.id,
            self._shark,
            item.size,
            reasons.ASSIGNMENT_MISMATCH,
            detail,
            max_attempts=0,
        )
        del self._watched[item.id]
