"""This module works on assignments: in the order they came, so many at a time.

fetchers -> reports -> one writer of rows: a fetcher reports an object when its file, the file's
name and its folder are on stable storage; then its task's row may say so, and not before.  While
disks bring the end of one assignment to rest, the next is being pulled.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress

import attrs
import trio

from rebalancer.agent.limits import Limits
from rebalancer.agent.metrics import AgentMetrics
from rebalancer.agent.state.backlog import Backlog
from rebalancer.agent.state.statefile import BrokenFile, NewerFile, StoredAssignment
from rebalancer.agent.state.store import AssignmentStore
from rebalancer.agent.transfer.disk.files import ObjectFiles
from rebalancer.agent.transfer.handle import FetcherHandle
from rebalancer.agent.transfer.messages import Finished, Report
from rebalancer.agent.transfer.parts import Part
from rebalancer.agent.transfer.suspects import pull_part
from rebalancer.config import AgentServer
from rebalancer.errors import NotFound, StoreError
from rebalancer.log import get_logger
from rebalancer.retry import pauses
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Waits
from rebalancer.wire import (
    COMPLETE,
    AssignmentStats,
    Dialect,
    TaskStatus,
    failed,
)

#: Rows of a running assignment are at most this many seconds behind.
PROGRESS_S = 1.0
#: Seconds for which an assignment that has ended waits for others to be written with it.
MOMENT_S = 0.01
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 30.0
#: Tasks of waiting assignments that are kept in memory, so that they need not be read again: some
#: 300 bytes each.
FRESH_TASKS = 20_000
#: Assignments that are pulled but not on disk yet, before the next one has to wait.
BEHIND = 16
#: Ended assignments whose counts are remembered, if no more tasks than this failed.
RECENT, RECENT_FAILURES = 2000, 10
#: Rows of one assignment are written for at most this part of the time.
WRITING_SHARE = 0.05
#: Seconds over which /status tells bytes per second.
FLOW_S = 10.0
#: Errors kept for /status.
LAST_ERRORS = 20
#: A stored assignment that cannot be read, for want of file handles perhaps, is read again after
#: so many seconds; the next one after longer and longer pauses, while none can be read at all.
AGAIN_S, LONGEST_REST_S = 5.0, 5.0
#: Seconds between two looks at the space on the disk, and for which one of them is waited for.
WATCH_DISK_S, DISK_ANSWER_S = 5.0, 2.0
#: What is waited for while the folder of assignments cannot be listed.
THE_BACKLOG = "the list of stored assignments"

log = get_logger()


@attrs.define(eq=False)
class _Run:
    """A run is the work on an assignment.

    Mutable state: what its file says; the objects whose tasks have not ended, and the statuses of
    ended ones that are not in the file yet; when the file may be written next, the pauses after
    writes that failed; the parts that fetchers have; and whether all is over.
    """

    assignment: StoredAssignment
    left: set[str]
    write_at: float
    unwritten: dict[str, TaskStatus] = attrs.field(factory=dict)
    waits: Iterator[float] = attrs.field(factory=lambda: pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S))
    is_failing: bool = False
    parts: Sequence[Part] = ()
    done: trio.Event = attrs.field(factory=trio.Event)

    def finish(self, event: Finished) -> bool:
        """Note how a task has ended; tells whether that makes its rows due, at once or later."""
        self.left.remove(event.object_id)
        was_written = not self.unwritten
        status = COMPLETE if event.reason is None else failed(event.reason)
        self.unwritten[event.object_id] = status
        return was_written or not self.left

    async def pulled(self) -> None:
        """Wait until nothing is left to pull, though not all may be durable yet."""
        for part in self.parts:
            await part.pulled.wait()

    def due_at(self) -> float:
        """Return when the rows of this assignment must be written."""
        if self.is_failing:
            return self.write_at
        if not self.left:
            return -math.inf
        return self.write_at if self.unwritten else math.inf


@attrs.define(eq=False)
class Worker:
    """The worker has the assignments of an agent pulled, and writes how they stand.

    Mutable state: the backlog; what is known of those that run; some that wait, as they were
    stored; what ended last; an event that wakes the writer of rows; bytes received, in all and
    lately; counts of failures, and how many of reading came in a row; recent errors; what is
    waited for.
    """

    server: AgentServer
    store: AssignmentStore
    files: ObjectFiles
    fetchers: Sequence[FetcherHandle]
    limits: Limits
    metrics: AgentMetrics
    backlog: Backlog = attrs.field(init=False)
    waits: Waits = attrs.field(factory=Waits)
    last_errors: deque[str] = attrs.field(factory=lambda: deque(maxlen=LAST_ERRORS))
    received: int = 0
    #: Stored assignments that could not be read, and writes of state that failed.
    resume_failures: int = 0
    state_retries: int = 0
    _flow: deque[tuple[float, int]] = attrs.field(factory=deque)
    _fresh: dict[str, StoredAssignment] = attrs.field(factory=dict)
    _fresh_tasks: int = 0
    _recent: OrderedDict[str, tuple[Dialect, AssignmentStats]] = attrs.field(factory=OrderedDict)
    _runs: dict[str, _Run] = attrs.field(factory=dict)
    _ended: trio.Event = attrs.field(factory=trio.Event)
    _unread: int = 0

    def __attrs_post_init__(self) -> None:
        """Begin without a backlog."""
        self.backlog = Backlog(self.store)
        for fetcher in self.fetchers:
            fetcher.waits, fetcher.on_report = self.waits, self.heard

    def add(self, assignment: StoredAssignment) -> None:
        """Work on an assignment that has just been stored, after all that came before it."""
        self.backlog.add(assignment.id)
        if self._fresh_tasks < FRESH_TASKS:
            self._fresh[assignment.id] = assignment
            self._fresh_tasks += len(assignment.rows)
        self._count()

    def progress(self, name: str) -> tuple[Dialect, AssignmentStats] | None:
        """Return how an assignment stands, going by its rows, and its dialect.

        From memory, because managers ask often; None if it is not being worked on and has not
        just ended.
        """
        if (run := self._runs.get(name)) is not None:
            report = run.assignment.report(running=True, finished=False)
            return run.assignment.dialect, report.stats
        if (stored := self._fresh.get(name)) is not None:
            return stored.dialect, stored.report(running=False, finished=False).stats
        return self._recent.get(name)

    def forget(self, name: str) -> None:
        """Forget an ended assignment, which is gone from disk."""
        self._recent.pop(name, None)

    def resume(self) -> None:
        """Queue what an earlier run left, before anything new comes.  Blocking.

        Raises:
          OSError: a folder cannot be used.
        """
        removed = self.files.prepare()
        self.backlog.resume()
        self._count()
        log.info("resuming", assignments=len(self.backlog), temporary_files_removed=removed)

    async def run(self) -> None:
        """Work for ever."""
        async with trio.open_nursery() as nursery:
            for fetcher in self.fetchers:
                nursery.start_soon(fetcher.run)
            nursery.start_soon(self._write_rows)
            nursery.start_soon(self.limits.run)
            nursery.start_soon(self._watch_disk)
            for _ in range(self.server.workers):
                nursery.start_soon(self._work, nursery)

    async def free_bytes(self) -> int | None:
        """Return the bytes that may still be used; None if the disk does not say so in time."""
        with trio.move_on_after(DISK_ANSWER_S), suppress(OSError):
            free = self.files.free_bytes
            return await run_sync(Work.OBJECTS, free, abandon_on_cancel=True)
        return None

    async def _watch_disk(self) -> None:
        """Keep the gauge of free bytes: asking the disk when it is scraped could take for ever."""
        while True:
            free = await self.free_bytes()
            self.metrics.disk_free.set(math.nan if free is None else free)  # not 0: nobody knows
            await trio.sleep(WATCH_DISK_S)

    async def _work(self, nursery: trio.Nursery) -> None:
        """Have one assignment after the other pulled."""
        while True:
            if (name := await self._take()) is None:
                continue
            if (run := await self._begin(name)) is not None:
                nursery.start_soon(self._finish, run)
                await run.pulled()
                while len(self._runs) >= self.server.workers + BEHIND:
                    await next(iter(self._runs.values())).done.wait()

    async def _take(self) -> str | None:
        """Take the next assignment; None, after a rest, if the backlog could not be read."""
        try:
            name = await self.backlog.take()
        except OSError as exc:
            self.waits.begin(THE_BACKLOG, str(exc))
            await self._rest()
            return None
        self.waits.end(THE_BACKLOG)
        return name

    async def _rest(self) -> None:
        """Pause after a file that could not be read: it may be that none can."""
        self._unread += 1
        await trio.sleep(min(self._unread * FIRST_PAUSE_S, LONGEST_REST_S))

    def _count(self) -> None:
        self.metrics.queued.set(len(self.backlog) + len(self.backlog.running))

    async def _begin(self, name: str) -> _Run | None:
        """Read an assignment; None if there is nothing to do about it."""
        if (assignment := self._fresh.pop(name, None)) is not None:
            self._fresh_tasks -= len(assignment.rows)
        elif (assignment := await self._load(name)) is None:
            self.backlog.done(name)
            self._count()
            return None
        self._unread = 0
        left = {row[0] for row in assignment.rows} - assignment.statuses.keys()
        run = self._runs[name] = _Run(assignment, left, trio.current_time() + PROGRESS_S)
        run.parts = self._parts(run)
        return run

    def _parts(self, run: _Run) -> list[Part]:
        """Divide the tasks of an assignment that have not ended among fetchers."""
        rows = [row for row in run.assignment.rows if row[0] in run.left]
        # One fetcher each while there are enough assignments for all: fewer messages.
        alone = max(1, len(self.fetchers) // len(self.backlog.running))
        parts = min(alone, self.limits.width(), len(rows))
        return [Part(run.assignment.id, rows[n::parts], n, parts) for n in range(parts)]

    async def _finish(self, run: _Run) -> None:
        name, begun = run.assignment.id, trio.current_time()
        try:
            await self._run_tasks(run)
        finally:
            self.backlog.done(name)
            self._count()
        seconds = trio.current_time() - begun
        self.metrics.completed(seconds)
        log.info("assignment", id=name, state="complete", tasks=len(run.assignment.rows), s=seconds)

    async def _load(self, name: str) -> StoredAssignment | None:
        """Read an assignment; returns None if it cannot be worked on now."""
        subject = f"assignment {name}"
        try:
            assignment, finished = await run_sync(Work.STORE, self.store.load, name)
        except NotFound as exc:
            self._note(str(exc))  # somebody removed its file
            assignment, finished = None, True
        except NewerFile as exc:
            self._note(f"not worked on: {exc}")
            self.waits.begin(subject, str(exc))
            self.backlog.refuse(name)
            return None
        except StoreError as exc:
            left = await self._set_aside(name, exc) if isinstance(exc, BrokenFile) else exc
            if left is not None:
                self.waits.begin(subject, str(left))
                self.backlog.defer(name, trio.current_time() + AGAIN_S)
                await self._rest()
                return None
            assignment, finished = None, True
        self.waits.end(subject)
        return None if finished else assignment

    async def _set_aside(self, name: str, broken: BrokenFile) -> StoreError | None:
        """Put a broken file out of the way; returns why not, if that cannot be at the moment."""
        try:
            await self.set_aside(name, broken)
        except StoreError as exc:
            return exc
        return None

    async def set_aside(self, name: str, broken: BrokenFile) -> None:
        """Put a file that is no assignment out of the way of those that are.

        Raises:
          StoreError: it cannot be moved at the moment.
        """
        if await run_sync(Work.STORE, self.store.set_aside, name):
            self._note(f"quarantined: {broken}")
            self.metrics.quarantined.inc()
            self.resume_failures += 1

    async def _run_tasks(self, run: _Run) -> None:
        self._wake_writer()
        async with trio.open_nursery() as nursery:
            for fetcher, part in zip(self._idlest(), run.parts, strict=False):
                nursery.start_soon(pull_part, fetcher, part, self.limits.width)
        await run.done.wait()

    def bytes_per_s(self) -> int:
        """Return how many bytes a second came in lately, of whole objects."""
        self._forget_flow()
        return round(sum(size for _, size in self._flow) / FLOW_S)

    def _forget_flow(self) -> None:
        while self._flow and self._flow[0][0] < trio.current_time() - FLOW_S:
            self._flow.popleft()

    def _idlest(self) -> list[FetcherHandle]:
        return sorted(self.fetchers, key=lambda fetcher: fetcher.tasks)

    def heard(self, report: Report) -> None:
        """Note and count what a fetcher reports."""
        size, is_due = 0, False
        for event in report.finished:
            is_due |= self._runs[event.assignment].finish(event)
            size += event.size or 0
            if event.reason is not None:
                self._note(f"{event.reason}: {event.object_id} from {event.source}: {event.detail}")
        self.received += size
        self._flow.append((trio.current_time(), size))
        self._forget_flow()
        self.metrics.ended(report.finished)
        self.metrics.cleanup_failures.inc(report.cleanup_failures)
        if is_due:
            self._wake_writer()

    # --- the writer of rows --------------------------------------------------------------

    def _wake_writer(self) -> None:
        self._ended.set()

    async def _write_rows(self) -> None:
        """Write the rows of assignments that are due, several in one step."""
        while True:
            with trio.move_on_at(
                min((run.due_at() for run in self._runs.values()), default=math.inf)
            ):
                await self._ended.wait()
            self._ended = trio.Event()
            if due := self._due():
                if len(due) < len(self._runs):
                    # More of them are about to end, and several take hardly longer than one.
                    await trio.sleep(MOMENT_S)
                    due = self._due()
                now = trio.current_time()
                updated = [run.assignment.updated(run.unwritten) for run in due]
                written = [set(run.unwritten) for run in due]
                errors = await run_sync(Work.STORE, self.store.write, updated)
                took = trio.current_time() - now
                for run, new, names, error in zip(due, updated, written, errors, strict=True):
                    self._written(run, new, names, error, took)

    def _due(self) -> list[_Run]:
        now = trio.current_time()
        return [run for run in self._runs.values() if run.due_at() <= now]

    def _written(
        self,
        run: _Run,
        new: StoredAssignment,
        names: set[str],
        error: StoreError | None,
        took: float,
    ) -> None:
        """Note how a write went: what is not saved is not reported, and is written again later."""
        now = trio.current_time()
        run.is_failing = error is not None
        if error is not None:
            self._note(str(error))
            self.metrics.state_retries.inc()
            self.state_retries += 1
            run.write_at = now + next(run.waits)
            return
        run.assignment = new
        for object_id in names:
            del run.unwritten[object_id]
        run.write_at = now + max(PROGRESS_S, took / WRITING_SHARE)
        if new.is_finished:
            self._remember(new)
            del self._runs[new.id]
            run.done.set()

    def _remember(self, ended: StoredAssignment) -> None:
        stats = ended.report(running=False, finished=True).stats
        if stats.failed <= RECENT_FAILURES:
            self._recent[ended.id] = ended.dialect, stats
            while len(self._recent) > RECENT:
                self._recent.popitem(last=False)

    def _note(self, text: str) -> None:
        log.warning("failure", error=text)
        self.last_errors.append(text)
