"""The fetcher processes of an agent: started, given tasks, and started again when they die."""

import itertools
import socket
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import attrs
import trio

from rebalancer.agent.fetcher import Setup, serve
from rebalancer.agent.messages import Line, Lot, Outcome
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

Settle = Callable[[Task, Outcome], None]

log = get_logger()


class FetcherDied(RebalancerError):
    """A fetcher died again and again over the same tasks."""


@attrs.define(eq=False)
class _Waiting:
    """A lot under way.

    Mutable state: the tasks without an outcome, by their index, and whether to wait on.
    """

    left: dict[int, Task]
    width: int
    settle: Settle
    over: trio.Event = attrs.field(factory=trio.Event)

    def outcome(self, outcome: Outcome) -> None:
        self.settle(self.left.pop(outcome.index), outcome)
        if not self.left:
            self.over.set()


Opener = Callable[[], AbstractAsyncContextManager[Line]]


@attrs.define(eq=False)
class FetcherLine:
    """One fetcher, whatever process it lives in at the moment.

    Mutable state: its connection while it lives, the lots that it has, and their numbers.
    """

    open: Opener
    #: Called with the number of temporary files that a fetcher could not remove.
    on_cleanup_failure: Callable[[int], None] = lambda _count: None
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
                self._line = line
                self._lives.set()
                while (message := await line.receive()) is not None:
                    for value in message["outcomes"]:
                        outcome = Outcome.decode(value)
                        self._lots[outcome.lot].outcome(outcome)
                    self.on_cleanup_failure(message["cleanup_failures"])
            self._line, self._lives = None, trio.Event()
            log.error("fetcher died", lots=len(self._lots))
            for lot in self._lots.values():
                lot.over.set()
            await trio.sleep(PAUSE_S)

    async def fetch(self, tasks: Sequence[Task], width: int, settle: Settle) -> None:
        """Have `tasks` fetched, `width` at a time; `settle` is called with each outcome.

        Raises:
          FetcherDied: several times over; tasks that were not settled are not done.
        """
        for start in range(0, len(tasks), LOT):
            await self._fetch_lot(tasks[start : start + LOT], width, settle)

    async def _fetch_lot(self, tasks: Sequence[Task], width: int, settle: Settle) -> None:
        for _ in range(DEATHS):
            await self._lives.wait()
            waiting = _Waiting(dict(enumerate(tasks)), width, settle)
            lot = Lot(next(self._numbers), width, tuple(tasks))
            self._lots[lot.number] = waiting
            try:
                if self._line is not None:
                    await self._line.send(lot.encode())
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
    setup: Setup, processes: int, on_cleanup_failure: Callable[[int], None]
) -> list[FetcherLine]:
    """So many fetchers, each in a process of its own; 0: one within this process."""
    opener = partial(_process if processes else _within, setup)
    return [FetcherLine(opener, on_cleanup_failure) for _ in range(processes or 1)]


@asynccontextmanager
async def _process(setup: Setup) -> AsyncIterator[Line]:
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
