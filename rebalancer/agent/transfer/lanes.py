"""This module pulls the objects of a lot, by lanes side by side that take a few each in turn."""

from collections import deque
from collections.abc import Iterable

import attrs
import trio

from rebalancer.agent.transfer.committer import Committer
from rebalancer.agent.transfer.messages import Lot
from rebalancer.agent.transfer.puller import AT_A_TIME, Puller, fail_unexpectedly
from rebalancer.agent.transfer.transfer import Transfer
from rebalancer.threads import Work, run_sync


@attrs.define(eq=False)
class Lanes:
    """The lanes of a lot are trio tasks that pull its objects side by side.

    Mutable state: the number of lanes wanted; the nursery that they run in; transfers that no
    lane has taken; names of the copies whose files exist; the number of lanes there are.
    """

    lot: Lot
    puller: Puller
    committer: Committer
    width: int
    _nursery: trio.Nursery = attrs.field(init=False)
    _left: deque[Transfer] = attrs.field(factory=deque)
    _present: set[str] = attrs.field(factory=set)
    _lanes: int = 0

    async def run(self) -> None:
        """Look which objects are there already, then pull the others; return when none is left."""
        transfers = [Transfer.of(self.lot, row) for row in self.lot.rows]
        names = [(transfer.owner, transfer.name) for transfer in transfers]
        self._present = await run_sync(Work.OBJECTS, self.committer.files.existing, names)
        async with trio.open_nursery() as self._nursery:
            # The transfers of one source stand together, because they share a connection.
            self.offer(sorted(transfers, key=lambda transfer: transfer.source))

    def offer(self, transfers: Iterable[Transfer]) -> None:
        """Let any lane pull `transfers`."""
        self._left.extend(transfers)
        self.widen(self.width)

    def widen(self, width: int) -> None:
        """Have `width` lanes from now on; a lane too many ends after the transfers that it has."""
        self.width = width
        for _ in range(min(width - self._lanes, len(self._left))):
            self._lanes += 1
            self.committer.lanes += 1
            self._nursery.start_soon(self._lane)

    async def _lane(self) -> None:
        try:
            while self._left and self._lanes <= self.width:
                await self.committer.room()
                if self._left:
                    await self._pull(self._take())
        finally:
            self._lanes -= 1
            self.committer.lane_ended()
        if not (self._lanes or self._left):
            self.committer.lot_pulled(self.lot.number)

    async def _pull(self, transfers: deque[Transfer]) -> None:
        """Pull objects; one that meets an unforeseen exception fails alone."""
        first = transfers[0]
        try:
            if not (first.name in self._present and await self._is_there(first)):
                await self.puller.pull(transfers, self.committer.take, self.offer)
                return
        except Exception as exc:
            if not transfers:
                raise
            first = transfers[0]
            fail_unexpectedly(first, exc)
        self.committer.take(first)
        transfers.popleft()
        if transfers:
            self.offer(transfers)

    def _take(self) -> deque[Transfer]:
        """Take transfers of one source: fewer towards the end, so that the lanes end together."""
        taken = deque([self._left.popleft()])
        most = min(AT_A_TIME, len(self._left) // self.width)
        while len(taken) < most and self._go_together(taken[0], self._left[0]):
            taken.append(self._left.popleft())
        return taken

    def _go_together(self, one: Transfer, other: Transfer) -> bool:
        is_present = one.name in self._present or other.name in self._present
        return one.source == other.source and not is_present

    async def _is_there(self, transfer: Transfer) -> bool:
        look = self.committer.files.is_there
        names = transfer.owner, transfer.name
        return await run_sync(Work.OBJECTS, look, *names, transfer.md5)
