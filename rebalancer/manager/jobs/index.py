"""This module keeps the list of all jobs, `rebalancer.sqlite`: the only SQL about jobs."""

import datetime
import json
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import attrs

from rebalancer.domain import states
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.domain.states import (
    AT_WORK,
    ENDED,
    WISH_WORDS,
    JobEvent,
    JobState,
    Words,
    advance,
    job_state,
    words_of,
)
from rebalancer.errors import IllegalTransition, StoreBusy, StoreError, Unavailable
from rebalancer.log import get_logger
from rebalancer.manager.store import job_file
from rebalancer.manager.store.schema import INDEX
from rebalancer.retry import is_transient
from rebalancer.sqlite import (
    FAILURES,
    Database,
    connect,
    is_passing,
    open_database,
    store_error,
    transact,
)
from rebalancer.threads import Work, run_sync

T = TypeVar("T")
#: Seconds that a request waits for the list; a job waits on.
REQUEST_S = 5.0
#: Seconds that the start of the manager waits for it: then the service manager starts it again.
START_S = 10.0

log = get_logger()

_NOTED = f"SELECT {', '.join(job_file.NOTED)} FROM jobs"
_PLACES = ", ".join("?" * len(job_file.NOTED))

_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
#: What is noted when a job comes into a state.
_TIMES = {
    **dict.fromkeys(AT_WORK, f", started = coalesce(started, {_NOW}), finished = NULL"),
    **dict.fromkeys((*ENDED, JobState.PAUSED), f", finished = {_NOW}"),
}
#: The words of column `state` of jobs that have not ended, some that have among them.
_UNFINISHED = sorted({words_of(state).state for state in JobState if state not in ENDED})


@attrs.frozen
class JobRow:
    """One job.  `state` is None if only another version knows what `words` mean."""

    id: str
    action: str
    state: JobState | None
    params: dict[str, Any]
    created: str
    started: str | None
    finished: str | None
    error: str | None
    #: The state as it is recorded, for the API.
    words: Words = attrs.field(
        default=attrs.Factory(lambda row: words_of(row.state), takes_self=True)
    )
    #: Whether its row makes no sense: then it is shown, and nothing can be done but remove it.
    is_broken: bool = False

    @property
    def has_ended(self) -> bool:
        """Tell whether nothing will happen to it any more.

        Of a state that only another version knows, nothing is known.
        """
        return self.is_broken or self.state in ENDED

    @property
    def state_shown(self) -> str:
        """Return the state as the API spells it."""
        word = self.words.state
        return word[:1].upper() + word[1:]


class JobIndex:
    """All jobs.  Made by `open_index`.

    What it says of a job is kept in the job's file too, so that a lost list can be made anew.
    """

    def __init__(self, database: Database, patience_s: float = math.inf) -> None:
        self._database = database
        self._patience_s = patience_s

    def for_requests(self) -> "JobIndex":
        """Return the same list for requests, which wait for `REQUEST_S` at the longest."""
        return JobIndex(self._database, REQUEST_S)

    async def _write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        with _answering():
            return await self._database.write_within(self._patience_s, fn)

    async def _read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        with _answering():
            return await self._database.read_within(self._patience_s, fn)

    async def _note(self, job_id: str) -> None:
        """Repeat in a job's file what is recorded of it, which holds whether or not this can be."""
        try:
            await self._try_to_note(job_id)
        except Exception as exc:
            if not (isinstance(exc, Unavailable) or is_transient(exc)):
                raise
            _not_noted(job_id, exc)

    async def _try_to_note(self, job_id: str) -> None:
        def read(db: sqlite3.Connection) -> tuple[Any, ...] | None:
            row = db.execute(f"{_NOTED} WHERE id = ?", (job_id,)).fetchone()
            return None if row is None else tuple(row)

        values = await self._read(read)
        if values is not None:
            await self._database.run(_note, self._database.path, values)

    async def add(self, job_id: str, action: str, params: dict[str, Any]) -> None:
        """Record a new job, whose file exists already, as waiting for its turn."""

        def run(db: sqlite3.Connection) -> None:
            words = words_of(JobState.QUEUED)
            db.execute(
                "INSERT INTO jobs (id, action, state, wish, params) VALUES (?, ?, ?, ?, ?)",
                (job_id, action, *words, json.dumps(params)),
            )

        await self._write(run)
        await self._note(job_id)

    async def all(self) -> list[JobRow]:
        """Return every job, oldest first."""

        def run(db: sqlite3.Connection) -> list[JobRow]:
            return [_read(row) for row in db.execute("SELECT * FROM jobs ORDER BY rowid")]

        return await self._read(run)

    async def get(self, job_id: str) -> JobRow | None:
        """Return one job, or None if there is none of this id."""

        def run(db: sqlite3.Connection) -> JobRow | None:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return None if row is None else _read(row)

        return await self._read(run)

    async def unfinished(self) -> list[JobRow]:
        """Return the jobs that have not ended: those that run first, each kind oldest first."""

        def run(db: sqlite3.Connection) -> list[JobRow]:
            places = ", ".join("?" * len(_UNFINISHED))
            query = f"SELECT * FROM jobs WHERE state IN ({places}) ORDER BY rowid"
            jobs = [_read(row) for row in db.execute(query, _UNFINISHED)]
            left = [job for job in jobs if not job.has_ended]
            return sorted(left, key=lambda job: job.state not in AT_WORK)

        return await self._read(run)

    async def remove(self, job_id: str) -> None:
        """Forget a job."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

        await self._write(run)
        log.info("job", job=job_id, state="removed")

    async def set_params(self, job_id: str, params: dict[str, Any]) -> None:
        """Record what is asked of a job anew."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("UPDATE jobs SET params = ? WHERE id = ?", (json.dumps(params), job_id))

        await self._write(run)
        await self._note(job_id)

    async def advance(self, job_id: str, event: JobEvent, error: str | None = None) -> JobRow:
        """Record what happened to a job: its new state, the time, and the cause if any.

        Raises:
          IllegalTransition: that cannot happen to it, or there is no such job.
        """

        def run(db: sqlite3.Connection) -> tuple[Words, JobRow]:
            found = db.execute("SELECT state, wish FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if found is None:
                raise IllegalTransition(f"there is no job {job_id}")
            before = Words(*found)
            words, times = _after(before, event)
            db.execute(
                f"UPDATE jobs SET state = ?, wish = ?, error = ?{times} WHERE id = ?",
                (*words, error, job_id),
            )
            return before, _read(
                db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            )

        before, row = await self._write(run)
        if row.words.state != before.state:
            log.info("job", job=job_id, state=row.words.state, error=error)
        await self._note(job_id)
        return row


def _after(words: Words, event: JobEvent) -> tuple[Words, str]:
    """Return the columns of a job after an event, and the SQL that notes the time of it.

    Raises:
      IllegalTransition: the event cannot happen to such a job.
    """
    state = job_state(words)
    if state is not None:
        new = advance(states.JOB, state, event)
        return words_of(new, words.wish), _TIMES.get(new, "")
    if event is JobEvent.CANCELLED:  # kept for the version that knows the state
        return Words(words.state, words_of(JobState.CANCELLING).wish), ""
    raise IllegalTransition(f"{event} cannot happen to something {words.state}")


def _read(row: sqlite3.Row) -> JobRow:
    """Read a row; of one that makes no sense, as much as can be shown."""
    try:
        return _read_whole(row)
    except (ValueError, TypeError, RecursionError) as exc:
        job_id, action, state = (str(row[name]) for name in ("id", "action", "state"))
        text = f"this row of the list of jobs cannot be used: {exc}"
        params, words = {"from_shark": ""}, Words(state, None)
        return JobRow(job_id, action, None, params, "", None, None, text, words, is_broken=True)


def _read_whole(row: sqlite3.Row | Mapping[str, Any]) -> JobRow:
    params = json.loads(row["params"])
    if not isinstance(params, dict) or not isinstance(params.get("from_shark"), str):
        raise TypeError("params is no object that names a shark")
    for name in ("id", "action", "state", "created"):
        if not isinstance(row[name], str):
            raise TypeError(f"{name} is no text")
    for name in ("started", "finished", "error"):
        if not isinstance(row[name], str | None):
            raise TypeError(f"{name} is no text")
    if Path(row["id"]).name != row["id"]:
        raise ValueError("its id can name no file")
    words = Words(row["state"], row["wish"])
    if words.wish not in (None, *WISH_WORDS):
        raise ValueError(f"{words.wish!r} is no wish")
    return JobRow(
        row["id"],
        row["action"],
        job_state(words),
        params,
        row["created"],
        row["started"],
        row["finished"],
        row["error"],
        words,
    )


@contextmanager
def _answering() -> Iterator[None]:
    """Turn a file that stays busy into the answer that the request can be tried again."""
    try:
        yield
    except StoreBusy as exc:
        raise Unavailable(f"the list of jobs cannot be used now: {exc}") from exc


def _note(index: Path, values: Sequence[object]) -> None:
    try:
        job_file.note(index.with_name(f"{values[0]}.sqlite"), values)
    except StoreError as exc:
        _not_noted(values[0], exc)


def _not_noted(job_id: object, exc: Exception) -> None:
    # It is written at the next change, or the next start.
    error = str(exc) or repr(exc)
    log.warning("what is known of a job is not in its file", job=job_id, error=error)


@asynccontextmanager
async def open_index(path: Path) -> AsyncIterator[JobIndex]:
    """Open the list of jobs; a missing or broken one is made anew from the jobs' files.

    Raises:
      StoreError: the file cannot be used, or is of a newer version.
    """
    await run_sync(Work.STORE, _make_usable, path)
    async with open_database(path, INDEX, patience_s=START_S) as database:
        # Text may be broken too, and that in one row must not hide the others.
        for connection in database.connections:
            connection.text_factory = _tolerant
        await run_sync(Work.STORE, _compare, path)
        yield JobIndex(database)


def _tolerant(text: bytes) -> str:
    return text.decode(errors="replace")


# --- a list that is lost, or broken ----------------------------------------------------------


def _make_usable(path: Path) -> None:
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
    """Find out what is wrong with the list for good; None if nothing is.

    Raises:
      StoreError: it cannot be used now, or is of a newer version.
    """
    if not path.is_file():
        return None
    try:
        with closing(connect(path, mode="rw")) as db:
            db.text_factory = _tolerant
            INDEX.check(db, path, must_exist=False)
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict == "ok" and INDEX.version(db):
                db.execute("SELECT id, action, state, params, created FROM jobs").fetchall()
            return None if verdict == "ok" else str(verdict)
    except StoreBusy:
        raise
    except FAILURES as exc:
        if is_passing(exc):
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
        log.error("the list of jobs was lost: made anew from their files", jobs=len(rows))


def _recovered(file: Path) -> tuple[Any, ...]:
    """Make a job's row from its file alone; without a note in it, that of a failed job."""
    shark, why = "", "its file does not say what became of it"
    try:
        noted = job_file.read_note(file)
    except StoreError as exc:
        why = str(exc)
    else:
        if _is_noted(noted, file):
            return tuple(noted[name] for name in job_file.NOTED)
        shark = str((noted or {}).get("from_shark", ""))
    changed = datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC)
    when = changed.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    error = f"the list of jobs was lost, and {why}"
    params = json.dumps({"from_shark": shark})
    state, wish = words_of(JobState.FAILED)
    return (file.stem, "evacuate", state, params, when, None, when, error, wish)


def _is_noted(noted: Mapping[str, Any] | None, file: Path) -> TypeGuard[Mapping[str, Any]]:
    """Tell whether a job's file has a note that makes sense."""
    if noted is None or noted.get("id") != file.stem:
        return False
    try:
        _read_whole(noted)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False
    return True


def _compare(path: Path) -> None:
    """Update the notes in the jobs' files, and mend by them rows that make no sense.  Blocking.

    Raises:
      StoreError: the list cannot be used now.
    """
    try:
        with closing(connect(path)) as db:
            db.text_factory = _tolerant
            for row in db.execute(
                f"SELECT rowid, {', '.join(job_file.NOTED)} FROM jobs"
            ).fetchall():
                job = _read(row)
                if not job.is_broken:
                    _note(path, tuple(row)[1:])
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
