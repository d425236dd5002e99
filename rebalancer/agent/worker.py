"""Working on assignments: in the order they came, so many at a time, tasks side by side.

fetchers -> results -> committer: a task's row says that it is done only after its file, the
file's name and its folder are on stable storage.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from rebalancer.agent.fetch import Fetcher, FetchFailure
from rebalancer.agent.files import LocalFailure, ObjectFiles, Staged, has_digest
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.store import AssignmentStore, StoredAssignment
from rebalancer.config import AgentServer
from rebalancer.domain.reasons import Reason
from rebalancer.errors import NotFound, StoreError
from rebalancer.log import get_logger
from rebalancer.retry import pauses
from rebalancer.wire import COMPLETE, Task, TaskState, TaskStatus, failed

#: The most tasks that one commit covers.
COMMIT_TASKS = 50
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
#: Errors kept for /status.
LAST_ERRORS = 20

log = get_logger()


@attrs.frozen
class Result:
    """How a task ended, as far as its fetcher can tell."""

    task: Task
    staged: Staged | None = None
    reason: Reason | None = None


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
        async with trio.open_nursery() as nursery:
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
        await self._run_tasks(assignment)
        await self._insistently(self.store.complete, name)
        seconds = trio.current_time() - begun
        self.metrics.completed(seconds)
        log.info("assignment", id=name, state="complete", tasks=len(assignment.tasks), s=seconds)

    async def _run_tasks(self, assignment: StoredAssignment) -> None:
        todo = [t for t in assignment.tasks if t.status.state is TaskState.PENDING]
        names = [(task.owner, task.object_id) for task in todo]
        present = await trio.to_thread.run_sync(self.files.existing, names)
        width = self.server.workers_per_assignment
        tasks_send, tasks = trio.open_memory_channel[Task](0)
        results_send, results = trio.open_memory_channel[Result](COMMIT_TASKS)
        async with trio.open_nursery() as nursery:
            async with results_send, tasks:
                for _ in range(width):
                    nursery.start_soon(self._fetch, tasks.clone(), results_send.clone(), present)
            nursery.start_soon(self._commit, assignment, results)
            async with tasks_send:
                for task in todo:
                    await tasks_send.send(task)

    # --- fetchers ------------------------------------------------------------------------

    async def _fetch(
        self,
        tasks: trio.MemoryReceiveChannel[Task],
        results: trio.MemorySendChannel[Result],
        present: set[str],
    ) -> None:
        async with tasks, results:
            async for task in tasks:
                with self.metrics.running.track_inprogress():
                    result = await self._fetch_one(task, present)
                await results.send(result)

    async def _fetch_one(self, task: Task, present: set[str]) -> Result:
        begun = trio.current_time()
        try:
            if task.object_id in present:
                final = self.files.final(task.owner, task.object_id)
                if await trio.to_thread.run_sync(has_digest, final, task.md5sum):
                    self.metrics.done("skipped")
                    return Result(task)
            staged, size = await self.fetcher.fetch(task)
        except (FetchFailure, LocalFailure) as exc:
            detail = f"{task.object_id} from {task.source.manta_storage_id}: {exc}"
            self._note(f"{exc.reason}: {detail}")
            return Result(task, reason=exc.reason)
        self.metrics.fetched(size, trio.current_time() - begun)
        return Result(task, staged)

    # --- committer -----------------------------------------------------------------------

    async def _commit(
        self, assignment: StoredAssignment, results: trio.MemoryReceiveChannel[Result]
    ) -> None:
        async with results:
            async for first in results:
                batch = [first, *_at_hand(results, COMMIT_TASKS - 1)]
                statuses = await trio.to_thread.run_sync(self._publish, batch)
                await self._insistently(self.store.record, assignment, statuses)
                for result in batch:
                    self._count_result(result, statuses[result.task.object_id])

    def _publish(self, batch: Sequence[Result]) -> Mapping[str, TaskStatus]:
        """In a thread: make the files of a batch durable under their names."""
        staged = [result.staged for result in batch if result.staged is not None]
        refused = self.files.publish(staged)
        statuses = {}
        for result in batch:
            reason = result.reason or refused.get(result.task.object_id)
            statuses[result.task.object_id] = COMPLETE if reason is None else failed(reason)
        return statuses

    def _count_result(self, result: Result, status: TaskStatus) -> None:
        if status.reason is not None:
            self.metrics.failed(status.reason)
        elif result.staged is not None:
            self.metrics.done("completed")

    async def _insistently(self, write: Callable[..., None], *args: object) -> None:
        """Write state until the disk takes it: what is not saved is not reported."""
        waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                await trio.to_thread.run_sync(write, *args)
            except StoreError as exc:
                self._note(str(exc))
                self.metrics.state_retries.inc()
                await trio.sleep(next(waits))
            else:
                return

    def _note(self, text: str) -> None:
        log.warning("failure", error=text)
        self.last_errors.append(text)


def _at_hand(results: trio.MemoryReceiveChannel[Result], limit: int) -> list[Result]:
    """What can be received without waiting."""
    found: list[Result] = []
    while len(found) < limit:
        try:
            found.append(results.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            break
    return found
