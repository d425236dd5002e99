"""Assignments on disk: one sqlite file each, laid out as the deployed agent left them.

    <state>/scheduled/<uuid>     not finished; rewritten as tasks finish
    <state>/completed/<uuid>     finished
    <state>/saving/<uuid>        not yet promised to anybody
    <state>/quarantine/<uuid>    not readable as an assignment

A file is moved between the folders by rename, which is atomic, so an assignment is always in
exactly one of them.  Blocking; called in threads.
"""

import heapq
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import attrs

from rebalancer.domain.objects import is_loose_uuid
from rebalancer.errors import BadRequest, Conflict, Forbidden, NotFound, StoreError
from rebalancer.log import get_logger
from rebalancer.sqlite import connect, transact
from rebalancer.wire import (
    Assignment,
    AssignmentReport,
    AssignmentStats,
    Dialect,
    Task,
    TaskState,
    TaskStatus,
    stats_to_wire,
    status_to_wire,
    structure,
)

# The first two tables are the predecessor's; their JSON is a BLOB there.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    object_id TEXT PRIMARY KEY NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    md5sum TEXT NOT NULL,
    datacenter TEXT NOT NULL,
    manta_storage_id TEXT NOT NULL,
    status TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS stats (stats TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rebalancer (dialect TEXT NOT NULL, received_ns INTEGER NOT NULL);
"""

log = get_logger()


@attrs.frozen
class StoredAssignment:
    """An assignment as it is on disk."""

    id: str
    tasks: tuple[Task, ...]
    dialect: Dialect
    received_ns: int

    def report(self, *, running: bool, finished: bool) -> AssignmentReport:
        """What to tell of it.  It is complete only if every row on disk says so."""
        failed = tuple(t for t in self.tasks if t.status.state is TaskState.FAILED)
        processed = sum(t.status.state is not TaskState.PENDING for t in self.tasks)
        state, failures = "Running" if running else "Scheduled", None
        if finished and processed == len(self.tasks):
            state, failures = "Complete", failed
        stats = AssignmentStats(state, len(failed), processed, len(self.tasks), failures)
        return AssignmentReport(self.id, stats)


@attrs.frozen
class AssignmentStore:
    """The state folder of an agent."""

    folder: Path

    @property
    def scheduled(self) -> Path:
        """Assignments to work on."""
        return self.folder / "scheduled"

    @property
    def completed(self) -> Path:
        """Assignments that are done."""
        return self.folder / "completed"

    @property
    def _saving(self) -> Path:
        return self.folder / "saving"

    @property
    def quarantine(self) -> Path:
        """Files that are no assignments."""
        return self.folder / "quarantine"

    def prepare(self) -> None:
        """Make the folders, and forget what was never promised.

        Raises:
          StoreError: the folder cannot be used.
        """
        try:
            for folder in (self.scheduled, self.completed, self._saving, self.quarantine):
                folder.mkdir(parents=True, exist_ok=True)
            for left in self._saving.iterdir():
                left.unlink()
        except OSError as exc:
            raise StoreError(f"{self.folder}: {exc}") from exc

    def save(self, assignment: Assignment, dialect: Dialect) -> StoredAssignment:
        """Store a new assignment: on return it survives a power failure.

        Raises:
          Conflict: an assignment of this id is known.
          StoreError: the disk does not take it, and nothing is left of it.
        """
        name = assignment.id.lower()
        if self.find(name) is not None:
            raise Conflict(f"assignment {assignment.id} is known already")
        path, received = self._saving / name, time.time_ns()
        try:
            with _open(path, "rwc") as db:
                db.executescript(_SCHEMA)
                transact(db, _insert, assignment, dialect, received)
            os.utime(path, ns=(received, received))
            os.rename(path, self.scheduled / name)
            _sync_folder(self.scheduled)
        except (OSError, sqlite3.Error) as exc:
            path.unlink(missing_ok=True)
            raise StoreError(f"assignment {assignment.id} cannot be saved: {exc}") from exc
        return StoredAssignment(name, assignment.tasks, dialect, received)

    def find(self, assignment_id: str) -> Path | None:
        """The file of an assignment, or None if it is unknown."""
        # In the direction in which files move, or one could slip by between the two looks.
        for folder in (self.scheduled, self.completed):
            path = folder / assignment_id.lower()
            if path.exists():
                return path
        return None

    def load(self, assignment_id: str) -> tuple[StoredAssignment, bool]:
        """An assignment, and whether it is among the completed.

        Raises:
          NotFound: there is none of this id.
          StoreError: its file cannot be read as one.
        """
        # It may move from scheduled to completed between two looks, but not back.
        for _ in range(2):
            if (path := self.find(assignment_id)) is None:
                raise NotFound(f"there is no assignment {assignment_id}")
            try:
                return read(path), path.parent == self.completed
            except StoreError:
                if path.exists():
                    raise
        raise NotFound(f"there is no assignment {assignment_id}")

    def waiting(self) -> list[str]:
        """The ids of all unfinished assignments, in the order they were received.

        That order is the files' modification time, which `record` keeps, so that no file need
        be opened for it.
        """
        with os.scandir(self.scheduled) as entries:
            found = [(e.stat().st_mtime_ns, e.name) for e in entries if is_loose_uuid(e.name)]
        return [name for _, name in sorted(found)]

    def newest(self, limit: int) -> list[str]:
        """The ids of the assignments that changed last, newest first."""

        def entries() -> Iterator[tuple[int, str]]:
            for folder in (self.scheduled, self.completed):
                with os.scandir(folder) as found:
                    yield from ((e.stat().st_mtime_ns, e.name) for e in found)

        known = ((at, name) for at, name in entries() if is_loose_uuid(name))
        return [name for _, name in heapq.nlargest(limit, known)]

    def record(self, assignment: StoredAssignment, statuses: Mapping[str, TaskStatus]) -> None:
        """Write how tasks ended: durable on return.

        Raises:
          StoreError: the disk does not take it, and nothing has changed.
        """
        path = self.scheduled / assignment.id
        try:
            with _open(path) as db:
                transact(db, _update, statuses)
            os.utime(path, ns=(assignment.received_ns, assignment.received_ns))
        except (OSError, sqlite3.Error) as exc:
            raise StoreError(f"progress of {assignment.id} cannot be saved: {exc}") from exc

    def complete(self, assignment: StoredAssignment, statuses: Mapping[str, TaskStatus]) -> None:
        """Write how the last tasks ended, and move the assignment to the completed ones: durable.

        Raises:
          StoreError: the disk does not take it; it is still unfinished.
        """
        source = self.scheduled / assignment.id
        try:
            with _open(source) as db:
                transact(db, _finish, assignment.id, statuses)
            os.rename(source, self.completed / assignment.id)
            _sync_folder(self.completed)
            _sync_folder(self.scheduled)
        except (OSError, sqlite3.Error) as exc:
            raise StoreError(f"{assignment.id} cannot be completed: {exc}") from exc

    def delete(self, assignment_id: str) -> None:
        """Forget a completed assignment.

        Raises:
          NotFound: there is none; Forbidden: it is not completed.
        """
        path = self.find(assignment_id)
        if path is None:
            raise NotFound(f"there is no assignment {assignment_id}")
        if path.parent != self.completed:
            raise Forbidden(f"assignment {assignment_id} is not completed")
        path.unlink(missing_ok=True)

    def set_aside(self, assignment_id: str) -> None:
        """Move a file that is no assignment out of the way."""
        source = self.scheduled / assignment_id
        for name in (assignment_id, f"{assignment_id}-journal"):
            if source.with_name(name).exists():
                os.rename(source.with_name(name), self.quarantine / name)


def read(path: Path) -> StoredAssignment:
    """Read one file, of ours or of the predecessor.

    Raises:
      StoreError: it is no assignment.
    """
    try:
        with _open(path) as db:
            tasks = tuple(_task(row) for row in db.execute("SELECT * FROM tasks ORDER BY rowid"))
            (stats_rows,) = db.execute("SELECT count(*) FROM stats").fetchone()
            ours = (
                db.execute("SELECT 1 FROM sqlite_master WHERE name = 'rebalancer'").fetchone()
                and db.execute("SELECT * FROM rebalancer").fetchone()
            )
    except (sqlite3.Error, ValueError, BadRequest, IndexError) as exc:
        raise StoreError(f"{path}: not an assignment: {exc}") from exc
    if not stats_rows:
        raise StoreError(f"{path}: not an assignment: it has no stats")
    dialect = Dialect(ours["dialect"]) if ours else Dialect.LEGACY
    received = ours["received_ns"] if ours else path.stat().st_mtime_ns
    return StoredAssignment(path.name, tasks, dialect, received)


def _task(row: sqlite3.Row) -> Task:
    """A task as posted: what a file says is checked like what a peer says."""
    source = {"datacenter": row["datacenter"], "manta_storage_id": row["manta_storage_id"]}
    fields = {name: row[name] for name in ("object_id", "owner", "md5sum")}
    return structure({**fields, "source": source, "status": json.loads(row["status"])}, Task)


@contextmanager
def _open(path: Path, mode: str = "rw") -> Iterator[sqlite3.Connection]:
    # Never made by opening it: it may have been moved a moment ago.  And no WAL: predecessor
    # and operators copy single files.
    with closing(connect(path, mode=mode, wal=False)) as db:
        yield db


def _blob(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _insert(
    db: sqlite3.Connection, assignment: Assignment, dialect: Dialect, received_ns: int
) -> None:
    db.executemany(
        "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                task.object_id,
                task.owner,
                task.md5sum,
                task.source.datacenter,
                task.source.manta_storage_id,
                _blob(status_to_wire(task.status, Dialect.LEGACY)),
            )
            for task in assignment.tasks
        ],
    )
    stats = AssignmentStats("Scheduled", 0, 0, len(assignment.tasks))
    db.execute("INSERT INTO stats VALUES (?)", (_blob(stats_to_wire(stats, Dialect.LEGACY)),))
    db.execute("INSERT INTO rebalancer VALUES (?, ?)", (dialect, received_ns))


def _update(db: sqlite3.Connection, statuses: Mapping[str, TaskStatus]) -> None:
    db.executemany(
        "UPDATE tasks SET status = ? WHERE object_id = ?",
        [
            (_blob(status_to_wire(status, Dialect.LEGACY)), object_id)
            for object_id, status in statuses.items()
        ],
    )


def _finish(db: sqlite3.Connection, assignment_id: str, statuses: Mapping[str, TaskStatus]) -> None:
    _update(db, statuses)
    tasks = tuple(_task(row) for row in db.execute("SELECT * FROM tasks ORDER BY rowid"))
    stored = StoredAssignment(assignment_id, tasks, Dialect.LEGACY, 0)
    stats = stored.report(running=False, finished=True).stats
    db.execute("UPDATE stats SET stats = ?", (_blob(stats_to_wire(stats, Dialect.LEGACY)),))


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
