"""This module asks the PostgreSQL of a shard: statements in a thread, read-only unless said so."""

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, ClassVar, TypeVar

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from rebalancer.errors import PeerError, PeerRefused, PeerUnreachable
from rebalancer.peers import scan
from rebalancer.peers.metadata import Kind, MetadataError
from rebalancer.peers.names import Endpoint, locate
from rebalancer.threads import Work, run_sync

DEFAULT_PORT = 5432
#: As the predecessor connects.
USER, DATABASE = "postgres", "moray"
#: What a connection string of an operator may say: no file, no service, no setting of the session.
DSN_KEYS = frozenset({"host", "port", "user", "password", "dbname", "sslmode"})
CONNECT_S = 10
#: A statement may take this many seconds, unless its caller says otherwise.
STATEMENT_S = 60.0
#: A server that does not acknowledge anything for this many seconds is gone.
SILENCE_S = 60
#: A server that acknowledges what it is sent, but neither answers nor ends a statement this many
#: seconds after it should have, is given up.
GRACE_S = 15.0
#: A write waits for so many seconds for others that have locked its row.
LOCK_S = 1.0
#: The server ends a transaction whose client has vanished after this many seconds.
IDLE_S = 30.0

#: Classes of SQLSTATE, and states, that pass by themselves or once a person has seen to the server:
#: connection, rollback of one of several, resources, object in use, operator, system, old snapshot.
_TRANSIENT = ("08", "40", "53", "55", "57", "58", "72")
#: States of those classes that do not pass: the database was dropped.
_LASTING = ("57P04",)
#: Of a write, further ones that pass: the server is a standby now, or has ended our transaction.
_TRANSIENT_OF_WRITES = ("25006", "25P03", "25P04")
#: States, and the class of connections, after which it is unknown whether a write has happened.
_UNKNOWN = ("08", "40003", "57P01", "57P02", "57P03")
#: The class of resources that are used up.
_OVERLOADED = "53"
#: Parts of what a server says to a client that it does not let in: libpq tells no SQLSTATE of that.
_REFUSED_TEXTS = ("authentication failed", "no pg_hba.conf entry", "no password", "does not exist")

#: What a server says of itself: a standby takes no writes, nor does one that is set to read only.
_STANDING = (
    b"SELECT pg_is_in_recovery() AS is_standby,"
    b" current_setting('transaction_read_only') AS read_only"
)

Row = dict[str, Any]
#: A statement with parameters $1 and on, and their values.
Statement = tuple[str, Sequence[Any]]
T = TypeVar("T")


class PostgresShard(scan.DirectoryShard):
    """A client of one shard's database, which reads only.

    Mutable state: its one connection, made when needed and given up after any error, and how long
    a statement may take there.
    """

    #: The settings of its sessions.
    _SETTINGS: ClassVar[Mapping[str, str]] = {"default_transaction_read_only": "on"}

    def __init__(
        self, name: str, where: Endpoint, database: str | None = None, connect_s: int = CONNECT_S
    ) -> None:
        self.name = name
        self._where = where
        self._database = database
        self._connect_s = connect_s
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
        return await self._ask(partial(_fetch, statement, values), self._sort, within_s)

    def _sort(self, exc: psycopg.Error) -> PeerError:
        text = f"{self.name} at {self._where}: {_line(exc)}"
        return PeerUnreachable(text) if is_passing(exc) else PeerRefused(text)

    async def _ask(
        self,
        work: Callable[[psycopg.Connection[Row]], T],
        sort: Callable[[psycopg.Error], PeerError],
        within_s: float,
    ) -> T:
        """Return what `work` does in a thread with the connection.

        Each statement has `within_s`, and all together have `GRACE_S` more: a commit that waits for
        a standby is no statement.

        Raises:
          PeerError: as `sort` makes it of the database's error.
        """
        results = list[T]()
        failure: PeerError = PeerUnreachable(
            f"{self.name} at {self._where}: no answer in {within_s + GRACE_S:.0f} s"
        )
        async with self._asking:
            self._is_running = True
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.deadline = trio.current_time() + within_s + GRACE_S
                nursery.start_soon(self._interrupt_when_cancelled)
                try:
                    results.append(await run_sync(Work.CLONES, self._run, work, sort, within_s))
                except PeerError as exc:
                    if not nursery.cancel_scope.cancel_called:
                        failure = exc
                finally:
                    self._is_running = False
                    nursery.cancel_scope.cancel()
        if results:
            return results[0]
        raise failure

    def _run(
        self,
        work: Callable[[psycopg.Connection[Row]], T],
        sort: Callable[[psycopg.Error], PeerError],
        within_s: float,
    ) -> T:
        is_new = self._connection is None
        try:
            if self._connection is None:
                self._connection, self._within_s = self._connect(), 0.0
            if not self._is_running:  # interrupted before there was a connection to cut
                raise psycopg.OperationalError("given up")
            if within_s != self._within_s:
                limit = f"SET statement_timeout = {round(within_s * 1000)}"
                self._connection.execute(limit.encode())
                self._within_s = within_s
            if is_new:
                self._check_standing(self._connection)
            return work(self._connection)
        except psycopg.Error as exc:
            self.close()
            raise sort(exc) from exc

    def _connect(self) -> psycopg.Connection[Row]:
        return psycopg.connect(
            **self._parameters(),
            application_name="rebalancer",
            client_encoding="utf8",
            connect_timeout=self._connect_s,
            keepalives_idle=SILENCE_S // 2,
            keepalives_interval=SILENCE_S // 6,
            keepalives_count=3,
            tcp_user_timeout=SILENCE_S * 1000,
            options=" ".join(f"-c {name}={value}" for name, value in self._SETTINGS.items()),
            autocommit=True,
            row_factory=dict_row,
        )

    def _check_standing(self, connection: psycopg.Connection[Row]) -> None:
        """Ask a server that was just connected whether it is the right one; a reader takes any.

        Raises:
          psycopg.Error: it is not, or cannot be asked.
        """

    def _parameters(self) -> Mapping[str, Any]:
        database = self._database or DATABASE
        return {
            "host": self._where.host,
            "port": self._where.port,
            "user": USER,
            "dbname": database,
        }

    async def _interrupt_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            # psycopg waits in its thread for the socket: shutting it down wakes it at once.
            was_running, self._is_running = self._is_running, False
            if was_running and self._connection is not None:
                gone = suppress(OSError, psycopg.Error)
                with gone, socket.socket(fileno=os.dup(self._connection.fileno())) as copy:
                    copy.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class GivenDatabase(PostgresShard):
    """A client of a database that an operator's connection string names, which reads only."""

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        self._given = {"user": USER, **parameters}
        host, port = parameters.get("host") or "local socket", parameters.get("port", DEFAULT_PORT)
        super().__init__(name, Endpoint(host, int(port)))

    def _parameters(self) -> Mapping[str, Any]:
        return self._given


class PostgresPrimary(PostgresShard):
    """A client of one shard's database that writes there, which only the primary allows."""

    _SETTINGS: ClassVar[Mapping[str, str]] = {
        "lock_timeout": f"{round(LOCK_S * 1000)}",
        "idle_in_transaction_session_timeout": f"{round(IDLE_S * 1000)}",
    }

    async def write(
        self, statements: Sequence[Statement], *, within_s: float = STATEMENT_S
    ) -> int | None:
        """Run statements of which each changes one row, all or none.

        Return None if all did, else which was the first that changed none.

        Raises:
          MetadataError: the server refused, and nothing was written.
          PeerUnreachable: whether anything was written is unknown.
        """
        return await self._ask(partial(_write, statements), self._sort_of_write, within_s)

    async def check(self) -> None:
        """Return if the server takes writes.

        Raises:
          MetadataError: it is a standby, or read-only.
          PeerUnreachable: no connection, or it broke.
        """
        await self.write([])

    def _sort_of_write(self, exc: psycopg.Error) -> PeerError:
        kind, text = kind_of_write(exc), f"{self.name} at {self._where}: {_line(exc)}"
        return MetadataError(type(exc).__name__, text, kind) if kind else PeerUnreachable(text)

    def _check_standing(self, connection: psycopg.Connection[Row]) -> None:
        shown = connection.execute(_STANDING).fetchone() or {}
        if shown.get("is_standby") is False and shown.get("read_only") == "off":
            return
        what = "a standby" if shown.get("is_standby") else "read-only"
        raise psycopg.errors.ReadOnlySqlTransaction(
            f"this server is {what}: records are updated on the primary only"
        )


def _fetch(statement: str, values: Sequence[Any], connection: psycopg.Connection[Row]) -> list[Row]:
    cursor = psycopg.RawCursor(connection, row_factory=dict_row)
    cursor.execute(statement.encode(), values)
    try:
        return cursor.fetchall() if cursor.description is not None else []
    except UnicodeDecodeError as exc:  # of a database that does not check its texts
        raise psycopg.DataError("a text is not UTF-8") from exc


def _write(statements: Sequence[Statement], connection: psycopg.Connection[Row]) -> int | None:
    if len(statements) == 1:  # a transaction by itself
        return None if _changed(connection, *statements[0]) else 0
    failed = None
    with connection.transaction():
        for number, (statement, values) in enumerate(statements):
            if not _changed(connection, statement, values):
                failed = number
                raise psycopg.Rollback
    return failed


def _changed(connection: psycopg.Connection[Row], statement: str, values: Sequence[Any]) -> bool:
    cursor = psycopg.RawCursor(connection, row_factory=dict_row)
    return cursor.execute(statement.encode(), values).rowcount == 1


def kind_of_write(exc: psycopg.Error) -> Kind | None:
    """Return what a failed write asks for; None if it is unknown whether it has happened."""
    state = exc.sqlstate or ""
    is_transient = is_passing(exc) or state in _TRANSIENT_OF_WRITES
    if not is_transient:
        return Kind.PERMANENT
    if not state or state.startswith(_UNKNOWN):
        return None
    return Kind.OVERLOADED if state.startswith(_OVERLOADED) else Kind.TRANSIENT


def read_dsn(dsn: str) -> dict[str, Any]:
    """Read a connection string of libpq, of either form.

    Raises:
      ValueError: it cannot be used; the text quotes nothing of it, because it may hold a password.
    """
    try:
        found = conninfo_to_dict(dsn)
    except (psycopg.Error, ValueError):
        raise ValueError("expected a connection string like postgres://user@host/") from None
    if more := found.keys() - DSN_KEYS:
        raise ValueError(f"expected nothing but {', '.join(sorted(DSN_KEYS))}, got {min(more)}")
    port = str(found.get("port", DEFAULT_PORT))
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 65536):
        raise ValueError("expected one number as its port")
    return dict(found)


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
    names: Mapping[int, str], hosts: Mapping[str, str], connect_s: int = CONNECT_S
) -> AsyncIterator[dict[int, PostgresShard]]:
    """Open clients of the clones of all shards, by number; each connects within `connect_s`.

    Nothing is connected yet: a clone that is down fails its statements, not this.
    """
    shards = {
        number: PostgresShard(name, locate(name, hosts, DEFAULT_PORT), None, connect_s)
        for number, name in names.items()
    }
    try:
        yield shards
    finally:
        for shard in shards.values():
            shard.close()
