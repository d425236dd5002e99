"""This module keeps the order of scheduled assignments, few of them in memory.

A manager may leave a hundred thousand here; what an agent holds must not grow with them.
"""

import math

import attrs
import trio

from rebalancer.agent.state.store import AssignmentStore
from rebalancer.log import get_logger
from rebalancer.threads import Work, run_sync

#: Ids in memory.  When they are worked off, the folder is looked through for the next.
LISTED = 2000

log = get_logger()


@attrs.define(eq=False)
class Backlog:
    """A backlog is the order of scheduled assignments, and has the ids of those at work.

    Mutable state: the ids that are next, in order; ids of files that could not be read, and when
    to try them again; whether the last id taken was such a one; whether there are more on disk,
    and about how many in all; an event for each change.
    """

    store: AssignmentStore
    #: Ids taken and not done yet.
    running: set[str] = attrs.field(factory=set)
    #: Ids of assignments that are being stored.
    saving: set[str] = attrs.field(factory=set)
    #: Ids of files that a newer agent has written: of no use to this one, and not to be touched.
    refused: set[str] = attrs.field(factory=set)
    _later: dict[str, float] = attrs.field(factory=dict)
    _is_again: bool = False
    _next: dict[str, None] = attrs.field(factory=dict)
    _has_more: bool = False
    _count: int = 0
    _turn: trio.Lock = attrs.field(factory=trio.Lock)
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def __len__(self) -> int:
        """Return how many scheduled assignments are not at work."""
        return self._count

    def resume(self) -> None:
        """Read what an earlier run left; if that fails, `take` reads it later.  Blocking."""
        try:
            names, self._count = self.store.unfinished(LISTED, self.running)
        except OSError as exc:
            log.warning("backlog not read", folder=str(self.store.scheduled), error=str(exc))
            self._has_more = True
        else:
            self._next, self._has_more = dict.fromkeys(names), self._count > len(names)

    def add(self, name: str) -> None:
        """Add a stored assignment, behind all that came before it."""
        self._count += 1
        if not self._has_more:
            self._next[name] = None
        self._changed.set()

    async def take(self) -> str:
        """Wait for the next assignment, which then runs until `done`, `defer` or `refuse`.

        Raises:
          OSError: the folder cannot be read at the moment; to be asked again.
        """
        async with self._turn:
            while (name := self._pop()) is None:
                if self._has_more:
                    await self._look()
                else:
                    with trio.move_on_at(min(self._later.values(), default=math.inf)):
                        await self._changed.wait()
                    self._changed = trio.Event()
            self._count = max(self._count - 1, len(self._next) + len(self._later))
            self.running.add(name)
            return name

    def _pop(self) -> str | None:
        """Take the next assignment out of the lists, if any is known.

        Those that are tried again and the others have turns in turn: neither can keep the other
        from theirs.
        """
        now = trio.current_time()
        again = next((name for name, due in self._later.items() if due <= now), None)
        name = next(iter(self._next), None)
        self._is_again = again is not None and (name is None or not self._is_again)
        if again is not None and self._is_again:
            del self._later[again]
            return again
        if name is not None:
            del self._next[name]
        return name

    def defer(self, name: str, until: float) -> None:
        """Let a running assignment, which could not be read, wait again, until `until`."""
        self.running.discard(name)
        self._later[name] = until
        self._count += 1
        self._changed.set()

    def refuse(self, name: str) -> None:
        """Leave a running assignment where it is: this agent cannot work on it."""
        self.running.discard(name)
        self.refused.add(name)

    def done(self, name: str) -> None:
        """Note that an assignment is not running any more."""
        self.running.discard(name)

    async def _look(self) -> None:
        """Find the next assignments on disk."""
        # `add` lists assignments that are added from now on, or are being saved.
        self._has_more = False
        passed = self.running | self.refused | self._later.keys()
        try:
            names, count = await run_sync(Work.STORE, self.store.unfinished, LISTED, passed)
        except BaseException:
            self._has_more = True
            raise
        added, self._next = self._next, {}
        for name in names:
            if name not in added and name not in self.running and name not in self.saving:
                self._next[name] = None
        self._has_more = count > len(names)
        if not self._has_more:
            self._next |= added
        self._count = max(count, len(self._next)) + len(self._later)
