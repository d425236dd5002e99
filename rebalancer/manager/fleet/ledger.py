"""This module counts what the running jobs have under way at each destination.

Jobs share destinations, so each has a ledger of its own and sees the claims of all.  Methods have
no await, hence are atomic.  Nothing in it is worth saving: a restart rebuilds it from the open
assignments.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import attrs
import trio

from rebalancer.manager.fleet.bandwidth import Throttle
from rebalancer.manager.fleet.health import Changes, Health

#: A finished claim still counts this many seconds: until the node's heartbeat (5 s), storinfo's
#: poll of it (30 s) and ours (10 s) can have reported the space that it used.
UNREPORTED_S = 45.0


@attrs.define
class _Entry:
    """The claims at one destination, all jobs together."""

    claimed: int = 0  # bytes, those that are unreported yet included
    unreported: deque[tuple[float, int]] = attrs.field(factory=deque)  # (until, bytes), in order
    assignments: int = 0

    def forget_reported(self, now: float) -> None:
        while self.unreported and self.unreported[0][0] <= now:
            self.claimed -= self.unreported.popleft()[1]


@attrs.frozen
class Standing:
    """A standing of one destination, for people."""

    shark: str
    #: Bytes promised to objects, or copied so lately that storinfo may not know.
    claimed: int
    #: Under way.
    assignments: int
    #: In a row.
    failures: int
    #: Seconds for which it gets nothing if others can have it; 0: it is not avoided.
    avoided_for_s: float


class FleetLedger:
    """A manager has one object of this kind, with the claims of all its jobs.

    Mutable state: the entries, of which there are not more than storage nodes; how the destinations
    answer; the limits of bandwidth that they keep to; and the names of the nodes that unfinished
    jobs evacuate, which are no destinations.
    """

    def __init__(self) -> None:
        self.evacuated: Collection[str] = ()
        self._entries: defaultdict[str, _Entry] = defaultdict(_Entry)
        self.changes = Changes()
        self.health = Health(self.changes)
        self.throttle = Throttle()

    @contextmanager
    def open(self, max_assignments: int) -> "Iterator[JobLedger]":
        """Open a job's ledger.  When it is left, what the job had under way is forgotten."""
        ledger = JobLedger(self, max_assignments)
        try:
            yield ledger
        finally:
            ledger.close()

    def snapshot(self, others: Iterable[str] = ()) -> list[Standing]:
        """Return every destination that has, or had, to do with a job, and `others`, by name."""
        names = {*self._entries, *self.health.names, *others}
        return [self._standing(name) for name in sorted(names)]

    def _standing(self, shark: str) -> Standing:
        entry = self.entry(shark)
        failures, avoided_for_s = self.health.failures(shark)
        return Standing(shark, entry.claimed, entry.assignments, failures, avoided_for_s)

    def is_promised(self, shark: str) -> bool:
        """Tell whether room of `shark` is promised to objects that are under way.

        What is only not reported yet is there: no record is going to name it.
        """
        if shark not in self._entries:
            return False
        entry = self.entry(shark)
        return entry.claimed > sum(size for _, size in entry.unreported)

    def entry(self, shark: str) -> _Entry:
        """Return the claims at `shark` as of now."""
        entry = self._entries[shark]
        if entry.unreported:
            entry.forget_reported(trio.current_time())
        return entry


class JobLedger:
    """This object counts a job's claims in bytes and its assignments, by destination.

    Its answers are about all jobs together.  Mutable state: the part of the entries that is this
    job's.
    """

    def __init__(self, fleet: FleetLedger, max_assignments: int) -> None:
        self._fleet = fleet
        self._max_assignments = max_assignments
        self._claims: Counter[str] = Counter()
        self._assignments: Counter[str] = Counter()
        #: How the destinations answer.
        self.health = fleet.health

    # --- what the job does ---------------------------------------------------------------

    def claim(self, shark: str, size: int) -> int:
        """Promise `size` bytes at `shark` to an object; return what is promised there now."""
        self._claims[shark] += size
        entry = self._fleet.entry(shark)
        entry.claimed += size
        return entry.claimed

    def posted(self, shark: str) -> None:
        """Count one more assignment under way to `shark`."""
        self._assignments[shark] += 1
        self._fleet.entry(shark).assignments += 1

    def done(self, shark: str, size: int) -> None:
        """End an assignment of `size` bytes, whose agent did what it could."""
        self.health.succeeded(shark)
        self._end(shark, size)

    def failed(self, shark: str, size: int) -> None:
        """End an assignment of `size` bytes by the fault of its agent.

        The bytes count on like others: the agent may have written them all the same.
        """
        self.health.failed(shark)
        self._end(shark, size)

    def unsent(self, shark: str, size: int) -> None:
        """End an assignment of `size` bytes that was never sent."""
        self._release(shark, size, 1)
        self._fleet.changes.wake()

    def unclaim(self, shark: str, size: int) -> None:
        """Take back the promise of `size` bytes at `shark`: those objects do not go there."""
        self._release(shark, size, 0)
        self._fleet.changes.wake()

    def close(self) -> None:
        """Forget what the job has under way."""
        for shark in self._claims.keys() | self._assignments.keys():
            self._release(shark, self._claims[shark], self._assignments[shark])
        self._fleet.changes.wake()

    def _end(self, shark: str, size: int) -> None:
        entry = self._release(shark, size, 1)
        entry.claimed += size
        entry.unreported.append((trio.current_time() + UNREPORTED_S, size))
        self._fleet.changes.wake()

    def _release(self, shark: str, size: int, assignments: int) -> _Entry:
        entry = self._fleet.entry(shark)
        entry.claimed -= size
        entry.assignments -= assignments
        self._claims[shark] -= size
        self._assignments[shark] -= assignments
        return entry

    # --- how destinations stand ----------------------------------------------------------

    @property
    def changes(self) -> int:
        """Return how many times a destination may have become a better one."""
        return self._fleet.changes.count

    @property
    def evacuated(self) -> Collection[str]:
        """Return the names of the nodes that unfinished jobs evacuate."""
        return self._fleet.evacuated

    @property
    def at_work(self) -> list[str]:
        """Return the destinations that have an assignment of the job."""
        return [shark for shark, count in self._assignments.items() if count]

    def look(self, shark: str) -> tuple[int, bool]:
        """Return bytes promised at `shark`, and whether it is busy, as below."""
        entry = self._fleet.entry(shark)
        return entry.claimed, entry.assignments >= self._max_assignments

    def claimed(self, shark: str) -> int:
        """Return bytes promised at `shark`, with those it may not have reported as used yet."""
        return self._fleet.entry(shark).claimed

    def is_busy(self, shark: str) -> bool:
        """Tell whether `shark` has all the assignments it may have."""
        return self.look(shark)[1]

    async def wait_change(self) -> None:
        """Return once a destination may have become a better one, by whatever job."""
        await self._fleet.changes.wait()
