"""This module keeps the list of storage nodes that storinfo answered last."""

import math
import time
from collections.abc import Awaitable, Callable, Sequence

import trio

from rebalancer.domain.objects import StorageNode
from rebalancer.errors import PeerError, PeerUnreachable
from rebalancer.retry import retry_while_transient
from rebalancer.transient import is_transient
from rebalancer.waits import Waits

#: Seconds between two questions to storinfo.
PERIOD_S = 10.0
#: Before a job starts, the first pause between two questions.
FIRST_PAUSE_S = 0.5
#: The subject of the wait, in words.
STORINFO = "storinfo"


class NodeList:
    """This object has the last good list of storage nodes.

    Mutable state: the list, when it was answered, and what is waited for.  After an empty or
    failed answer the old list holds: such an answer never makes all nodes unavailable.
    """

    def __init__(self, ask: Callable[[], Awaitable[Sequence[StorageNode]]]) -> None:
        self._ask = ask
        self._nodes: tuple[StorageNode, ...] = ()
        self._answered_at: float | None = None
        self._trouble = ""
        self.waits = Waits()

    @property
    def nodes(self) -> tuple[StorageNode, ...]:
        """Return the nodes of the last good answer."""
        return self._nodes

    @property
    def age_s(self) -> float | None:
        """Return seconds since the last good answer, None before the first."""
        return None if self._answered_at is None else time.monotonic() - self._answered_at

    async def refresh(self) -> bool:
        """Ask storinfo once; return whether its answer can be used."""
        try:
            nodes = await self._ask()
        except Exception as exc:
            # This machine may be out of threads or memory for a while, which must not end it.
            if not isinstance(exc, PeerError) and not is_transient(exc):
                raise
            return self._note(str(exc) or type(exc).__name__)
        if not nodes:
            return self._note("it lists no storage nodes")
        self.waits.end(STORINFO)
        self._nodes, self._answered_at = tuple(nodes), time.monotonic()
        return True

    def _note(self, trouble: str) -> bool:
        self._trouble = trouble
        self.waits.begin(STORINFO, trouble)
        return False

    async def poll(self) -> None:
        """Ask storinfo for ever, every `PERIOD_S` seconds."""
        while True:
            await self.refresh()
            await trio.sleep(PERIOD_S)

    async def ready(self, waits: Waits, bound_s: float = math.inf) -> None:
        """Return once there is a list; until then `waits` shows that it is missing.

        Raises:
          PeerUnreachable: there was none for `bound_s` seconds.
        """
        await retry_while_transient(
            self._have_list,
            waits=waits,
            subject=STORINFO,
            first_s=FIRST_PAUSE_S,
            longest_s=PERIOD_S,
            bound_s=bound_s,
        )

    async def _have_list(self) -> None:
        if not self._nodes and not await self.refresh():
            raise PeerUnreachable(self._trouble)
