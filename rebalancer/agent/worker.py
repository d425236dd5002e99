"""Working on assignments: in the order they came, so many at a time, tasks side by side.

fetchers -> outcomes -> one committer: fetchers tell of an object when its file, the file's name
and its folder are on stable storage; then its task's row may say so, and not before.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial

import attrs
import trio

from rebalancer.agent.fetchers import FetcherDied, FetcherLine
from rebalancer.agent.files import ObjectFiles
from rebalancer.agent.messages import Outcome
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.store import AssignmentStore, StoredAssignment
from rebalancer.config import AgentServer
from rebalancer.domain import reasons
from rebalancer.errors import NotFound, StoreError
from rebalancer.log import get_logger
from rebalancer.retry import pauses
from rebalancer.wire import (
    COMPLETE,
    AssignmentStats,
    Dialect,
    Task,
    TaskState,
    TaskStatus,
    failed,
)

#: Rows of a running assignment are at most this many seconds behind.
PROGRESS_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
#: Waiting assignments that are kept in memory, so that they need not be read again.
FRESH = 32
#: Errors kept for /status.
LAST_ERRORS = 20

log = get_logger()


@attrs.define(eq=False)
class _Run:
    """An assignment being worked on.

    Mutable state: the objects whose tasks have not ended, and how those did that no row tells of
    yet; how many rows tell of a failure; when rows may be written next, the pauses after failures
    to, and whether all is done.
    """

    assignment: StoredAssignment
    left: set[str]
    failures: int
    write_at: float
    unwritten: dict[str, TaskStatus] = attrs.field(factory=dict)
    waits: Iterator[float] = attrs.field(factory=lambda: pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S))
    is_failing: bool = False
    done: trio.Event = attrs.field(factory=trio.Event)

    def due_at(self) -> float:
        """When its rows must be written."""
        if self.is_failing:
            return self.write_at
        if not self.left:
            return -math.inf
        return self.write_at if self.unwritten else math.inf


@attrs.define(eq=False)
class Worker:
    """The assignments of an agent.

    Mutable state: the ids that wait, in order, and those that run, with what is known of them;
    some that wait, as they were stored; events that wake idle workers and the committer; bytes
    received; recent errors.
    """

    server: AgentServer
    store: AssignmentStore
    files: ObjectFiles
    fetchers: Sequence[FetcherLine]
    metrics: AgentMetrics
    waiting: deque[str] = attrs.field(factory=deque)
    running: set[str] = attrs.field(factory=set)
    last_errors: deque[str] = attrs.field(factory=lambda: deque(maxlen=LAST_ERRORS))
    received: int = 0
    _fresh: dict[str, StoredAssignment] = attrs.field(factory=dict)
    _runs: dict[str, _Run] = attrs.field(factory=dict)
    _ended: trio.Event = attrs.field(factory=trio.Event)
    _added: trio.Event = attrs.field(factory=trio.Event)

    def add(self, assignment: StoredAssignment) -> None:
        """Work on an assignment that has just been stored, after all that came before it."""
        self.waiting.append(assignment.id)
        if len(self._fresh) < FRESH:
            self._fresh[assignment.id] = assignment
        self._count()
        self._added.set()
        self._added = trio.Event()

    def progress(self, assignment_id: str) -> tuple[Dialect, AssignmentStats] | None:
        """How an assignment stands that is being worked on, going by its rows, and its dialect.

        From memory, because managers ask often; None if it is not being worked on.
        """
        if (run := self._runs.get(assignment_id)) is None:
            return None
        total = len(run.assignment.tasks)
        processed = total - len(run.left) - len(run.unwritten)
        return run.assignment.dialect, AssignmentStats("Running", run.failures, processed, total)

    def resume(self) -> None:
        """Queue what an earlier run left, before anything new comes.  Blocking.

        Raises:
          OSError: a folder cannot be used.
        """
        removed = self.files.prepare()
        self.waiting.extend(self.store.waiting())
        self._count()
        log.info("resuming", assignments=len(self.waiting), temporary_files_removed=removed)

    async def run(self) -> None:
        """Work for ever."""
        async with trio.open_nursery() as nursery:
            for fetcher in self.fetchers:
                nursery.start_soon(fetcher.run)
            nursery.start_soon(self._commit)
            for _ in range(self.server.workers):
                nursery.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            while not self.waiting:
                await self._added.wait()
            name = self.waiting.popleft()
            self.running.add(name)
            try:
                await self._process(name)
            finally:
                self.running.discard(name)
                self._count()

    def _count(self) -> None:
        self.metrics.queued.set(len(self.waiting) + len(self.running))

    async def _process(self, name: str) -> None:
        begun = trio.current_time()
        if (assignment := self._fresh.pop(name, None) or await self._load(name)) is None:
            return
        await self._run_tasks(assignment)
        seconds = trio.current_time() - begun
        self.metrics.completed(seconds)
        log.info("assignment", id=name, state="complete", tasks=len(assignment.tasks), s=seconds)

    async def _load(self, name: str) -> StoredAssignment | None:
        """Read an assignment; None if there is nothing to do about it."""
        try:
            assignment, finished = await trio.to_thread.run_sync(self.store.load, name)
        except StoreError as exc:
            self._note(f"quarantined: {exc}")
            self.metrics.quarantined.inc()
            await trio.to_thread.run_sync(self.store.set_aside, name)
            return None
        except NotFound as exc:
            self._note(str(exc))  # somebody removed its file
            return None
        return None if finished else assignment

    async def _run_tasks(self, assignment: StoredAssignment) -> None:
        todo = [t for t in assignment.tasks if t.status.state is TaskState.PENDING]
        failures = sum(t.status.state is TaskState.FAILED for t in assignment.tasks)
        left = {task.object_id for task in todo}
        run = _Run(assignment, left, failures, trio.current_time() + PROGRESS_S)
        self._runs[assignment.id] = run
        self._wake_committer()
        width = self.server.workers_per_assignment
        parts = min(len(self.fetchers), width, len(todo))
        async with trio.open_nursery() as nursery:
            for part, fetcher in enumerate(self._idlest()[:parts]):
                share = width // parts + (part < width % parts)
                nursery.start_soon(self._fetch, run, fetcher, todo[part::parts], share)
        await run.done.wait()

    def _idlest(self) -> list[FetcherLine]:
        return sorted(self.fetchers, key=lambda fetcher: fetcher.tasks)

    async def _fetch(
        self, run: _Run, fetcher: FetcherLine, tasks: Sequence[Task], width: int
    ) -> None:
        try:
            await fetcher.fetch(tasks, width, partial(self._settle, run))
        except FetcherDied as exc:
            for task in tasks:
                if task.object_id in run.left:
                    outcome = Outcome(0, 0, reason=reasons.AGENT_FS_ERROR, detail=str(exc))
                    self._settle(run, task, outcome)

    def _settle(self, run: _Run, task: Task, outcome: Outcome) -> None:
        """A task has ended."""
        reason = outcome.reason
        run.left.remove(task.object_id)
        run.unwritten[task.object_id] = COMPLETE if reason is None else failed(reason)
        if outcome.size is not None:
            self.received += outcome.size
            self.metrics.fetched(outcome.size, outcome.seconds)
        if reason is not None:
            self.metrics.failed(reason)
            source = task.source.manta_storage_id
            self._note(f"{reason}: {task.object_id} from {source}: {outcome.detail}")
        else:
            self.metrics.done("skipped" if outcome.size is None else "completed")
        if not run.left or len(run.unwritten) == 1:
            self._wake_committer()  # there is something due, at once or later

    # --- the committer -------------------------------------------------------------------

    def _wake_committer(self) -> None:
        self._ended.set()

    async def _commit(self) -> None:
        """Write the rows of assignments that are due, several in one step."""
        while True:
            with trio.move_on_at(
                min((run.due_at() for run in self._runs.values()), default=math.inf)
            ):
                await self._ended.wait()
            self._ended = trio.Event()
            now = trio.current_time()
            if due := [run for run in self._runs.values() if run.due_at() <= now]:
                writes = [(run, dict(run.unwritten), not run.left) for run in due]
                errors = await trio.to_thread.run_sync(self._write, writes)
                for (run, statuses, is_last), error in zip(writes, errors, strict=True):
                    self._written(run, statuses, is_last, error)

    def _write(
        self, writes: Sequence[tuple[_Run, dict[str, TaskStatus], bool]]
    ) -> list[StoreError | None]:
        """In a thread: the rows of assignments, each in a transaction."""
        errors: list[StoreError | None] = []
        for run, statuses, is_last in writes:
            write = self.store.complete if is_last else self.store.record
            try:
                write(run.assignment, statuses)
            except StoreError as exc:
                errors.append(exc)
            else:
                errors.append(None)
        return errors

    def _written(
        self, run: _Run, statuses: dict[str, TaskStatus], is_last: bool, error: StoreError | None
    ) -> None:
        """What is not saved is not reported, and is written again later."""
        now = trio.current_time()
        run.is_failing = error is not None
        if error is not None:
            self._note(str(error))
            self.metrics.state_retries.inc()
            run.write_at = now + next(run.waits)
            return
        for object_id, status in statuses.items():
            del run.unwritten[object_id]
            run.failures += status.reason is not None
        run.write_at = now + PROGRESS_S
        if is_last:
            del self._runs[run.assignment.id]
            run.done.set()

    def _note(self, text: str) -> None:
        log.warning("failure", error=text)
        self.last_errors.append(text)
