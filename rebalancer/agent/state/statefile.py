"""This module makes and reads an assignment's file, laid out as the deployed agent's.

`image` makes the bytes and `parse` reads them, in memory, so neither can meet a lock, a full disk
or a want of file handles: what `parse` refuses is broken, whatever the state of the machine.

Versions, in `PRAGMA user_version`, which the deployed agent neither reads nor changes:

    0    the deployed agent's file, or one of ours whose `stats` count progress
    1    `stats` has zeros until every task has ended, since the deployed agent counts on from them
    2    table `tasks` has two more columns, for bucket objects, as a later agent in Rust has it

A file without bucket objects has version 1 or 0 and no such columns, so that any agent works on it.
An older one of ours leaves the others alone; the deployed agent would take them for files of the
directory tier, find none, and report these tasks as failed.
"""

import json
import sqlite3
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import lru_cache
from typing import Any

import attrs

from rebalancer.agent.state.posted import Row, are_sound, in_buckets, row_of, task_of
from rebalancer.agent_protocol import (
    COMPLETE,
    PENDING,
    AssignmentReport,
    AssignmentStats,
    Dialect,
    ReportedState,
    Task,
    TaskState,
    TaskStatus,
    read_task,
    stats_to_wire,
    status_to_wire,
)
from rebalancer.converter import parse_json
from rebalancer.domain.copies import is_of_bucket, parts_of
from rebalancer.errors import BadRequest, StoreError

#: The latest version of files, and that of files without bucket objects.
VERSION, _WITHOUT_BUCKETS = 2, 1
#: No assignment is as large: that of 100,000 tasks has 20 MB.
MAX_BYTES = 256 << 20

# The first two tables are the predecessor's; their JSON is a BLOB there.
_SCHEMA = """
CREATE TABLE tasks (
    object_id TEXT{key},
    owner TEXT NOT NULL,
    md5sum TEXT NOT NULL,
    datacenter TEXT NOT NULL,
    manta_storage_id TEXT NOT NULL,
    status TEXT NOT NULL
);
CREATE TABLE stats (stats TEXT NOT NULL);
"""
#: Ids are no key beside bucket objects: one of these may have the id of a file of the other tier.
_KEY, _NO_KEY = " PRIMARY KEY NOT NULL UNIQUE", " NOT NULL"
_OUR_SCHEMA = "CREATE TABLE rebalancer (dialect TEXT NOT NULL, received_ns INTEGER NOT NULL);"
_OF_BUCKETS = "bucket_id", "object_name_hash"
_COLUMNS = "object_id, owner, md5sum, datacenter, manta_storage_id, status"
_HEADER_BYTES = 100
#: The bytes of the header by which sqlite looks for a WAL, and their values if it need not.
_FORMATS, _NO_WAL = slice(18, 20), b"\x01\x01"


class BrokenFile(StoreError):
    """The content of a file is no assignment, today or ever."""


class NewerFile(StoreError):
    """A newer agent has written a file, in a layout that this one does not know."""


@attrs.frozen
class StoredAssignment:
    """A stored assignment is one as its file has it: its tasks, and the statuses of ended ones."""

    id: str
    rows: tuple[Row, ...]
    dialect: Dialect
    received_ns: int
    #: The statuses of tasks that have ended, by the names of their copies.
    statuses: Mapping[str, TaskStatus] = attrs.field(factory=dict)
    #: Whether the deployed agent made it: it gets no table that this one does not know.
    is_legacy: bool = False

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Return its tasks with their statuses."""
        return tuple(map(self._task, self.rows))

    def _task(self, row: Row) -> Task:
        return task_of(row, self.statuses.get(row[0], PENDING))

    def updated(self, statuses: Mapping[str, TaskStatus]) -> "StoredAssignment":
        """Return this assignment with tasks of some objects ended."""
        return attrs.evolve(self, statuses={**self.statuses, **statuses}) if statuses else self

    @property
    def is_finished(self) -> bool:
        """Return whether every task has ended."""
        return len(self.statuses) == len(self.rows)

    def report(self, state: ReportedState) -> AssignmentReport:
        """Return the report of this assignment, complete only if every row on disk says so."""
        failed = {name for name, status in self.statuses.items() if status.reason is not None}
        failures = None
        if state is ReportedState.COMPLETE and not self.is_finished:
            state = ReportedState.SCHEDULED
        if state is ReportedState.COMPLETE:
            failures = tuple(self._task(row) for row in self.rows if row[0] in failed)
        counts = len(failed), len(self.statuses), len(self.rows)
        return AssignmentReport(self.id, AssignmentStats(state, *counts, failures))


def parse(name: str, content: bytes, received_ns: int) -> StoredAssignment:
    """Read the content of the file of assignment `name`, ours or the predecessor's.

    `received_ns` is when its file was last changed; ours says itself when it was received.

    Raises:
      BrokenFile: it is no assignment.
      NewerFile: it is of a version that is not known here.
      MemoryError: there is not enough memory at the moment.
    """
    if len(content) < _HEADER_BYTES:
        raise BrokenFile(f"not an assignment: {len(content)} bytes are no database")
    try:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.deserialize(content[: _FORMATS.start] + _NO_WAL + content[_FORMATS.stop :])
            return _read(db, name, received_ns)
    except (StoreError, MemoryError):
        raise
    except Exception as exc:
        # All that is looked at is this content, so whatever went wrong is its fault.
        raise BrokenFile(f"not an assignment: {exc}") from exc


def _read(db: sqlite3.Connection, name: str, received_ns: int) -> StoredAssignment:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise NewerFile(
            f"layout {version} of a newer agent, of which this one knows those up to {VERSION}:"
            " start the newer agent again, which will finish it"
        )
    kinds = dict(db.execute("SELECT name, type FROM sqlite_master WHERE tbl_name = name"))
    for table in ("tasks", "stats"):
        if kinds.get(table) != "table":  # a view could go on for ever
            raise BadRequest(f"no table {table}")
    found: dict[Any, tuple[Any, ...]] = {}
    has_buckets = version != _WITHOUT_BUCKETS and _columns(db).issuperset(_OF_BUCKETS)
    columns = ", ".join((_COLUMNS, *_OF_BUCKETS)) if has_buckets else _COLUMNS
    for row in db.execute(f"SELECT {columns} FROM tasks ORDER BY rowid"):
        # No agent writes such a file, but a damaged one may have this, even without an end.
        if found.setdefault((row[0], row[6:]) if has_buckets else row[0], row) is not row:
            raise BadRequest(f"two tasks of object {row[0]!r}")
    rows, statuses = _tasks(list(found.values()))
    if db.execute("SELECT 1 FROM stats LIMIT 1").fetchone() is None:
        raise BadRequest("it has no stats")
    dialect, ours = Dialect.LEGACY, None
    if kinds.get("rebalancer") == "table":
        ours = db.execute("SELECT dialect, received_ns FROM rebalancer").fetchone()
    if ours is not None:
        dialect, received_ns = Dialect(ours[0]), ours[1]
        if type(received_ns) is not int or received_ns < 0:
            raise BadRequest(f"received_ns is {received_ns!r}")
    return StoredAssignment(name, rows, dialect, received_ns, statuses, ours is None)


def _columns(db: sqlite3.Connection) -> set[str]:
    return {column for (column,) in db.execute("SELECT name FROM pragma_table_info('tasks')")}


def _tasks(
    found: Sequence[tuple[Any, ...]],
) -> tuple[tuple[Row, ...], dict[str, TaskStatus]]:
    """Read the rows of tasks; return them without statuses, and the statuses of ended tasks."""
    if all(row[5] in _USUAL for row in found) and are_sound(found):
        rows: tuple[Row, ...] | None = tuple([row[:5] for row in found])
        if rows and len(found[0]) > 6:
            rows = in_buckets(rows, [(row[6], row[7]) for row in found])
        if rows is not None:
            pairs = zip(rows, found, strict=True)
            return rows, {row[0]: COMPLETE for row, raw in pairs if _USUAL[raw[5]] is COMPLETE}
    tasks = [_task(*row) for row in found]
    ended = {t.copy_name: t.status for t in tasks if t.status.state is not TaskState.PENDING}
    return tuple(map(row_of, tasks)), ended


def _task(
    object_id: Any,
    owner: Any,
    md5sum: Any,
    datacenter: Any,
    manta_storage_id: Any,
    status: Any,
    *of_bucket: Any,
) -> Task:
    """Read a row as a posted task: a file is checked like a peer."""
    if not isinstance(status, str | bytes):
        raise BadRequest(f"the status of object {object_id} is {status!r}")
    source = {"datacenter": datacenter, "manta_storage_id": manta_storage_id}
    ids = {"object_id": object_id, "owner": owner, "md5sum": md5sum}
    ids |= zip(_OF_BUCKETS, of_bucket, strict=False)
    return read_task({**ids, "source": source, "status": parse_json(status)})


def image(assignment: StoredAssignment) -> bytes:
    """Make the content of the file of an assignment.

    Its rows have the statuses so far.  Its stats count them only at the end: before that the
    deployed agent, should it be put back, begins to count at what they say, and does all tasks
    again.
    """
    if assignment.is_finished:
        stats = assignment.report(ReportedState.COMPLETE).stats
    else:
        stats = AssignmentStats(
            ReportedState.SCHEDULED, failed=0, complete=0, total=len(assignment.rows)
        )
    db, values = _scratch.database, _values(assignment)
    has_buckets = any(is_of_bucket(row[0]) for row in assignment.rows)
    if has_buckets:
        values = [_in_columns(*row) for row in values]
    db.deserialize(_empty(assignment.is_legacy, has_buckets))
    db.execute("BEGIN")
    with db:
        marks = "?, " * (7 if has_buckets else 5)
        db.executemany(f"INSERT INTO tasks VALUES ({marks}?)", values)
        db.execute("INSERT INTO stats VALUES (?)", (_blob(stats_to_wire(stats, Dialect.LEGACY)),))
        if not assignment.is_legacy:
            ours = (assignment.dialect, assignment.received_ns)
            db.execute("INSERT INTO rebalancer VALUES (?, ?)", ours)
    return db.serialize()


def _values(assignment: StoredAssignment) -> list[tuple[object, ...]]:
    if not assignment.statuses:
        return [(*row, _PENDING) for row in assignment.rows]
    statuses = assignment.statuses
    return [(*row, _status_blob(statuses.get(row[0], PENDING))) for row in assignment.rows]


def _in_columns(name: Any, *values: object) -> tuple[object, ...]:
    """Return the values of a row, of which the name of its copy is in three columns."""
    object_id, *of_bucket = parts_of(name)
    return object_id, *values, *of_bucket


class _Scratch(threading.local):
    """Each thread has a database in memory: to open one takes as long as to fill it.

    It is closed after its thread, by whichever thread notices that, or at the end of the process.
    """

    def __init__(self) -> None:
        self.database = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        weakref.finalize(threading.current_thread(), self.database.close)


_scratch = _Scratch()


@lru_cache
def _empty(is_legacy: bool, has_buckets: bool) -> bytes:
    """Make the content of a file of no tasks, which those of all others begin with."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(_SCHEMA.format(key=_NO_KEY if has_buckets else _KEY))
        if has_buckets:
            for column in _OF_BUCKETS:
                db.execute(f"ALTER TABLE tasks ADD COLUMN {column} TEXT")
        if not is_legacy:
            db.execute(_OUR_SCHEMA)
        if has_buckets or not is_legacy:
            db.execute(f"PRAGMA user_version = {VERSION if has_buckets else _WITHOUT_BUCKETS}")
        return db.serialize()


@lru_cache(maxsize=1000)
def _status_blob(status: TaskStatus) -> bytes:
    return _blob(status_to_wire(status, Dialect.LEGACY))


def _blob(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_PENDING = _status_blob(PENDING)
#: The two statuses of nearly all tasks, as this agent writes them.
_USUAL = {_PENDING: PENDING, _status_blob(COMPLETE): COMPLETE}
