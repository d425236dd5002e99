"""A fetcher: pulls the objects of lots and puts them into place, in a process of its own.

It ends when the agent closes its connection, be it by dying; signals are for the agent alone.
Small files are written on the event loop: nothing but transfers waits for it here, and a thread
would hold this loop up for longer than the writing does.  Syncs, and large objects, have threads.
"""

import json
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import attrs
import trio

from rebalancer.agent.bandwidth import Allowance
from rebalancer.agent.fetch import AHEAD, Fetched, Fetcher, FetchFailure, unexpected
from rebalancer.agent.files import LocalFailure, ObjectFiles, Staged, new_run
from rebalancer.agent.messages import (
    Begin,
    Grant,
    Lack,
    Limit,
    Line,
    Lot,
    Message,
    Outcome,
    Ready,
    Report,
    Want,
    Width,
)
from rebalancer.agent.room import Promised
from rebalancer.config import AgentSource, AgentStorage
from rebalancer.domain import reasons
from rebalancer.log import configure, get_logger
from rebalancer.retry import pauses
from rebalancer.threads import Work, run_sync
from rebalancer.wire import Task, parse_json, structure

#: The most objects that one commit covers, the bytes of them that are enough for one, and how
#: long it waits for more, in seconds.
COMMIT_OBJECTS = 256
COMMIT_BYTES = 1 << 20
MOMENT_S = 0.01
#: Pauses in seconds before what lacked files or memory is tried again.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

log = get_logger()


@attrs.frozen
class Setup:
    """What a fetcher is told first."""

    storage: AgentStorage
    source: AgentSource
    hosts: dict[str, str]
    log_level: str = "info"
    #: Part of the names of its temporary files.
    run: str = attrs.field(factory=new_run)
    #: The descriptor of the file of promised bytes, and which number in it is this fetcher's.
    promises: int | None = None
    slot: int = 0

    def encode(self) -> Begin:
        """Return this setup as the message that carries it."""
        return Begin(json.dumps(attrs.asdict(self)))

    @classmethod
    def decode(cls, message: Begin) -> "Setup":
        """Read what `encode` made."""
        return structure(parse_json(message.setup), cls)


def open_files(
    storage: AgentStorage,
    on_cleanup_failure: Callable[[], None],
    run: str,
    promised: Promised | None = None,
) -> ObjectFiles:
    """The object root that a configuration names."""
    return ObjectFiles(
        root=storage.root,
        temp=storage.temp,
        reserve_bytes=storage.reserve_mb << 20,
        durable=storage.durable,
        on_cleanup_failure=on_cleanup_failure,
        run=run,
        promised=promised or Promised.alone(),
    )


# --- putting into place --------------------------------------------------------------------


@attrs.define(eq=False)
class _Committer:
    """Makes pulled objects durable under their names, and tells of it.

    Mutable state: objects that wait for that, and how many bytes they are; what is to be told;
    how many lanes pull; files left behind; an event for each change.
    """

    files: ObjectFiles
    line: Line
    lanes: int = 0
    cleanup_failures: int = 0
    _staged: dict[Staged, Outcome] = attrs.field(factory=dict)
    _bytes: int = 0
    _told: list[Outcome] = attrs.field(factory=list)
    _pulled: list[int] = attrs.field(factory=list)
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _pauses: Iterator[float] | None = None

    def add(self, staged: Staged, outcome: Outcome) -> None:
        """Take an object that is verified under its temporary name."""
        self._staged[staged] = outcome
        self._bytes += outcome.size or 0
        self._changed.set()

    def tell(self, outcome: Outcome) -> None:
        """Take the outcome of a task that has no object to put into place."""
        self._told.append(outcome)
        self._changed.set()

    def pulled(self, lot: int) -> None:
        """Note that nothing of a lot is left to pull."""
        self._pulled.append(lot)
        self._changed.set()

    def lane_ended(self) -> None:
        """Note that a lane has ended, perhaps the last that anything could come from."""
        self.lanes -= 1
        self._changed.set()

    async def run(self) -> None:
        """Commit for ever, as many at a time as there are."""
        while True:
            await self._wait()
            await self._gather()
            staged, self._staged, self._bytes = self._staged, {}, 0
            told, self._told = self._told, []
            pulled, self._pulled = self._pulled, []
            failed, self.cleanup_failures = self.cleanup_failures, 0
            if pulled and staged and self.files.durable:
                # The agent need not wait for the disk with what comes next.
                await self.line.send(Report(pulled=tuple(pulled)))
                pulled = []
            refused = await self._publish(list(staged))
            later: dict[Staged, Outcome] = {}
            for item, outcome in staged.items():
                if (failure := refused.get(item)) is not None:
                    if failure.may_pass:
                        later[item] = outcome
                        continue
                    outcome = attrs.evolve(outcome, reason=failure.reason, detail=str(failure))
                told.append(outcome)
            if told or pulled or failed:
                await self.line.send(Report(tuple(told), tuple(pulled), failed))
            await self._put_off(later, refused)
            if not self.lanes and not self._staged:
                self.files.rest()

    async def _put_off(
        self, later: dict[Staged, Outcome], refused: dict[Staged, LocalFailure]
    ) -> None:
        """Pause, then put back the objects for which this process lacked files or memory."""
        if not later:
            self._pauses = None
            return
        self._pauses = self._pauses or pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        log.warning(
            "objects not yet in place", objects=len(later), error=str(refused[next(iter(later))])
        )
        await trio.sleep(next(self._pauses))
        for item, outcome in later.items():
            self.add(item, outcome)

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed = trio.Event()

    async def _gather(self) -> None:
        """Wait a moment for more to commit, unless there is enough, or no more can come."""
        with trio.move_on_after(MOMENT_S):
            while self.lanes and len(self._staged) < COMMIT_OBJECTS and self._bytes < COMMIT_BYTES:
                await self._wait()

    async def _publish(self, staged: Sequence[Staged]) -> dict[Staged, LocalFailure]:
        if self.files.durable and staged:
            return await run_sync(Work.OBJECTS, self._publish_all, staged)
        return self._publish_all(staged)

    def _publish_all(self, staged: Sequence[Staged]) -> dict[Staged, LocalFailure]:
        """Publish objects; one that meets an unforeseen exception fails alone."""
        try:
            return self.files.publish(staged)
        except Exception as exc:
            if len(staged) > 1:
                log.exception("objects are put into place one by one")
                # What is in place already is missing under its temporary name: told as failed,
                # and found there when it is asked for again.
                return {k: v for one in staged for k, v in self._publish_all([one]).items()}
            log.exception("object not put into place", task=staged[0].object_id)
            self.files.discard(staged[0].tree.temp, staged[0].temporary)
            return {staged[0]: LocalFailure(reasons.AGENT_FS_ERROR, f"unexpected: {exc!r}")}


# --- pulling -------------------------------------------------------------------------------


@attrs.define(eq=False)
class _Work:
    """A lot being worked on, by lanes that pull side by side.

    Mutable state: its tasks that no lane has taken, those whose file exists, the number of
    lanes wanted and of those there are, and of tasks that are put off.
    """

    lot: Lot
    fetcher: Fetcher
    committer: _Committer
    nursery: trio.Nursery
    #: Called once nothing is left to pull.
    on_pulled: Callable[[int], None]
    width: int
    _left: deque[Task] = attrs.field(factory=deque)
    _present: set[str] = attrs.field(factory=set)
    _indices: dict[str, int] = attrs.field(factory=dict)
    _lanes: int = 0
    _put_off: int = 0

    async def run(self) -> None:
        """Look which objects are there already, then set the lanes to work."""
        names = [(task.owner, task.object_id) for task in self.lot.tasks]
        files = self.committer.files
        self._present = await run_sync(Work.OBJECTS, files.existing, names)
        self._indices = {task.object_id: index for index, task in enumerate(self.lot.tasks)}
        # Those of one source together: they share a connection.
        self.give_back(sorted(self.lot.tasks, key=lambda task: task.source.manta_storage_id))

    def give_back(self, tasks: Iterable[Task]) -> None:
        """Let any lane pull these tasks."""
        self._left.extend(tasks)
        self.widen(self.width)

    def widen(self, width: int) -> None:
        """Have `width` lanes from now on; a lane too many ends after the tasks that it has."""
        self.width = width
        for _ in range(min(width - self._lanes, len(self._left))):
            self._lanes += 1
            self.committer.lanes += 1
            self.nursery.start_soon(self._lane)

    async def _lane(self) -> None:
        try:
            while self._left and self._lanes <= self.width:
                await self._pull(self._take())
        finally:
            self._lanes -= 1
            self.committer.lane_ended()
        self._look_for_end()

    async def _pull(self, tasks: deque[Task]) -> None:
        """Pull tasks; one that meets an unforeseen exception fails alone."""
        try:
            if not (tasks[0].object_id in self._present and await self._is_there(tasks[0])):
                await self.fetcher.fetch(tasks, _Timed(self).settle, self.give_back)
        except Exception as exc:
            if not tasks:
                raise
            log.exception("task failed unexpectedly", task=tasks[0].object_id)
            self.ended(tasks.popleft(), unexpected(exc), 0.0)
            self.give_back(tasks)

    def _look_for_end(self) -> None:
        if not (self._lanes or self._left or self._put_off):
            self.on_pulled(self.lot.number)

    def _take(self) -> deque[Task]:
        """Take tasks of one source: fewer towards the end, so that the lanes end together."""
        tasks = deque([self._left.popleft()])
        most = min(AHEAD, len(self._left) // self.width)
        while len(tasks) < most and self._go_together(tasks[0], self._left[0]):
            tasks.append(self._left.popleft())
        return tasks

    def _go_together(self, one: Task, other: Task) -> bool:
        return one.source == other.source and not self._present & {one.object_id, other.object_id}

    async def _is_there(self, task: Task) -> bool:
        look = self.committer.files.is_there
        there = await run_sync(Work.OBJECTS, look, task.owner, task.object_id, task.md5sum)
        if there:
            self.committer.tell(Outcome(self.lot.number, self._indices[task.object_id]))
        return there

    def ended(self, task: Task, result: Fetched | FetchFailure, seconds: float) -> None:
        """Take the result of a task; a small object is written here and now."""
        lot, index = self.lot.number, self._indices[task.object_id]
        if isinstance(result, FetchFailure):
            outcome = Outcome(lot, index, reason=result.reason, detail=str(result))
            self.committer.tell(outcome)
            return
        outcome = Outcome(lot, index, result.size, seconds)
        try:
            staged = result.staged or self.committer.files.stage(
                task.owner, task.object_id, result.body, task.md5sum
            )
        except LocalFailure as exc:
            if exc.may_pass:
                self._put_off += 1
                self.nursery.start_soon(self._again, task, str(exc))
                return
            self.committer.tell(attrs.evolve(outcome, reason=exc.reason, detail=str(exc)))
        except Exception as exc:
            log.exception("object not written", task=task.object_id)
            failure = unexpected(exc)
            self.committer.tell(attrs.evolve(outcome, reason=failure.reason, detail=str(failure)))
        else:
            self.committer.add(staged, outcome)

    async def _again(self, task: Task, detail: str) -> None:
        """Pull a task again, after a pause, whose object could not be written for lack of files."""
        await self.fetcher.wait_for_files(detail, LONGEST_PAUSE_S)
        self._put_off -= 1
        self.give_back([task])


@attrs.define
class _Timed:
    """Measures how long each of several tasks took.  Mutable state: since when."""

    work: _Work
    since: float = attrs.field(factory=trio.current_time)

    def settle(self, task: Task, result: Fetched | FetchFailure) -> None:
        """Take the end of a task, which is where the next one begins."""
        now = trio.current_time()
        self.work.ended(task, result, now - self.since)
        self.since = now


# --- the process ---------------------------------------------------------------------------


@attrs.define(eq=False)
class _Needs:
    """Tells the agent what this fetcher needs: leave to receive, and files or memory that lack.

    Mutable state: the allowance; what lacks, empty if nothing does; an event for each.
    """

    line: Line
    allowance: Allowance = attrs.field(init=False)
    _wanted: trio.Event = attrs.field(factory=trio.Event)
    _lack: str = ""
    _lacking: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.allowance = Allowance(self._want)

    def lack(self, detail: str) -> None:
        """Note what lacks, or by an empty text that nothing does; only a change is told."""
        if bool(detail) != bool(self._lack):
            self._lack = detail
            self._lacking.set()

    async def run(self) -> None:
        """Tell the agent for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_lack)
            nursery.start_soon(self._ask)

    def _want(self) -> None:
        self._wanted.set()

    async def _tell_lack(self) -> None:
        while True:
            await self._lacking.wait()
            self._lacking = trio.Event()
            await self.line.send(Lack(self._lack))

    async def _ask(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self.line.send(Want(self.allowance.at_once))


@attrs.define(eq=False)
class _Lots:
    """The lots that this fetcher works on.  Mutable state: what is left of them, by number."""

    fetcher: Fetcher
    committer: _Committer
    allowance: Allowance
    nursery: trio.Nursery
    _works: dict[int, _Work] = attrs.field(factory=dict)

    def heard(self, message: Message) -> None:
        """Do what the agent says."""
        match message:
            case Lot(number=number, width=width):
                work = _Work(
                    message, self.fetcher, self.committer, self.nursery, self._pulled, width
                )
                self._works[number] = work
                self.nursery.start_soon(work.run)
            case Width() if message.lot in self._works:
                self._works[message.lot].widen(message.width)
            case Limit():
                self.allowance.limit(message.is_limited, message.at_once)
            case Grant():
                self.allowance.granted(message.size)

    def _pulled(self, lot: int) -> None:
        del self._works[lot]
        self.committer.pulled(lot)


async def serve(
    line: Line, setup: Setup, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Work off lots until the other side is gone."""

    def count_cleanup_failure() -> None:
        committer.cleanup_failures += 1

    promised = Promised.shared(setup.promises, setup.slot) if setup.promises is not None else None
    files = open_files(setup.storage, count_cleanup_failure, setup.run, promised)
    needs, committer = _Needs(line), _Committer(files, line)
    allowance = needs.allowance
    fetcher = Fetcher(files, setup.source, setup.hosts, allowance, on_lack=needs.lack)
    try:
        async with trio.open_nursery() as nursery:
            lots = _Lots(fetcher, committer, allowance, nursery)
            nursery.start_soon(committer.run)
            nursery.start_soon(fetcher.run)
            nursery.start_soon(needs.run)
            task_status.started()
            await line.send(Ready())
            while (message := await line.receive()) is not None:
                lots.heard(message)
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the agent is gone, so nobody wants to know
    finally:
        fetcher.close()


def main() -> None:
    """Run the process; its argument is the descriptor of the connection to the agent."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # By default a thread may keep the loop waiting for 5 ms each time that it wants to go on.
    sys.setswitchinterval(0.0002)
    connection = socket.socket(fileno=int(sys.argv[1]))
    trio.run(_run, connection)


async def _run(connection: socket.socket) -> None:
    line = Line.over(connection)
    message: Any = await line.receive()
    if isinstance(message, Begin):
        setup = Setup.decode(message)
        configure("rebalancer-agent", setup.log_level)
        await serve(line, setup)


if __name__ == "__main__":
    main()
