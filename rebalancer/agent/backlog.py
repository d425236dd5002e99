"""Which assignment is next: the first of those that wait are in memory, the others on disk only.

A manager may leave a hundred thousand here; what an agent holds must not grow with them.
"""

import attrs
import trio

from rebalancer.agent.store import AssignmentStore

#: Ids in memory.  When they are worked off, the folder is looked through for the next.
LISTED = 2000


@attrs.define(eq=False)
class Backlog:
    """The assignments that wait, and the ids of those that are worked on or being saved.

    Mutable state: the ids that are next, in order; whether there are more on disk, and about how
    many wait in all; an event for each change.
    """

    store: AssignmentStore
    #: Taken and not done yet.
    running: set[str] = attrs.field(factory=set)
    #: To be stored at this moment.
    saving: set[str] = attrs.field(factory=set)
    _next: dict[str, None] = attrs.field(factory=dict)
    _has_more: bool = False
    _count: int = 0
    _turn: trio.Lock = attrs.field(factory=trio.Lock)
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def __len__(self) -> int:
        """How many wait."""
        return self._count

    def resume(self) -> None:
        """Take up what an earlier run left.  Blocking.

        Raises:
          OSError: the folder cannot be read.
        """
        names, self._count = self.store.waiting(LISTED, self.running)
        self._next, self._has_more = dict.fromkeys(names), self._count > len(names)

    def add(self, name: str) -> None:
        """One more waits, behind all that came before it; it is stored."""
        self._count += 1
        if not self._has_more:
            self._next[name] = None
        self._changed.set()

    async def take(self) -> str:
        """Wait for the next; it is running from now on, until `done`."""
        async with self._turn:
            while not self._next:
                if self._has_more:
                    await self._look()
                else:
                    await self._changed.wait()
                    self._changed = trio.Event()
            name = next(iter(self._next))
            del self._next[name]
            self._count = max(self._count - 1, len(self._next))
            self.running.add(name)
            return name

    def done(self, name: str) -> None:
        """It is not running any more."""
        self.running.discard(name)

    async def _look(self) -> None:
        """Find the next on disk."""
        # What is added from now on is listed by `add`; what is being saved will be.
        self._has_more = False
        names, count = await trio.to_thread.run_sync(self.store.waiting, LISTED, set(self.running))
        added, self._next = self._next, {}
        for name in names:
            if name not in added and name not in self.running and name not in self.saving:
                self._next[name] = None
        self._has_more = count > len(names)
        if not self._has_more:
            self._next |= added
        self._count = max(count, len(self._next))
