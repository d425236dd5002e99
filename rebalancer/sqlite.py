"""sqlite under trio: a transaction is one synchronous function run in one thread call.

trio either raises Cancelled before the thread starts or lets it finish, so no transaction is
ever open across a checkpoint and none is ever half done.  There is one writer a file, behind a
lock, and what waits for it is committed together; readers have a connection of their own, which
WAL keeps out of the writer's way.
"""

import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import attrs
import trio

from rebalancer.errors import StoreError
from rebalancer.threads import Work, run_sync

#: Of a new file.  A record has about 1 KiB, and of smaller pages a quarter would be left over.
PAGE_BYTES = 8192
#: Pages kept in memory: of all that the objects in a pipeline are spread over.
CACHE_KIB = 16 << 10
#: Transactions that are committed together at most: none waits long for those behind it.
MAX_TOGETHER = 64

P = ParamSpec("P")
T = TypeVar("T")


class RunSync(Protocol):
    """Runs a blocking function: `trio.to_thread.run_sync`, or `inline` under a mock clock."""

    def __call__(self, fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Run `fn(*args)` and return what it returns."""


async def inline(fn: Callable[..., T], *args: Any) -> T:
    """A `RunSync` for tests under a mock clock, which does not wait for threads."""
    await trio.lowlevel.checkpoint()
    return fn(*args)


async def _in_thread(fn: Callable[..., T], *args: Any) -> T:
    return await run_sync(Work.STORE, fn, *args)


def connect(path: Path, *, mode: str = "rwc", wal: bool = True) -> sqlite3.Connection:
    """Open one sqlite file, `mode` being sqlite's: ro, rw, or rwc to make it; the caller closes it.

    `synchronous` is FULL: what a commit says is on the disk when it returns, because other
    machines are told on the strength of it.

    Raises:
      StoreError: the file cannot be opened, is not a database, or cannot be put into WAL mode.
    """
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        db = sqlite3.connect(
            uri, uri=True, isolation_level=None, check_same_thread=False, timeout=10
        )
    except sqlite3.Error as exc:
        raise StoreError(f"{path}: {exc}") from exc
    try:
        db.row_factory = sqlite3.Row
        if mode == "rwc":
            db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        if wal and mode != "ro":
            (journal,) = db.execute("PRAGMA journal_mode=WAL").fetchone()
            if journal != "wal":
                raise StoreError(f"{path}: the file system does not support sqlite's WAL mode")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    except sqlite3.Error as exc:
        db.close()
        raise StoreError(f"{path}: {exc}") from exc
    except BaseException:
        db.close()
        raise
    return db


def transact(
    db: sqlite3.Connection,
    fn: Callable[Concatenate[sqlite3.Connection, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Run `fn(db, ...)` between BEGIN and COMMIT; any exception rolls back and goes on."""
    db.execute("BEGIN IMMEDIATE")
    try:
        result = fn(db, *args, **kwargs)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return result


def insert_rows(
    db: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]], otherwise: str = ""
) -> int:
    """Insert `rows`, at least one, by a single statement; how many it has inserted.

    A thread gives the interpreter's lock away in each step of sqlite and has to wait for it again:
    `executemany` does so at every row.  `into` is a table and its columns, `otherwise` an
    ON CONFLICT clause.
    """
    row = f"({','.join('?' * len(rows[0]))})"
    done = db.execute(
        f"INSERT INTO {into} VALUES {','.join([row] * len(rows))} {otherwise}",
        list(chain.from_iterable(rows)),
    )
    return done.rowcount


@attrs.define(eq=False)
class _Write:
    """A transaction that waits for its turn, or has had it.

    Mutable state: whether its caller still waits; whether it is over, and how it ended.
    """

    fn: Callable[[sqlite3.Connection], Any]
    is_wanted: bool = True
    is_over: bool = False
    result: Any = None
    failure: BaseException | None = None

    def try_in(self, db: sqlite3.Connection) -> None:
        """Run it within a transaction that holds others too: a failure undoes this one only."""
        db.execute("SAVEPOINT one")
        try:
            self.result = self.fn(db)
        except Exception as exc:
            self.failure = exc
            db.execute("ROLLBACK TO one")
        db.execute("RELEASE one")


class Database:
    """One sqlite file, its writer and its reader.

    `write` and `read` take a function of the connection.  Made by `open_database` only.
    """

    def __init__(
        self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection, run: RunSync
    ) -> None:
        self.path = path
        self._writer, self._reader = writer, reader
        #: How blocking functions are run; for other files of the same user too.
        self.run = run
        self._writing, self._reading = trio.Lock(), trio.Lock()
        # Filled by the event loop, emptied by the thread that commits.
        self._waiting: deque[_Write] = deque()
        #: Where tests make the process die: around the commit of a transaction.
        self.before_commit: Callable[[], None] = lambda: None
        self.after_commit: Callable[[], None] = lambda: None

    async def close(self) -> None:
        """Close the file once nothing is under way in it."""
        async with self._writing, self._reading:
            self._reader.close()
            self._writer.close()

    async def write(self, fn: Callable[Concatenate[sqlite3.Connection, P], T],
                    *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Run `fn` as one transaction: when this returns, it is on the disk.

        Those that come while another is under way are committed together, which costs one sync
        of the disk and one thread call; one that fails takes no other along.  A cancelled caller
        may not see the result of a transaction that was committed.
        """
        mine = _Write(lambda db: fn(db, *args, **kwargs))
        self._waiting.append(mine)
        try:
            async with self._writing:
                while not mine.is_over:
                    await self.run(self._commit)
                    self.after_commit()
        finally:
            mine.is_wanted = False
        if mine.failure is not None:
            raise mine.failure
        result: T = mine.result
        return result

    def _commit(self) -> None:
        """Commit what waits, in its order."""
        taken: list[_Write] = []

        def body(db: sqlite3.Connection) -> None:
            while self._waiting and len(taken) < MAX_TOGETHER:
                write = self._waiting.popleft()
                if write.is_wanted:
                    taken.append(write)
                    write.try_in(db)
            self.before_commit()

        try:
            transact(self._writer, body)
        except BaseException as exc:
            for write in taken:
                write.failure = write.failure or exc
            raise
        finally:
            for write in taken:
                write.is_over = True

    async def read(self, fn: Callable[Concatenate[sqlite3.Connection, P], T],
                   *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Run `fn` on one snapshot of the file, beside whatever the writer does."""

        def job() -> T:
            self._reader.execute("BEGIN")
            try:
                return fn(self._reader, *args, **kwargs)
            finally:
                self._reader.execute("COMMIT")

        async with self._reading:
            result: T = await self.run(job)
        return result


@asynccontextmanager
async def open_database(
    path: Path, schema: str, *, run: RunSync = _in_thread
) -> AsyncIterator[Database]:
    """Open `path`, creating it and what `schema` (idempotent DDL) names.

    Raises:
      StoreError: it cannot be opened or is another kind of file.
    """

    def start() -> tuple[sqlite3.Connection, sqlite3.Connection]:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer = connect(path)
        try:
            writer.executescript(schema)
            return writer, connect(path, mode="ro")
        except sqlite3.Error as exc:
            writer.close()
            raise StoreError(f"{path}: {exc}") from exc

    try:
        writer, reader = await run(start)
    except OSError as exc:
        raise StoreError(f"{path}: {exc}") from exc
    database = Database(path, writer, reader, run)
    try:
        yield database
    finally:
        # Closing under a thread that still works ends the process, so it waits for one; a
        # transaction is short.  It checkpoints the WAL, so a cancellation must not skip it.
        with trio.CancelScope(shield=True):
            await database.close()
