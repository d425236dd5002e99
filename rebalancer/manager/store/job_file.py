"""This module makes, notes and removes the file of a job, for callers that do not run it.

All of its functions block.  A job that runs has its file open as a `job_store.JobStore`.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from rebalancer.domain.objects import Shark
from rebalancer.errors import StoreError
from rebalancer.manager.store import job_info
from rebalancer.manager.store.records import Finding
from rebalancer.manager.store.schema import JOB_FILE
from rebalancer.sqlite import (
    FAILURES,
    closed_on_failure,
    connect,
    prepare,
    store_error,
    transact,
)

P = ParamSpec("P")
#: Columns of table `job`, and of the list of jobs, that `note` keeps.
NOTED = ("id", "action", "state", "params", "created", "started", "finished", "error", "wish")
#: Seconds that a note waits for a lock on a job's file: the list of jobs has the same.
NOTE_LOCK_S = 1.0


def create(path: Path, origin: Shark | None, findings: Sequence[Finding] = ()) -> None:
    """Make the file of a new job, with what was found when it was made.  Blocking.

    Raises:
      StoreBusy: it cannot be written now.
      StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(connect(path)) as db:
            prepare(db, path, JOB_FILE)
            transact(db, _begin, origin, findings)
    except FAILURES as exc:
        raise store_error(path, exc) from exc
    except OSError as exc:
        raise StoreError(f"{path}: {exc}") from exc


def _begin(db: sqlite3.Connection, origin: Shark | None, findings: Sequence[Finding]) -> None:
    if origin is not None:
        job_info.write_origin(db, origin)
    job_info.write_warnings(db, findings)


def note(path: Path, values: Sequence[object]) -> None:
    """Keep in a job's file what the list of jobs says of it, unless it does already.  Blocking.

    A missing file stays missing, and a file of an earlier layout stays as it is.

    Raises:
      StoreError: it cannot be written.
    """
    if not path.exists():
        return
    with _using(path, "rw") as db:
        if not JOB_FILE.is_newest(db):
            return
        columns = ", ".join(NOTED)
        known = [tuple(row) for row in db.execute(f"SELECT {columns} FROM job")]
        if known != [tuple(values)]:
            transact(db, _write_note, values)


def _write_note(db: sqlite3.Connection, values: Sequence[object]) -> None:
    db.execute("DELETE FROM job")
    places = ", ".join("?" * len(NOTED))
    db.execute(f"INSERT INTO job ({', '.join(NOTED)}) VALUES ({places})", tuple(values))


def read_note(path: Path) -> dict[str, Any] | None:
    """Read what `note` has kept, if there is a note.  Blocking.

    Raises:
      StoreError: the file cannot be read, or is no job's.
    """
    with _using(path, "ro") as db:
        JOB_FILE.check(db, path, must_exist=True)
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'job'").fetchone() is not None:
            for row in db.execute(f"SELECT {', '.join(NOTED)} FROM job"):
                return dict(row)
    return None


def read_node(path: Path) -> str:
    """Read the name of the node that a job empties; an empty text if it empties none.  Blocking.

    Raises:
      StoreError: the file cannot be read, or is no job's.
    """
    with _using(path, "ro") as db:
        JOB_FILE.check(db, path, must_exist=True)
        try:
            origin = job_info.read_origin(db)
        except (ValueError, TypeError, AttributeError) as exc:
            raise StoreError(f"{path}: the shark that it empties cannot be read") from exc
        return "" if origin is None else origin.manta_storage_id


@contextmanager
def _using(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    try:
        with closing(connect(path, mode=mode, lock_s=NOTE_LOCK_S)) as db:
            yield db
    except FAILURES as exc:
        raise store_error(path, exc) from exc


def open_apart(path: Path) -> sqlite3.Connection:
    """Open a file that nobody else knows yet; the caller closes it.  Blocking.

    Until `adopt` a loss of power may spoil it, so its transactions wait for no disk.

    Raises:
      StoreError: it cannot be opened.
    """
    with closed_on_failure(connect(path, mode="rw")) as db:
        db.execute("PRAGMA synchronous=OFF")
        return db


def change(
    path: Path,
    db: sqlite3.Connection,
    fn: Callable[Concatenate[sqlite3.Connection, P], object],
    *args: P.args,
    **kwargs: P.kwargs,
) -> None:
    """Run `fn(db, *args)` as a transaction of the file `path`.  Blocking.

    Raises:
      StoreError: it cannot be written, and is as before.
    """
    try:
        transact(db, fn, *args, **kwargs)
    except FAILURES as exc:
        raise store_error(path, exc) from exc


def adopt(source: Path, path: Path) -> None:
    """Move a whole file, which nobody uses, to where the job's file belongs.  Blocking.

    Raises:
      StoreError: it is not there, or may not be after a loss of power.
    """
    # sqlite removes its log when the file is closed, unless the disk did not take what is in it.
    if source.with_name(f"{source.name}-wal").exists():
        raise StoreError(f"{path}: not all of it was written: is the disk full?")
    try:
        _sync(source)
        source.rename(path)
        _sync(path.parent)
    except OSError as exc:
        raise StoreError(f"{path}: {exc}") from exc


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove the file of a job that nothing uses any more.  Blocking.

    Raises:
      StoreError: it is still there.
    """
    try:
        for suffix in ("-wal", "-shm", ""):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as exc:
        raise StoreError(f"{path}: {exc}") from exc
