"""This module commits pulled objects and reports to the agent, many objects at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
import trio

from rebalancer.agent.transfer.disk.files import ObjectFiles
from rebalancer.agent.transfer.disk.objects import LocalFailure, Staged, Whole
from rebalancer.agent.transfer.line import Line
from rebalancer.agent.transfer.messages import Report
from rebalancer.agent.transfer.transfer import Transfer
from rebalancer.domain import reasons
from rebalancer.log import get_logger
from rebalancer.retry import pauses
from rebalancer.threads import Work, run_sync

#: The most objects that one commit covers, the bytes of them that are enough for one, and how
#: long it waits for more, in seconds.
COMMIT_OBJECTS = 256
COMMIT_BYTES = 1 << 20
MOMENT_S = 0.01
#: While more bytes than these wait for the disk, no lane begins to pull.
MOST_BYTES = 16 << 20
#: Pauses in seconds before what lacked files or memory is tried again.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

log = get_logger()


@attrs.define(eq=False)
class Committer:
    """A committer makes pulled objects durable under their names, and reports to the agent.

    Mutable state: transfers whose objects are not committed, and how many bytes of memory and
    disk those are; transfers that have finished, and lots with nothing left to pull, not reported
    yet; how many lanes pull; temporary files left behind; an event for each change, and one for
    room.
    """

    files: ObjectFiles
    line: Line
    #: Called with what is lacking, and with an empty text when nothing is any more.
    on_lack: Callable[[str], None] = lambda _detail: None
    lanes: int = 0
    cleanup_failures: int = 0
    _pulled: dict[Whole | Staged, Transfer] = attrs.field(factory=dict)
    _bytes: int = 0
    _finished: list[Transfer] = attrs.field(factory=list)
    _lots: list[int] = attrs.field(factory=list)
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _has_room: trio.Event = attrs.field(factory=trio.Event)
    _pauses: Iterator[float] | None = None

    def take(self, transfer: Transfer) -> None:
        """Take a transfer: its object is to be committed, unless it failed or was there already."""
        if transfer.pulled is None:
            self._finished.append(transfer)
        else:
            self._pulled[transfer.pulled] = transfer
            self._bytes += transfer.size or 0
        self._changed.set()

    async def room(self) -> None:
        """Wait until more may be pulled: the disk may be slower than the sources."""
        while self._bytes > MOST_BYTES:
            await self._has_room.wait()

    def lot_pulled(self, lot: int) -> None:
        """Note that nothing of a lot is left to pull."""
        self._lots.append(lot)
        self._changed.set()

    def lane_ended(self) -> None:
        """Note that a lane has ended, perhaps the last that anything could come from."""
        self.lanes -= 1
        self._changed.set()

    async def run(self) -> None:
        """Commit and report for ever, as many objects at a time as there are."""
        while True:
            await self._wait()
            await self._gather()
            await self._commit()
            self._has_room.set()
            self._has_room = trio.Event()
            if not self.lanes and not self._pulled:
                self.files.rest()

    async def _commit(self) -> None:
        """Commit the objects that were pulled, and report them and what else has finished."""
        pulled, self._pulled, size = self._pulled, {}, self._bytes
        finished, self._finished = self._finished, []
        lots, self._lots = self._lots, []
        failures, self.cleanup_failures = self.cleanup_failures, 0
        if lots and pulled and self.files.durable:
            # The agent can send what comes next without waiting for the disk.
            await self.line.send(Report(pulled=tuple(lots)))
            lots = []
        refused = await self._put(list(pulled))
        short = self._sort_out(pulled, refused, finished)
        if finished or lots or failures:
            events = tuple([transfer.finished() for transfer in finished])
            await self.line.send(Report(events, tuple(lots), failures))
        await self._put_back(short, refused)
        self._bytes -= size

    def _sort_out(
        self,
        pulled: Mapping[Whole | Staged, Transfer],
        refused: Mapping[Whole | Staged, LocalFailure],
        finished: list[Transfer],
    ) -> list[Transfer]:
        """Add to `finished` what is committed or failed; return what is to be committed later."""
        if not refused:
            finished += pulled.values()
            return []
        short = []
        for item, transfer in pulled.items():
            failure = refused.get(item)
            if failure is not None and failure.is_short:
                short.append(transfer)
                continue
            if failure is not None:
                transfer.fail(failure.reason, str(failure))
            finished.append(transfer)
        return short

    async def _put_back(
        self, short: Sequence[Transfer], refused: Mapping[Whole | Staged, LocalFailure]
    ) -> None:
        """Pause, then put back the objects for which this process lacked files or memory."""
        if not short:
            if self._pauses is not None:
                self._pauses = None
                self.on_lack("")
            return
        self._pauses = self._pauses or pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        detail = next(str(refused[t.pulled]) for t in short if t.pulled is not None)
        self.on_lack(detail)
        log.warning("objects not yet in place", objects=len(short), error=detail)
        await trio.sleep(next(self._pauses))
        for transfer in short:
            self.take(transfer)

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed = trio.Event()

    async def _gather(self) -> None:
        """Wait a moment for more to commit, unless there is enough, or no more can come."""
        with trio.move_on_after(MOMENT_S):
            while self.lanes and len(self._pulled) < COMMIT_OBJECTS and self._bytes < COMMIT_BYTES:
                await self._wait()

    async def _put(self, items: Sequence[Whole | Staged]) -> dict[Whole | Staged, LocalFailure]:
        if self.files.durable and items:
            return await run_sync(Work.OBJECTS, self._put_all, items)
        return self._put_all(items)

    def _put_all(self, items: Sequence[Whole | Staged]) -> dict[Whole | Staged, LocalFailure]:
        """Put objects into place; one that meets an unforeseen exception fails alone."""
        try:
            return self.files.put(items)
        except Exception as exc:
            if len(items) > 1:
                log.exception("objects are put into place one by one")
                # An object that is in place already is missing under its temporary name: it is
                # reported as failed, and found there when it is asked for again.
                return {k: v for one in items for k, v in self._put_all([one]).items()}
            (item,) = items
            log.exception("object not put into place", task=item.name)
            if isinstance(item, Staged):
                self.files.discard(item.tree.temp, item.temporary)
            return {item: LocalFailure(reasons.AGENT_FS_ERROR, f"unexpected: {exc!r}")}
