"""The list of all jobs, in `rebalancer.sqlite`: the only SQL about jobs as such."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import attrs

from rebalancer.domain import states
from rebalancer.domain.states import JobEvent, JobState, Wish, advance
from rebalancer.log import get_logger
from rebalancer.manager.layouts import INDEX
from rebalancer.sqlite import Database, open_database

log = get_logger()

_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
#: What is noted when a job comes into a state.
_TIMES = {
    JobState.RUNNING: f", started = coalesce(started, {_NOW}), finished = NULL",
    **dict.fromkeys((JobState.COMPLETE, JobState.FAILED, JobState.STOPPED), f", finished = {_NOW}"),
}


@attrs.frozen
class JobRow:
    """One job.  `state` is text: one we do not know is kept and shown as it is."""

    id: str
    action: str
    state: str
    params: dict[str, Any]
    created: str
    started: str | None
    finished: str | None
    error: str | None
    wish: Wish | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing will happen to it any more.

        A paused job has not ended, and of a state that nobody knows nothing is known either.
        """
        if self.state == JobState.STOPPED:
            return self.wish is not Wish.PAUSE
        return self.state in (JobState.COMPLETE, JobState.FAILED)

    @property
    def state_shown(self) -> str:
        """The state as the API spells it."""
        return self.state[:1].upper() + self.state[1:]


class JobIndex:
    """All jobs.  Made by `open_index`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, job_id: str, action: str, params: dict[str, Any]) -> None:
        """Record a new job, whose file exists already, as waiting for its turn."""

        def run(db: sqlite3.Connection) -> None:
            state = advance(states.JOB, JobState.INIT, JobEvent.RECORDED)
            db.execute(
                "INSERT INTO jobs (id, action, state, params) VALUES (?, ?, ?, ?)",
                (job_id, action, state, json.dumps(params)),
            )

        await self._database.write(run)

    async def all(self) -> list[JobRow]:
        """Every job, oldest first."""

        def run(db: sqlite3.Connection) -> list[JobRow]:
            return [_read(row) for row in db.execute("SELECT * FROM jobs ORDER BY rowid")]

        return await self._database.read(run)

    async def get(self, job_id: str) -> JobRow | None:
        """One job, or None if there is none of this id."""

        def run(db: sqlite3.Connection) -> JobRow | None:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
            return None if row is None else _read(row)

        return await self._database.read(run)

    async def unfinished(self) -> list[JobRow]:
        """The jobs that have not ended: those that run first, each kind oldest first."""

        def run(db: sqlite3.Connection) -> list[JobRow]:
            rows = db.execute(
                "SELECT * FROM jobs WHERE state IN ('running', 'setup')"
                " OR (state = 'stopped' AND wish = 'pause') ORDER BY state <> 'running', rowid"
            )
            return [_read(row) for row in rows]

        return await self._database.read(run)

    async def remove(self, job_id: str) -> None:
        """Forget a job."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

        await self._database.write(run)
        log.info("job", job=job_id, state="removed")

    async def set_params(self, job_id: str, params: dict[str, Any]) -> None:
        """Record what is asked of a job anew."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("UPDATE jobs SET params = ? WHERE id = ?", (json.dumps(params), job_id))

        await self._database.write(run)

    async def set_wish(self, job_id: str, wish: Wish) -> None:
        """Record what an operator wants of a job; it is carried out after this."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("UPDATE jobs SET wish = ? WHERE id = ?", (wish, job_id))

        await self._database.write(run)

    async def advance(
        self,
        job_id: str,
        event: JobEvent,
        error: str | None = None,
        *,
        wish: Wish | Literal["as it is"] | None = "as it is",
    ) -> JobState:
        """Something happened to a job: record its new state, the time, and the cause if any.

        What is wanted of it from now on is recorded in the same transaction.
        """

        def run(db: sqlite3.Connection) -> JobState:
            (old,) = db.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
            new = advance(states.JOB, JobState(old), event)
            db.execute(
                f"UPDATE jobs SET state = ?, error = ?{_TIMES.get(new, '')} WHERE id = ?",
                (new, error, job_id),
            )
            if wish != "as it is":
                db.execute("UPDATE jobs SET wish = ? WHERE id = ?", (wish, job_id))
            return new

        new = await self._database.write(run)
        log.info("job", job=job_id, state=new, error=error)
        return new


def _read(row: sqlite3.Row) -> JobRow:
    return JobRow(
        row["id"],
        row["action"],
        row["state"],
        json.loads(row["params"]),
        row["created"],
        row["started"],
        row["finished"],
        row["error"],
        None if row["wish"] is None else Wish(row["wish"]),
    )


@asynccontextmanager
async def open_index(path: Path) -> AsyncIterator[JobIndex]:
    """Open the list of jobs.

    Raises:
      StoreError: the file cannot be used.
    """
    async with open_database(path, INDEX) as database:
        yield JobIndex(database)
