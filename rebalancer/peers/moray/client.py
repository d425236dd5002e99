"""This module has Moray's methods on one shard, over a bounded pool of connections."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from rebalancer import jsontext
from rebalancer.errors import PeerMalformed, PeerUnreachable
from rebalancer.jsontext import JsonText
from rebalancer.peers import scan
from rebalancer.peers.metadata import Put, Record
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.errors import MorayError
from rebalancer.peers.moray.pool import Pool
from rebalancer.peers.names import Endpoint
from rebalancer.peers.resolver import Resolver

#: A call has this many seconds in all, look-ups, connecting and waiting for others to do so
#: included: a real server may retry its database for 10.
CALL_S = 60.0


class MorayClient(scan.DirectoryShard):
    """A client of one shard.  Made by `open_moray`."""

    def __init__(self, pool: Pool) -> None:
        self.name = pool.name
        self._pool = pool

    def resize(self, connections: int) -> None:
        """Have at most `connections` from now on."""
        self._pool.limit = connections

    async def put_object(
        self, bucket: str, key: str, value: Mapping[str, Any] | JsonText, etag: str | None
    ) -> str:
        """Replace the record if its etag is `etag` (None: if there is none); the new etag.

        Raises:
          MorayError: `is_conflict` when the condition does not hold.
          PeerUnreachable: the result is unknown: read the record to learn it.
        """
        options: dict[str, Any] = {"etag": etag, "headers": {}}
        args = ",".join(fast.to_json("putObject", arg) for arg in (bucket, key, value, options))
        rows = await self._call("putObject", JsonText(f"[{args}]"))
        return str(_only(rows, "putObject").get("etag"))

    async def get_object(self, bucket: str, key: str) -> Record | None:
        """Return the record as it is now, or None if there is none.

        The server may answer from a cache 30 s old, and dies of it, without `noCache`.

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
          PeerUnreachable: the result is unknown.
        """
        await self._call("delObject", [bucket, key, {"etag": etag}])

    async def find_objects(self, bucket: str, filter_text: str, limit: int) -> list[Record]:
        """Return the first `limit` records that match, in order of `_id`.

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
          PeerUnreachable: the result is unknown.
        """
        # Two batches that lock the same keys in other orders deadlock.
        ordered = sorted(puts, key=lambda put: put.key)
        requests = ",".join(map(_request, ordered))
        await self._call("batch", JsonText(f"[[{requests}],{{}}]"))

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = CALL_S
    ) -> list[dict[str, Any]]:
        """Return the rows of a one-line statement: bigints are strings, `_value` is JSON text.

        Raises:
          MorayError: rows may have been lost before it; none are returned.
          PeerUnreachable.
        """
        return await self._call("sql", [statement, list(values), {}], within_s)

    async def ping(self) -> None:
        """Return if the server and its database answer.

        Raises:
          MorayError, PeerUnreachable.
        """
        await self._call("ping", [{"deep": True}])

    async def ask_time(self) -> float | None:
        """Return what the server's clock says, in seconds, if it and its database answer.

        Raises:
          MorayError, PeerUnreachable.
        """
        await self.ping()
        uts = (await self._pool.connection()).peer_uts
        return uts / 1e6 if isinstance(uts, int | float) else None

    async def _call(
        self, method: str, args: list[Any] | JsonText, within_s: float = CALL_S
    ) -> list[Any]:
        connection, asked_at = None, 0.0
        try:
            with trio.fail_after(within_s):
                connection = await self._pool.connection()
                asked_at = trio.current_time()
                return await connection.call(method, args)
        except trio.TooSlowError as exc:
            if connection is not None and connection.heard_at <= asked_at:
                # Nothing at all came meanwhile: whoever is there would never answer the next.
                self._pool.give_up(connection)
            raise PeerUnreachable(f"{self.name}: {method}: no answer in {within_s:.0f} s") from exc


def _request(put: Put) -> str:
    bucket, key, etag = map(jsontext.dumps, (put.bucket, put.key, put.etag))
    return (
        f'{{"operation":"put","bucket":{bucket},"key":{key},'
        f'"value":{fast.to_json("batch", put.value)},'
        f'"options":{{"etag":{etag},"headers":{{}}}}}}'
    )


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
    names: Mapping[int, str],
    hosts: Mapping[str, str],
    *,
    connections: int,
    nameserver: Endpoint | None = None,
) -> AsyncIterator[dict[int, MorayClient]]:
    """Open clients of all shards, by number, each with at most `connections` connections.

    Nothing is looked up or connected yet: a shard that is down fails its calls, not this.
    `nameserver` is asked instead of the system's.
    """
    resolver = Resolver(hosts, nameserver)
    async with trio.open_nursery() as nursery:
        yield {
            number: MorayClient(Pool(name, resolver, nursery, connections))
            for number, name in names.items()
        }
        nursery.cancel_scope.cancel()
