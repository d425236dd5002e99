"""This module is a fetcher process, which pulls the objects of lots and puts them into place.

It ends when the agent closes its connection, be it by dying; signals are for the agent alone.
"""

import gc
import json
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import attrs
import trio

from rebalancer.agent.transfer.bandwidth import Allowance
from rebalancer.agent.transfer.committer import Committer
from rebalancer.agent.transfer.disk.files import ObjectFiles, Whole, new_run
from rebalancer.agent.transfer.disk.room import Promised
from rebalancer.agent.transfer.messages import (
    Begin,
    Grant,
    Lack,
    Limit,
    Line,
    Lot,
    Message,
    Outcome,
    Ready,
    Want,
    Width,
)
from rebalancer.agent.transfer.puller import AT_A_TIME, Fetched, Puller, unexpected
from rebalancer.agent.transfer.sources.engine import FetchFailure
from rebalancer.config import AgentSource, AgentStorage
from rebalancer.log import configure, get_logger
from rebalancer.threads import Work, run_sync
from rebalancer.wire import Task, parse_json, structure

log = get_logger()


@attrs.frozen
class Setup:
    """A setup is what a fetcher is told first: all of its configuration."""

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
    """Return the files of the object root that a configuration names."""
    return ObjectFiles(
        root=storage.root,
        temp=storage.temp,
        reserve_bytes=storage.reserve_mb << 20,
        durable=storage.durable,
        on_cleanup_failure=on_cleanup_failure,
        run=run,
        promised=promised or Promised.alone(),
    )


# --- pulling -------------------------------------------------------------------------------


@attrs.define(eq=False)
class _ActiveLot:
    """A lot is being worked on, by lanes that pull side by side.

    Mutable state: its tasks that no lane has taken, those whose file exists, the number of
    lanes wanted and of those there are.
    """

    lot: Lot
    puller: Puller
    committer: Committer
    nursery: trio.Nursery
    #: Called once nothing is left to pull.
    on_pulled: Callable[[int], None]
    width: int
    _left: deque[Task] = attrs.field(factory=deque)
    _present: set[str] = attrs.field(factory=set)
    _indices: dict[str, int] = attrs.field(factory=dict)
    _lanes: int = 0

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
                await self.committer.room()
                if self._left:
                    await self._pull(self._take())
        finally:
            self._lanes -= 1
            self.committer.lane_ended()
        self._look_for_end()

    async def _pull(self, tasks: deque[Task]) -> None:
        """Pull tasks; one that meets an unforeseen exception fails alone."""
        try:
            if not (tasks[0].object_id in self._present and await self._is_there(tasks[0])):
                await self.puller.pull(tasks, _Timed(self).settle, self.give_back)
        except Exception as exc:
            if not tasks:
                raise
            log.exception("task failed unexpectedly", task=tasks[0].object_id)
            self.ended(tasks.popleft(), unexpected(exc), 0.0)
            self.give_back(tasks)

    def _look_for_end(self) -> None:
        if not (self._lanes or self._left):
            self.on_pulled(self.lot.number)

    def _take(self) -> deque[Task]:
        """Take tasks of one source: fewer towards the end, so that the lanes end together."""
        tasks = deque([self._left.popleft()])
        most = min(AT_A_TIME, len(self._left) // self.width)
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
        """Pass on the result of a task to the committer."""
        lot, index = self.lot.number, self._indices[task.object_id]
        if isinstance(result, FetchFailure):
            self.committer.tell(Outcome(lot, index, reason=result.reason, detail=str(result)))
            return
        item = result.staged or Whole(task.owner, task.object_id, task.md5sum, result.body)
        self.committer.add(item, Outcome(lot, index, result.size, seconds))


@attrs.define
class _Timed:
    """This object measures how long each of several tasks took.  Mutable state: since when."""

    lot: _ActiveLot
    since: float = attrs.field(factory=trio.current_time)

    def settle(self, task: Task, result: Fetched | FetchFailure) -> None:
        """Take the end of a task, which is where the next one begins."""
        now = trio.current_time()
        self.lot.ended(task, result, now - self.since)
        self.since = now


# --- the process ---------------------------------------------------------------------------


@attrs.define(eq=False)
class _Needs:
    """This object tells the agent what its fetcher needs: leave to receive, files, memory.

    Mutable state: the allowance; what lacks, by what it is needed for; whether something lacked
    at the last look; an event for each.
    """

    line: Line
    allowance: Allowance = attrs.field(init=False)
    _wanted: trio.Event = attrs.field(factory=trio.Event)
    _lacks: dict[str, str] = attrs.field(factory=dict)
    _has_lacked: bool = False
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.allowance = Allowance(self._want)

    def lack(self, purpose: str, detail: str) -> None:
        """Note what lacks for a purpose, or by an empty text that nothing does.

        Only a change is told.
        """
        if detail:
            self._lacks[purpose] = detail
        else:
            self._lacks.pop(purpose, None)
        if bool(self._lacks) != self._has_lacked:
            self._has_lacked = bool(self._lacks)
            self._changed.set()

    async def run(self) -> None:
        """Tell the agent for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_lack)
            nursery.start_soon(self._ask)

    def _want(self) -> None:
        self._wanted.set()

    async def _tell_lack(self) -> None:
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            await self.line.send(Lack(next(iter(self._lacks.values()), "")))

    async def _ask(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted = trio.Event()
            await self.line.send(Want(self.allowance.at_once))


@attrs.define(eq=False)
class _Lots:
    """This object has the lots that its fetcher works on.

    Mutable state: what is left of them, by number.
    """

    puller: Puller
    committer: Committer
    allowance: Allowance
    nursery: trio.Nursery
    _active: dict[int, _ActiveLot] = attrs.field(factory=dict)

    def heard(self, message: Message) -> None:
        """Do what the agent says."""
        match message:
            case Lot(number=number, width=width):
                lot = self._active[number] = _ActiveLot(
                    message, self.puller, self.committer, self.nursery, self._pulled, width
                )
                self.nursery.start_soon(lot.run)
            case Width() if message.lot in self._active:
                self._active[message.lot].widen(message.width)
            case Limit():
                self.allowance.limit(message.is_limited, message.at_once)
            case Grant():
                self.allowance.granted(message.size)

    def _pulled(self, lot: int) -> None:
        del self._active[lot]
        self.committer.pulled(lot)


async def serve(
    line: Line, setup: Setup, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Work off lots until the other side is gone."""

    def count_cleanup_failure() -> None:
        committer.cleanup_failures += 1

    promised = Promised.shared(setup.promises, setup.slot) if setup.promises is not None else None
    files = open_files(setup.storage, count_cleanup_failure, setup.run, promised)
    needs = _Needs(line)
    committer = Committer(files, line, partial(needs.lack, "putting objects into place"))
    allowance, on_lack = needs.allowance, partial(needs.lack, "pulling objects")
    puller = Puller(files, setup.source, setup.hosts, allowance, on_lack)
    try:
        async with trio.open_nursery() as nursery:
            lots = _Lots(puller, committer, allowance, nursery)
            nursery.start_soon(committer.run)
            nursery.start_soon(puller.run)
            nursery.start_soon(needs.run)
            task_status.started()
            await line.send(Ready())
            while (message := await line.receive()) is not None:
                lots.heard(message)
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the agent is gone, so nobody wants to know


def main() -> None:
    """Run the process; its argument is the descriptor of the connection to the agent."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # What there is now stays, and most of what is made for an object is gone without a search.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
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
