"""The storage nodes as storinfo last told of them, and how long ago that was."""

import time
from collections.abc import Awaitable, Callable, Sequence

import trio

from rebalancer.domain.objects import StorageNode
from rebalancer.errors import JobFailed, PeerError
from rebalancer.log import get_logger

#: Seconds between two questions.
PERIOD_S = 10.0
#: Before a job starts an empty answer is asked again this often, with this pause.
FIRST_TRIES = 3
FIRST_PAUSE_S = 0.5

log = get_logger()


class Fleet:
    """The last good list.

    Mutable state: the list and when it was told.  An empty or failed answer keeps the old one:
    it never makes all nodes unavailable.
    """

    def __init__(self, ask: Callable[[], Awaitable[Sequence[StorageNode]]]) -> None:
        self._ask = ask
        self._nodes: tuple[StorageNode, ...] = ()
        self._told_at: float | None = None

    @property
    def nodes(self) -> tuple[StorageNode, ...]:
        """The nodes of the last good answer."""
        return self._nodes

    @property
    def age_s(self) -> float | None:
        """Seconds since the last good answer, None before the first."""
        return None if self._told_at is None else time.monotonic() - self._told_at

    async def refresh(self) -> bool:
        """Ask once; whether the answer was any good."""
        try:
            nodes = await self._ask()
        except PeerError as exc:
            log.warning("storinfo does not answer", error=str(exc), age_s=self.age_s)
            return False
        if not nodes:
            log.warning("storinfo lists no storage nodes", age_s=self.age_s)
            return False
        self._nodes, self._told_at = tuple(nodes), time.monotonic()
        return True

    async def poll(self) -> None:
        """Ask for ever."""
        while True:
            await self.refresh()
            await trio.sleep(PERIOD_S)

    async def ready(self) -> None:
        """Return once there is a list.

        Raises:
          JobFailed: storinfo gave none in several tries.
        """
        for attempt in range(FIRST_TRIES):
            if self._nodes or await self.refresh():
                return
            if attempt + 1 < FIRST_TRIES:
                await trio.sleep(FIRST_PAUSE_S)
        raise JobFailed("storinfo lists no storage nodes, so there is nowhere to move objects to")
