"""This module takes in the assignments that are next, and puts broken files out of their way."""

import attrs
import trio

from rebalancer.agent.failures import Failures
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.state.backlog import Backlog
from rebalancer.agent.state.statefile import BrokenFile, NewerFile, StoredAssignment
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent_protocol import AssignmentStats, Dialect, ReportedState
from rebalancer.errors import NotFound, StoreError
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Waits

#: Tasks of scheduled assignments that are kept in memory, so that they need not be read again:
#: some 300 bytes each.
FRESH_TASKS = 20_000
#: Seconds until a stored assignment that cannot be read, for want of file handles perhaps, is tried
#: once more.
RETRY_S = 5.0
#: Seconds until the next one is tried, which grow while none can be read: the first, the longest.
FIRST_REST_S, LONGEST_REST_S = 0.2, 5.0
#: The name of the wait while the folder of assignments cannot be listed.
THE_BACKLOG = "the list of stored assignments"


@attrs.define(eq=False)
class Intake:
    """The intake reads the assignments that are next, those posted of late from memory.

    Mutable state: the backlog; some scheduled assignments, as they were stored, and how many
    tasks they have; stored ones that could not be read, and how many came in a row; what is
    waited for.
    """

    store: AssignmentStore
    metrics: AgentMetrics
    failures: Failures
    waits: Waits
    backlog: Backlog = attrs.field(init=False)
    unreadable: int = 0
    _fresh: dict[str, StoredAssignment] = attrs.field(factory=dict)
    _fresh_tasks: int = 0
    _unread: int = 0

    def __attrs_post_init__(self) -> None:
        """Begin without a backlog."""
        self.backlog = Backlog(self.store)

    def resume(self) -> int:
        """List what an earlier run left, before anything new comes; return how many.  Blocking."""
        self.backlog.resume()
        self._count()
        return len(self.backlog)

    def add(self, assignment: StoredAssignment) -> None:
        """Add an assignment that has just been stored, behind all that came before it."""
        self.backlog.add(assignment.id)
        if self._fresh_tasks < FRESH_TASKS:
            self._fresh[assignment.id] = assignment
            self._fresh_tasks += len(assignment.rows)
        self._count()

    def progress(self, name: str) -> tuple[Dialect, AssignmentStats] | None:
        """Return how a scheduled assignment stands, and its dialect; None if it is not in memory.

        Only those that were posted of late are.
        """
        if (stored := self._fresh.get(name)) is None:
            return None
        return stored.dialect, stored.report(ReportedState.SCHEDULED).stats

    async def take(self) -> StoredAssignment | None:
        """Wait for the next assignment, which is at work until `done`.

        None, perhaps after a rest, if it has no work left, or cannot be worked on now.
        """
        try:
            name = await self.backlog.take()
        except OSError as exc:
            self.waits.begin(THE_BACKLOG, str(exc))
            await self._rest()
            return None
        self.waits.end(THE_BACKLOG)
        if (assignment := self._fresh.pop(name, None)) is not None:
            self._fresh_tasks -= len(assignment.rows)
        elif (assignment := await self._load(name)) is None:
            self.done(name)
            return None
        self._unread = 0
        return assignment

    def done(self, name: str) -> None:
        """Note that an assignment is not at work any more."""
        self.backlog.done(name)
        self._count()

    def _count(self) -> None:
        self.metrics.queued.set(len(self.backlog) + len(self.backlog.running))

    async def _rest(self) -> None:
        """Pause after a file that could not be read: it may be that none can."""
        self._unread += 1
        await trio.sleep(min(self._unread * FIRST_REST_S, LONGEST_REST_S))

    async def _load(self, name: str) -> StoredAssignment | None:
        """Read an assignment; return None if it cannot be worked on now."""
        subject = f"assignment {name}"
        assignment, finished = None, True
        try:
            assignment, finished = await run_sync(Work.STORE, self.store.load, name)
        except NotFound as exc:
            self.failures.note(str(exc))  # somebody removed its file
        except NewerFile as exc:
            self.failures.note(f"not worked on: {exc}")
            self.waits.begin(subject, str(exc))
            self.backlog.refuse(name)
            return None
        except StoreError as exc:
            left = await self._set_aside(name, exc) if isinstance(exc, BrokenFile) else exc
            if left is not None:
                self.waits.begin(subject, str(left))
                self.backlog.defer(name, trio.current_time() + RETRY_S)
                await self._rest()
                return None
        self.waits.end(subject)
        return None if finished else assignment

    async def _set_aside(self, name: str, broken: BrokenFile) -> StoreError | None:
        """Put a broken file out of the way; return why not, if that cannot be at the moment."""
        try:
            await self.set_aside(name, broken)
        except StoreError as exc:
            return exc
        return None

    async def set_aside(self, name: str, broken: BrokenFile) -> None:
        """Put a file that is no assignment out of the way of the others.

        Raises:
          StoreError: it cannot be moved at the moment.
        """
        if await run_sync(Work.STORE, self.store.set_aside, name):
            self.failures.note(f"quarantined: {broken}")
            self.metrics.quarantined.inc()
            self.unreadable += 1
