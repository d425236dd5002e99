"""A pool has few connections to a shard, spread over its servers, none known to be dead."""

import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import trio

from rebalancer import jsontext
from rebalancer.errors import PeerUnreachable
from rebalancer.peers.moray.connection import Connection
from rebalancer.peers.names import Endpoint
from rebalancer.peers.resolver import Resolver, best, crowded

CONNECT_S = 5.0
#: Pauses between two looks at whether the connections are spread as well as can be.  At each of
#: them one connection is moved at most.
SPREAD_S = 5.0
#: Connections over which nothing has come for so many seconds are closed, but for one of a shard.
#: Else the connections of each busy moment would stay for as long as a job runs.
UNUSED_S = 60.0
#: A server that could not be connected to comes last for so many seconds: a dead one stays in
#: the name service for minutes.
SHUN_S = 30.0


class Pool:
    """A pool has at most `limit` connections to the shard `name`, one more while one is moved.

    Connections that take no further calls do not count while they end; there are at most as many of
    them again.

    Mutable state: the open connections and where they lead, those that end, how many are being
    opened to each server, until when servers are shunned, when the spread was last looked at,
    and an event that wakes those who wait for a connection to be opened.
    """

    def __init__(
        self,
        name: str,
        resolver: Resolver,
        nursery: trio.Nursery,
        limit: int,
        rng: random.Random | None = None,
        loads: Callable[[bytes], Any] = jsontext.loads,
    ) -> None:
        self.name = name
        self.limit = limit
        self._resolver = resolver
        self._nursery = nursery
        self._rng = rng or random.Random()
        self._loads = loads
        self._open: dict[Connection, Endpoint] = {}
        self._running = 0
        self._spread_at: float | None = None
        self._opening = 0
        self._opening_at: Counter[Endpoint] = Counter()
        self._shunned: dict[Endpoint, float] = {}
        self._changed = trio.Event()

    async def connection(self) -> Connection:
        """Return the least busy connection; a new one while all are busy and the limit allows.

        Raises:
          PeerUnreachable: there is none, and no server can be connected to.
        """
        while True:
            self._tidy()
            self._look_at_spread()
            least = min(self._open, key=lambda c: c.in_flight, default=None)
            is_full = len(self._open) + self._opening >= self.limit
            if least is not None and (least.in_flight == 0 or is_full):
                return least
            if not is_full:
                return await self._add()
            await self._changed.wait()

    def _tidy(self) -> None:
        self._open = {c: where for c, where in self._open.items() if c.is_usable}
        if len(self._open) < 2:
            return
        idle = [connection for connection in self._open if connection.in_flight == 0]
        surplus = max(len(self._open) - self.limit, 0)
        before = trio.current_time() - UNUSED_S
        unused = [connection for connection in idle if connection.heard_at < before]
        for connection in {*idle[:surplus], *unused[: len(self._open) - 1]}:
            self._retire(connection)

    def give_up(self, connection: Connection) -> None:
        """Do without a connection whose server does not answer, and without that server a while."""
        if (where := self._open.get(connection)) is not None:
            self._shunned[where] = trio.current_time() + SHUN_S
            self._retire(connection)

    def _retire(self, connection: Connection) -> None:
        connection.retire()
        self._open.pop(connection, None)

    async def _add(self) -> Connection:
        self._opening += 1
        try:
            return await self._open_one()
        finally:
            self._opening -= 1
            self._tell_change()

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _open_one(self) -> Connection:
        """Connect to the first of the shard's servers that takes a connection.

        Raises:
          PeerUnreachable: none does.
        """
        while self._running - len(self._open) >= self.limit:
            await self._changed.wait()  # for one of those that end
        targets, failures = await self._resolver.targets(self.name), []
        while targets:
            target = best(targets, self._used(), self._avoided(), self._rng)
            targets.remove(target)
            try:
                return await self._connect(target.endpoint)
            except PeerUnreachable as exc:
                failures.append(str(exc))
        raise PeerUnreachable(f"{self.name}: {'; '.join(failures)}")

    async def _connect(self, where: Endpoint) -> Connection:
        """Connect to one server, which is shunned if it takes no connection.

        Raises:
          PeerUnreachable: there is none.
        """
        self._opening_at[where] += 1
        try:
            with trio.fail_after(CONNECT_S):
                stream = await trio.open_tcp_stream(
                    where.host, where.port, happy_eyeballs_delay=math.inf
                )
        except (OSError, trio.TooSlowError) as exc:
            self._shunned[where] = trio.current_time() + SHUN_S
            raise PeerUnreachable(f"{where}: {exc or 'no connection in time'}") from exc
        finally:
            self._opening_at[where] -= 1
        self._shunned.pop(where, None)
        connection = Connection(stream, f"{self.name} at {where}", self._loads)
        self._open[connection] = where
        self._running += 1
        self._nursery.start_soon(self._run, connection)
        return connection

    async def _run(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._running -= 1
            self._tell_change()

    # --- the spread over the servers -------------------------------------------------------

    def _look_at_spread(self) -> None:
        now = trio.current_time()
        if self._spread_at is None or not self._open:
            self._spread_at = now
        # Connections that are being opened now are spread as they come.
        if now - self._spread_at >= SPREAD_S and not self._opening:
            self._spread_at = now
            self._nursery.start_soon(self._move_one)

    async def _move_one(self) -> None:
        """Move one connection to a server that has too few, if one does and takes it.

        Without this a server that was away would not be used again while its connections,
        which the others were given, are good.
        """
        try:
            targets = await self._resolver.targets(self.name)
            found = crowded(targets, self._used(), self._avoided())
            if found is None:
                return
            target, left = found
            await self._connect(target.endpoint)
        except PeerUnreachable:
            return  # its part stays where it is
        at_left = [connection for connection, where in self._open.items() if where == left]
        if at_left:
            self._retire(min(at_left, key=lambda connection: connection.in_flight))

    def _used(self) -> Counter[Endpoint]:
        return self._opening_at + Counter(self._open.values())

    def _avoided(self) -> set[Endpoint]:
        now = trio.current_time()
        self._shunned = {where: until for where, until in self._shunned.items() if now < until}
        return set(self._shunned)
