"""This module updates rows of a shard of the buckets tier through its buckets-mdapi.

That is for shards whose PostgreSQL cannot be written to.  The server's condition and its update are
two statements, so that a change of headers by a user just between them is lost, and nobody can see
it; SQL has no such gap.
"""

import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from rebalancer.domain.bucket_objects import BucketKey, write_etag
from rebalancer.errors import PeerRefused, PeerUnreachable
from rebalancer.jsontext import JsonText
from rebalancer.peers.buckets import messages
from rebalancer.peers.buckets.messages import BucketRow, MdapiError, Method, error_of
from rebalancer.peers.buckets.rows import conflict, key_of_row, sharks_to_write, version_of_row
from rebalancer.peers.metadata import Kind, Put, Record
from rebalancer.peers.moray.connection import Connection
from rebalancer.peers.moray.errors import MorayError
from rebalancer.peers.moray.pool import Pool
from rebalancer.peers.names import Endpoint
from rebalancer.peers.resolver import Resolver

T = TypeVar("T")

SERVICE, PORTS = "_buckets-mdapi._tcp", (2030,)
#: Requests at a time, each over a connection of its own.  A server whose few threads all wait for
#: a locked row serves nobody; and one that dies of a row ends all that came over its connection.
REQUESTS = 4
#: A request has this many seconds in all: a server that has a connection to its database for it
#: answers in milliseconds, one that has none says so after half a second.
CALL_S = 10.0
#: A connection that is closed so often on one request is closed because of its object.
CLOSES = 2


class ClosedByServer(PeerUnreachable):
    """The connection ended while a request alone was under way on it."""


class MdapiClient:
    """A client of one shard's servers: a `RecordStore`.  Made by `open_mdapi`.

    Mutable state: the connections whose server has said that it can change sharks.
    """

    def __init__(self, pool: Pool) -> None:
        self.name = pool.name
        self._pool = pool
        self._requests = trio.CapacityLimiter(pool.limit)
        self._able = weakref.WeakSet[Connection]()

    async def check(self) -> None:
        """Return if the server that answers can change sharks.

        Raises:
          MdapiError: it is too old.
          PeerError: it does not answer, or not as any version does.
        """
        await self._ask(self._prove)

    async def vnodes(self) -> list[int]:
        """Return the vnodes of the shard, which only a server knows that can change sharks.

        Raises:
          PeerError.
        """
        args = messages.list_vnodes(_new_id())
        return await self._ask_for(Method.LIST_VNODES, args, messages.read_vnodes)

    async def get_object(self, bucket: str, key: str) -> Record | None:
        """Return the object as it is now, or None if there is none; there are no `bucket`s here.

        Raises:
          MdapiError: the server refused, or dies of this object.
          PeerError: no answer came, or one that is none.
        """
        try:
            row = await self._get(key_of_row(key))
        except MdapiError as exc:
            if exc.is_missing:
                return None
            raise
        return Record(key, row.value, write_etag(row.id, row.sharks))

    async def put_object(
        self, bucket: str, key: str, value: Mapping[str, Any] | JsonText, etag: str | None
    ) -> str:
        """Give the object the sharks of `value`, if its id and sharks are as in `etag`.

        All else is sent back as the server shows it just before.

        Raises:
          MdapiError: `is_conflict` when they are not, `is_missing` when it is gone.
          PeerError: whether the object was updated is unknown.
        """
        where = key_of_row(key)
        object_id, old = version_of_row(key, etag)
        new = sharks_to_write(value, old)
        closes = 0
        while True:
            row = await self._get(where)
            if closes and (row.id, row.sharks) == (object_id, new):
                break
            if (row.id, row.sharks) != (object_id, old):
                raise conflict(key)
            if closes == CLOSES:
                raise _deadly(key)
            if isinstance(value, JsonText) and not messages.is_shown_exactly(row, value):
                text = f"{key}: the server does not show the digits of its properties"
                raise MdapiError("InexactProperties", text, Kind.PERMANENT)
            try:
                await self._update(where, row, new)
            except ClosedByServer:
                closes += 1
            else:
                break
        return write_etag(object_id, new)

    async def batch(self, puts: Sequence[Put]) -> None:
        """Refuse: a batch that fails can leave a row locked for good, which freezes its shard.

        Raises:
          PeerRefused: always.
        """
        raise PeerRefused(f"{self.name}: several objects are never updated by one request")

    async def _get(self, key: BucketKey) -> BucketRow:
        """Return the object as it is now.

        Raises:
          MdapiError: there is none, or the server refused, or dies of this object.
          PeerError: no answer came, or one that is none.
        """
        args = messages.get_object(key, _new_id())
        for _ in range(CLOSES):
            try:
                return await self._ask_for(
                    Method.GET_OBJECT, args, lambda rows: messages.read_object(rows, str(key))
                )
            except ClosedByServer:
                continue
        raise _deadly(str(key))

    async def _update(self, key: BucketKey, row: BucketRow, sharks: list[str]) -> None:
        """Update the object if it is still as in `row`.

        Raises:
          ClosedByServer, PeerError: whether it was updated is unknown.
          MdapiError: it was not.
        """
        args = messages.update_object(key, row, sharks, _new_id())

        async def update(connection: Connection) -> BucketRow:
            await self._prove(connection)
            rows = await _call(connection, Method.UPDATE_OBJECT, args)
            return messages.read_object(rows, str(key))

        after = await self._ask(update)
        if after.id != row.id:
            raise conflict(str(key))
        if after.sharks != sharks:
            raise _too_old(self.name, "does not change sharks")

    async def _prove(self, connection: Connection) -> None:
        """Return if the server of a connection can change sharks.

        Raises:
          MdapiError: it is too old: an update would be made and change none.
          PeerError: no answer came, or one that is none.
        """
        if connection in self._able:
            return
        try:
            rows = await _call(connection, Method.BATCH_UPDATE_OBJECTS, messages.probe(_new_id()))
            messages.read_probe(rows)
        except MdapiError as exc:
            if exc.name == "FastError":
                raise _too_old(self.name, "knows no batches") from exc
            raise
        self._able.add(connection)

    async def _ask_for(
        self, method: Method, args: JsonText, read: Callable[[list[JsonText]], T]
    ) -> T:
        async def ask(connection: Connection) -> list[JsonText]:
            return await _call(connection, method, args)

        return read(await self._ask(ask))

    async def _ask(self, ask: Callable[[Connection], Any]) -> Any:
        """Return what `ask` does with a connection that nobody else uses meanwhile.

        Raises:
          ClosedByServer: the server closed the connection.
          PeerError: no answer came, or what `ask` raises.
        """
        connection: Connection | None = None
        is_free = False
        try:
            async with self._requests:
                with trio.fail_after(CALL_S):
                    connection = await self._pool.connection()
                    answer = await ask(connection)
                is_free = True
                return answer
        except trio.TooSlowError as exc:
            if connection is not None:
                self._pool.give_up(connection)
            raise PeerUnreachable(f"{self.name}: no answer in {CALL_S:.0f} s") from exc
        except MdapiError:
            is_free = True
            raise
        except PeerUnreachable as exc:
            if connection is None:
                raise
            raise ClosedByServer(str(exc)) from exc
        finally:
            if connection is not None and not is_free:
                # A request may still be under way on it, of which the next one would suffer.
                connection.retire()


async def _call(connection: Connection, method: Method, args: JsonText) -> list[JsonText]:
    try:
        return await connection.call(method, args)
    except MorayError as exc:
        raise error_of(exc.name, str(exc).removeprefix(f"{exc.name}: ")) from exc


def _new_id() -> str:
    return str(uuid.uuid4())


def _deadly(key: str) -> MdapiError:
    text = f"{key}: the server closed its connection on this object, {CLOSES} times"
    return MdapiError("ConnectionClosed", text, Kind.PERMANENT)


def _too_old(name: str, why: str) -> MdapiError:
    text = f"{name}: a buckets-mdapi that {why} is too old to move objects: use SQL"
    return MdapiError("TooOld", text, Kind.PERMANENT)


@asynccontextmanager
async def open_mdapi(
    names: Mapping[int, str],
    hosts: Mapping[str, str],
    *,
    nameserver: Endpoint | None = None,
) -> AsyncIterator[dict[int, MdapiClient]]:
    """Open clients of all shards, by number.

    Nothing is looked up or connected yet: a shard that is down fails its calls, not this.
    `nameserver` is asked instead of the system's.
    """
    resolver = Resolver(hosts, nameserver, service=SERVICE, ports=PORTS)
    async with trio.open_nursery() as nursery:
        yield {
            number: MdapiClient(
                Pool(name, resolver, nursery, REQUESTS, loads=messages.read_payload)
            )
            for number, name in names.items()
        }
        nursery.cancel_scope.cancel()
