"""Assignments on disk: one sqlite file each, laid out as the deployed agent left them.

    <state>/scheduled/<uuid>     not finished; replaced as tasks finish
    <state>/completed/<uuid>     finished
    <state>/saving/<uuid>        being written
    <state>/quarantine/<uuid>    not readable as an assignment

A file is always written whole, into `saving`, synced, and moved into its place by rename, which
is atomic: there is no half of one anywhere, none needs a journal, and the syncs of several are
one.  From `scheduled` to `completed` they are moved likewise, so an assignment is always in
exactly one of the two.  Blocking; called in threads.
"""

import heapq
import json
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import attrs

from rebalancer.agent.sync import sync_paths
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.errors import BadRequest, Conflict, Forbidden, NotFound, StoreError
from rebalancer.log import get_logger
from rebalancer.sqlite import connect
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
_OUR_SCHEMA = "CREATE TABLE rebalancer (dialect TEXT NOT NULL, received_ns INTEGER NOT NULL)"

#: More assignments than this hardly move between folders while these are listed.
MOVING = 100

log = get_logger()


class Cursor(NamedTuple):
    """Where an assignment is among all: when it was received, in ns, and its id."""

    received_ns: int
    id: str

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Read what `str` made.

        Raises:
          BadRequest: it is something else.
        """
        received, _, name = text.partition(".")
        if not (received.isdecimal() and received.isascii() and is_loose_uuid(name)):
            raise BadRequest(f"before: expected <nanoseconds>.<uuid>, got {text[:80]!r}")
        return cls(int(received), name)

    def __str__(self) -> str:
        """For the address of the next page."""
        return f"{self.received_ns}.{self.id}"


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
        """With these statuses of objects."""
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
        """Whether every task has ended."""
        return all(task.status.state is not TaskState.PENDING for task in self.tasks)

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
    #: Assignments to work on; those that are done; those being written; files that are none.
    scheduled: Path = attrs.field(init=False)
    completed: Path = attrs.field(init=False)
    saving: Path = attrs.field(init=False)
    quarantine: Path = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        """Name the folders."""
        for name in ("scheduled", "completed", "saving", "quarantine"):
            object.__setattr__(self, name, self.folder / name)

    def prepare(self) -> None:
        """Make the folders, and forget what was never promised.

        Raises:
          StoreError: the folder cannot be used.
        """
        try:
            for folder in (self.scheduled, self.completed, self.saving, self.quarantine):
                folder.mkdir(parents=True, exist_ok=True)
            for left in self.saving.iterdir():
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
        stored = StoredAssignment(name, assignment.tasks, dialect, time.time_ns())
        (error,) = self._replace([stored], self.scheduled)
        if error is not None:
            with suppress(OSError):
                (self.scheduled / name).unlink(missing_ok=True)
            raise StoreError(f"assignment {assignment.id} cannot be saved: {error}") from error
        return stored

    def write(self, assignments: Sequence[StoredAssignment]) -> list[StoreError | None]:
        """Write how the tasks of unfinished assignments stand: durable on return.

        Those that are finished now are moved to the completed ones.  What the disk does not take
        has its error in the answer; of that, nothing has changed.
        """
        errors = self._replace(assignments, self.scheduled)
        moved = []
        for index, assignment in enumerate(assignments):
            if errors[index] is None and assignment.is_finished:
                try:
                    os.rename(
                        f"{self.scheduled}/{assignment.id}", f"{self.completed}/{assignment.id}"
                    )
                    moved.append(index)
                except OSError as exc:
                    errors[index] = exc
        if moved:
            failed = sync_paths([str(self.completed), str(self.scheduled)], self.folder)
            for failure in failed.values():
                for index in moved:
                    errors[index] = failure
        return [
            None
            if error is None
            else StoreError(f"progress of {assignment.id} cannot be saved: {error}")
            for assignment, error in zip(assignments, errors, strict=True)
        ]

    def _replace(
        self, assignments: Sequence[StoredAssignment], folder: Path
    ) -> list[OSError | sqlite3.Error | None]:
        """Write files whole and move them to `folder`: all durable, or why not, one by one."""
        errors: dict[str, OSError | sqlite3.Error] = {}
        written = {}
        for assignment in assignments:
            path = f"{self.saving}/{assignment.id}"
            try:
                with open(path, "wb") as file:
                    file.write(_image(assignment))
                os.utime(path, ns=(assignment.received_ns, assignment.received_ns))
                written[path] = assignment.id
            except (OSError, sqlite3.Error) as exc:
                errors[assignment.id] = exc
        for path, failure in sync_paths(written, self.saving).items():
            errors[written.pop(path)] = failure
        for path, name in list(written.items()):
            try:
                os.rename(path, f"{folder}/{name}")
            except OSError as exc:
                errors[written.pop(path)] = exc
        if written:
            for failure in sync_paths([str(folder)], self.folder).values():
                errors.update(dict.fromkeys(written.values(), failure))
        for name in errors:
            with suppress(OSError):
                (self.saving / name).unlink(missing_ok=True)
        return [errors.get(assignment.id) for assignment in assignments]

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

    def waiting(self, limit: int, running: Collection[str] = ()) -> tuple[list[str], int]:
        """The first unfinished assignments but for `running`, and how many there are in all.

        They are in the order they were received: that of the files' modification time, which
        `write` keeps, so that no file need be opened for it.
        """
        count = 0

        def entries() -> Iterator[Cursor]:
            nonlocal count
            with os.scandir(self.scheduled) as found:
                for entry in found:
                    if is_loose_uuid(entry.name) and entry.name not in running:
                        with suppress(FileNotFoundError):  # it has just moved
                            yield Cursor(entry.stat().st_mtime_ns, entry.name)
                            count += 1

        first = heapq.nsmallest(limit, entries())
        return [cursor.id for cursor in first], count

    def newest(self, limit: int, before: Cursor | None = None) -> list[Cursor]:
        """The assignments received last, or last before `before`; newest first."""

        def entries() -> Iterator[Cursor]:
            for folder in (self.scheduled, self.completed):
                with os.scandir(folder) as found:
                    for entry in found:
                        with suppress(FileNotFoundError):  # it has just moved or gone
                            yield Cursor(entry.stat().st_mtime_ns, entry.name)

        known = (c for c in entries() if is_loose_uuid(c.id) and (before is None or c < before))
        # One that moves from folder to folder may be met twice.
        found = heapq.nlargest(limit + MOVING, known)
        return list(dict.fromkeys(found))[:limit]

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
    return StoredAssignment(path.name, tasks, dialect, received, is_legacy=not ours)


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


def _image(assignment: StoredAssignment) -> bytes:
    """The file of an assignment."""
    report = assignment.report(running=False, finished=assignment.is_finished)
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(_SCHEMA)
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
        stats = stats_to_wire(report.stats, Dialect.LEGACY)
        db.execute("INSERT INTO stats VALUES (?)", (_blob(stats),))
        if not assignment.is_legacy:
            db.execute(_OUR_SCHEMA)
            ours = (assignment.dialect, assignment.received_ns)
            db.execute("INSERT INTO rebalancer VALUES (?, ?)", ours)
        db.execute("COMMIT")
        return db.serialize()


@lru_cache(maxsize=1000)
def _status_blob(status: TaskStatus) -> bytes:
    return _blob(status_to_wire(status, Dialect.LEGACY))


def _blob(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
