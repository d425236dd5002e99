"""This module keeps a fetcher process alive, sends it lots, and receives its reports."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress

import attrs
import trio

from rebalancer.agent.state.posted import Row
from rebalancer.agent.transfer.bandwidth import AT_ONCE_BYTES
from rebalancer.agent.transfer.line import Line
from rebalancer.agent.transfer.messages import (
    Grant,
    Lack,
    Limit,
    Message,
    Ready,
    Report,
    Want,
    Width,
)
from rebalancer.agent.transfer.parts import Part
from rebalancer.agent.transfer.suspects import Turns
from rebalancer.log import get_logger
from rebalancer.retry import pauses
from rebalancer.waits import Waits

#: Seconds from the death of a fetcher to its next start; the longest, if it does not come up.
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
#: Seconds within which a fetcher must be up; otherwise it is started anew.
READY_S = 60.0

NO_LIMIT = Limit(False, AT_ONCE_BYTES)

log = get_logger()


Opener = Callable[[], AbstractAsyncContextManager[Line]]


@attrs.define(eq=False)
class FetcherHandle:
    """A handle is the agent's side of a fetcher, and stays the same when the process is replaced.

    Mutable state: the connection to the process while it is up, and the process's engine; for each
    lot under way, by its number, the part that it is of; the limit in force; the bytes that the
    fetcher waits to be granted; the turns of lots.
    """

    open: Opener
    #: Called with each report of the process.
    on_report: Callable[[Report], None] = lambda _report: None
    #: Called when this fetcher begins to wait for a grant.
    on_want: Callable[[], None] = lambda: None
    limit: Limit = NO_LIMIT
    wanted: int = 0
    #: When this fetcher began to wait for a grant.
    wanted_at: float = 0.0
    waits: Waits = attrs.field(factory=Waits)
    number: int = 0
    #: The name of the engine by which the process pulls objects; None before it is up.
    engine: str | None = None
    turns: Turns = attrs.field(factory=Turns)
    _line: Line | None = None
    _up: trio.Event = attrs.field(factory=trio.Event)
    _parts: dict[int, Part] = attrs.field(factory=dict)
    _numbers: "itertools.count[int]" = attrs.field(factory=itertools.count)

    @property
    def _process_subject(self) -> str:
        return f"fetcher process {self.number}"

    @property
    def _files_subject(self) -> str:
        return f"files that fetcher process {self.number} may open"

    @property
    def tasks(self) -> int:
        """Return how many tasks this fetcher has to do."""
        return sum(len(part.left) for part in self._parts.values())

    @property
    def at_work(self) -> int:
        """Return how many tasks this fetcher works on now."""
        return sum(min(part.width, len(part.left)) for part in self._parts.values())

    async def run(self) -> None:
        """Keep the process of this fetcher alive for ever."""
        waits = pauses(PAUSE_S, LONGEST_PAUSE_S)
        while True:
            was_up, detail = await self._run_process()
            if was_up:
                log.error("fetcher died", fetcher=self.number, lots=len(self._parts))
                waits = pauses(PAUSE_S, LONGEST_PAUSE_S)
            else:
                self.waits.begin(self._process_subject, detail)
            await trio.sleep(next(waits))

    async def _run_process(self) -> tuple[bool, str]:
        """Start the process, and receive from it until it dies.

        Returns whether it was up, and a text for people that says why if it was not.
        """
        detail = "it ended before it was up"
        try:
            async with self.open() as line:
                with trio.move_on_after(READY_S):
                    if isinstance(ready := await line.receive(), Ready):
                        self.engine = ready.engine
                        await self._come_up(line)
                while self._line and (message := await line.receive()) is not None:
                    self._heard(message)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            detail = str(exc) or detail
        self.waits.end(self._files_subject)
        was_up = self._line is not None
        self._line, self.wanted = None, 0
        if was_up:
            self._up = trio.Event()
        for part in self._parts.values():
            part.over.set()
        return was_up, detail

    async def _come_up(self, line: Line) -> None:
        self._line = line
        if self.limit.is_limited:
            await self.send(self.limit)
        self.waits.end(self._process_subject)
        self._up.set()

    def _heard(self, message: Message) -> None:
        match message:
            case Report():
                for event in message.finished:
                    self._parts[event.lot].finish(event.name)
                for number in message.pulled:
                    # The lot may be over already.  If it is not the last of its part, the part is
                    # not pulled yet.
                    if (part := self._parts.get(number)) is not None and part.is_last:
                        part.pulled.set()
                self.on_report(message)
            case Lack(detail) if detail:
                self.waits.begin(self._files_subject, detail)
            case Lack():
                self.waits.end(self._files_subject)
            case Want():
                self.wanted, self.wanted_at = message.size, trio.current_time()
                self.on_want()

    async def send(self, message: Message) -> None:
        """Send a message to the process, if it is up; a new process is sent all it needs anyway."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self._line is not None:
                await self._line.send(message)

    async def grant(self, size: int) -> None:
        """Let the process receive the `size` bytes that it wants."""
        self.wanted = 0
        await self.send(Grant(size))

    async def change_limit(self, limit: Limit) -> None:
        """Put another limit in force; a want under the old limit is void."""
        self.limit, self.wanted = limit, 0
        await self.send(limit)

    async def widen(self, width: int) -> None:
        """Have `width` objects of each assignment pulled at a time from now on."""
        for number, part in list(self._parts.items()):
            await self.send(Width(number, part.widen(width)))

    async def pull_once(
        self, part: Part, rows: Sequence[Row], width: int
    ) -> tuple[Sequence[Row], bool]:
        """Have `rows` pulled; return the rows that are left, and whether the fetcher died."""
        await self._up.wait()
        lot = part.lot(next(self._numbers), rows, width)
        self._parts[lot.number] = part
        try:
            if self._line is None:
                return rows, False
            await self._line.send(lot)
            await part.over.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.sleep(PAUSE_S)  # the fetcher died before it had the lot
            return rows, False
        finally:
            del self._parts[lot.number]
        return list(part.left.values()), bool(part.left)
