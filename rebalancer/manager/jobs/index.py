"""This module keeps the list of all jobs, `rebalancer.sqlite`: the only SQL about jobs."""

import json
import math
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rebalancer.domain import states
from rebalancer.domain.states import (
    AT_WORK,
    ENDED,
    JobEvent,
    JobState,
    Words,
    advance,
    job_state,
    words_of,
)
from rebalancer.errors import IllegalTransition, StoreBusy, Unavailable
from rebalancer.log import get_logger
from rebalancer.manager.jobs.index_repair import (
    log_not_noted,
    make_usable,
    note_in_job_file,
    reconcile,
    tolerant,
)
from rebalancer.manager.jobs.rows import JobRow, read_row
from rebalancer.manager.store import job_file
from rebalancer.manager.store.schema import INDEX
from rebalancer.sqlite import (
    Database,
    open_database,
)
from rebalancer.threads import Work, run_sync
from rebalancer.transient import is_transient

T = TypeVar("T")
#: Seconds that a request waits for the list; a job waits on.
REQUEST_S = 5.0
#: Seconds that the start of the manager waits for it: then the service manager starts it again.
START_S = 10.0

log = get_logger()

_NOTED = f"SELECT {', '.join(job_file.NOTED)} FROM jobs"

_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
#: The times that are noted when a job comes into a state.
_TIMES = {
    **dict.fromkeys(AT_WORK, f", started = coalesce(started, {_NOW}), finished = NULL"),
    **dict.fromkeys((*ENDED, JobState.PAUSED), f", finished = {_NOW}"),
}
#: The words that column `state` can have for a job that has not ended; some ended jobs share one.
_UNFINISHED = sorted({words_of(state).state for state in JobState if state not in ENDED})


class JobIndex:
    """This object is the list of all jobs; `open_index` makes it.

    A job's row is repeated in the job's file, so that a lost list can be made anew.
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
        """Repeat a job's row in the job's file; the row holds if that fails."""
        try:
            await self._try_to_note(job_id)
        except Exception as exc:
            if not (isinstance(exc, Unavailable) or is_transient(exc)):
                raise
            log_not_noted(job_id, exc)

    async def _try_to_note(self, job_id: str) -> None:
        def read(db: sqlite3.Connection) -> tuple[Any, ...] | None:
            row = db.execute(f"{_NOTED} WHERE id = ?", (job_id,)).fetchone()
            return None if row is None else tuple(row)

        values = await self._read(read)
        if values is not None:
            await self._database.run(note_in_job_file, self._database.path, values)

    async def add(
        self,
        job_id: str,
        action: str,
        params: dict[str, Any],
        state: JobState = JobState.QUEUED,
        error: str | None = None,
    ) -> None:
        """Record a new job, whose file exists already; one that was imported has ended."""

        def run(db: sqlite3.Connection) -> None:
            finished = _NOW if state in ENDED else "NULL"
            db.execute(
                "INSERT INTO jobs (id, action, state, wish, params, error, finished)"
                f" VALUES (?, ?, ?, ?, ?, ?, {finished})",
                (job_id, action, *words_of(state), json.dumps(params), error),
            )

        await self._write(run)
        await self._note(job_id)

    async def all(self) -> list[JobRow]:
        """Return every job, oldest first."""

        def run(db: sqlite3.Connection) -> list[JobRow]:
            return [read_row(dict(row)) for row in db.execute("SELECT * FROM jobs ORDER BY rowid")]

        return await self._read(run)

    async def get(self, job_id: str) -> JobRow | None:
        """Return one job, or None if there is none of this id."""

        def run(db: sqlite3.Connection) -> JobRow | None:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return None if row is None else read_row(dict(row))

        return await self._read(run)

    async def unfinished(self) -> list[JobRow]:
        """Return the jobs that have not ended: those at work first, each kind oldest first."""

        def run(db: sqlite3.Connection) -> list[JobRow]:
            places = ", ".join("?" * len(_UNFINISHED))
            query = f"SELECT * FROM jobs WHERE state IN ({places}) ORDER BY rowid"
            jobs = [read_row(dict(row)) for row in db.execute(query, _UNFINISHED)]
            left = [job for job in jobs if not job.has_ended]
            return sorted(left, key=lambda job: job.state not in AT_WORK)

        return await self._read(run)

    async def remove(self, job_id: str) -> None:
        """Remove a job from the list."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

        await self._write(run)
        log.info("job", job=job_id, state="removed")

    async def set_params(self, job_id: str, params: dict[str, Any]) -> None:
        """Record new parameters of a job."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("UPDATE jobs SET params = ? WHERE id = ?", (json.dumps(params), job_id))

        await self._write(run)
        await self._note(job_id)

    async def advance(self, job_id: str, event: JobEvent, error: str | None = None) -> JobRow:
        """Record an event of a job: its new state, the time, and the error if any.

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
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return before, read_row(dict(row))

        before, row = await self._write(run)
        if row.words.state != before.state:
            log.info("job", job=job_id, state=row.words.state, error=error)
        await self._note(job_id)
        return row


def _after(words: Words, event: JobEvent) -> tuple[Words, str]:
    """Return the columns of a job after an event, and the SQL that records the time.

    Raises:
      IllegalTransition: the event cannot happen to such a job.
    """
    state = job_state(words)
    if state is not None:
        new = advance(states.JOB, state, event)
        return words_of(new, words.wish), _TIMES.get(new, "")
    if event is JobEvent.CANCELLED:  # the wish is kept for the version that knows the state
        return Words(words.state, words_of(JobState.CANCELLING).wish), ""
    raise IllegalTransition(f"{event} cannot happen to something {words.state}")


@contextmanager
def _answering() -> Iterator[None]:
    """Turn a file that stays busy into the answer that the request can be retried."""
    try:
        yield
    except StoreBusy as exc:
        raise Unavailable(f"the list of jobs cannot be used now: {exc}") from exc


@asynccontextmanager
async def open_index(path: Path) -> AsyncIterator[JobIndex]:
    """Open the list of jobs; a missing or broken one is made anew from the jobs' files.

    Raises:
      StoreError: the file cannot be used, or is of a newer version.
    """
    await run_sync(Work.STORE, make_usable, path)
    async with open_database(path, INDEX, patience_s=START_S) as database:
        for connection in database.connections:
            connection.text_factory = tolerant
        await run_sync(Work.STORE, reconcile, path)
        yield JobIndex(database)
