"""This server is a shard's buckets-mdapi, as fragile as the real one, over a real PostgreSQL."""

import queue
import time
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import psycopg
import trio
from psycopg.pq import TransactionStatus
from psycopg.types.json import set_json_loads

from rebalancer.log import get_logger
from rebalancer.peers.buckets.database import DATABASE
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.fast import Message, Status
from rebalancer.peers.names import split_port
from rebalancer.peers.postgres import USER
from rebalancer_devregion.buckets.arguments import BadArguments, loads, read_fields
from rebalancer_devregion.buckets.methods import (
    METHODS,
    Behaviour,
    Database,
    Failure,
    Panic,
    failure_of,
)

log = get_logger()

#: A request waits as long as this for a connection to the database.
CLAIM_S = 0.5
#: Connections to the database; a real server has 64.
POOL = 8
#: All requests of all clients run on so many threads, waits for locked rows too: while these wait,
#: nobody gets any answer.
THREADS = 2
CONNECT_S = 5


class DatabasePool:
    """A pool hands out the connection that was returned first, and leaves it as it is.

    A transaction that failed stays open, with the locks that it has, until its connection is used
    again: that is how a failed batch freezes a shard.

    Mutable state: the connections, of which those that were not used yet are None, and whether it
    is closed.
    """

    def __init__(self, address: str, connections: int) -> None:
        self._address = address
        self._free: queue.Queue[Database | None] = queue.Queue()
        self._busy: set[Database] = set()
        self._is_closed = False
        for _ in range(connections):
            self._free.put(None)

    def claim(self) -> Database:
        """Return a connection, which the caller gives back.

        Raises:
          Failure: all are in use, or the database cannot be reached.
        """
        try:
            free = self._free.get(timeout=CLAIM_S)
        except queue.Empty:
            raise Failure("OverloadedError", "no database connection in time") from None
        try:
            db = self._connect() if free is None or free.closed else free
            if db.info.transaction_status is not TransactionStatus.IDLE:
                db.rollback()
        except psycopg.Error as exc:
            self._free.put(None)
            raise failure_of(exc) from exc
        self._busy.add(db)
        return db

    def give_back(self, db: Database) -> None:
        """Take a connection back."""
        self._busy.discard(db)
        self._free.put(db)
        if self._is_closed:  # by now nobody waits for the thread
            self._close_free()

    def close(self) -> None:
        """Close the connections; what those wait for that are in use, is ended."""
        self._is_closed = True
        for busy in [*self._busy]:
            busy.cancel()
        self._close_free()

    def _close_free(self) -> None:
        with suppress(queue.Empty):
            while True:
                if (free := self._free.get_nowait()) is not None:
                    free.close()

    def _connect(self) -> Database:
        endpoint = split_port(self._address, 5432)
        db = psycopg.connect(
            host=endpoint.host,
            port=endpoint.port,
            user=USER,
            dbname=DATABASE,
            autocommit=True,
            connect_timeout=CONNECT_S,
        )
        set_json_loads(loads, db)
        return db


@attrs.define(eq=False)
class MdapiServer:
    """An mdapi server is one of a shard's servers.

    Mutable state: how it behaves, which tests may change.
    """

    #: Host and port of PostgreSQL.
    postgres: str
    behaviour: Behaviour = attrs.field(factory=Behaviour)
    pool_size: int = POOL

    async def serve(
        self,
        host: str,
        port: int,
        task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve for ever; `task_status` tells the address."""
        pool = DatabasePool(self.postgres, self.pool_size)
        threads = trio.CapacityLimiter(THREADS)
        try:
            (listener,) = await trio.open_tcp_listeners(port, host=host)
            task_status.started(listener.socket.getsockname()[:2])
            await trio.serve_listeners(partial(self._connection, pool, threads), [listener])
        finally:
            pool.close()

    async def _connection(
        self, pool: DatabasePool, threads: trio.CapacityLimiter, stream: trio.SocketStream
    ) -> None:
        """Answer the requests of a client, one after the other."""
        decoder = fast.Decoder(loads)
        try:
            async with stream:
                while data := await stream.receive_some(64 << 10):
                    for message in decoder.feed(bytes(data)):
                        if message.version != 2 or message.uts is None:
                            return
                        answer = await trio.to_thread.run_sync(
                            self._answer, pool, message, limiter=threads, abandon_on_cancel=True
                        )
                        await stream.send_all(answer)
        except (fast.FastError, Panic) as exc:
            log.info("a client's connection is closed", cause=str(exc))
        except (trio.BrokenResourceError, ConnectionError):
            return

    def _answer(self, pool: DatabasePool, request: Message) -> bytes:
        """Return the messages of an answer.

        Raises:
          Panic: a row of which the handler dies.
        """
        try:
            rows = self._rows(pool, request)
        except BadArguments as exc:
            failure = {"name": "FastError", "message": str(exc)}
            return _encoded(request, Status.ERROR, failure)
        except Failure as exc:
            rows = [exc.row]
        data = b"".join(_encoded(request, Status.DATA, [row]) for row in rows)
        return data + _encoded(request, Status.END, [])

    def _rows(self, pool: DatabasePool, request: Message) -> list[Any]:
        method = METHODS.get(request.method or "")
        if method is None or (method.is_new and self.behaviour.is_old):
            raise BadArguments(f"Unsupported functon: {request.method}")
        if not request.data:
            text = f"Failed to parse JSON data as payload for {request.method} function"
            raise BadArguments(text)
        args = read_fields(method.fields, request.data[0])
        db = pool.claim()
        try:
            if method.writes:
                db.execute("BEGIN")
            rows = method.run(db, self.behaviour, args)
            if method.writes:
                db.execute("COMMIT")
        except psycopg.Error as exc:
            raise failure_of(exc) from exc
        finally:
            pool.give_back(db)
        return rows


def _encoded(request: Message, status: Status, data: Any) -> bytes:
    uts = time.time_ns() // 1000
    return fast.encode(Message(request.id, status, request.method, data, uts=uts))


async def serve_mdapi(
    postgres: str,
    host: str,
    port: int,
    is_old: bool = False,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve one shard of the buckets tier for ever, from the PostgreSQL at `postgres`."""
    await MdapiServer(postgres, Behaviour(is_old=is_old)).serve(host, port, task_status)
