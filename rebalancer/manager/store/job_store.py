"""This module opens the file of a job for the stages that run it, and mirrors its counts.

Stages call `read` and `write` with a function of this package that takes the connection first:
`await job.store.write(assignments.accept, assignment_id)`.  Each call is one transaction, which is
on the disk when `write` returns.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import trio

from rebalancer.domain.states import ObjectStatus
from rebalancer.manager.store import counts, unplaced
from rebalancer.manager.store.counts import Counts
from rebalancer.manager.store.records import StatusCounts
from rebalancer.manager.store.schema import JOB_FILE
from rebalancer.sqlite import Database, RunSync, open_database
from rebalancer.waits import Waits

P = ParamSpec("P")
T = TypeVar("T")


class JobStore:
    """The file of a running job, and a mirror of its counts.  Made by `open_store`.

    Mutable state besides the file: the counts as of the last commit, an event that wakes tasks
    which wait for a count to change, and how many changes by other programs are dealt with.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._counts = Counts()
        self._changed = trio.Event()
        self._known_changes = 0
        #: Called with the counts before and after each commit once the store is open.
        self.counted: Callable[[StatusCounts, StatusCounts], None] = lambda _before, _after: None
        database.observe, database.observed = counts.read_counts, self._mirror

    async def write(self, fn: Callable[Concatenate[sqlite3.Connection, P], T],
                    *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Run `fn(connection, ...)` as one transaction, and return what it returned.

        `fn` may run more than once, in the thread of the writer.

        Raises:
          StoreError: the file is no good; a transient failure is waited for.
        """
        return await self.database.write(fn, *args, **kwargs)

    async def read(self, fn: Callable[Concatenate[sqlite3.Connection, P], T],
                   *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        """Run `fn(connection, ...)` on one snapshot of the file, beside any writer.

        Raises:
          StoreError: the file is no good; a transient failure is waited for.
        """
        return await self.database.read(fn, *args, **kwargs)

    # --- counts --------------------------------------------------------------------------

    @property
    def uncopied(self) -> int:
        """Return how many objects may still need a destination: the unprocessed and assigned."""
        by_status = self._counts.by_status
        return by_status[ObjectStatus.UNPROCESSED] + by_status[ObjectStatus.ASSIGNED]

    @property
    def deferred(self) -> int:
        """Return how many of the `uncopied` objects wait for all other work of the job to end."""
        return self._counts.deferred

    @property
    def objects(self) -> int:
        """Return how many objects the job has."""
        return sum(self._counts.by_status[status] for status in ObjectStatus)

    async def wait_change(self) -> None:
        """Return after the next change of any count, or after the next `wake`."""
        await self._changed.wait()

    def wake(self) -> None:
        """Wake all tasks in `wait_change`."""
        self._changed.set()
        self._changed = trio.Event()

    def _mirror(self, counts: Counts) -> None:
        before, self._counts = self._counts, counts
        self.counted(before.status, counts.status)
        self.wake()

    async def load(self) -> None:
        """Bring the mirror up to date with the file, before any other use.

        Objects that an earlier run deferred, or requeued, become like new ones.
        """
        await self.write(unplaced.requeue_all)

    async def take_changes(self) -> bool:
        """Return whether objects are unplaced after changes by another program since the last call.

        Call this while nothing of the job is under way.  The objects become like new ones, as
        by `load`.
        """
        left = await self.write(unplaced.requeue_all)
        changes, self._known_changes = self._known_changes, self.database.foreign_changes
        return left > 0 and self.database.foreign_changes != changes

    async def status(self) -> StatusCounts:
        """Return the counts as they are on disk."""
        read = await self.read(counts.read_counts)
        if read != self._counts:
            # Another program has changed rows; or somebody has just written, and no harm is done.
            await self.write(_change_nothing)
        return read.status


def _change_nothing(_db: sqlite3.Connection) -> None:
    """Change nothing, so that the counts are read anew at the commit."""


@asynccontextmanager
async def open_store(
    path: Path,
    *,
    run: RunSync | None = None,
    waits: Waits | None = None,
    must_exist: bool = False,
) -> AsyncIterator[JobStore]:
    """Open a job's file and bring it to the newest layout, making it unless it `must_exist`.

    Transient failures of the file are waited for, and shown in `waits`.

    Raises:
      StoreError: it cannot be opened, is another kind of file, or is not there.
    """
    opened = open_database(path, JOB_FILE, run=run, waits=waits, must_exist=must_exist)
    async with opened as database:
        store = JobStore(database)
        await store.load()
        yield store
