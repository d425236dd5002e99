"""This module says how far the work on an assignment has come."""

import math
from collections.abc import Iterator, Sequence

import attrs
import trio

from rebalancer.agent.state.statefile import StoredAssignment
from rebalancer.agent.transfer.messages import Finished
from rebalancer.agent.transfer.parts import Part
from rebalancer.agent_protocol import COMPLETE, TaskStatus, failed
from rebalancer.retry import pauses

#: Rows of a running assignment are at most this many seconds behind.
PROGRESS_S = 1.0
#: Pauses in seconds after writes that failed.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
#: Rows of one assignment are written for at most this part of the time.
WRITING_SHARE = 0.05


@attrs.define(eq=False)
class Run:
    """A run is the work on an assignment.

    Mutable state: what its file says; the names of the copies whose tasks have not ended, and
    the statuses of ended ones that are not in the file yet; when the file may be written next, the
    pauses after writes that failed; the parts that fetchers have; and whether all is over.
    """

    assignment: StoredAssignment
    left: set[str]
    write_at: float
    unwritten: dict[str, TaskStatus] = attrs.field(factory=dict)
    parts: Sequence[Part] = ()
    done: trio.Event = attrs.field(factory=trio.Event)
    _is_failing: bool = False
    _pauses: Iterator[float] = attrs.field(factory=lambda: pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S))

    @classmethod
    def of(cls, assignment: StoredAssignment) -> "Run":
        """Begin the work on a stored assignment."""
        left = {row[0] for row in assignment.rows} - assignment.statuses.keys()
        return cls(assignment, left, trio.current_time() + PROGRESS_S)

    def divide(self, parts: int) -> None:
        """Divide the tasks that have not ended into so many parts, or fewer if there are fewer."""
        rows = [row for row in self.assignment.rows if row[0] in self.left]
        parts = min(parts, len(rows))
        self.parts = [Part(self.assignment.id, rows[n::parts], n, parts) for n in range(parts)]

    async def pulled(self) -> None:
        """Wait until nothing is left to pull, though not all may be durable yet."""
        for part in self.parts:
            await part.pulled.wait()

    def finish(self, event: Finished) -> bool:
        """Note how a task has ended; return whether that makes its rows due, at once or later."""
        self.left.remove(event.name)
        was_written = not self.unwritten
        status = COMPLETE if event.reason is None else failed(event.reason)
        self.unwritten[event.name] = status
        return was_written or not self.left

    def due_at(self) -> float:
        """Return when the rows of this assignment must be written."""
        if self._is_failing:
            return self.write_at
        if not self.left:
            return -math.inf
        return self.write_at if self.unwritten else math.inf

    def written(self, assignment: StoredAssignment, took_s: float) -> None:
        """Note that `assignment` is what the file says now, written in `took_s` seconds."""
        for name in assignment.statuses.keys() - self.assignment.statuses.keys():
            del self.unwritten[name]
        self.assignment, self._is_failing = assignment, False
        self.write_at = trio.current_time() + max(PROGRESS_S, took_s / WRITING_SHARE)

    def not_written(self) -> None:
        """Note that a write failed: it is due again after a pause."""
        self._is_failing = True
        self.write_at = trio.current_time() + next(self._pauses)
