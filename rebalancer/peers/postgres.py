"""This module scans the PostgreSQL clone of a shard: read-only statements in a thread."""

import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg
import trio
from psycopg.rows import dict_row

from rebalancer.errors import PeerError, PeerRefused, PeerUnreachable
from rebalancer.peers import scan
from rebalancer.peers.names import Endpoint, locate
from rebalancer.threads import Work, run_sync

DEFAULT_PORT = 5432
#: As the predecessor connects.
USER, DATABASE = "postgres", "moray"
CONNECT_S = 10
#: A statement may take this many seconds, unless its caller says otherwise.
STATEMENT_S = 60.0
#: A server that does not acknowledge anything for this many seconds is gone.
SILENCE_S = 60

#: Classes of SQLSTATE, and states, that pass by themselves or once a person has seen to the server:
#: connection, rollback of one of several, resources, object in use, operator, system, old snapshot.
_TRANSIENT = ("08", "40", "53", "55", "57", "58", "72")
#: States of those classes that do not pass: the database was dropped.
_LASTING = ("57P04",)
#: Parts of what a server says to a client that it does not let in: libpq tells no SQLSTATE of that.
_REFUSED_TEXTS = ("authentication failed", "no pg_hba.conf entry", "no password", "does not exist")

Row = dict[str, Any]


class PostgresShard(scan.DirectoryShard):
    """A client of one shard's clone.  Made by `open_postgres`.

    Mutable state: its one connection, made when needed and given up after any error, and how long
    a statement may take there.
    """

    def __init__(self, name: str, where: Endpoint) -> None:
        self.name = name
        self._where = where
        self._asking = trio.Lock()
        self._connection: psycopg.Connection[Row] | None = None
        self._is_running = False
        self._within_s = 0.0

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = STATEMENT_S
    ) -> list[Row]:
        """Return the rows of one statement with parameters $1 and on, within so many seconds.

        A caller that is cancelled cuts the connection, and so is not held up by the statement.

        Raises:
          PeerUnreachable: no connection, or it broke, or the server ended the statement.
          PeerRefused: the statement cannot be run there.
        """
        failure: PeerError | None = None
        rows: list[Row] = []
        async with self._asking:
            self._is_running = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._interrupt_when_cancelled)
                try:
                    rows = await run_sync(Work.CLONES, self._run, statement, values, within_s)
                except PeerError as exc:
                    failure = exc
                self._is_running = False
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return rows

    def _run(self, statement: str, values: Sequence[Any], within_s: float) -> list[Row]:
        try:
            if self._connection is None:
                self._connection = self._connect()
                self._within_s = 0.0
            if within_s != self._within_s:
                limit = f"SET statement_timeout = {round(within_s * 1000)}"
                self._connection.execute(limit.encode())
                self._within_s = within_s
            cursor = psycopg.RawCursor(self._connection, row_factory=dict_row)
            return cursor.execute(statement.encode(), values).fetchall()
        except psycopg.Error as exc:
            self.close()
            text = f"{self.name} at {self._where}: {_line(exc)}"
            if is_passing(exc):
                raise PeerUnreachable(text) from exc
            raise PeerRefused(text) from exc

    def _connect(self) -> psycopg.Connection[Row]:
        return psycopg.connect(
            host=self._where.host,
            port=self._where.port,
            user=USER,
            dbname=DATABASE,
            application_name="rebalancer",
            client_encoding="utf8",
            connect_timeout=CONNECT_S,
            keepalives_idle=SILENCE_S // 2,
            keepalives_interval=SILENCE_S // 6,
            keepalives_count=3,
            tcp_user_timeout=SILENCE_S * 1000,
            options="-c default_transaction_read_only=on",
            autocommit=True,
            row_factory=dict_row,
        )

    async def _interrupt_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            # psycopg waits in its thread for the socket: shutting it down wakes it at once.
            if self._is_running and self._connection is not None:
                gone = suppress(OSError, psycopg.Error)
                with gone, socket.socket(fileno=os.dup(self._connection.fileno())) as copy:
                    copy.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def is_passing(exc: psycopg.Error) -> bool:
    """Tell whether a statement that failed with `exc` may succeed later, as it is."""
    if exc.sqlstate is not None:
        return exc.sqlstate[:2] in _TRANSIENT and exc.sqlstate not in _LASTING
    if isinstance(exc, psycopg.OperationalError):
        return not any(text in str(exc) for text in _REFUSED_TEXTS)
    return isinstance(exc, psycopg.InterfaceError)


def _line(exc: psycopg.Error) -> str:
    return " ".join(str(exc).split())


@asynccontextmanager
async def open_postgres(
    names: Mapping[int, str], hosts: Mapping[str, str]
) -> AsyncIterator[dict[int, PostgresShard]]:
    """Open clients of the clones of all shards, by number.

    Nothing is connected yet: a clone that is down fails its statements, not this.
    """
    shards = {
        number: PostgresShard(name, locate(name, hosts, DEFAULT_PORT))
        for number, name in names.items()
    }
    try:
        yield shards
    finally:
        for shard in shards.values():
            shard.close()
