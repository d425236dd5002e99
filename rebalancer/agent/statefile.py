"""An assignment's file holds a sqlite database as the deployed agent lays it out.

`image` makes the bytes and `parse` reads them, in memory, so neither can meet a lock, a full disk
or a want of file handles: what `parse` refuses is broken, whatever the state of the machine.

Versions, in `PRAGMA user_version`, which the deployed agent neither reads nor changes:

    0    the deployed agent's file, or one of ours whose `stats` tell of progress
    1    `stats` has zeros until every task has ended, since the deployed agent counts on from them
"""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from functools import cached_property, lru_cache
from typing import Any

import attrs

from rebalancer.errors import BadRequest, StoreError
from rebalancer.wire import (
    Assignment,
    AssignmentReport,
    AssignmentStats,
    Dialect,
    Task,
    TaskState,
    TaskStatus,
    parse_json,
    stats_to_wire,
    status_to_wire,
    structure,
)

#: Of the files that are written.
VERSION = 1
#: No assignment is as large: that of 100,000 tasks has 20 MB.
MAX_BYTES = 256 << 20

# The first two tables are the predecessor's; their JSON is a BLOB there.
_SCHEMA = """
CREATE TABLE tasks (
    object_id TEXT PRIMARY KEY NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    md5sum TEXT NOT NULL,
    datacenter TEXT NOT NULL,
    manta_storage_id TEXT NOT NULL,
    status TEXT NOT NULL
);
CREATE TABLE stats (stats TEXT NOT NULL);
"""
_OUR_SCHEMA = f"""
CREATE TABLE rebalancer (dialect TEXT NOT NULL, received_ns INTEGER NOT NULL);
PRAGMA user_version = {VERSION};
"""
_TASKS = """
SELECT object_id, owner, md5sum, datacenter, manta_storage_id, status FROM tasks ORDER BY rowid
"""
_HEADER_BYTES = 100
#: Where the header says whether sqlite would look for a WAL, and what says that it need not.
_FORMATS, _NO_WAL = slice(18, 20), b"\x01\x01"


class BrokenFile(StoreError):
    """A file whose content is no assignment, today or ever."""


class NewerFile(StoreError):
    """A file that a newer agent has written, in a layout that this one does not know."""


@attrs.frozen
class StoredAssignment:
    """An assignment as it is on disk."""

    id: str
    tasks: tuple[Task, ...]
    dialect: Dialect
    received_ns: int
    #: Whether the deployed agent made it: it gets no table that this one does not know.
    is_legacy: bool = False

    def updated(self, statuses: Mapping[str, TaskStatus]) -> "StoredAssignment":
        """Return this assignment with other statuses of some objects."""
        if not statuses:
            return self
        tasks = (
            attrs.evolve(task, status=statuses[task.object_id])
            if task.object_id in statuses
            else task
            for task in self.tasks
        )
        return attrs.evolve(self, tasks=tuple(tasks))

    @cached_property
    def is_finished(self) -> bool:
        """Tell whether every task has ended."""
        return all(task.status.state is not TaskState.PENDING for task in self.tasks)

    def report(self, *, running: bool, finished: bool) -> AssignmentReport:
        """Return what to tell of this assignment, complete only if every row on disk says so."""
        failed = tuple(t for t in self.tasks if t.status.state is TaskState.FAILED)
        processed = sum(t.status.state is not TaskState.PENDING for t in self.tasks)
        state, failures = "Running" if running else "Scheduled", None
        if finished and processed == len(self.tasks):
            state, failures = "Complete", failed
        stats = AssignmentStats(state, len(failed), processed, len(self.tasks), failures)
        return AssignmentReport(self.id, stats)


def posted(assignment: Assignment, dialect: Dialect, received_ns: int) -> StoredAssignment:
    """Return an assignment that has just come as it will be on disk."""
    return StoredAssignment(assignment.key, assignment.tasks, dialect, received_ns)


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
    tasks: dict[str, Task] = {}
    for row in db.execute(_TASKS):
        task = _task(*row)
        # Its primary key forbids this, but a damaged file may have it, even without an end.
        if tasks.setdefault(task.object_id, task) is not task:
            raise BadRequest(f"two tasks of object {task.object_id}")
    if db.execute("SELECT 1 FROM stats LIMIT 1").fetchone() is None:
        raise BadRequest("it has no stats")
    dialect, ours = Dialect.LEGACY, None
    if kinds.get("rebalancer") == "table":
        ours = db.execute("SELECT dialect, received_ns FROM rebalancer").fetchone()
    if ours is not None:
        dialect, received_ns = Dialect(ours[0]), ours[1]
        if type(received_ns) is not int or received_ns < 0:
            raise BadRequest(f"received_ns is {received_ns!r}")
    return StoredAssignment(name, tuple(tasks.values()), dialect, received_ns, ours is None)


def _task(
    object_id: Any, owner: Any, md5sum: Any, datacenter: Any, manta_storage_id: Any, status: Any
) -> Task:
    """Read a row as a posted task: a file is checked like a peer."""
    if not isinstance(status, str | bytes):
        raise BadRequest(f"the status of object {object_id} is {status!r}")
    source = {"datacenter": datacenter, "manta_storage_id": manta_storage_id}
    ids = {"object_id": object_id, "owner": owner, "md5sum": md5sum}
    return structure({**ids, "source": source, "status": parse_json(status)}, Task)


def image(assignment: StoredAssignment) -> bytes:
    """Make the content of the file of an assignment.

    Its rows tell of progress.  Its stats do so only at the end: before that the deployed agent,
    should it be put back, begins to count at what they say, and does all tasks again.
    """
    if assignment.is_finished:
        stats = assignment.report(running=False, finished=True).stats
    else:
        stats = AssignmentStats("Scheduled", failed=0, complete=0, total=len(assignment.tasks))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(_SCHEMA)
        if not assignment.is_legacy:
            db.executescript(_OUR_SCHEMA)
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?)",
            [
                (
                    task.object_id,
                    task.owner,
                    task.md5sum,
                    task.source.datacenter,
                    task.source.manta_storage_id,
                    _status_blob(task.status),
                )
                for task in assignment.tasks
            ],
        )
        db.execute("INSERT INTO stats VALUES (?)", (_blob(stats_to_wire(stats, Dialect.LEGACY)),))
        if not assignment.is_legacy:
            ours = (assignment.dialect, assignment.received_ns)
            db.execute("INSERT INTO rebalancer VALUES (?, ?)", ours)
        db.execute("COMMIT")
        return db.serialize()


@lru_cache(maxsize=1000)
def _status_blob(status: TaskStatus) -> bytes:
    return _blob(status_to_wire(status, Dialect.LEGACY))


def _blob(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
