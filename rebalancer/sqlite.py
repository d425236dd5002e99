"""This module has sqlite under trio: a transaction is one function in one thread call.

trio either raises Cancelled before the thread starts or lets it finish, so no transaction is
ever open across a checkpoint and none is ever half done.  There is one writer a file, behind a
lock, and what waits for it is committed together; readers have a connection of their own, which
WAL keeps out of the writer's way.

A file that cannot be used for now (another program has locked it, the disk is full or does not
answer, there are too many open files) is waited for, visibly.  A transaction that fails so is
undone and its functions run again, so they must be able to: what they are given can be iterated
over twice.
"""

import math
import os
import sqlite3
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

import attrs
import trio

from rebalancer.errors import StoreBusy, StoreError
from rebalancer.layout import Layout
from rebalancer.threads import Work, run_sync
from rebalancer.transient import TRANSIENT_AT_OPENING, is_transient_of_sqlite
from rebalancer.waits import Waits

#: Pages of a new file.  A record has about 1 KiB, and would leave a quarter of smaller pages empty.
PAGE_BYTES = 8192
#: KiB of pages kept in memory: those that hold the rows of all objects in a pipeline.
CACHE_KIB = 16 << 10
#: The most transactions that are committed together, so that none waits long for those behind it.
MAX_TOGETHER = 64
#: Bytes that a log of writes keeps; a reader that takes long makes it longer until it is gone.
WAL_BYTES = 16 << 20
#: Seconds that sqlite itself waits for another program's lock, in the thread; a `Database` waits
#: on the event loop for what takes longer.
LOCK_S = 10.0
SHORT_LOCK_S = 0.5
#: Seconds between two tries of what waiting may mend: the first pause and the longest.
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0

#: Exceptions of sqlite's functions; the second where a message quotes broken text of a file.
FAILURES = (sqlite3.Error, UnicodeDecodeError)
_OPEN = {"ro": os.O_RDONLY, "rw": os.O_RDWR, "rwc": os.O_RDWR | os.O_CREAT}

P = ParamSpec("P")
T = TypeVar("T")


class RunSync(Protocol):
    """A `RunSync` runs blocking functions: in a thread, or on the spot under a mock clock."""

    def __call__(self, fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Run `fn(*args)` and return what it returns."""


async def _in_thread(fn: Callable[..., T], *args: Any) -> T:
    return await run_sync(Work.STORE, fn, *args)


def store_error(path: Path, exc: Exception) -> StoreError:
    """Turn `exc`, met in using the file `path`, into an error of ours."""
    is_locked = getattr(exc, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    hint = ": another program has locked it (a sqlite3 shell, a backup)" if is_locked else ""
    text = f"{path}: {exc}{hint}"
    return StoreBusy(text) if is_transient_of_sqlite(exc) else StoreError(text)


def _opening_error(path: Path, mode: str, exc: Exception) -> StoreError:
    """Turn `exc`, met in opening the file, into an error of ours that says what sqlite does not."""
    if getattr(exc, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_CANTOPEN:
        error = store_error(path, exc)
        error.__cause__ = exc
        return error
    try:
        os.close(os.open(path, _OPEN[mode] | os.O_CLOEXEC | os.O_NONBLOCK, 0o644))
    except OSError as cause:
        kind = StoreBusy if cause.errno in TRANSIENT_AT_OPENING else StoreError
        error = kind(f"{path}: {exc}: {cause.strerror}")
        error.__cause__ = cause
        return error
    return StoreBusy(f"{path}: {exc}")


@contextmanager
def closed_on_failure(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Prepare a connection in a `with` block, which hands it to an owner only if it ends well."""
    try:
        yield db
    except BaseException:
        db.close()
        raise


def connect(
    path: Path, *, mode: str = "rwc", wal: bool = True, lock_s: float = LOCK_S
) -> sqlite3.Connection:
    """Open one sqlite file, `mode` being sqlite's: ro, rw, or rwc to make it; the caller closes it.

    `synchronous` is FULL: when a commit returns, its rows are on the disk, because other machines
    are asked to act by them.  `lock_s` is how long each statement waits for the
    locks of other programs.

    Raises:
      StoreBusy: it cannot be used now.
      StoreError: the file cannot be opened, is not a database, or cannot be put into WAL mode.
    """
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    try:
        with closed_on_failure(
            sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=lock_s
            )
        ) as db:
            db.row_factory = sqlite3.Row
            if mode == "rwc":
                db.execute(f"PRAGMA page_size={PAGE_BYTES}")
            if wal and mode != "ro":
                (journal,) = db.execute("PRAGMA journal_mode=WAL").fetchone()
                if journal != "wal":
                    raise StoreError(f"{path}: the file system does not support sqlite's WAL mode")
                db.execute(f"PRAGMA journal_size_limit={WAL_BYTES}")
            db.execute("PRAGMA synchronous=FULL")
            db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            return db
    except FAILURES as exc:
        raise _opening_error(path, mode, exc)  # noqa: B904 - it has the better cause


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
        db.execute("COMMIT")
    except BaseException:
        # A full disk or one that does not answer makes sqlite roll back by itself.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return result


def insert_rows(
    db: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]], otherwise: str = ""
) -> int:
    """Insert `rows`, at least one, by a single statement; return how many it inserted.

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


class Kept(Generic[T]):
    """A copy of what an iterable yields, for a transaction that may have to run again."""

    def __init__(self, source: Iterable[T]) -> None:
        self._source = iter(source)
        self._items: list[T] = []
        self._failure: BaseException | None = None

    def __iter__(self) -> Iterator[T]:
        yield from self._items
        if self._failure is not None:
            raise self._failure
        try:
            for item in self._source:
                self._items.append(item)
                yield item
        except Exception as exc:
            self._failure = exc
            raise


@attrs.define(eq=False)
class _Write:
    """A transaction that waits for its turn, or has had it.

    Mutable state: whether its caller still waits; whether a thread has taken it; whether it is
    over, and how it ended.
    """

    fn: Callable[[sqlite3.Connection], Any]
    is_wanted: bool = True
    is_taken: bool = False
    is_over: bool = False
    result: Any = None
    failure: BaseException | None = None

    def try_in(self, db: sqlite3.Connection) -> None:
        """Run it within a transaction that holds others too: a failure undoes this one only.

        Raises:
          sqlite3.Error: it undoes them all, and waiting may mend it.
        """
        self.result = self.failure = None
        db.execute("SAVEPOINT one")
        try:
            self.result = self.fn(db)
        except Exception as exc:
            if not db.in_transaction or is_transient_of_sqlite(exc):
                raise
            self.failure = exc
            db.execute("ROLLBACK TO one")
        db.execute("RELEASE one")


@attrs.define
class _Pauses:
    """This object shows operators which file is waited for, and says when it is tried next.

    Mutable state: the last trouble, and how many tries have met one.
    """

    waits: Waits
    subject: str
    trouble: str = ""
    _failures: int = 0

    def after(self, exc: StoreBusy) -> float:
        """Return how many seconds to wait after a try that has met `exc`."""
        pause_s: float = min(FIRST_PAUSE_S * 2**self._failures, LONGEST_PAUSE_S)
        self._failures = min(self._failures + 1, 16)
        self.trouble = str(exc)
        self.waits.begin(self.subject, self.trouble)
        return pause_s

    def over(self) -> None:
        """Note that nobody waits any more."""
        if self._failures:
            self.waits.end(self.subject)
            self._failures = 0


def _observe_nothing(_db: sqlite3.Connection) -> None:
    """Stand for an observer of a file that nobody observes."""


class Database:
    """A database is one sqlite file, with its writer and its reader.

    `write` and `read` take a function of the connection, which may be run more than once.  Made
    by `open_database` only.
    """

    def __init__(
        self,
        path: Path,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        run: RunSync,
        waits: Waits,
    ) -> None:
        self.path = path
        self._writer, self._reader = writer, reader
        #: How blocking functions are run; for other files of the same user too.
        self.run = run
        self._writing, self._reading = trio.Lock(), trio.Lock()
        self._write_pauses = _Pauses(waits, f"writing {path}")
        self._read_pauses = _Pauses(waits, f"reading {path}")
        # Filled by the event loop, emptied by the thread that commits.
        self._waiting: deque[_Write] = deque()
        # Held by whoever decides whether a transaction is still wanted: its caller, or the thread.
        self._wanted_lock = threading.Lock()
        self._try_over = trio.Event()
        self._version = 0
        #: How many times another program has changed the file, as far as the writer has seen.
        self.foreign_changes = 0
        #: Reads what must be known of the file after each commit, within its transaction.
        self.observe: Callable[[sqlite3.Connection], Any] = _observe_nothing
        #: Called with what `observe` has seen, once that is committed.
        self.observed: Callable[[Any], None] = lambda _seen: None
        #: Called around the commit of a transaction, where tests make the process die.
        self.before_commit: Callable[[], None] = lambda: None
        self.after_commit: Callable[[], None] = lambda: None

    @property
    def connections(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Return the writer's and the reader's connection, to be configured before first use."""
        return self._writer, self._reader

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

        Raises:
          StoreError: the file is no good; what waiting may mend is waited for.
        """
        return await self.write_within(math.inf, partial(_call, fn, args, kwargs))

    async def write_within(self, patience_s: float, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Do what `write` does, but give up after `patience_s` seconds.

        Raises:
          StoreBusy: it has given up, and nothing is changed.
          StoreError: the file is no good.
        """
        mine = _Write(fn)
        self._waiting.append(mine)
        try:
            with _within(patience_s):
                async with self._writing:
                    while not mine.is_over:
                        await self._try_to_commit()
        finally:
            with self._wanted_lock:
                mine.is_wanted = False
                is_last = not any(write.is_wanted for write in self._waiting)
            if is_last:
                self._write_pauses.over()
        if mine.is_taken:
            with trio.CancelScope(shield=True):  # bounded: another's try has begun
                await self._try_over.wait()
        if not mine.is_over:
            raise StoreBusy(self._write_pauses.trouble or f"{self.path}: others are writing")
        if mine.failure is not None:
            raise self._translated(mine.failure)
        result: T = mine.result
        return result

    def _translated(self, failure: BaseException) -> BaseException:
        """Return `failure` as callers see it: a fault of the file as an error of ours."""
        if isinstance(failure, UnicodeDecodeError):
            return store_error(self.path, failure)
        if type(failure) in (sqlite3.OperationalError, sqlite3.DatabaseError):
            assert isinstance(failure, sqlite3.Error)
            return store_error(self.path, failure)
        return failure

    async def _try_to_commit(self) -> None:
        """Commit what waits, or wait a while for what stands in the way."""
        self._try_over = trio.Event()
        try:
            seen = await self.run(self._commit)
        except StoreBusy as exc:
            pause_s = self._write_pauses.after(exc)
        else:
            self._write_pauses.over()
            self.observed(seen)
            self.after_commit()
            return
        finally:
            self._try_over.set()
        await trio.sleep(pause_s)

    def _commit(self) -> Any:
        """Commit what waits, in its order; return what was observed.

        Raises:
          StoreBusy: nothing was committed, and all of it waits again.
        """
        taken: list[_Write] = []

        def body(db: sqlite3.Connection) -> Any:
            self._look_for_changes(db)
            while len(taken) < MAX_TOGETHER and (write := self._take()) is not None:
                taken.append(write)
                write.try_in(db)
            seen = self.observe(db)
            self.before_commit()
            return seen

        failure: BaseException | None = None
        try:
            return transact(self._writer, body)
        except FAILURES as exc:
            failure = self._translated(exc)
            raise failure from (None if failure is exc else exc)
        except BaseException as exc:
            failure = exc
            raise
        finally:
            self._conclude(taken, failure)

    def _conclude(self, taken: Sequence[_Write], failure: BaseException | None) -> None:
        """Note how the transactions ended that a thread has taken, or have them wait once more."""
        is_over = not isinstance(failure, StoreBusy)
        with self._wanted_lock:
            if not is_over:
                self._waiting.extendleft(reversed(taken))
            for write in taken:
                write.failure = write.failure or failure
                write.is_over, write.is_taken = is_over, False

    def _take(self) -> _Write | None:
        with self._wanted_lock:
            while self._waiting:
                write = self._waiting.popleft()
                if write.is_wanted:
                    write.is_taken = True
                    return write
        return None

    def _look_for_changes(self, db: sqlite3.Connection) -> None:
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self.foreign_changes += self._version != 0
            self._version = version

    async def read(self, fn: Callable[Concatenate[sqlite3.Connection, P], T],
                   *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Run `fn` on one snapshot of the file, beside whatever the writer does.

        Raises:
          StoreError: the file is no good; what waiting may mend is waited for.
        """
        return await self.read_within(math.inf, partial(_call, fn, args, kwargs))

    async def read_within(self, patience_s: float, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Do what `read` does, but give up after `patience_s` seconds.

        Raises:
          StoreBusy: it has given up.
          StoreError: the file is no good.
        """
        try:
            with _within(patience_s):
                async with self._reading:
                    return await self._read(fn)
        finally:
            self._read_pauses.over()
        raise StoreBusy(self._read_pauses.trouble or f"{self.path}: others are reading")

    async def _read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        def job() -> T:
            try:
                self._reader.execute("BEGIN")
                return fn(self._reader)
            except FAILURES as exc:
                raise self._translated(exc) from exc
            finally:
                if self._reader.in_transaction:
                    self._reader.execute("ROLLBACK")

        while True:
            try:
                result: T = await self.run(job)
            except StoreBusy as exc:
                await trio.sleep(self._read_pauses.after(exc))
            else:
                return result


def _within(patience_s: float) -> AbstractContextManager[object]:
    """Return a scope that ends after `patience_s` seconds; an endless one costs nothing."""
    return (
        nullcontext() if patience_s == math.inf else trio.CancelScope(relative_deadline=patience_s)
    )


def _call(fn: Callable[..., T], args: Any, kwargs: Any, db: sqlite3.Connection) -> T:
    return fn(db, *args, **kwargs)


@asynccontextmanager
async def open_database(
    path: Path,
    layout: Layout,
    *,
    run: RunSync | None = None,
    waits: Waits | None = None,
    patience_s: float = math.inf,
    must_exist: bool = False,
) -> AsyncIterator[Database]:
    """Open `path` and bring it to the newest layout, making it unless it `must_exist`.

    A file that cannot be used for now is waited for, up to `patience_s` seconds.  `waits` shows
    what is waited for, now or later.

    Raises:
      StoreError: it cannot be opened or is another kind of file.
    """
    run, waits = run or _in_thread, waits or Waits()

    def start() -> tuple[sqlite3.Connection, sqlite3.Connection]:
        if not must_exist:
            path.parent.mkdir(parents=True, exist_ok=True)
        mode = "rw" if must_exist else "rwc"
        with closed_on_failure(connect(path, mode=mode, lock_s=SHORT_LOCK_S)) as writer:
            prepare(writer, path, layout, must_exist=must_exist)
            return writer, connect(path, mode="ro", lock_s=SHORT_LOCK_S)

    writer, reader = await _open(path, start, run, waits, patience_s)
    database = Database(path, writer, reader, run, waits)
    try:
        yield database
    finally:
        # Closing a file in which a thread works ends the process, so `close` waits for the thread,
        # whose transaction is short.  Closing checkpoints the WAL, so no cancellation may skip it.
        with trio.CancelScope(shield=True):
            await database.close()


async def _open(
    path: Path, start: Callable[[], T], run: RunSync, waits: Waits, patience_s: float
) -> T:
    deadline = trio.current_time() + patience_s
    pauses = _Pauses(waits, f"opening {path}")
    try:
        while True:
            try:
                started: T = await run(start)
            except StoreBusy as exc:
                pause_s = pauses.after(exc)
                if trio.current_time() + pause_s > deadline:
                    raise
                await trio.sleep(pause_s)
            except OSError as exc:
                raise StoreError(f"{path}: {exc}") from exc
            else:
                return started
    finally:
        pauses.over()


def prepare(
    db: sqlite3.Connection, path: Path, layout: Layout, *, must_exist: bool = False
) -> None:
    """Bring an open file to the newest layout, in one transaction.  Blocking.

    Raises:
      StoreBusy: it cannot be written now.
      StoreError: it is of a newer version than this program, or empty and `must_exist`.
    """
    try:
        if layout.is_newest(db):
            return
        layout.check(db, path, must_exist=must_exist)
        transact(db, layout.bring_up)
    except FAILURES as exc:
        raise store_error(path, exc) from exc
