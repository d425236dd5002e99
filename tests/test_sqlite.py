"""Transactions in threads: whole or not at all, also when cancelled or closed under way."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from rebalancer.errors import StoreBusy, StoreError
from rebalancer.layout import Layout
from rebalancer.sqlite import WAL_BYTES, Database, Kept, open_database
from rebalancer.waits import Waits
from tests.inline import inline

THINGS = Layout("a list of things", "CREATE TABLE IF NOT EXISTS things (n INTEGER);")


def add(db: sqlite3.Connection, number: int) -> None:
    db.execute("INSERT INTO things VALUES (?)", (number,))


def count(db: sqlite3.Connection) -> int:
    return int(db.execute("SELECT count(*) FROM things").fetchone()[0])


def add_slowly(db: sqlite3.Connection, begun: threading.Event, release: threading.Event) -> None:
    add(db, 1)
    begun.set()
    release.wait(10)
    add(db, 2)


async def test_what_a_write_returned_from_is_on_disk(tmp_path: Path) -> None:
    """Another connection sees it at once; WAL and FULL are in force."""
    path = tmp_path / "db"
    async with open_database(path, THINGS) as database:
        await database.write(add, 1)
        with closing(sqlite3.connect(path)) as other:
            assert count(other) == 1
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database._writer.execute("PRAGMA synchronous").fetchone()[0] == 2


async def test_a_transaction_that_fails_changes_nothing(tmp_path: Path) -> None:
    """And the next one works."""

    def fail(db: sqlite3.Connection) -> None:
        add(db, 1)
        raise ZeroDivisionError

    async with open_database(tmp_path / "db", THINGS) as database:
        with pytest.raises(ZeroDivisionError):
            await database.write(fail)
        assert await database.read(count) == 0
        await database.write(add, 1)
        assert await database.read(count) == 1


async def test_a_cancelled_transaction_is_whole(tmp_path: Path) -> None:
    """Once its thread runs it is committed, whatever becomes of its caller."""
    begun, release = threading.Event(), threading.Event()
    async with open_database(tmp_path / "db", THINGS) as database:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, add_slowly, begun, release)
            await trio.to_thread.run_sync(begun.wait, 10)
            nursery.cancel_scope.cancel()
            release.set()
        assert await database.read(count) == 2


async def behind_a_slow_one(
    database: Database, *writes: Callable[[], Awaitable[None]]
) -> list[int]:
    """Let `writes` come while a transaction is under way; how many commits there were by then."""
    begun, release = threading.Event(), threading.Event()
    commits = list[int]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, add_slowly, begun, release)
        await trio.to_thread.run_sync(begun.wait, 10)
        database.after_commit = lambda: commits.append(1)
        for write in writes:
            nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        release.set()
    return commits


async def test_what_waits_is_committed_together(tmp_path: Path) -> None:
    """A disk is synced twice, not six times, and everybody gets their own result."""
    results = list[int]()

    async with open_database(tmp_path / "db", THINGS) as database:

        async def write(number: int) -> None:
            def change(db: sqlite3.Connection) -> int:
                add(db, number)
                return number

            results.append(await database.write(change))

        commits = await behind_a_slow_one(database, *(partial(write, n) for n in range(5)))
        assert sorted(results) == [0, 1, 2, 3, 4]
        assert await database.read(count) == 7
    assert len(commits) <= 2


async def test_a_failure_takes_no_other_along(tmp_path: Path) -> None:
    """Of several that are committed together, only the one that failed is undone, and told."""

    def fail(db: sqlite3.Connection) -> None:
        add(db, 1)
        raise ZeroDivisionError

    async with open_database(tmp_path / "db", THINGS) as database:

        async def fall() -> None:
            with pytest.raises(ZeroDivisionError):
                await database.write(fail)

        await behind_a_slow_one(database, partial(database.write, add, 1), fall, fall)
        assert await database.read(count) == 3


async def test_a_commit_that_fails_is_told_to_all(tmp_path: Path) -> None:
    """None of them is on the disk, and none hears otherwise."""
    told = list[BaseException]()

    async with open_database(tmp_path / "db", THINGS) as database:

        def die() -> None:
            raise ZeroDivisionError

        async def write() -> None:
            try:
                await database.write(add, 1)
            except ZeroDivisionError as exc:
                told.append(exc)

        database.before_commit = die
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(write)
        assert len(told) == 3
        assert await database.read(count) == 0
        database.before_commit = lambda: None
        await database.write(add, 1)
        assert await database.read(count) == 1


async def test_a_write_that_is_given_up_in_time_is_not_done(tmp_path: Path) -> None:
    """Whose caller was cancelled before its turn changes nothing, and holds up nobody."""
    async with open_database(tmp_path / "db", THINGS) as database:
        scope = trio.CancelScope()

        async def give_up() -> None:
            with scope:
                await database.write(add, 1)

        async def cancel() -> None:
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()

        begun, release = threading.Event(), threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, add_slowly, begun, release)
            await trio.to_thread.run_sync(begun.wait, 10)
            async with trio.open_nursery() as inner:
                inner.start_soon(give_up)
                inner.start_soon(cancel)
            release.set()
        assert await database.read(count) == 2


async def test_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    """They see what was committed before."""
    begun, release = threading.Event(), threading.Event()
    async with open_database(tmp_path / "db", THINGS) as database:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, add_slowly, begun, release)
            await trio.to_thread.run_sync(begun.wait, 10)
            with trio.fail_after(5):
                assert await database.read(count) == 0
            release.set()
        assert await database.read(count) == 2


async def test_closing_waits_for_what_is_under_way(tmp_path: Path) -> None:
    """A connection closed under a thread that uses it would end the process."""
    begun, release = threading.Event(), threading.Event()
    async with (
        trio.open_nursery() as nursery,
        open_database(tmp_path / "db", THINGS) as database,
    ):

        async def write() -> None:
            await database.write(add_slowly, begun, release)

        nursery.start_soon(write)
        await trio.to_thread.run_sync(begun.wait, 10)
        threading.Timer(0.1, release.set).start()
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        assert count(db) == 2
    assert not (tmp_path / "db-wal").exists()


@pytest.mark.parametrize("content", [b"no database" * 500, None])
async def test_what_cannot_be_opened_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Another kind of file, or a folder; it stays as it is."""
    path = tmp_path / "db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    with pytest.raises(StoreError, match=str(path)):
        async with open_database(path, THINGS):
            pass
    assert content is None or path.read_bytes() == content


# --- what waiting may mend -----------------------------------------------------------------


def hold_lock(path: Path) -> sqlite3.Connection:
    """A person's shell in the middle of a change."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


async def until(condition: Callable[[], object]) -> None:
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


async def test_a_lock_of_another_program_is_waited_for(tmp_path: Path) -> None:
    """Visibly, for as long as it is held; then each transaction is done, and once."""
    path, waits = tmp_path / "db", Waits()
    async with open_database(path, THINGS, waits=waits) as database:
        with closing(hold_lock(path)) as other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(database.write, add, 1)
                nursery.start_soon(database.write, add, 2)
                await until(lambda: waits.causes)
                (cause,) = waits.causes
                assert cause.subject == f"writing {path}"
                assert "database is locked: another program has locked it" in cause.detail
                assert await database.read(count) == 0
                other.execute("COMMIT")
        assert waits.causes == []
        assert await database.read(count) == 2


async def test_a_wait_can_be_cancelled(tmp_path: Path) -> None:
    """Then nothing is done, and nothing is waited for any more."""
    path, waits = tmp_path / "db", Waits()
    async with open_database(path, THINGS, waits=waits) as database:
        with closing(hold_lock(path)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(database.write, add, 1)
                await until(lambda: waits.causes)
                nursery.cancel_scope.cancel()
        assert waits.causes == []
        await database.write(add, 2)
        assert await database.read(count) == 1


async def test_patience_may_have_an_end(tmp_path: Path) -> None:
    """Also behind others that wait on; what was given up is not done later."""
    path, waits = tmp_path / "db", Waits()
    async with open_database(path, THINGS, waits=waits) as database:
        with closing(hold_lock(path)) as other:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(database.write, add, 1)
                await until(lambda: waits.causes)
                with pytest.raises(StoreBusy, match="database is locked"):
                    await database.write_within(0.1, partial(add, number=2))
                other.execute("COMMIT")
        assert await database.read(count) == 1


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("made up")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    "code",
    [
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    ],
)
@pytest.mark.parametrize("inside", [False, True])
async def test_what_a_failed_commit_undid_is_done_again(
    tmp_path: Path, code: int, inside: bool, autojump_clock: object
) -> None:
    """Whole, and once, in the order in which it came, with what iterators have yielded already."""
    failures = [sqlite_error(code), sqlite_error(code)]

    def fail() -> None:
        if failures:
            raise failures.pop()

    def add_all(db: sqlite3.Connection, numbers: Iterable[int]) -> list[int]:
        done = []
        for number in numbers:
            add(db, number)
            done.append(number)
            if inside and number == 2:
                fail()
        return done

    waits = Waits()
    async with open_database(tmp_path / "db", THINGS, run=inline, waits=waits) as database:
        if not inside:
            database.before_commit = fail
        results = []

        async def write(*numbers: int) -> None:
            results.append(await database.write(add_all, Kept(iter(numbers))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 1, 2, 3)
            nursery.start_soon(write, 4)
        assert sorted(results) == [[1, 2, 3], [4]]
        assert await database.read(count) == 4
        assert waits.causes == []
    assert failures == []


async def test_a_full_disk_is_waited_for(tmp_path: Path) -> None:
    """As sqlite itself tells of it, in the middle of a statement, which rolls all back."""
    path, waits, pages = tmp_path / "db", Waits(), [10]

    def fill(db: sqlite3.Connection) -> None:
        db.execute(f"PRAGMA max_page_count={pages[-1]}")
        add(db, 1)
        db.execute("CREATE TABLE filling (text)")
        db.execute("INSERT INTO filling VALUES (zeroblob(1 << 20))")

    async with open_database(path, THINGS, waits=waits) as database:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(database.write, fill)
            await until(lambda: waits.causes)
            assert "database or disk is full" in waits.causes[0].detail
            pages.append(100_000)
        assert await database.read(count) == 1


#: Files of a process may not grow, then it may open none; both pass.
HARD_TIMES = """
import resource, sys
from pathlib import Path
import trio
from rebalancer.layout import Layout
from rebalancer.sqlite import open_database
from rebalancer.waits import Waits

path, waits, things = Path(sys.argv[1]), Waits(), Layout("things", "CREATE TABLE things (text);")


async def squeezed(name, limit, work):
    old = resource.getrlimit(name)
    resource.setrlimit(name, (limit, old[1]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        with trio.fail_after(60):
            while not waits.causes:
                await trio.sleep(0.01)
        print("CAUSE", waits.causes[0].detail, flush=True)
        resource.setrlimit(name, old)


async def main():
    async with open_database(path, things, waits=waits) as database:

        async def write():
            large = "INSERT INTO things VALUES (zeroblob(9000000))"
            await database.write(lambda db: db.execute(large))

        await squeezed(resource.RLIMIT_FSIZE, 1_000_000, write)
        assert len(await database.read(lambda db: list(db.execute("SELECT 1 FROM things")))) == 1

    async def open_other():
        async with open_database(path.with_name("other"), things, waits=waits) as other:
            await other.write(lambda db: db.execute("INSERT INTO things VALUES (1)"))

    await trio.to_thread.run_sync(lambda: None)  # its thread has its files
    await squeezed(resource.RLIMIT_NOFILE, 3, open_other)
    assert not waits.causes


trio.run(main)
"""


def test_limits_of_the_process_are_waited_for(tmp_path: Path) -> None:
    """A disk that takes no more within a commit, and too many open files, met for real."""
    done = subprocess.run(
        [sys.executable, "-c", HARD_TIMES, str(tmp_path / "db")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, second = [line for line in done.stdout.splitlines() if line.startswith("CAUSE")]
    assert "disk" in first
    assert second.endswith("unable to open database file: Too many open files")


async def test_a_broken_file_is_not_waited_for(tmp_path: Path) -> None:
    """It is named."""
    path = tmp_path / "db"
    async with open_database(path, THINGS) as database:
        for number in range(2000):
            await database.write(add, number)
    whole = bytearray(path.read_bytes())
    whole[8192:] = b"\x99" * (len(whole) - 8192)
    path.write_bytes(whole)
    async with open_database(path, THINGS) as database:
        with trio.fail_after(30):
            with pytest.raises(StoreError, match=str(path)):
                await database.read(count)
            with pytest.raises(StoreError, match=str(path)):
                await database.write(add, 1)


async def test_a_log_that_a_reader_made_long_is_cut_when_it_is_gone(tmp_path: Path) -> None:
    """A report or a backup keeps it from being written back, but not for longer than it takes."""

    def fill(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO things VALUES (zeroblob(1 << 20))")

    path, wal = tmp_path / "db", tmp_path / "db-wal"
    async with open_database(path, THINGS) as database:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            count(reader)
            for _ in range(2 * (WAL_BYTES >> 20)):
                await database.write(fill)
            assert wal.stat().st_size > 1.5 * WAL_BYTES
        for _ in range(3):
            await database.write(add, 1)
        assert wal.stat().st_size <= WAL_BYTES
