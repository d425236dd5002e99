"""This module starts an agent's fetcher processes, again when they die, and gives them tasks.

When one dies, what it had not told of is begun anew.  Tasks that are under way at one death after
the other are suspects: they are tried without the company of others, then by halves, until the
one is found that kills its fetcher.  That one fails, and no other.
"""

import itertools
import socket
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

import attrs
import trio

from rebalancer.agent.state.posted import Row
from rebalancer.agent.transfer.bandwidth import AT_ONCE_BYTES
from rebalancer.agent.transfer.disk.files import ObjectFiles, new_run
from rebalancer.agent.transfer.disk.room import Promised, new_file
from rebalancer.agent.transfer.messages import (
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
from rebalancer.agent.transfer.process import Setup, serve
from rebalancer.domain import reasons
from rebalancer.log import get_logger
from rebalancer.retry import pauses
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Waits

#: Tasks in one message.
LOT = 512
#: Deaths in company that make a lot suspect, and deaths of fetchers over one task alone that are
#: its fault.
SUSPICION, DEATHS = 2, 3
#: Seconds between a death and the next start, and the longest if none comes up.
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
#: A fetcher is up within so many seconds, or is started anew.
READY_S = 60.0
#: A fetcher ends within this many seconds, or is killed.
END_S = 2.0

NO_LIMIT = Limit(False, AT_ONCE_BYTES)

#: Told of tasks that have ended, and how.
Settle = Callable[[Sequence[tuple[Row, Outcome]]], None]

log = get_logger()


@attrs.frozen
class Share:
    """A share is one of several parts of an assignment, each of which has another fetcher."""

    part: int = 0
    parts: int = 1

    def of(self, width: int) -> int:
        """Return how many of the `width` tasks at a time are this part's: one at the least."""
        return max(1, width // self.parts + (self.part < width % self.parts))


@attrs.frozen(eq=False)
class Errand:
    """An errand is tasks of one assignment to be fetched by one fetcher.

    `settle` is called with outcomes; `on_pulled` when nothing is left to pull, though not all
    may be durable yet.
    """

    tasks: Sequence[Row]
    settle: Settle
    on_pulled: Callable[[], None] = lambda: None
    share: Share = Share()


@attrs.define(eq=False)
class _Waiting:
    """A lot of an errand is under way at a fetcher.

    Mutable state: the tasks without an outcome, by their index; how many are worked on at a
    time; whether to wait on.
    """

    errand: Errand
    left: dict[int, Row]
    width: int
    #: Whether no other lot of the errand comes after it.
    is_last: bool
    over: trio.Event = attrs.field(factory=trio.Event)

    def end(self, outcomes: Sequence[Outcome]) -> None:
        """Tell of tasks that have ended."""
        take = self.left.pop
        ended = [(take(one.index), one) for one in outcomes]
        if not self.left:
            self.over.set()
        self.errand.settle(ended)


@attrs.define(eq=False)
class _Company:
    """This object lets lots be at a fetcher together, or one of them alone.

    Mutable state: how many are there together, whether one is alone, how many wish to be; an
    event for each change.
    """

    _together: int = 0
    _is_alone: bool = False
    _wishing: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)

    @asynccontextmanager
    async def share(self, *, alone: bool) -> AsyncIterator[None]:
        await (self._begin_alone() if alone else self._begin_together())
        try:
            yield
        finally:
            if alone:
                self._is_alone = False
            else:
                self._together -= 1
            self._wake()

    async def _begin_together(self) -> None:
        while self._is_alone or self._wishing:
            await self._changed.wait()
        self._together += 1

    async def _begin_alone(self) -> None:
        self._wishing += 1
        try:
            while self._is_alone or self._together:
                await self._changed.wait()
            self._is_alone = True
        finally:
            self._wishing -= 1
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


Opener = Callable[[], AbstractAsyncContextManager[Line]]


@attrs.define(eq=False)
class FetcherHandle:
    """This object is a fetcher to the agent, whatever process that lives in at the moment.

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
    #: When this fetcher began to wait for a grant.
    wanted_at: float = 0.0
    waits: Waits = attrs.field(factory=Waits)
    number: int = 0
    _line: Line | None = None
    _lives: trio.Event = attrs.field(factory=trio.Event)
    _lots: dict[int, _Waiting] = attrs.field(factory=dict)
    _numbers: "itertools.count[int]" = attrs.field(factory=itertools.count)
    _company: _Company = attrs.field(factory=_Company)

    @property
    def _subject(self) -> str:
        return f"fetcher process {self.number}"

    @property
    def _files_subject(self) -> str:
        return f"files that fetcher process {self.number} may open"

    @property
    def tasks(self) -> int:
        """Return how many tasks this fetcher has to do."""
        return sum(len(lot.left) for lot in self._lots.values())

    @property
    def at_work(self) -> int:
        """Return how many tasks this fetcher works on now."""
        return sum(min(lot.width, len(lot.left)) for lot in self._lots.values())

    async def run(self) -> None:
        """Keep the process of this fetcher alive for ever."""
        waits = pauses(PAUSE_S, LONGEST_PAUSE_S)
        while True:
            was_up, detail = await self._live()
            if was_up:
                log.error("fetcher died", lots=len(self._lots))
                waits = pauses(PAUSE_S, LONGEST_PAUSE_S)
            else:
                self.waits.begin(self._subject, detail)
            await trio.sleep(next(waits))

    async def _live(self) -> tuple[bool, str]:
        """Start the process and hear what it tells until it dies; says if it was up, or why not."""
        detail = "it ended before it was up"
        try:
            async with self.open() as line:
                with trio.move_on_after(READY_S):
                    if isinstance(await line.receive(), Ready):
                        await self._is_up(line)
                while self._line and (message := await line.receive()) is not None:
                    self._heard(message)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            detail = str(exc) or detail
        self.waits.end(self._files_subject)
        was_up = self._line is not None
        self._line, self.wanted = None, 0
        if was_up:
            self._lives = trio.Event()
        for lot in self._lots.values():
            lot.over.set()
        return was_up, detail

    async def _is_up(self, line: Line) -> None:
        self._line = line
        if self.limit.is_limited:
            await self.send(self.limit)
        self.waits.end(self._subject)
        self._lives.set()

    def _heard(self, message: Message) -> None:
        match message:
            case Report():
                ended = defaultdict[int, list[Outcome]](list)
                for one in message.outcomes:
                    ended[one.lot].append(one)
                for number, outcomes in ended.items():
                    self._lots[number].end(outcomes)
                for number in message.pulled:
                    # It may be over already; and the last tasks of several lots are yet to come.
                    if (lot := self._lots.get(number)) is not None and lot.is_last:
                        lot.errand.on_pulled()
                self.on_cleanup_failure(message.cleanup_failures)
            case Lack(detail) if detail:
                self.waits.begin(self._files_subject, detail)
            case Lack():
                self.waits.end(self._files_subject)
            case Want():
                self.wanted, self.wanted_at = message.size, trio.current_time()
                self.on_want()

    async def send(self, message: Message) -> None:
        """Send a message to the process, if it lives; a new one will be told everything anew."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self._line is not None:
                await self._line.send(message)

    async def grant(self, size: int) -> None:
        """Let the process receive the `size` bytes that it wants."""
        self.wanted = 0
        await self.send(Grant(size))

    async def change_limit(self, limit: Limit) -> None:
        """Tell the process of another limit; what it wanted under the last one is void."""
        self.limit, self.wanted = limit, 0
        await self.send(limit)

    async def widen(self, width: int) -> None:
        """Work on `width` tasks of each assignment at a time from now on."""
        for number, lot in list(self._lots.items()):
            lot.width = lot.errand.share.of(width)
            await self.send(Width(number, lot.width))

    async def fetch(self, errand: Errand, width: Callable[[], int]) -> None:
        """Have tasks fetched, as many of an assignment at a time as `width` tells."""
        for start in range(0, len(errand.tasks), LOT):
            is_last = start + LOT >= len(errand.tasks)
            tasks = errand.tasks[start : start + LOT]
            await self._fetch_lot(errand, tasks, width, is_last=is_last)
        errand.on_pulled()

    async def _fetch_lot(
        self, errand: Errand, tasks: Sequence[Row], width: Callable[[], int], *, is_last: bool
    ) -> None:
        """Have a lot fetched, however many fetchers die meanwhile."""
        deaths = 0
        while tasks and deaths < SUSPICION:
            async with self._company.share(alone=False):
                tasks, has_died = await self._try(errand, tasks, width, is_last=is_last)
            deaths += has_died
        if tasks:
            log.warning("tasks are tried alone", tasks=len(tasks), deaths=deaths)
            await self._fetch_suspects(errand, tasks, width, is_last=is_last)

    async def _fetch_suspects(
        self, errand: Errand, tasks: Sequence[Row], width: Callable[[], int], *, is_last: bool
    ) -> None:
        """Have tasks fetched by halves, without other lots there; one that kills fetchers fails."""
        deaths = 0
        while tasks and deaths < DEATHS:
            async with self._company.share(alone=True):
                left, has_died = await self._try(errand, tasks, width, is_last=is_last)
            if has_died and len(left) > 1:
                middle = len(left) // 2
                await self._fetch_suspects(errand, left[:middle], width, is_last=False)
                await self._fetch_suspects(errand, left[middle:], width, is_last=is_last)
                return
            tasks, deaths = left, deaths + has_died
        for task in tasks:
            detail = f"{DEATHS} fetchers, one after the other, died of it"
            log.error("task kills its fetcher", task=task[0], deaths=DEATHS)
            outcome = Outcome(0, 0, reason=reasons.AGENT_FS_ERROR, detail=detail)
            errand.settle([(task, outcome)])

    async def _try(
        self, errand: Errand, tasks: Sequence[Row], width: Callable[[], int], *, is_last: bool
    ) -> tuple[Sequence[Row], bool]:
        """Have tasks fetched by one fetcher; returns those that are left, and whether it died."""
        await self._lives.wait()
        share = errand.share.of(width())
        waiting = _Waiting(errand, dict(enumerate(tasks)), share, is_last)
        lot = Lot(next(self._numbers), waiting.width, tuple(tasks))
        self._lots[lot.number] = waiting
        try:
            if self._line is None:
                return tasks, False
            await self._line.send(lot)
            await waiting.over.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.sleep(PAUSE_S)  # it did not have them yet
            return tasks, False
        finally:
            del self._lots[lot.number]
        return list(waiting.left.values()), bool(waiting.left)


def make_fetchers(
    setup: Setup,
    processes: int,
    files: ObjectFiles,
    on_cleanup_failure: Callable[[int], None],
) -> list[FetcherHandle]:
    """Make so many fetchers, each in a process of its own; 0: one within this process."""
    if not processes:
        return [FetcherHandle(partial(_within, setup), on_cleanup_failure)]
    promises = new_file()
    setups = [attrs.evolve(setup, promises=promises, slot=slot) for slot in range(processes)]
    return [
        FetcherHandle(partial(_process, one, files), on_cleanup_failure, number=one.slot)
        for one in setups
    ]


@asynccontextmanager
async def _process(setup: Setup, files: ObjectFiles) -> AsyncIterator[Line]:
    setup = attrs.evolve(setup, run=new_run())
    assert setup.promises is not None
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            command = [
                sys.executable,
                "-m",
                "rebalancer.agent.transfer.process",
                str(theirs.fileno()),
            ]
            inherited = [theirs.fileno(), setup.promises]
            process = await trio.lowlevel.open_process(command, pass_fds=inherited)
    except BaseException:
        ours.close()
        raise
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
                await run_sync(Work.OBJECTS, files.clear, setup.run)
            Promised.shared(setup.promises, setup.slot)  # it needs nothing any more


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
