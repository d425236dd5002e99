"""The content of an assignment's file: what is read of good ones, and what is broken."""

import json
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rebalancer.agent.state import statefile
from rebalancer.agent.state.statefile import BrokenFile, NewerFile, image, parse
from rebalancer.agent_protocol import COMPLETE, PENDING, Dialect, Task, failed, read_task
from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark
from tests.agent.scripted import stored_of
from tests.sources import ASSIGNMENT, BUCKET, OWNER, bucket_task, hash_of, md5, task, uuid

KEPT = Path(__file__).parent / "kept"
SOURCE = Shark("dc1", "2.stor.lab")
STATUSES = (COMPLETE, failed(reasons.http_status_code(404)), PENDING)
STORED = stored_of(
    ASSIGNMENT,
    tuple(Task(uuid(n), OWNER, md5(b"x"), SOURCE, status) for n, status in enumerate(STATUSES)),
    Dialect.TAGGED,
    1234,
)


def changed(content: bytes, change: Callable[[sqlite3.Connection], object]) -> bytes:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.deserialize(content)
        change(db)
        return db.serialize()


def run(*statements: str) -> bytes:
    """The content of a good file after these statements."""

    def change(db: sqlite3.Connection) -> None:
        for statement in statements:
            db.executescript(statement)

    return changed(image(STORED), change)


def select(content: bytes, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:")) as db:
        db.deserialize(content)
        return db.execute(query).fetchall()


def test_a_thread_leaves_no_database_open() -> None:
    """Threads come and go with the load; Python 3.13 warns of what is dropped open."""
    made: list[sqlite3.Connection] = []

    def make() -> None:
        image(STORED)
        made.append(statefile._scratch.database)

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    del thread

    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        made[0].execute("SELECT 1")


def test_what_is_written_is_read() -> None:
    """With progress, dialect and time."""
    assert parse(ASSIGNMENT, image(STORED), 99) == STORED


def test_stats_are_zeros_until_all_tasks_have_ended() -> None:
    """The deployed agent, put back, counts on from them and does every task: 92 of 60 once."""
    ((before,),) = select(image(STORED), "SELECT stats FROM stats")
    done = STORED.updated({uuid(2): COMPLETE})
    ((after,),) = select(image(done), "SELECT stats FROM stats")

    assert json.loads(before) == {"state": "Scheduled", "failed": 0, "complete": 0, "total": 3}
    told = json.loads(after)
    assert (told["failed"], told["complete"], told["total"]) == (1, 3, 3)
    assert [task["object_id"] for task in told["state"]["Complete"]] == [uuid(1)]


def test_a_file_of_the_version_before_is_read_and_brought_up_to_date() -> None:
    """Its progress, its dialect, its time; its stats, which told of progress, do not any more."""
    content = (KEPT / "version-0.sqlite").read_bytes()
    assert select(content, "PRAGMA user_version") == [(0,)]
    assert b'"complete":2' in select(content, "SELECT stats FROM stats")[0][0]
    stored = parse(ASSIGNMENT, content, 99)
    written = image(stored)

    assert [task.object_id for task in stored.tasks] == [uuid(3), uuid(2), uuid(1)]
    assert [task.status for task in stored.tasks] == [
        COMPLETE,
        PENDING,
        failed(reasons.http_status_code(404)),
    ]
    assert (stored.dialect, stored.received_ns) == (Dialect.TAGGED, 1795641412747713843)
    assert select(written, "PRAGMA user_version") == [(1,)]
    assert b'"complete":0' in select(written, "SELECT stats FROM stats")[0][0]
    assert parse(ASSIGNMENT, written, 99) == stored


def test_a_file_of_the_deployed_agent_keeps_its_version() -> None:
    """Nothing is in it that its agent has not written."""
    content = run("DROP TABLE rebalancer", "PRAGMA user_version = 0")
    stored = parse(ASSIGNMENT, content, 99)

    assert (stored.is_legacy, stored.received_ns, stored.dialect) == (True, 99, Dialect.LEGACY)
    assert select(image(stored), "PRAGMA user_version") == [(0,)]
    tables = select(image(stored), "SELECT name FROM sqlite_master WHERE type = 'table'")
    assert tables == [("tasks",), ("stats",)]


@pytest.mark.parametrize(
    "statements", [["PRAGMA user_version = 3"], ["PRAGMA user_version = 900", "DROP TABLE tasks"]]
)
def test_a_file_of_a_newer_version_is_not_broken(statements: list[str]) -> None:
    """Whatever its layout is; the message says which version, and what to do."""
    with pytest.raises(NewerFile, match=r"layout \d+ of a newer agent.* up to 2: start the newer"):
        parse(ASSIGNMENT, run(*statements), 99)


BUCKETS = stored_of(
    ASSIGNMENT,
    (
        read_task(task(0, b"x", status="Complete")),
        read_task(bucket_task(0, b"x", status={"Failed": "MD5Mismatch"})),
        read_task(bucket_task(1, b"y")),
    ),
    Dialect.LEGACY,
    1234,
)


def test_bucket_objects_are_kept_in_columns_as_the_later_agent_in_rust_does() -> None:
    """One of them may have the id of an object of the directory tier: these are two tasks."""
    content = image(BUCKETS)

    assert parse(ASSIGNMENT, content, 99) == BUCKETS
    assert select(content, "SELECT object_id, bucket_id, object_name_hash FROM tasks") == [
        (uuid(0), None, None),
        (uuid(0), BUCKET, hash_of(0)),
        (uuid(1), BUCKET, hash_of(1)),
    ]
    # An older agent of ours leaves it alone, for it would make files that no record names.
    assert select(content, "PRAGMA user_version") == [(2,)]


def test_a_file_without_bucket_objects_is_as_it_was() -> None:
    """So that every older agent, and the deployed one, works on it."""
    columns = select(image(STORED), "SELECT name FROM pragma_table_info('tasks')")
    assert tuple(name for (name,) in columns) == COLUMNS
    assert select(image(STORED), "PRAGMA user_version") == [(1,)]


def test_a_file_of_the_later_agent_in_rust_is_read() -> None:
    """Its table has a key, no version and none of our tables; columns without a value are null."""
    content = changed(
        image(BUCKETS.updated({})),
        lambda db: db.executescript(
            f"DELETE FROM tasks WHERE rowid = 1; {LOOSE} DROP TABLE rebalancer;"
            "CREATE UNIQUE INDEX ids ON tasks (object_id); PRAGMA user_version = 0"
        ),
    )
    stored = parse(ASSIGNMENT, content, 99)
    assert stored.is_legacy
    assert stored.tasks == BUCKETS.tasks[1:]
    assert parse(ASSIGNMENT, image(stored), 99) == stored
    tables = select(image(stored), "SELECT name FROM sqlite_master WHERE type = 'table'")
    assert tables == [("tasks",), ("stats",)]


@pytest.mark.parametrize(
    "change",
    [
        "bucket_id = NULL",
        "object_name_hash = NULL",
        "bucket_id = '..'",
        "object_name_hash = '../../x'",
        "object_name_hash = upper(object_name_hash)",
        "owner = upper(owner)",
        "bucket_id = x'00'",
        "object_id = bucket_id || '/' || object_id || ',' || object_name_hash",
    ],
)
def test_half_a_bucket_object_is_broken(change: str) -> None:
    """A file is checked like a peer."""
    statement = f"UPDATE tasks SET {change} WHERE rowid = 3"
    content = changed(image(BUCKETS), lambda db: db.execute(statement))
    with pytest.raises(BrokenFile, match="not an assignment"):
        parse(ASSIGNMENT, content, 99)


DEEP = "[" * 100_000
#: Takes the keys and constraints from the table of tasks.
LOOSE = """
CREATE TABLE t AS SELECT * FROM tasks; DROP TABLE tasks; ALTER TABLE t RENAME TO tasks;
"""
BROKEN = {
    "no status": [LOOSE, "UPDATE tasks SET status = NULL"],
    "deep status": [f"UPDATE tasks SET status = '{DEEP}'"],
    "a number as status": ["UPDATE tasks SET status = 5.5"],
    "a status nobody knows": ["UPDATE tasks SET status = '\"Lost\"'"],
    "no JSON": ["UPDATE tasks SET status = x'ff'"],
    "a time as text": ["UPDATE rebalancer SET received_ns = 'noon'"],
    "a time as blob": ["UPDATE rebalancer SET received_ns = x'00'"],
    "a fraction of a time": ["UPDATE rebalancer SET received_ns = 1.5"],
    "a time before time": ["UPDATE rebalancer SET received_ns = -1"],
    "an unknown dialect": ["UPDATE rebalancer SET dialect = 'klingon'"],
    "a dialect as blob": ["UPDATE rebalancer SET dialect = x'00'"],
    "no stats": ["DELETE FROM stats"],
    "no table of stats": ["DROP TABLE stats"],
    "no table of tasks": ["DROP TABLE tasks"],
    "a foreign table": ["DROP TABLE tasks; CREATE TABLE tasks (a, b)"],
    "a foreign table of ours": ["DROP TABLE rebalancer; CREATE TABLE rebalancer (a, b)"],
    "no id": ["UPDATE tasks SET object_id = 'x' WHERE rowid = 1"],
    "a number as id": ["UPDATE tasks SET owner = 5"],
    "a path as owner": ["UPDATE tasks SET owner = '../../etc'"],
    "a blob as place": ["UPDATE tasks SET datacenter = x'00'"],
    "no host": ["UPDATE tasks SET manta_storage_id = 'a/b'"],
    "text that is none": ["UPDATE tasks SET datacenter = CAST(x'ff' AS TEXT)"],
    "an object twice": [LOOSE, "INSERT INTO tasks SELECT * FROM tasks"],
    "a view without an end": ["ALTER TABLE tasks RENAME TO t; CREATE VIEW tasks AS WITH RECURSIVE"
                              " r AS (SELECT * FROM t UNION ALL SELECT * FROM r) SELECT * FROM r"],
}  # fmt: skip


@pytest.mark.parametrize("statements", BROKEN.values(), ids=BROKEN)
def test_what_is_no_assignment_is_broken(statements: list[str]) -> None:
    """And nothing else: no other exception comes out."""
    with pytest.raises(BrokenFile, match="not an assignment"):
        parse(ASSIGNMENT, run(*statements), 99)


def outcome(content: bytes) -> None:
    """Reading ends in an assignment that can be written again, or in one of two errors."""
    try:
        stored = parse(ASSIGNMENT, content, 99)
    except (BrokenFile, NewerFile) as exc:
        assert str(exc)
    else:
        assert parse(ASSIGNMENT, image(stored), 99).tasks == stored.tasks


GOOD = [image(STORED), image(BUCKETS), (KEPT / "version-0.sqlite").read_bytes()]
EDITS = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.binary(min_size=1, max_size=8)), min_size=1, max_size=6
)


@given(st.sampled_from(GOOD), EDITS, st.none() | st.integers(0, 1 << 16))
def test_a_damaged_file_is_read_or_broken(
    content: bytes, edits: list[tuple[int, bytes]], length: int | None
) -> None:
    """Bytes replaced here and there, the end cut off."""
    damaged = bytearray(content)
    for where, new in edits:
        where %= len(damaged)
        damaged[where : where + len(new)] = new
    outcome(bytes(damaged[:length]))


def test_bits_that_flip_are_read_or_broken() -> None:
    """Denser where sqlite keeps its structure: the header, the pages' heads, the rows' types."""
    rng = random.Random(20261125)
    for content in GOOD:
        for _ in range(3000):
            damaged = bytearray(content)
            for _ in range(rng.randint(1, 4)):
                page = rng.randrange(len(content) // 4096) * 4096
                spread = rng.choice((30, 200, 4096))
                where = page + (
                    rng.randrange(spread) if rng.random() < 0.7 else -1 - rng.randrange(400)
                )
                damaged[where % len(damaged)] ^= 1 << rng.randrange(8)
            outcome(bytes(damaged))


CELLS = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.binary(max_size=40),
    st.sampled_from(
        ['"Pending"', b'{"Failed":"MD5Mismatch"}', "[" * 5000, b'{"state":{}}', uuid(1), hash_of(1)]
    ),
)
COLUMNS = ("object_id", "owner", "md5sum", "datacenter", "manta_storage_id", "status")


ALL_COLUMNS = (*COLUMNS, "bucket_id", "object_name_hash")


@given(
    st.lists(st.tuples(st.sampled_from(ALL_COLUMNS), st.integers(1, 3), CELLS)),
    CELLS,
    CELLS,
)
@example([], "legacy", 5)
def test_any_values_in_the_columns_are_read_or_broken(
    cells: list[tuple[str, int, Any]], dialect: Any, received_ns: Any
) -> None:
    """Where a person has edited, or another program has made the tables."""

    def change(db: sqlite3.Connection) -> None:
        db.executescript(LOOSE)
        db.executescript("DROP TABLE rebalancer; CREATE TABLE rebalancer (dialect, received_ns)")
        for column, row, value in cells:
            db.execute(f"UPDATE tasks SET {column} = ? WHERE rowid = ?", (value, row))
        db.execute("INSERT INTO rebalancer VALUES (?, ?)", (dialect, received_ns))

    outcome(changed(image(BUCKETS), change))


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0", b"\0" * 100, b"\xff" * 8192])
def test_what_is_no_database_is_broken(content: bytes) -> None:
    """Empty, torn, zeros."""
    with pytest.raises(BrokenFile):
        parse(ASSIGNMENT, content, 99)


def test_want_of_memory_is_not_the_files_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the caller can try again."""

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(statefile, "_tasks", fail)
    with pytest.raises(MemoryError):
        parse(ASSIGNMENT, image(STORED), 99)
