"""Moray's methods on one shard, over a bounded pool of connections."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from rebalancer.errors import PeerMalformed, PeerUnreachable
from rebalancer.peers.moray.connection import Connection
from rebalancer.peers.moray.errors import MorayError
from rebalancer.peers.names import Endpoint, locate

DEFAULT_PORT = 2020
CONNECT_S = 5.0
#: A call has this many seconds in all: a real server may retry its database for 10.
CALL_S = 60.0


@attrs.frozen
class Record:
    """One record: where it is, its value, and the version a put can be conditional on."""

    key: str
    value: dict[str, Any]
    etag: str


@attrs.frozen
class Put:
    """One conditional write of a batch."""

    bucket: str
    key: str
    value: Mapping[str, Any]
    etag: str


class MorayClient:
    """One shard.  Made by `open_moray`.

    Mutable state: the open connections, at most `connections` of them.
    """

    def __init__(self, name: str, where: Endpoint, nursery: trio.Nursery, connections: int) -> None:
        self.name = name
        self._where = where
        self._nursery = nursery
        self._limit = connections
        self._open: list[Connection] = []
        self._connecting = trio.Lock()

    async def put_object(
        self, bucket: str, key: str, value: Mapping[str, Any], etag: str | None
    ) -> str:
        """Replace the record if its etag is `etag` (None: if there is none); the new etag.

        Raises:
          MorayError: `is_conflict` when the condition does not hold.
          PeerUnreachable: the outcome is unknown: read the record to learn it.
        """
        rows = await self._call("putObject", [bucket, key, value, {"etag": etag, "headers": {}}])
        return str(_only(rows, "putObject").get("etag"))

    async def get_object(self, bucket: str, key: str) -> Record | None:
        """The record as it is now, or None if there is none.

        The server may answer from a cache 30 s old, and dies of it, unless told `noCache`.

        Raises:
          MorayError, PeerUnreachable.
        """
        try:
            rows = await self._call("getObject", [bucket, key, {"noCache": True}])
        except MorayError as exc:
            if exc.is_missing:
                return None
            raise
        return _record(_only(rows, "getObject"))

    async def delete_object(self, bucket: str, key: str, etag: str) -> None:
        """Remove the record if its etag is `etag`.

        Raises:
          MorayError: `is_conflict`, or `is_missing`.
          PeerUnreachable: the outcome is unknown.
        """
        await self._call("delObject", [bucket, key, {"etag": etag}])

    async def find_objects(self, bucket: str, filter_text: str, limit: int) -> list[Record]:
        """The first `limit` records that match, in order of `_id`.

        Without `no_count` the server would visit every match to count them.

        Raises:
          MorayError, PeerUnreachable.
        """
        options = {
            "limit": limit,
            "no_count": True,
            "noCache": True,
            "sort": {"attribute": "_id", "order": "ASC"},
        }
        rows = await self._call("findObjects", [bucket, filter_text, options])
        return [_record(row) for row in rows]

    async def batch(self, puts: Sequence[Put]) -> None:
        """Write all, or none: conditional on every etag.

        Raises:
          MorayError: the first that failed, `conflicting_key` naming it.
          PeerUnreachable: the outcome is unknown.
        """
        # Two batches that lock the same keys in other orders deadlock.
        requests = [
            {
                "operation": "put",
                "bucket": put.bucket,
                "key": put.key,
                "value": put.value,
                "options": {"etag": put.etag, "headers": {}},
            }
            for put in sorted(puts, key=lambda put: put.key)
        ]
        await self._call("batch", [requests, {}])

    async def sql(self, statement: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a one-line statement: bigints are strings, `_value` is JSON text.

        Raises:
          MorayError: rows may have been lost before it; none are returned.
          PeerUnreachable.
        """
        return await self._call("sql", [statement, list(values), {}])

    async def ping(self) -> None:
        """Return if the server and its database answer.

        Raises:
          MorayError, PeerUnreachable.
        """
        await self._call("ping", [{"deep": True}])

    async def _call(self, method: str, args: list[Any]) -> list[Any]:
        try:
            with trio.fail_after(CALL_S):
                connection = await self._connection()
                return await connection.call(method, args)
        except trio.TooSlowError as exc:
            raise PeerUnreachable(f"{self.name}: {method}: no answer in {CALL_S:.0f} s") from exc

    async def _connection(self) -> Connection:
        """The least busy connection; a new one while all are busy and the limit allows."""
        async with self._connecting:
            self._open = [c for c in self._open if c.is_usable]
            least = min(self._open, key=lambda c: c.in_flight, default=None)
            full = len(self._open) >= self._limit
            if least is not None and (least.in_flight == 0 or full):
                return least
            connection = Connection(await self._connect(), self.name)
            self._open.append(connection)
            self._nursery.start_soon(connection.receive)
            return connection

    async def _connect(self) -> trio.SocketStream:
        try:
            with trio.fail_after(CONNECT_S):
                return await trio.open_tcp_stream(
                    self._where.host, self._where.port, happy_eyeballs_delay=math.inf
                )
        except (OSError, trio.TooSlowError) as exc:
            raise PeerUnreachable(f"{self.name} at {self._where}: {exc}") from exc


def _only(rows: list[Any], method: str) -> dict[str, Any]:
    if len(rows) != 1 or not isinstance(rows[0], dict):
        raise PeerMalformed(f"{method}: expected one object, got {len(rows)}")
    return rows[0]


def _record(row: Any) -> Record:
    match row:
        case {"key": str(key), "value": dict(value), "_etag": str(etag)}:
            return Record(key, value, etag)
    raise PeerMalformed("a record without key, value or _etag")


@asynccontextmanager
async def open_moray(
    names: Mapping[int, str], hosts: Mapping[str, str], *, connections: int
) -> AsyncIterator[dict[int, MorayClient]]:
    """Clients of all shards, by number, each with at most `connections` connections.

    Nothing is connected yet: a shard that is down fails its calls, not this.
    """
    async with trio.open_nursery() as nursery:
        yield {
            number: MorayClient(name, locate(name, hosts, DEFAULT_PORT), nursery, connections)
            for number, name in names.items()
        }
        nursery.cancel_scope.cancel()
