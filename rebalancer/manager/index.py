"""The list of all jobs, in `rebalancer.sqlite`: the only SQL about jobs as such."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs

from rebalancer.domain import states
from rebalancer.domain.states import JobEvent, JobState, advance
from rebalancer.log import get_logger
from rebalancer.sqlite import Database, open_database

log = get_logger()

# The first three columns are the predecessor's.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id          TEXT PRIMARY KEY NOT NULL,
    action      TEXT NOT NULL,
    state       TEXT NOT NULL,
    params      TEXT NOT NULL,                  -- JSON
    created     TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    started     TEXT,
    finished    TEXT,
    error       TEXT
);
"""
_NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


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

    async def next(self) -> JobRow | None:
        """The job to run now: one that a restart interrupted, else the oldest that waits."""

        def run(db: sqlite3.Connection) -> JobRow | None:
            row = db.execute(
                "SELECT * FROM jobs WHERE state IN ('running', 'setup')"
                " ORDER BY state = 'setup', rowid LIMIT 1"
            ).fetchone()
            return None if row is None else _read(row)

        return await self._database.read(run)

    async def advance(self, job_id: str, event: JobEvent, error: str | None = None) -> JobState:
        """Something happened to a job: record its new state, the time, and the cause if any."""

        def run(db: sqlite3.Connection) -> JobState:
            (old,) = db.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
            new = advance(states.JOB, JobState(old), event)
            column = "started" if new is JobState.RUNNING else "finished"
            db.execute(
                f"UPDATE jobs SET state = ?, error = ?, {column} = {_NOW} WHERE id = ?",
                (new, error, job_id),
            )
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
    )


@asynccontextmanager
async def open_index(path: Path) -> AsyncIterator[JobIndex]:
    """Open the list of jobs.

    Raises:
      StoreError: the file cannot be used.
    """
    async with open_database(path, _SCHEMA) as database:
        yield JobIndex(database)
