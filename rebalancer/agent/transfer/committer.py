"""This module puts pulled objects into place and tells the agent, many objects at a time."""

from collections.abc import Callable, Iterator, Sequence

import attrs
import trio

from rebalancer.agent.transfer.disk.files import LocalFailure, ObjectFiles, Staged, Whole
from rebalancer.agent.transfer.messages import Line, Outcome, Report
from rebalancer.domain import reasons
from rebalancer.log import get_logger
from rebalancer.retry import pauses
from rebalancer.threads import Work, run_sync

#: The most objects that one commit covers, the bytes of them that are enough for one, and how
#: long it waits for more, in seconds.
COMMIT_OBJECTS = 256
COMMIT_BYTES = 1 << 20
MOMENT_S = 0.01
#: Nothing more is pulled while so many bytes wait for the disk.
MOST_BYTES = 16 << 20
#: Pauses in seconds before what lacked files or memory is tried again.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0

log = get_logger()


@attrs.define(eq=False)
class Committer:
    """A committer makes pulled objects durable under their names, and tells the agent of it.

    Mutable state: objects that wait for that, and how many bytes of memory and disk they are;
    what is to be told; how many lanes pull; files left behind; an event for each change, and one
    for room.
    """

    files: ObjectFiles
    line: Line
    #: Told what is lacking, and of nothing when that is over.
    on_lack: Callable[[str], None] = lambda _detail: None
    lanes: int = 0
    cleanup_failures: int = 0
    _waiting: dict[Whole | Staged, Outcome] = attrs.field(factory=dict)
    _bytes: int = 0
    _told: list[Outcome] = attrs.field(factory=list)
    _pulled: list[int] = attrs.field(factory=list)
    _changed: trio.Event = attrs.field(factory=trio.Event)
    _has_room: trio.Event = attrs.field(factory=trio.Event)
    _pauses: Iterator[float] | None = None

    def add(self, item: Whole | Staged, outcome: Outcome) -> None:
        """Take an object that is whole in memory, or verified under its temporary name."""
        self._waiting[item] = outcome
        self._bytes += outcome.size or 0
        self._changed.set()

    async def room(self) -> None:
        """Wait until objects may be added: the disk may be slower than the sources."""
        while self._bytes > MOST_BYTES:
            await self._has_room.wait()

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
            items, self._waiting, size = self._waiting, {}, self._bytes
            told, self._told = self._told, []
            pulled, self._pulled = self._pulled, []
            failed, self.cleanup_failures = self.cleanup_failures, 0
            if pulled and items and self.files.durable:
                # The agent need not wait for the disk with what comes next.
                await self.line.send(Report(pulled=tuple(pulled)))
                pulled = []
            refused = await self._put(list(items))
            later: dict[Whole | Staged, Outcome] = {}
            for item, outcome in items.items():
                if (failure := refused.get(item)) is not None:
                    if failure.may_pass:
                        later[item] = outcome
                        continue
                    outcome = attrs.evolve(outcome, reason=failure.reason, detail=str(failure))
                told.append(outcome)
            if told or pulled or failed:
                await self.line.send(Report(tuple(told), tuple(pulled), failed))
            await self._put_off(later, refused)
            self._bytes -= size
            self._has_room.set()
            self._has_room = trio.Event()
            if not self.lanes and not self._waiting:
                self.files.rest()

    async def _put_off(
        self, later: dict[Whole | Staged, Outcome], refused: dict[Whole | Staged, LocalFailure]
    ) -> None:
        """Pause, then put back the objects for which this process lacked files or memory."""
        if not later:
            if self._pauses is not None:
                self._pauses = None
                self.on_lack("")
            return
        self._pauses = self._pauses or pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        detail = str(refused[next(iter(later))])
        self.on_lack(detail)
        log.warning("objects not yet in place", objects=len(later), error=detail)
        await trio.sleep(next(self._pauses))
        for item, outcome in later.items():
            self.add(item, outcome)

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed = trio.Event()

    async def _gather(self) -> None:
        """Wait a moment for more to commit, unless there is enough, or no more can come."""
        with trio.move_on_after(MOMENT_S):
            while self.lanes and len(self._waiting) < COMMIT_OBJECTS and self._bytes < COMMIT_BYTES:
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
                # What is in place already is missing under its temporary name: told as failed,
                # and found there when it is asked for again.
                return {k: v for one in items for k, v in self._put_all([one]).items()}
            (item,) = items
            log.exception("object not put into place", task=item.object_id)
            if isinstance(item, Staged):
                self.files.discard(item.tree.temp, item.temporary)
            return {item: LocalFailure(reasons.AGENT_FS_ERROR, f"unexpected: {exc!r}")}
