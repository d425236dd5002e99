"""The connections to one shard: few, spread over its servers, and none that is known to be dead."""

import math
import random
from collections import Counter

import trio

from rebalancer.errors import PeerUnreachable
from rebalancer.peers.moray.connection import Connection
from rebalancer.peers.names import Endpoint
from rebalancer.peers.resolver import Resolver, best

CONNECT_S = 5.0
#: A server that could not be connected to comes last for so many seconds: a dead one stays in
#: the name service for minutes.
SHUN_S = 30.0


class Pool:
    """At most `limit` connections to the shard called `name`.

    Mutable state: the open connections and where they lead, how many are being opened to each
    server, until when servers are shunned, and an event that wakes those who wait for a
    connection to be opened.
    """

    def __init__(
        self,
        name: str,
        resolver: Resolver,
        nursery: trio.Nursery,
        limit: int,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self.limit = limit
        self._resolver = resolver
        self._nursery = nursery
        self._rng = rng or random.Random()
        self._open: dict[Connection, Endpoint] = {}
        self._opening = 0
        self._opening_at: Counter[Endpoint] = Counter()
        self._shunned: dict[Endpoint, float] = {}
        self._changed = trio.Event()

    async def connection(self) -> Connection:
        """The least busy connection; a new one while all are busy and the limit allows.

        Raises:
          PeerUnreachable: there is none, and no server can be connected to.
        """
        while True:
            self._tidy()
            least = min(self._open, key=lambda c: c.in_flight, default=None)
            is_full = len(self._open) + self._opening >= self.limit
            if least is not None and (least.in_flight == 0 or is_full):
                return least
            if not is_full:
                return await self._add()
            await self._changed.wait()

    def _tidy(self) -> None:
        self._open = {c: where for c, where in self._open.items() if c.is_usable}
        surplus = max(len(self._open) - self.limit, 0)
        for connection in [c for c in self._open if c.in_flight == 0][:surplus]:
            connection.close()
            del self._open[connection]

    async def _add(self) -> Connection:
        self._opening += 1
        try:
            connection, where = await self._connect()
            self._open[connection] = where
            self._nursery.start_soon(connection.receive)
            return connection
        finally:
            self._opening -= 1
            self._changed.set()
            self._changed = trio.Event()

    async def _connect(self) -> tuple[Connection, Endpoint]:
        """A connection to the first of the shard's servers that takes one, and which that is."""
        targets, failures = await self._resolver.targets(self.name), []
        while targets:
            target = best(targets, self._used(), self._avoided(), self._rng)
            targets.remove(target)
            where = target.endpoint
            self._opening_at[where] += 1
            try:
                with trio.fail_after(CONNECT_S):
                    stream = await trio.open_tcp_stream(
                        where.host, where.port, happy_eyeballs_delay=math.inf
                    )
            except (OSError, trio.TooSlowError) as exc:
                self._shunned[where] = trio.current_time() + SHUN_S
                failures.append(f"{where}: {exc or 'no connection in time'}")
            else:
                self._shunned.pop(where, None)
                return Connection(stream, f"{self.name} at {where}"), where
            finally:
                self._opening_at[where] -= 1
        raise PeerUnreachable(f"{self.name}: {'; '.join(failures)}")

    def _used(self) -> Counter[Endpoint]:
        return self._opening_at + Counter(self._open.values())

    def _avoided(self) -> set[Endpoint]:
        now = trio.current_time()
        self._shunned = {where: until for where, until in self._shunned.items() if now < until}
        return set(self._shunned)
