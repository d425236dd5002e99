"""This module makes the list of jobs anew from the jobs' files where it is lost or broken.

What the list says of a job is repeated in the job's file; by that, rows that make no sense are
mended too.
"""

import datetime
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeGuard

from rebalancer.actions import FALLBACK
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.domain.states import JobState, words_of
from rebalancer.errors import StoreBusy, StoreError
from rebalancer.log import get_logger
from rebalancer.manager.jobs.rows import read_row, read_whole_row
from rebalancer.manager.store import job_file
from rebalancer.manager.store.schema import INDEX
from rebalancer.sqlite import FAILURES, connect, store_error, transact
from rebalancer.transient import is_transient_of_sqlite

log = get_logger()

_PLACES = ", ".join("?" * len(job_file.NOTED))


def tolerant(text: bytes) -> str:
    """Decode text of a database; text that is broken in one row must not hide other rows."""
    return text.decode(errors="replace")


def note_in_job_file(index: Path, values: Sequence[object]) -> None:
    """Repeat in a job's file what the list of jobs at `index` records of the job.  Blocking.

    If the file cannot be written, that is logged, and the next change of the job or the next start
    of the manager writes it.
    """
    try:
        job_file.note(index.with_name(f"{values[0]}.sqlite"), values)
    except StoreError as exc:
        log_not_noted(values[0], exc)


def log_not_noted(job_id: object, exc: Exception) -> None:
    """Log that a job's row could not be repeated in the job's file."""
    error = str(exc) or repr(exc)
    log.warning("row of a job not repeated in its file", job=job_id, error=error)


def make_usable(path: Path) -> None:
    """Move a broken list aside, and make a missing or empty one anew.  Blocking.

    Raises:
      StoreError: the file cannot be used now, or is of a newer version.
    """
    if (why := _broken(path)) is not None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
        kept = path.with_name(f"{path.name}.broken-{stamp}")
        for suffix in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
        log.error("the list of jobs is broken: moved aside", error=why, kept=str(kept))
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(connect(path)) as db:
        INDEX.check(db, path, must_exist=False)
        if INDEX.version(db) == 0:
            transact(db, _make_anew, path)


def _broken(path: Path) -> str | None:
    """Return what is wrong with the list for good, or None.

    Raises:
      StoreError: it cannot be used now, or is of a newer version.
    """
    if not path.is_file():
        return None
    try:
        with closing(connect(path, mode="rw")) as db:
            db.text_factory = tolerant
            INDEX.check(db, path, must_exist=False)
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict == "ok" and INDEX.version(db):
                db.execute("SELECT id, action, state, params, created FROM jobs").fetchall()
            return None if verdict == "ok" else str(verdict)
    except StoreBusy:
        raise
    except FAILURES as exc:
        if is_transient_of_sqlite(exc):
            raise store_error(path, exc) from exc
        return str(exc)
    except StoreError as exc:
        if isinstance(exc.__cause__, FAILURES):
            return str(exc)
        raise


def _make_anew(db: sqlite3.Connection, path: Path) -> None:
    INDEX.bring_up(db)
    files = sorted(file for file in path.parent.glob("*.sqlite") if is_loose_uuid(file.stem))
    rows = sorted((_recovered(file) for file in files), key=lambda row: str(row[4]))
    db.executemany(f"INSERT INTO jobs ({', '.join(job_file.NOTED)}) VALUES ({_PLACES})", rows)
    if rows:
        log.error("the list of jobs was lost: made anew from the jobs' files", jobs=len(rows))


def _recovered(file: Path) -> tuple[Any, ...]:
    """Make a job's row from the job's file alone; without a note there the job has failed."""
    node, why = "", "its file does not say what became of it"
    try:
        noted = job_file.read_note(file)
        if _is_noted(noted, file):
            return tuple(noted[name] for name in job_file.NOTED)
        if noted is None:
            node = job_file.read_node(file)
    except StoreError as exc:
        why = str(exc)
    changed = datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC)
    when = changed.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    error = f"the list of jobs was lost, and {why}"
    params = json.dumps(FALLBACK.params_about(node))
    state, wish = words_of(JobState.FAILED)
    return (file.stem, FALLBACK.name, state, params, when, None, when, error, wish)


def _is_noted(noted: Mapping[str, Any] | None, file: Path) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether a job's file has a note that makes sense."""
    if noted is None or noted.get("id") != file.stem:
        return False
    try:
        read_whole_row(noted)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return True


def reconcile(path: Path) -> None:
    """Update the notes in the jobs' files, and mend broken rows by such notes.  Blocking.

    Raises:
      StoreError: the list cannot be used now.
    """
    try:
        with closing(connect(path)) as db:
            db.text_factory = tolerant
            for row in db.execute(
                f"SELECT rowid, {', '.join(job_file.NOTED)} FROM jobs"
            ).fetchall():
                job = read_row(dict(row))
                if not job.is_broken:
                    note_in_job_file(path, tuple(row)[1:])
                    continue
                log.error("a row of the list of jobs is broken", job=job.id, error=job.error)
                _mend(db, path, row)
    except FAILURES as exc:
        raise store_error(path, exc) from exc


def _mend(db: sqlite3.Connection, path: Path, row: sqlite3.Row) -> None:
    file = path.with_name(f"{row['id']}.sqlite")
    if not is_loose_uuid(row["id"]) or not file.is_file():
        return
    try:
        noted = job_file.read_note(file)
    except StoreError:
        return
    if not _is_noted(noted, file):
        return
    values = [noted[name] for name in job_file.NOTED]
    assignments = ", ".join(f"{name} = ?" for name in job_file.NOTED)
    transact(db, _update, f"UPDATE jobs SET {assignments} WHERE rowid = ?", (*values, row["rowid"]))
    log.error("a row of the list of jobs was mended by the job's file", job=values[0])


def _update(db: sqlite3.Connection, statement: str, values: Sequence[object]) -> None:
    db.execute(statement, values)
