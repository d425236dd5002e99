"""This module has assignments pulled: in the order in which they came, some at a time.

Fetchers send reports, and one writer records them.  A fetcher reports an object when its file,
the file's name and the folder are on stable storage, and only then may the row of its task say so.
While the last objects of one assignment are being committed, the next one is pulled already.
"""

import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import attrs
import trio

from rebalancer.agent.failures import Failures
from rebalancer.agent.intake import Intake
from rebalancer.agent.limits import Limits
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.run import Run
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent.transfer.disk.files import ObjectFiles
from rebalancer.agent.transfer.handle import FetcherHandle
from rebalancer.agent.transfer.messages import Report
from rebalancer.agent.transfer.suspects import pull_part
from rebalancer.agent.writer import ProgressWriter
from rebalancer.agent_protocol import AssignmentStats, Dialect
from rebalancer.config import AgentServer
from rebalancer.log import get_logger
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Waits

#: Assignments that may be pulled but not committed; with more, the next one waits.
BEHIND = 16
#: Seconds over which the rate of /status is measured.
FLOW_S = 10.0
#: Seconds between two looks at the free space of the disk; and to wait for its answer.
WATCH_DISK_S, DISK_ANSWER_S = 5.0, 2.0

log = get_logger()


@attrs.define(eq=False)
class Worker:
    """The worker has the assignments of an agent pulled.

    Mutable state: the intake of assignments; the writer, with the runs; the latest failures; what
    the agent waits for; the bytes received, in all and lately.
    """

    server: AgentServer
    store: AssignmentStore
    files: ObjectFiles
    fetchers: Sequence[FetcherHandle]
    limits: Limits
    metrics: AgentMetrics
    waits: Waits = attrs.field(factory=Waits)
    failures: Failures = attrs.field(factory=Failures)
    intake: Intake = attrs.field(init=False)
    writer: ProgressWriter = attrs.field(init=False)
    received: int = 0
    _flow: deque[tuple[float, int]] = attrs.field(factory=deque)

    def __attrs_post_init__(self) -> None:
        """Begin without assignments, and have fetchers call `heard` with their reports."""
        self.intake = Intake(self.store, self.metrics, self.failures, self.waits)
        self.writer = ProgressWriter(self.store, self.metrics, self.failures)
        for fetcher in self.fetchers:
            fetcher.waits, fetcher.on_report = self.waits, self.heard

    def progress(self, name: str) -> tuple[Dialect, AssignmentStats] | None:
        """Return the dialect of an assignment, and its counts as they are recorded.

        They come from memory, because managers poll often.  None means that memory does not have
        the assignment: it is not being pulled, nor was it just posted, nor has it just ended.
        """
        return self.intake.progress(name) or self.writer.progress(name)

    def resume(self) -> None:
        """Queue the assignments that an earlier run left, before any new one.  Blocking.

        Raises:
          OSError: a folder cannot be used.
        """
        removed = self.files.prepare()
        log.info("resuming", assignments=self.intake.resume(), temporary_files_removed=removed)

    async def run(self) -> None:
        """Work for ever."""
        async with trio.open_nursery() as nursery:
            for fetcher in self.fetchers:
                nursery.start_soon(fetcher.run)
            nursery.start_soon(self.writer.run)
            nursery.start_soon(self.limits.run)
            nursery.start_soon(self._watch_disk)
            for _ in range(self.server.workers):
                nursery.start_soon(self._work, nursery)

    async def free_bytes(self) -> int | None:
        """Return the free bytes of the disk; None if it does not answer in time."""
        with trio.move_on_after(DISK_ANSWER_S), suppress(OSError):
            free = self.files.free_bytes
            return await run_sync(Work.OBJECTS, free, abandon_on_cancel=True)
        return None

    async def _watch_disk(self) -> None:
        """Update the gauge of free bytes; a scrape that asked the disk itself could hang."""
        while True:
            free = await self.free_bytes()
            self.metrics.disk_free.set(math.nan if free is None else free)  # not 0: nobody knows
            await trio.sleep(WATCH_DISK_S)

    async def _work(self, nursery: trio.Nursery) -> None:
        """Have one assignment after the other pulled, for ever."""
        runs = self.writer.runs
        while True:
            if (assignment := await self.intake.take()) is None:
                continue
            run = runs[assignment.id] = Run.of(assignment)
            # With an assignment for each fetcher, none is divided, which saves messages.
            parts = max(1, len(self.fetchers) // len(self.intake.backlog.running))
            run.divide(min(parts, self.limits.width()))
            nursery.start_soon(self._finish, run)
            await run.pulled()
            while len(runs) >= self.server.workers + BEHIND:
                await next(iter(runs.values())).done.wait()

    async def _finish(self, run: Run) -> None:
        """Have the parts of an assignment pulled, and wait until its file is in `completed`."""
        name, begun = run.assignment.id, trio.current_time()
        idlest = sorted(self.fetchers, key=lambda fetcher: fetcher.tasks)
        self.writer.wake()
        try:
            async with trio.open_nursery() as nursery:
                for fetcher, part in zip(idlest, run.parts, strict=False):
                    nursery.start_soon(pull_part, fetcher, part, self.limits.width)
            await run.done.wait()
        finally:
            self.intake.done(name)
        seconds = trio.current_time() - begun
        self.metrics.completed(seconds)
        log.info("assignment", id=name, state="complete", tasks=len(run.assignment.rows), s=seconds)

    def heard(self, report: Report) -> None:
        """Note and count the objects that a fetcher reports as pulled or failed."""
        size, is_due, runs = 0, False, self.writer.runs
        for event in report.finished:
            is_due |= runs[event.assignment].finish(event)
            size += event.size or 0
            if event.reason is not None:
                where = f"{event.name} from {event.source}"
                self.failures.note(f"{event.reason}: {where}: {event.detail}")
        self.received += size
        self._flow.append((trio.current_time(), size))
        self._forget_flow()
        self.metrics.ended(report.finished)
        self.metrics.cleanup_failures.inc(report.cleanup_failures)
        if is_due:
            self.writer.wake()

    def bytes_per_s(self) -> int:
        """Return how many bytes a second were received lately, counting whole objects only."""
        self._forget_flow()
        return round(sum(size for _, size in self._flow) / FLOW_S)

    def status_line(self) -> str:
        """Return in a line what is being pulled, and what is waited for."""
        backlog = self.intake.backlog
        tasks = sum(fetcher.at_work for fetcher in self.fetchers)
        parts = [
            f"assignments: {len(backlog.running)} at work, {len(backlog)} waiting",
            f"objects: {tasks} being pulled, {self.bytes_per_s() / 1e6:,.1f} MB/s",
        ]
        if causes := self.waits.causes:
            parts.append(f"waits for {causes[0].subject}")
        return "; ".join(parts)

    def _forget_flow(self) -> None:
        while self._flow and self._flow[0][0] < trio.current_time() - FLOW_S:
            self._flow.popleft()
