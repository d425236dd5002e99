"""This module writes how assignments stand, several in one step, and answers who asks.

What is not on disk is not reported: an assignment stands as its file says.
"""

import math
from collections import OrderedDict

import attrs
import trio

from rebalancer.agent.failures import Failures
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.run import Run
from rebalancer.agent.state.statefile import StoredAssignment
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent_protocol import AssignmentStats, Dialect, ReportedState
from rebalancer.threads import Work, run_sync

#: Seconds for which an assignment that has ended waits for others to be written with it.
MOMENT_S = 0.01
#: The most ended assignments whose counts are remembered, and the most failed tasks of such a one.
RECENT, RECENT_FAILURES = 2000, 10


@attrs.define(eq=False)
class ProgressWriter:
    """This object writes the files of assignments that are worked on.

    Mutable state: the runs, by the ids of their assignments; how the assignments that ended lately
    stand; how many writes failed; an event that wakes the writer.
    """

    store: AssignmentStore
    metrics: AgentMetrics
    failures: Failures
    runs: dict[str, Run] = attrs.field(factory=dict)
    _recent: OrderedDict[str, tuple[Dialect, AssignmentStats]] = attrs.field(factory=OrderedDict)
    retries: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def progress(self, name: str) -> tuple[Dialect, AssignmentStats] | None:
        """Return how an assignment stands, and its dialect; None if it is not known in memory."""
        if (run := self.runs.get(name)) is not None:
            report = run.assignment.report(ReportedState.RUNNING)
            return run.assignment.dialect, report.stats
        return self._recent.get(name)

    def forget(self, name: str) -> None:
        """Forget an ended assignment, which is gone from disk."""
        self._recent.pop(name, None)

    def wake(self) -> None:
        """Have `run` look which runs are due."""
        self._changed.set()

    async def run(self) -> None:
        """Write the rows of assignments that are due, for ever."""
        while True:
            deadline = min((run.due_at() for run in self.runs.values()), default=math.inf)
            with trio.move_on_at(deadline):
                await self._changed.wait()
            self._changed = trio.Event()
            if due := self._due():
                if len(due) < len(self.runs):
                    # More of them are about to end, and several take hardly longer than one.
                    await trio.sleep(MOMENT_S)
                    due = self._due()
                await self._write(due)

    def _due(self) -> list[Run]:
        now = trio.current_time()
        return [run for run in self.runs.values() if run.due_at() <= now]

    async def _write(self, due: list[Run]) -> None:
        """Write the files of due runs; one that cannot be written is due again after a pause."""
        begun = trio.current_time()
        updated = [run.assignment.updated(run.unwritten) for run in due]
        errors = await run_sync(Work.STORE, self.store.write, updated)
        took_s = trio.current_time() - begun
        for run, new, error in zip(due, updated, errors, strict=True):
            if error is None:
                run.written(new, took_s)
                if new.is_finished:
                    self._finish(new)
                    run.done.set()
            else:
                run.not_written()
                self.failures.note(str(error))
                self.metrics.state_retries.inc()
                self.retries += 1

    def _finish(self, ended: StoredAssignment) -> None:
        """Forget the run of an assignment that has ended, and remember how it stands."""
        del self.runs[ended.id]
        stats = ended.report(ReportedState.COMPLETE).stats
        if stats.failed <= RECENT_FAILURES:
            self._recent[ended.id] = ended.dialect, stats
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)
