"""The fetcher processes of an agent: started, given tasks, and started again when they die."""

import itertools
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

import attrs
import trio

from rebalancer.agent.bandwidth import AT_ONCE_BYTES
from rebalancer.agent.fetcher import Setup, serve
from rebalancer.agent.files import ObjectFiles, new_run
from rebalancer.agent.messages import Grant, Limit, Line, Lot, Message, Outcome, Report, Want, Width
from rebalancer.errors import RebalancerError
from rebalancer.log import get_logger
from rebalancer.wire import Task

#: Tasks in one message.
LOT = 512
#: A lot whose fetcher dies is begun anew, but not more often than this.
DEATHS = 3
#: Seconds between a death and the next start.
PAUSE_S = 0.5
#: A fetcher ends within this many seconds, or is killed.
END_S = 2.0

NO_LIMIT = Limit(False, AT_ONCE_BYTES)

#: Told of tasks that have ended, and how.
Settle = Callable[[Sequence[tuple[Task, Outcome]]], None]

log = get_logger()


class FetcherDied(RebalancerError):
    """A fetcher died again and again over the same tasks."""


@attrs.frozen
class Share:
    """One of several parts of an assignment, each at another fetcher."""

    part: int = 0
    parts: int = 1

    def of(self, width: int) -> int:
        """How many of the `width` tasks at a time are this part's: one at the least."""
        return max(1, width // self.parts + (self.part < width % self.parts))


@attrs.frozen(eq=False)
class Errand:
    """Tasks to be fetched.

    `settle` is called with outcomes; `on_pulled` when nothing is left to pull, though not all
    may be durable yet.
    """

    tasks: Sequence[Task]
    settle: Settle
    on_pulled: Callable[[], None] = lambda: None
    share: Share = Share()


@attrs.define(eq=False)
class _Waiting:
    """A lot under way.

    Mutable state: the tasks without an outcome, by their index; how many are worked on at a
    time; whether to wait on.
    """

    errand: Errand
    left: dict[int, Task]
    width: int
    #: Whether no other lot of the errand comes after it.
    is_last: bool
    over: trio.Event = attrs.field(factory=trio.Event)

    def take(self, index: int) -> Task:
        task = self.left.pop(index)
        if not self.left:
            self.over.set()
        return task


Opener = Callable[[], AbstractAsyncContextManager[Line]]


@attrs.define(eq=False)
class FetcherLine:
    """One fetcher, whatever process it lives in at the moment.

    Mutable state: its connection while it lives; the lots that it has, and their numbers; the
    limit that it was told; bytes that it waits to be granted.
    """

    open: Opener
    #: Called with the number of temporary files that a fetcher could not remove.
    on_cleanup_failure: Callable[[int], None] = lambda _count: None
    #: Called when this fetcher begins to wait for a grant.
    on_want: Callable[[], None] = lambda: None
    limit: Limit = NO_LIMIT
    wanted: int = 0
    #: Since when.
    wanted_at: float = 0.0
    _line: Line | None = None
    _lives: trio.Event = attrs.field(factory=trio.Event)
    _lots: dict[int, _Waiting] = attrs.field(factory=dict)
    _numbers: "itertools.count[int]" = attrs.field(factory=itertools.count)

    @property
    def tasks(self) -> int:
        """How many it has to do."""
        return sum(len(lot.left) for lot in self._lots.values())

    @property
    def at_work(self) -> int:
        """How many it works on now."""
        return sum(min(lot.width, len(lot.left)) for lot in self._lots.values())

    async def run(self) -> None:
        """Keep it alive for ever."""
        while True:
            async with self.open() as line:
                if self.limit.is_limited:
                    await line.send(self.limit)
                self._line = line
                self._lives.set()
                while (message := await line.receive()) is not None:
                    self._heard(message)
            self._line, self._lives, self.wanted = None, trio.Event(), 0
            log.error("fetcher died", lots=len(self._lots))
            for lot in self._lots.values():
                lot.over.set()
            await trio.sleep(PAUSE_S)

    def _heard(self, message: Message) -> None:
        match message:
            case Report():
                ended = defaultdict[int, list[tuple[Task, Outcome]]](list)
                for one in message.outcomes:
                    ended[one.lot].append((self._lots[one.lot].take(one.index), one))
                for number, outcomes in ended.items():
                    self._lots[number].errand.settle(outcomes)
                for number in message.pulled:
                    # It may be over already; and the last tasks of several lots are yet to come.
                    if (lot := self._lots.get(number)) is not None and lot.is_last:
                        lot.errand.on_pulled()
                self.on_cleanup_failure(message.cleanup_failures)
            case Want():
                self.wanted, self.wanted_at = message.size, trio.current_time()
                self.on_want()

    async def send(self, message: Message) -> None:
        """Tell it, if it lives: of a new life it will be told anew."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self._line is not None:
                await self._line.send(message)

    async def grant(self, size: int) -> None:
        """Let it receive the `size` bytes that it wants."""
        self.wanted = 0
        await self.send(Grant(size))

    async def change_limit(self, limit: Limit) -> None:
        """Tell it of another limit; what it wanted under the last one is void."""
        self.limit, self.wanted = limit, 0
        await self.send(limit)

    async def widen(self, width: int) -> None:
        """Work on `width` tasks of each assignment at a time from now on."""
        for number, lot in list(self._lots.items()):
            lot.width = lot.errand.share.of(width)
            await self.send(Width(number, lot.width))

    async def fetch(self, errand: Errand, width: Callable[[], int]) -> None:
        """Have tasks fetched, as many of an assignment at a time as `width` tells.

        Raises:
          FetcherDied: several times over; tasks that were not settled are not done.
        """
        for start in range(0, len(errand.tasks), LOT):
            is_last = start + LOT >= len(errand.tasks)
            await self._fetch_lot(errand, errand.tasks[start : start + LOT], width, is_last)
        errand.on_pulled()

    async def _fetch_lot(
        self, errand: Errand, tasks: Sequence[Task], width: Callable[[], int], is_last: bool
    ) -> None:
        for _ in range(DEATHS):
            await self._lives.wait()
            share = errand.share.of(width())
            waiting = _Waiting(errand, dict(enumerate(tasks)), share, is_last)
            lot = Lot(next(self._numbers), waiting.width, tuple(tasks))
            self._lots[lot.number] = waiting
            try:
                if self._line is not None:
                    await self._line.send(lot)
                    await waiting.over.wait()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await trio.sleep(PAUSE_S)
            finally:
                del self._lots[lot.number]
            if not waiting.left:
                return
            tasks = list(waiting.left.values())
        raise FetcherDied(f"a fetcher died {DEATHS} times over {len(tasks)} tasks")


def make_fetchers(
    setup: Setup,
    processes: int,
    files: ObjectFiles,
    on_cleanup_failure: Callable[[int], None],
) -> list[FetcherLine]:
    """So many fetchers, each in a process of its own; 0: one within this process."""
    opener = partial(_process, setup, files) if processes else partial(_within, setup)
    return [FetcherLine(opener, on_cleanup_failure) for _ in range(processes or 1)]


@asynccontextmanager
async def _process(setup: Setup, files: ObjectFiles) -> AsyncIterator[Line]:
    setup = attrs.evolve(setup, run=new_run())
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "rebalancer.agent.fetcher", str(theirs.fileno())]
        process = await trio.lowlevel.open_process(command, pass_fds=[theirs.fileno()])
    line = Line.over(ours)
    try:
        await line.send(setup.encode())
        yield line
    finally:
        ours.close()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(END_S):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            # It could not do so itself if it was killed, and a large one takes much space.
            with suppress(OSError):
                await trio.to_thread.run_sync(files.clear, setup.run)


@asynccontextmanager
async def _within(setup: Setup) -> AsyncIterator[Line]:
    ours, theirs = socket.socketpair()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, Line.over(theirs), setup)
            yield Line.over(ours)
            nursery.cancel_scope.cancel()
    finally:
        ours.close()
        theirs.close()
