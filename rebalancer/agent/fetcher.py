"""A fetcher: pulls the objects of lots and puts them into place, in a process of its own.

It ends when the agent closes its connection, be it by dying; signals are for the agent alone.
Small files are written on the event loop: nothing but transfers waits for it here, and a thread
would hold this loop up for longer than the writing does.  Syncs, and large objects, have threads.
"""

import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import trio

from rebalancer import log
from rebalancer.agent.fetch import Fetched, Fetcher, FetchFailure
from rebalancer.agent.files import LocalFailure, ObjectFiles, Staged, has_digest
from rebalancer.agent.messages import Line, Lot, Outcome
from rebalancer.config import AgentSource, AgentStorage
from rebalancer.domain.reasons import Reason
from rebalancer.wire import Task, structure

#: The most objects that one commit covers, the bytes of them in memory that are enough for one,
#: and how long it waits for more, in seconds.
COMMIT_OBJECTS = 256
COMMIT_BYTES = 1 << 20
MOMENT_S = 0.01
#: Objects that wait for the next commit.
QUEUE = 256
#: Bytes of pulled objects in memory, about: who has pulled one more waits before the next.
MEMORY_BYTES = 8 << 20


@attrs.frozen
class Setup:
    """The first message to a fetcher."""

    storage: AgentStorage
    source: AgentSource
    hosts: dict[str, str]
    log_level: str = "info"

    def encode(self) -> Any:
        """As JSON has it."""
        return attrs.asdict(self)

    @classmethod
    def decode(cls, value: Any) -> "Setup":
        """The reverse."""
        return structure(value, cls)


@attrs.frozen(eq=False)
class _Pulled:
    """A task whose object is here, or failed."""

    lot: int
    index: int
    task: Task
    fetched: Fetched | None = None
    seconds: float = 0.0
    reason: Reason | None = None
    detail: str = ""

    @property
    def in_memory(self) -> int:
        return 0 if self.fetched is None else len(self.fetched.body)

    def outcome(self, failure: LocalFailure | None) -> Outcome:
        size = None if self.fetched is None else self.fetched.size
        if failure is not None:
            return Outcome(self.lot, self.index, size, self.seconds, failure.reason, str(failure))
        return Outcome(self.lot, self.index, size, self.seconds, self.reason, self.detail)


@attrs.define(eq=False)
class _Memory:
    """Bytes that may still be held.  Mutable state: these, and who waits for more."""

    left: int = MEMORY_BYTES
    _freed: trio.Event = attrs.field(factory=trio.Event)

    async def take(self, size: int) -> None:
        """Hold `size` bytes; may overdraw, but then nobody else gets any."""
        while self.left <= 0:
            await self._freed.wait()
        self.left -= size

    def give(self, size: int) -> None:
        """They are on disk."""
        self.left += size
        self._freed.set()
        self._freed = trio.Event()


@attrs.define(eq=False)
class _Tools:
    """What the tasks of a fetcher share.

    Mutable state: how many temporary files could not be removed, that nobody was told of yet.
    """

    files: ObjectFiles
    fetcher: Fetcher
    line: Line
    memory: _Memory = attrs.field(factory=_Memory)
    cleanup_failures: int = 0


async def serve(
    line: Line, setup: Setup, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Work off lots until the other side is gone."""

    def count_cleanup_failure() -> None:
        tools.cleanup_failures += 1

    files = open_files(setup.storage, count_cleanup_failure)
    tools = _Tools(files, Fetcher(files, setup.source, setup.hosts), line)
    send, receive = trio.open_memory_channel[_Pulled](QUEUE)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_commit, tools, receive)
            task_status.started()
            while (message := await line.receive()) is not None:
                nursery.start_soon(_work, tools, Lot.decode(message), send)
            nursery.cancel_scope.cancel()
    except* (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the agent is gone, so nobody wants to know
    finally:
        tools.fetcher.close()


def open_files(storage: AgentStorage, on_cleanup_failure: Callable[[], None]) -> ObjectFiles:
    """The object root that a configuration names."""
    return ObjectFiles(
        root=storage.root,
        temp=storage.temp,
        reserve_bytes=storage.reserve_mb << 20,
        durable=storage.durable,
        on_cleanup_failure=on_cleanup_failure,
    )


# --- pulling -------------------------------------------------------------------------------


async def _work(tools: _Tools, lot: Lot, pulled: trio.MemorySendChannel[_Pulled]) -> None:
    names = [(task.owner, task.object_id) for task in lot.tasks]
    present = await trio.to_thread.run_sync(tools.files.existing, names)
    left = iter(enumerate(lot.tasks))
    async with trio.open_nursery() as nursery:
        for _ in range(min(lot.width, len(lot.tasks))):
            nursery.start_soon(_pull, tools, lot, left, present, pulled)


async def _pull(
    tools: _Tools,
    lot: Lot,
    left: Iterator[tuple[int, Task]],
    present: set[str],
    pulled: trio.MemorySendChannel[_Pulled],
) -> None:
    """Take what is left of a lot's tasks, one by one."""
    for index, task in left:
        begun = trio.current_time()
        try:
            fetched = None
            if not (task.object_id in present and await _is_there(tools.files, task)):
                fetched = await tools.fetcher.fetch(task)
        except (FetchFailure, LocalFailure) as exc:
            await pulled.send(_Pulled(lot.number, index, task, reason=exc.reason, detail=str(exc)))
        else:
            one = _Pulled(lot.number, index, task, fetched, trio.current_time() - begun)
            await tools.memory.take(one.in_memory)
            await pulled.send(one)


async def _is_there(files: ObjectFiles, task: Task) -> bool:
    final = files.final(task.owner, task.object_id)
    return await trio.to_thread.run_sync(has_digest, final, task.md5sum)


# --- putting into place --------------------------------------------------------------------


async def _commit(tools: _Tools, pulled: trio.MemoryReceiveChannel[_Pulled]) -> None:
    while True:
        batch = await _gather(pulled)
        failures = await _publish(tools.files, batch)
        tools.memory.give(sum(one.in_memory for one in batch))
        outcomes = [one.outcome(failures.get(one)).encode() for one in batch]
        del batch  # what it holds is on disk, and the next may be long in coming
        failed, tools.cleanup_failures = tools.cleanup_failures, 0
        await tools.line.send({"outcomes": outcomes, "cleanup_failures": failed})


async def _gather(pulled: trio.MemoryReceiveChannel[_Pulled]) -> list[_Pulled]:
    """What comes within a moment of the first, up to the limits of one commit."""
    found = [await pulled.receive()]
    size = found[0].in_memory
    with trio.move_on_after(MOMENT_S):
        while len(found) < COMMIT_OBJECTS and size < COMMIT_BYTES:
            found.append(await pulled.receive())
            size += found[-1].in_memory
    return found


async def _publish(files: ObjectFiles, batch: Sequence[_Pulled]) -> dict[_Pulled, LocalFailure]:
    """Write the objects of a batch and make them durable under their names; what failed."""
    failures: dict[_Pulled, LocalFailure] = {}
    staged: dict[Staged, _Pulled] = {}
    for one in batch:
        if one.fetched is not None:
            try:
                staged[one.fetched.stage(files, one.task)] = one
            except LocalFailure as exc:
                failures[one] = exc
    if files.durable:
        refused = await trio.to_thread.run_sync(files.publish, list(staged))
    else:
        refused = files.publish(list(staged))
    return failures | {staged[item]: failure for item, failure in refused.items()}


def main() -> None:
    """The process; its argument is the descriptor of the connection to the agent."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # By default a thread may keep the loop waiting for 5 ms each time that it wants to go on.
    sys.setswitchinterval(0.0002)
    connection = socket.socket(fileno=int(sys.argv[1]))
    trio.run(_run, connection)


async def _run(connection: socket.socket) -> None:
    line = Line.over(connection)
    if (message := await line.receive()) is not None:
        setup = Setup.decode(message)
        log.configure("rebalancer-agent", setup.log_level)
        await serve(line, setup)


if __name__ == "__main__":
    main()
