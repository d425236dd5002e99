"""This module has the parts of assignments pulled, however many fetchers die meanwhile.

When a fetcher dies, the tasks that it had not reported are begun anew.  Those that are under way at
several deaths are suspects: they are pulled without others there, then by halves, until the task is
found that kills its fetcher.  That one fails, and no other.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

import attrs
import trio

from rebalancer.agent.state.posted import Row
from rebalancer.agent.transfer.messages import Finished, Report
from rebalancer.agent.transfer.parts import Part
from rebalancer.domain import reasons
from rebalancer.log import get_logger

#: Tasks in one lot.
LOT = 512
#: Deaths of fetchers that make a lot suspect, and that are the fault of a task which was alone.
SUSPICION, DEATHS = 2, 3

log = get_logger()


@attrs.define(eq=False)
class Turns:
    """A turn lets lots be at a fetcher together, or one of them alone.

    Mutable state: how many lots are there together, whether one is alone, how many wait to be
    alone; an event for each change.
    """

    _together: int = 0
    _is_alone: bool = False
    _wishing: int = 0
    _changed: trio.Event = attrs.field(factory=trio.Event)

    @asynccontextmanager
    async def turn(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait for a turn, in which a lot may be at the fetcher."""
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


class Fetcher(Protocol):
    """A fetcher is sent lots, each of which it pulls once."""

    turns: Turns
    on_report: Callable[[Report], None]

    async def pull_once(
        self, part: Part, rows: Sequence[Row], width: int
    ) -> tuple[Sequence[Row], bool]:
        """Have `rows` pulled once; return those that are left, and whether the fetcher died."""


async def pull_part(fetcher: Fetcher, part: Part, width: Callable[[], int]) -> None:
    """Have a part pulled, `width` objects of its assignment at a time, until it is durable."""
    for start in range(0, len(part.rows), LOT):
        is_last = start + LOT >= len(part.rows)
        await _pull_lot(fetcher, part, part.rows[start : start + LOT], width, is_last=is_last)
    part.pulled.set()


async def _pull_lot(
    fetcher: Fetcher,
    part: Part,
    rows: Sequence[Row],
    width: Callable[[], int],
    *,
    is_last: bool,
) -> None:
    deaths, part.is_last = 0, is_last
    while rows and deaths < SUSPICION:
        async with fetcher.turns.turn(alone=False):
            rows, has_died = await fetcher.pull_once(part, rows, width())
        deaths += has_died
    if rows:
        log.warning("tasks are tried alone", tasks=len(rows), deaths=deaths)
        await _pull_suspects(fetcher, part, rows, width, is_last=is_last)


async def _pull_suspects(
    fetcher: Fetcher,
    part: Part,
    rows: Sequence[Row],
    width: Callable[[], int],
    *,
    is_last: bool,
) -> None:
    """Have tasks pulled by halves, without other lots there; one that kills fetchers fails."""
    deaths = 0
    while rows and deaths < DEATHS:
        part.is_last = is_last
        async with fetcher.turns.turn(alone=True):
            left, has_died = await fetcher.pull_once(part, rows, width())
        if has_died and len(left) > 1:
            middle = len(left) // 2
            await _pull_suspects(fetcher, part, left[:middle], width, is_last=False)
            await _pull_suspects(fetcher, part, left[middle:], width, is_last=is_last)
            return
        rows, deaths = left, deaths + has_died
    for name, _, _, _, source in rows:
        detail = f"{DEATHS} fetchers, one after the other, died of it"
        log.error("task kills its fetcher", task=name, deaths=DEATHS)
        why = reasons.AGENT_FS_ERROR
        failed = Finished(0, part.assignment, name, source, reason=why, detail=detail)
        fetcher.on_report(Report((failed,)))
