"""This module has one job's sqlite file, as the stages of the job see it.

Every method is one transaction, true on disk when it returns.  What they do is in the modules
beside this one.
"""

import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import trio

from rebalancer.domain.objects import MantaObject, Shark
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure
from rebalancer.domain.states import ObjectStatus
from rebalancer.errors import StoreError
from rebalancer.manager.store import (
    assignments,
    counts,
    discovery,
    final_scans,
    job_info,
    orphans,
    scans,
    unplaced,
    updates,
)
from rebalancer.manager.store.counts import Counts
from rebalancer.manager.store.records import (
    Dropped,
    Finding,
    FoundRecord,
    Looked,
    NewAssignment,
    OpenAssignment,
    Orphan,
    Remaining,
    Round,
    ScanPosition,
    Settled,
    Status,
    StoredRecord,
    Uncopied,
)
from rebalancer.manager.store.schema import JOB_FILE
from rebalancer.sqlite import (
    FAILURES,
    Database,
    Kept,
    RunSync,
    connect,
    open_database,
    prepare,
    store_error,
    transact,
)
from rebalancer.waits import Waits


class JobStore:
    """One job's file.  Made by `open_store`.

    Mutable state besides the file: a mirror of its counts as of the last commit, an event that
    wakes those who wait for one to change, and how many changes by other programs are dealt with.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._counts = Counts()
        self._changed = trio.Event()
        self._known_changes = 0
        database.observe, database.observed = counts.read_counts, self._mirror

    # --- what is waiting -----------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """Return objects that may still need a destination: unprocessed and assigned ones."""
        by_status = self._counts.by_status
        return by_status[ObjectStatus.UNPROCESSED] + by_status[ObjectStatus.ASSIGNED]

    @property
    def put_off(self) -> int:
        """Return those of `unsettled` that `take_up` returns."""
        return self._counts.put_off

    @property
    def objects(self) -> int:
        """Return all objects of the job."""
        return sum(self._counts.by_status[status] for status in ObjectStatus)

    async def wait_change(self) -> None:
        """Return after the next change of any count, or `wake`."""
        await self._changed.wait()

    def wake(self) -> None:
        """Let those who wait for a change look again."""
        self._changed.set()
        self._changed = trio.Event()

    def _mirror(self, counts: Counts) -> None:
        self._counts = counts
        self.wake()

    async def load(self) -> None:
        """Bring the mirror up to date with the file, before any other use.

        Objects given back to placement or put off by an earlier run are made like new ones, so
        that `unprocessed` finds them, and `returned` and `take_up` do not.
        """
        await self.database.write(unplaced.take_over)

    async def take_changes(self) -> bool:
        """Tell whether another program has changed rows since the last call, and some wait again.

        To be asked when nothing of the job is under way; they are made like new ones, as by `load`.
        """
        left = await self.database.write(unplaced.take_over)
        changes, self._known_changes = self._known_changes, self.database.foreign_changes
        return left > 0 and self.database.foreign_changes != changes

    async def status(self) -> Status:
        """Return the counts as they are on disk."""
        status, counts = await self.database.read(_status_and_counts)
        if counts != self._counts:
            # Another program has changed rows; or somebody has just written, and no harm is done.
            await self.database.write(_look)
        return status

    # --- discovery -----------------------------------------------------------------------

    async def origin(self) -> Shark | None:
        """Return the evacuated shark; its datacenter is empty until it is known."""
        return await self.database.read(job_info.read_origin)

    async def set_origin(self, shark: Shark) -> None:
        """Record the evacuated shark."""
        await self.database.write(job_info.write_origin, shark)

    async def know_shards(self, numbers: Iterable[int]) -> None:
        """Record shards that the job has to empty, besides those that it knows already."""
        await self.database.write(scans.know_shards, tuple(numbers))

    async def take_over_scans(
        self, positions: Iterable[ScanPosition], shards: Iterable[int]
    ) -> None:
        """Go on where an earlier job's scans ended, with the shards that it had to empty."""
        await self.database.write(scans.take_over, tuple(positions), tuple(shards))

    async def list_unused_copies(self) -> None:
        """List as orphans the copies of an earlier job that no record was made to name."""
        await self.database.write(orphans.note_unused)

    async def looked(self) -> Looked:
        """Read what the job has to look at, and how far it has come."""
        return await self.database.read(scans.read_looked)

    async def scan_position(
        self, shard: int, column: str, scan_round: int = 0
    ) -> ScanPosition | None:
        """Return how far the scan of a column has come, or None if it has not begun."""
        wanted = (shard, column, scan_round)
        positions = await self.database.read(scans.read_scans)
        chosen = (p for p in positions if (p.shard, p.column, p.round) == wanted)
        return next(chosen, None)

    async def found(
        self,
        records: Iterable[FoundRecord],
        scanned: ScanPosition,
        *,
        limit: int | None = None,
        dropped: Sequence[Dropped] = (),
        orphans: Sequence[Orphan] = (),
    ) -> list[MantaObject]:
        """Store the objects of one window and how far the scan has come.

        Records met before change nothing, so a window may be scanned again.  A record of an
        object known from another record becomes a link.  At most `limit` objects are kept in
        the whole job.  `records` is consumed in the writer's thread.  Returns the new objects,
        which need a destination, each once.
        """
        kept = Kept(records)
        return await self.database.write(discovery.found, kept, scanned, limit, dropped, orphans)

    # --- placement -----------------------------------------------------------------------

    async def last_row(self) -> int:
        """The row number of the newest object: `unprocessed` up to it is an earlier run's."""
        return await self.database.read(unplaced.last_row)

    async def unprocessed(self, after: int, until: int) -> tuple[int, list[MantaObject]]:
        """Return a page of objects without a destination, from rows after `after` up to `until`.

        Returns the last row seen and the objects; none means there are no more.  Objects given
        back or put off during this run are left to `returned` and `take_up`.
        """
        return await self.database.read(unplaced.unprocessed, after, until)

    async def returned(self, assignment_id: str) -> list[MantaObject]:
        """Read the objects of an assignment that were returned to placement."""
        return await self.database.read(unplaced.returned, assignment_id)

    async def take_up(self, after: int) -> tuple[int, list[MantaObject]]:
        """Return a page of the objects that were put off, from rows after `after`.

        They are not put off any more.  Returns the last row seen and the objects; none means
        there are no more.
        """
        return await self.database.write(unplaced.take_up, after)

    async def assign(self, assignment: NewAssignment) -> None:
        """Record an assignment: from now on its agent may know it."""
        await self.database.write(assignments.assign, assignment)

    async def refuse(self, refused: Sequence[tuple[str, Reason]], *, max_attempts: int) -> Uncopied:
        """Record that there is no destination for these objects.

        What waiting may help is put off, until it has been refused `max_attempts` times; all
        else is skipped.
        """
        return await self.database.write(unplaced.refuse, refused, max_attempts)

    async def postpone(self, object_ids: Sequence[str]) -> None:
        """Put off objects whose destinations are all away, which costs them no attempt."""
        await self.database.write(unplaced.postpone, object_ids)

    async def skip_waiting(self, outcome: str) -> None:
        """Skip every object without a destination, for the cause `outcome`; a page at a time."""
        while await self.database.write(unplaced.skip_page, outcome):
            pass

    # --- assignments ---------------------------------------------------------------------

    async def accepted(self, assignment_id: str) -> None:
        """Record that the agent has confirmed the assignment."""
        await self.database.write(assignments.accept, assignment_id)

    async def withdraw(self, assignment_id: str, *, is_in_doubt: bool = False) -> None:
        """End an assignment that came to no agent: its objects have no destination, as before.

        Of one that is in doubt, the copies that its agent may have made are listed as orphans.
        """
        await self.database.write(assignments.withdraw, assignment_id, is_in_doubt)

    async def give_back(
        self, assignment_id: str, reason: Reason, *, max_attempts: int, detail: str
    ) -> Uncopied:
        """End an assignment that came to nothing: its objects return to placement.

        Those that another destination cannot help, or that have failed `max_attempts` times, are
        skipped with `reason`.  An agent that may have had the assignment may have copied some, so
        their copies are listed as possible orphans.
        """
        return await self.database.write(
            assignments.give_back, assignment_id, reason, max_attempts, detail
        )

    async def copied(
        self, assignment_id: str, failed: Mapping[str, Failure], *, max_attempts: int
    ) -> Uncopied:
        """Record that the agent is done: all objects but those in `failed` are verified copies.

        Of the failed ones, those that another destination or source may help return to
        placement, until they have failed `max_attempts` times; the others are skipped.
        """
        return await self.database.write(assignments.copied, assignment_id, failed, max_attempts)

    async def ask_again(
        self,
        assignment_id: str,
        failed: Mapping[str, Failure],
        *,
        max_attempts: int,
        detail: str,
    ) -> Uncopied:
        """End an assignment whose agent is done, but accounts only for the objects in `failed`.

        Those end as with `copied`.  The others return to placement as objects whose copy may lie
        at this destination; the first time that happens to one, it counts as no attempt.
        """
        return await self.database.write(
            assignments.ask_again, assignment_id, failed, max_attempts, detail
        )

    async def open_assignments(self) -> list[OpenAssignment]:
        """Return what an earlier run left between placement and the end."""
        return await self.database.read(assignments.open_assignments)

    # --- metadata ------------------------------------------------------------------------

    async def to_update(self, assignment_id: str) -> list[StoredRecord]:
        """Return the records of an assignment whose objects are copied, as discovered."""
        # By the writer, which has them in its cache: the reader's is void after every commit.
        return await self.database.write(updates.to_update, assignment_id)

    async def settle(self, settled: Sequence[Settled], finished: str | None = None) -> None:
        """Record how the metadata updates of objects ended.

        With them every object of the assignment `finished` is settled, so that its agent need not
        keep it.
        """
        await self.database.write(updates.settle, settled, finished)

    async def waiting_links(self, after: tuple[int, str]) -> list[StoredRecord]:
        """Return a page of further records of objects whose copy is at its destination."""
        return await self.database.read(updates.waiting_links, after)

    async def settle_link(self, link: StoredRecord, status: str, detail: str | None) -> None:
        """Record how the update of a further record ended: complete, skipped or error."""
        await self.database.write(updates.settle_link, link, status, detail)

    # --- final scans ---------------------------------------------------------------------

    async def round(self) -> int:
        """Return the round that runs, or ran last: 0 is discovery, the others are final scans."""
        rounds = await self.rounds()
        return rounds[-1].round if rounds else 0

    async def rounds(self) -> list[Round]:
        """Return the final scans, in their order."""
        return await self.database.read(final_scans.read_rounds)

    async def begin_round(self) -> int:
        """Begin the next final scan, which lists anew what remains; its number."""
        return await self.database.write(final_scans.begin_round)

    async def found_again(
        self,
        records: Iterable[FoundRecord | Remaining],
        scanned: ScanPosition,
        *,
        is_last: bool,
    ) -> list[MantaObject]:
        """Take up what one window of a final scan met, and store how far it has come.

        All `records` name the evacuated shark, and are consumed in the writer's thread.  Those
        that are news get another turn, unless this round `is_last`; all others that are not
        having one are listed as remaining.  Returns the objects that need a destination.
        """
        kept = Kept(records)
        return await self.database.write(final_scans.found_again, kept, scanned, is_last)

    # --- pre-flight ----------------------------------------------------------------------

    async def has_begun(self) -> bool:
        """Tell whether the job has looked for objects already."""
        return bool(await self.database.read(scans.read_scans))

    async def warn(self, findings: Sequence[Finding]) -> None:
        """Record what the pre-flight found, in place of what an earlier one did."""
        await self.database.write(job_info.write_warnings, findings)


# --- files -------------------------------------------------------------------------------


@asynccontextmanager
async def open_store(
    path: Path,
    *,
    run: RunSync | None = None,
    waits: Waits | None = None,
    must_exist: bool = False,
) -> AsyncIterator[JobStore]:
    """Open a job's file and bring it to the newest layout, making it unless it `must_exist`.

    What waiting may mend is waited for, and told to `waits`.

    Raises:
      StoreError: it cannot be opened, is another kind of file, or is not there.
    """
    opened = open_database(path, JOB_FILE, run=run, waits=waits, must_exist=must_exist)
    async with opened as database:
        store = JobStore(database)
        await store.load()
        yield store


def create(path: Path, origin: Shark, findings: Sequence[Finding] = ()) -> None:
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


def _begin(db: sqlite3.Connection, origin: Shark, findings: Sequence[Finding]) -> None:
    job_info.write_origin(db, origin)
    job_info.write_warnings(db, findings)


def _status_and_counts(db: sqlite3.Connection) -> tuple[Status, Counts]:
    return counts.read_status(db), counts.read_counts(db)


def _look(_db: sqlite3.Connection) -> None:
    """Change nothing, so that what is observed at each commit is observed now."""


#: What `note` keeps of a job: columns of table `job`, and of the list of jobs.
NOTED = ("id", "action", "state", "params", "created", "started", "finished", "error", "wish")
#: Seconds that a note waits for a lock on a job's file: the list of jobs has it anyway.
NOTE_LOCK_S = 1.0


def note(path: Path, values: Sequence[object]) -> None:
    """Keep in a job's file what the list of jobs says of it, unless it does already.  Blocking.

    A missing file stays missing, and one of an earlier layout as it is.

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
    """What `note` has kept; without a note no more than the evacuated shark, or nothing.  Blocking.

    Raises:
      StoreError: the file cannot be read, or is no job's.
    """
    with _using(path, "ro") as db:
        JOB_FILE.check(db, path, must_exist=True)
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'job'").fetchone() is not None:
            for row in db.execute(f"SELECT {', '.join(NOTED)} FROM job"):
                return dict(row)
        try:
            origin = job_info.read_origin(db)
        except (ValueError, TypeError, AttributeError) as exc:
            raise StoreError(f"{path}: the shark that it empties cannot be read") from exc
        return None if origin is None else {"from_shark": origin.manta_storage_id}


@contextmanager
def _using(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    try:
        with closing(connect(path, mode=mode, lock_s=NOTE_LOCK_S)) as db:
            yield db
    except FAILURES as exc:
        raise store_error(path, exc) from exc


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
