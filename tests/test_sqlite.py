"""Transactions in threads: whole or not at all, also when cancelled or closed under way."""

import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from rebalancer.errors import StoreError
from rebalancer.sqlite import Database, open_database

SCHEMA = "CREATE TABLE IF NOT EXISTS things (n INTEGER);"


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
    async with open_database(path, SCHEMA) as database:
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

    async with open_database(tmp_path / "db", SCHEMA) as database:
        with pytest.raises(ZeroDivisionError):
            await database.write(fail)
        assert await database.read(count) == 0
        await database.write(add, 1)
        assert await database.read(count) == 1


async def test_a_cancelled_transaction_is_whole(tmp_path: Path) -> None:
    """Once its thread runs it is committed, whatever becomes of its caller."""
    begun, release = threading.Event(), threading.Event()
    async with open_database(tmp_path / "db", SCHEMA) as database:
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

    async with open_database(tmp_path / "db", SCHEMA) as database:

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

    async with open_database(tmp_path / "db", SCHEMA) as database:

        async def fall() -> None:
            with pytest.raises(ZeroDivisionError):
                await database.write(fail)

        await behind_a_slow_one(database, partial(database.write, add, 1), fall, fall)
        assert await database.read(count) == 3


async def test_a_commit_that_fails_is_told_to_all(tmp_path: Path) -> None:
    """None of them is on the disk, and none hears otherwise."""
    told = list[BaseException]()

    async with open_database(tmp_path / "db", SCHEMA) as database:

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
    async with open_database(tmp_path / "db", SCHEMA) as database:
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
    async with open_database(tmp_path / "db", SCHEMA) as database:
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
        open_database(tmp_path / "db", SCHEMA) as database,
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
        async with open_database(path, SCHEMA):
            pass
    assert content is None or path.read_bytes() == content
