"""Working on assignments: in the order they came, so many at a time, tasks side by side.

fetchers -> results -> one committer: what has been pulled is written, made durable and recorded
in batches over all assignments.  A task's row says that it is done only after its file, the
file's name and its folder are on stable storage.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence

import attrs
import trio

from rebalancer.agent.fetch import Fetched, Fetcher, FetchFailure
from rebalancer.agent.files import LocalFailure, ObjectFiles, Staged, has_digest
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.store import AssignmentStore, StoredAssignment
from rebalancer.config import AgentServer
from rebalancer.domain.reasons import Reason
from rebalancer.errors import NotFound, StoreError
from rebalancer.log import get_logger
from rebalancer.retry import pauses
from rebalancer.wire import COMPLETE, Task, TaskState, TaskStatus, failed

#: The most tasks that one commit covers, and bytes of theirs that are in memory.
COMMIT_TASKS = 256
COMMIT_BYTES = 16 << 20
#: Results that wait for the committer, besides those that it has.
QUEUE = 64
#: Rows of a running assignment are at most this many seconds behind.
PROGRESS_S = 1.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
#: Errors kept for /status.
LAST_ERRORS = 20

log = get_logger()


@attrs.define(eq=False)
class _Run:
    """An assignment being worked on.

    Mutable state: how many of its tasks have not ended, how those ended that no row tells of
    yet, when rows may be written next, the pauses after failures to, and whether all is done.
    """

    assignment: StoredAssignment
    left: int
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


@attrs.frozen(eq=False)
class Result:
    """How a task ended, as far as its fetcher can tell."""

    run: _Run
    task: Task
    fetched: Fetched | None = None
    reason: Reason | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds in memory."""
        return 0 if self.fetched is None else len(self.fetched.body)


Results = trio.MemorySendChannel[Result | None]


@attrs.define(eq=False)
class Worker:
    """The assignments of an agent.

    Mutable state: the ids that wait, in order, and those that run; an event that wakes idle
    workers; recent errors.
    """

    server: AgentServer
    store: AssignmentStore
    files: ObjectFiles
    fetcher: Fetcher
    metrics: AgentMetrics
    waiting: deque[str] = attrs.field(factory=deque)
    running: set[str] = attrs.field(factory=set)
    last_errors: deque[str] = attrs.field(factory=lambda: deque(maxlen=LAST_ERRORS))
    _runs: set[_Run] = attrs.field(factory=set)
    _added: trio.Event = attrs.field(factory=trio.Event)

    def add(self, assignment_id: str) -> None:
        """Work on an assignment that is stored, after all that came before it."""
        self.waiting.append(assignment_id)
        self._count()
        self._added.set()
        self._added = trio.Event()

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
        send, receive = trio.open_memory_channel[Result | None](QUEUE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._commit, receive)
            for _ in range(self.server.workers):
                nursery.start_soon(self._work, send.clone())

    async def _work(self, results: Results) -> None:
        while True:
            while not self.waiting:
                await self._added.wait()
            name = self.waiting.popleft()
            self.running.add(name)
            try:
                await self._process(name, results)
            finally:
                self.running.discard(name)
                self._count()

    def _count(self) -> None:
        self.metrics.queued.set(len(self.waiting) + len(self.running))

    async def _process(self, name: str, results: Results) -> None:
        begun = trio.current_time()
        try:
            assignment, finished = await trio.to_thread.run_sync(self.store.load, name)
        except StoreError as exc:
            self._note(f"quarantined: {exc}")
            self.metrics.quarantined.inc()
            await trio.to_thread.run_sync(self.store.set_aside, name)
            return
        except NotFound as exc:
            self._note(str(exc))  # somebody removed its file
            return
        if finished:
            return
        await self._run_tasks(assignment, results)
        seconds = trio.current_time() - begun
        self.metrics.completed(seconds)
        log.info("assignment", id=name, state="complete", tasks=len(assignment.tasks), s=seconds)

    async def _run_tasks(self, assignment: StoredAssignment, results: Results) -> None:
        todo = [t for t in assignment.tasks if t.status.state is TaskState.PENDING]
        names = [(task.owner, task.object_id) for task in todo]
        present = await trio.to_thread.run_sync(self.files.existing, names)
        run = _Run(assignment, len(todo), trio.current_time() + PROGRESS_S)
        self._runs.add(run)
        try:
            async with trio.open_nursery() as nursery:
                left = iter(todo)
                for _ in range(min(self.server.workers_per_assignment, len(todo))):
                    nursery.start_soon(self._fetch, run, left, present, results)
            if not todo:
                await results.send(None)  # the committer must look, though nothing comes
            await run.done.wait()
        finally:
            self._runs.discard(run)

    # --- fetchers ------------------------------------------------------------------------

    async def _fetch(
        self,
        run: _Run,
        left: Iterator[Task],
        present: set[str],
        results: Results,
    ) -> None:
        """Take what is left of a run's tasks, one by one."""
        for task in left:
            with self.metrics.running.track_inprogress():
                result = await self._fetch_one(run, task, present)
            await results.send(result)

    async def _fetch_one(self, run: _Run, task: Task, present: set[str]) -> Result:
        begun = trio.current_time()
        try:
            if task.object_id in present:
                final = self.files.final(task.owner, task.object_id)
                if await trio.to_thread.run_sync(has_digest, final, task.md5sum):
                    self.metrics.done("skipped")
                    return Result(run, task)
            fetched = await self.fetcher.fetch(task)
        except (FetchFailure, LocalFailure) as exc:
            self._fail(task, exc.reason, str(exc))
            return Result(run, task, reason=exc.reason)
        self.metrics.fetched(fetched.size, trio.current_time() - begun)
        return Result(run, task, fetched)

    # --- the committer -------------------------------------------------------------------

    async def _commit(self, results: trio.MemoryReceiveChannel[Result | None]) -> None:
        """Publish results as they come, and write the rows that are due."""
        while True:
            batch: list[Result] = []
            with trio.move_on_at(min((run.due_at() for run in self._runs), default=math.inf)):
                batch = await _gather(results)
            if batch:
                reasons = await trio.to_thread.run_sync(self._publish, batch)
                for result, reason in zip(batch, reasons, strict=True):
                    self._settle(result, reason)
            now = trio.current_time()
            if due := [run for run in self._runs if run.due_at() <= now]:
                errors = await trio.to_thread.run_sync(self._write, due)
                for run, error in zip(due, errors, strict=True):
                    self._written(run, error)

    def _publish(self, batch: Sequence[Result]) -> list[Reason | None]:
        """In a thread: write the objects of a batch and make them durable under their names."""
        staged: dict[int, Staged] = {}
        failures: dict[int, LocalFailure] = {}
        for number, result in enumerate(batch):
            if result.fetched is not None:
                try:
                    staged[number] = result.fetched.stage(self.files, result.task)
                except LocalFailure as exc:
                    failures[number] = exc
        refused = self.files.publish(list(staged.values()))
        failures |= {number: refused[item] for number, item in staged.items() if item in refused}
        for number, failure in failures.items():
            self._fail(batch[number].task, failure.reason, str(failure))
        return [
            failures[number].reason if number in failures else result.reason
            for number, result in enumerate(batch)
        ]

    def _settle(self, result: Result, reason: Reason | None) -> None:
        run = result.run
        run.left -= 1
        run.unwritten[result.task.object_id] = COMPLETE if reason is None else failed(reason)
        if reason is not None:
            self.metrics.failed(reason)
        elif result.fetched is not None:
            self.metrics.done("completed")

    def _write(self, due: Sequence[_Run]) -> list[StoreError | None]:
        """In a thread: the rows of assignments, each in a transaction."""
        errors: list[StoreError | None] = []
        for run in due:
            write = self.store.record if run.left else self.store.complete
            try:
                write(run.assignment, run.unwritten)
            except StoreError as exc:
                errors.append(exc)
            else:
                errors.append(None)
        return errors

    def _written(self, run: _Run, error: StoreError | None) -> None:
        """What is not saved is not reported, and is written again later."""
        now = trio.current_time()
        run.is_failing = error is not None
        if error is not None:
            self._note(str(error))
            self.metrics.state_retries.inc()
            run.write_at = now + next(run.waits)
            return
        run.unwritten.clear()
        run.write_at = now + PROGRESS_S
        if not run.left:
            run.done.set()

    def _fail(self, task: Task, reason: Reason, detail: str) -> None:
        self._note(f"{reason}: {task.object_id} from {task.source.manta_storage_id}: {detail}")

    def _note(self, text: str) -> None:
        log.warning("failure", error=text)
        self.last_errors.append(text)


async def _gather(results: trio.MemoryReceiveChannel[Result | None]) -> list[Result]:
    """What is at hand, waiting for the first only, up to the limits of one commit."""
    first = await results.receive()
    found = [] if first is None else [first]
    size = sum(result.size for result in found)
    while len(found) < COMMIT_TASKS and size < COMMIT_BYTES:
        try:
            result = results.receive_nowait()
        except trio.WouldBlock:
            break
        if result is not None:
            found.append(result)
            size += result.size
    return found
