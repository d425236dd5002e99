"""One job's sqlite file: the only place with SQL about objects and assignments.

Every method is one transaction, true on disk when it returns.  Changes of state go through
the tables of `domain.states`, in the WHERE of the UPDATE.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from importlib import resources
from pathlib import Path

import attrs
import trio

from rebalancer.domain import reasons, states
from rebalancer.domain.again import FOUND_TOO_LATE, GONE, is_news
from rebalancer.domain.objects import MantaObject, RecordError, Shark, read_object
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure, Remedy, Tried, remedy
from rebalancer.domain.states import (
    AssignmentEvent,
    AssignmentState,
    ObjectEvent,
    ObjectStatus,
    advance,
)
from rebalancer.errors import IllegalTransition, StoreError
from rebalancer.sqlite import Database, RunSync, connect, open_database

SCHEMA = resources.files("rebalancer.manager").joinpath("schema.sql").read_text()
#: Rows read at once where a job's rows are walked.
PAGE = 500


@attrs.frozen
class FoundRecord:
    """One record that discovery met, ready to be stored."""

    id: str
    key: str
    shard: int
    etag: str
    text: str
    size: int = 0
    #: What placement needs, for a record that can be used.
    obj: MantaObject | None = None
    #: Why it cannot be used, for objects that start and end in status error.
    error: RecordError | None = None
    #: Why it is left alone at the operator's wish.
    outcome: str | None = None
    detail: str | None = None


@attrs.frozen
class ScanPosition:
    """Of the ids of a shard's column, those up to `position` are stored; the last is `until`.

    For a job that does not scan: of a part of its listing.  `round` 0 is discovery, the others
    are final scans.
    """

    shard: int
    column: str
    position: int
    until: int
    round: int = 0


@attrs.frozen
class Round:
    """A final scan: records that it sent through the pipeline, and those that it listed."""

    round: int
    started: str
    found: int
    remaining: int


@attrs.frozen
class Remaining:
    """A record that names the evacuated shark and stays as it is, and why."""

    shard: int
    key: str
    object_id: str
    why: str


@attrs.frozen
class Finding:
    """Something that the pre-flight found: the name of its check, and a text for a person."""

    check: str
    detail: str


@attrs.frozen
class Dropped:
    """A record that a listing named, and why it is not the job's business."""

    shard: int
    key: str
    reason: str


@attrs.frozen
class NewAssignment:
    """An assignment about to be posted."""

    id: str
    destination: Shark
    object_ids: tuple[str, ...]
    size: int


@attrs.frozen
class OpenAssignment:
    """An assignment that an earlier run left unfinished."""

    id: str
    destination: Shark
    state: AssignmentState
    object_ids: tuple[str, ...]
    size: int


@attrs.frozen
class Uncopied:
    """What became of objects that were not copied: `waiting` of them are tried again."""

    waiting: int
    skipped: Mapping[Reason, int]


@attrs.frozen
class StoredRecord:
    """A record to be rewritten: as discovered, with the destination of its object's copy."""

    id: str
    key: str
    shard: int
    etag: str
    text: str
    destination: Shark


@attrs.frozen
class Settled:
    """How an object's metadata update ended."""

    id: str
    event: ObjectEvent
    error: RecordError | None = None
    outcome: str | None = None
    detail: str | None = None
    #: Path of the copy that no record names, if the update left one.
    orphan: str | None = None


@attrs.frozen
class Status:
    """A job's counts."""

    #: (status, reason) -> (objects, bytes); reason is empty where the status says it all.
    counts: Mapping[tuple[str, str], tuple[int, int]]

    def objects(self, status: str) -> int:
        """How many objects have `status`, whatever the reason."""
        return sum(n for (name, _), (n, _) in self.counts.items() if name == status)

    def size(self, status: str | None = None) -> int:
        """Bytes of the objects that have `status`, or of all."""
        return sum(b for (name, _), (_, b) in self.counts.items() if status in (name, None))


class _Tally:
    """Changes of the counters within one transaction."""

    def __init__(self) -> None:
        self._objects: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()

    def add(self, status: str, reason: str | None, objects: int, size: int) -> None:
        self._objects[status, reason or ""] += objects
        self._bytes[status, reason or ""] += size

    def move(self, old: str, new: str, reason: str | None, objects: int, size: int) -> None:
        # What can still move has no reason yet.
        self.add(old, None, -objects, -size)
        self.add(new, reason, objects, size)

    def save(self, db: sqlite3.Connection) -> None:
        db.executemany(
            "INSERT INTO counters VALUES (?, ?, ?, ?) ON CONFLICT (status, reason) DO UPDATE"
            " SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes",
            [(*key, count, self._bytes[key]) for key, count in self._objects.items()],
        )

    def by_status(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for (status, _), count in self._objects.items():
            total[status] += count
        return total


class JobStore:
    """One job's file.  Made by `open_store`.

    Mutable state besides the file: a mirror of the counts by status and of those put off, and an
    event that wakes those who wait for one to change.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._counts: Counter[str] = Counter()
        self._put_off = 0
        self._changed = trio.Event()

    # --- what is waiting -----------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """Objects that may still need a destination: unprocessed and assigned ones."""
        return self._counts[ObjectStatus.UNPROCESSED] + self._counts[ObjectStatus.ASSIGNED]

    @property
    def put_off(self) -> int:
        """Those of `unsettled` that `take_up` returns."""
        return self._put_off

    @property
    def objects(self) -> int:
        """All objects of the job."""
        return sum(self._counts[status] for status in ObjectStatus)

    async def wait_change(self) -> None:
        """Return after the next change of any count, or `wake`."""
        await self._changed.wait()

    def wake(self) -> None:
        """Let those who wait for a change look again."""
        self._changed.set()
        self._changed = trio.Event()

    def _mirror(self, tally: _Tally) -> None:
        self._counts.update(tally.by_status())
        self.wake()

    async def load(self) -> None:
        """Bring the mirror up to date with the file, before any other use.

        Objects given back to placement or put off by an earlier run are made like new ones, so
        that `unprocessed` finds them, and `returned` and `take_up` do not.
        """

        def run(db: sqlite3.Connection) -> Status:
            db.execute(
                "UPDATE evacuateobjects SET assignment_id = NULL, put_off = 0"
                " WHERE status = 'unprocessed' AND (assignment_id IS NOT NULL OR put_off)"
            )
            return read_status(db)

        status = await self.database.write(run)
        self._counts = Counter({name: status.objects(name) for name in ObjectStatus})

    async def status(self) -> Status:
        """The counts as they are on disk."""
        return await self.database.read(read_status)

    # --- discovery -----------------------------------------------------------------------

    async def origin(self) -> Shark | None:
        """The evacuated shark; its datacenter is empty until it is known."""
        return await self.database.read(read_origin)

    async def set_origin(self, shark: Shark) -> None:
        """Record the evacuated shark."""
        await self.database.write(_write_origin, shark)

    async def scan_position(
        self, shard: int, column: str, scan_round: int = 0
    ) -> ScanPosition | None:
        """How far the scan of a column has come, or None if it has not begun."""
        wanted = (shard, column, scan_round)
        positions = await self.database.read(read_scans)
        chosen = (p for p in positions if (p.shard, p.column, p.round) == wanted)
        return next(chosen, None)

    async def found(
        self,
        records: Iterable[FoundRecord],
        scanned: ScanPosition,
        *,
        limit: int | None = None,
        dropped: Sequence[Dropped] = (),
    ) -> list[MantaObject]:
        """Store the objects of one window and how far the scan has come.

        Records met before change nothing, so a window may be scanned again.  A record of an
        object known from another record becomes a link.  At most `limit` objects are kept in
        the whole job.  `records` is consumed in the writer's thread.  Returns the new objects,
        which need a destination, each once.
        """

        def run(db: sqlite3.Connection) -> tuple[list[MantaObject], _Tally]:
            tally, new = _Tally(), list[MantaObject]()
            room = None if limit is None else limit - _count_objects(db)
            for record in records:
                if room is not None and room <= 0:
                    break
                status = _insert(db, record)
                if status is None:
                    _note_duplicate(db, record, tally)
                    continue
                tally.add(status, record.error or record.outcome, 1, record.size)
                if status is ObjectStatus.UNPROCESSED and record.obj is not None:
                    new.append(record.obj)
                if room is not None:
                    room -= 1
            _write_scan(db, scanned)
            db.executemany(
                "INSERT OR REPLACE INTO dropped VALUES (?, ?, ?)",
                [attrs.astuple(one) for one in dropped],
            )
            tally.save(db)
            return new, tally

        new, tally = await self.database.write(run)
        self._mirror(tally)
        return new

    # --- placement -----------------------------------------------------------------------

    async def last_row(self) -> int:
        """The row number of the newest object: `unprocessed` up to it is an earlier run's."""

        def run(db: sqlite3.Connection) -> int:
            return int(
                db.execute("SELECT ifnull(max(rowid), 0) FROM evacuateobjects").fetchone()[0]
            )

        return await self.database.read(run)

    async def unprocessed(self, after: int, until: int) -> tuple[int, list[MantaObject]]:
        """A page of objects without a destination, from rows after `after` up to `until`.

        Returns the last row seen and the objects; none means there are no more.  Objects given
        back or put off during this run are left to `returned` and `take_up`.
        """

        def run(db: sqlite3.Connection) -> tuple[int, list[MantaObject]]:
            rows = db.execute(
                "SELECT rowid, object, tried, earlier_shark FROM evacuateobjects"
                " WHERE status = 'unprocessed' AND assignment_id IS NULL AND NOT put_off"
                " AND rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?",
                (after, until, PAGE),
            ).fetchall()
            return (rows[-1]["rowid"] if rows else until), [_waiting_object(row) for row in rows]

        return await self.database.read(run)

    async def returned(self, assignment_id: str) -> list[MantaObject]:
        """The objects of an assignment that `give_back` or `copied` returned to placement."""

        def run(db: sqlite3.Connection) -> list[MantaObject]:
            rows = db.execute(
                "SELECT object, tried, earlier_shark FROM evacuateobjects"
                " WHERE assignment_id = ? AND status = 'unprocessed'",
                (assignment_id,),
            )
            return [_waiting_object(row) for row in rows]

        return await self.database.read(run)

    async def take_up(self, after: int) -> tuple[int, list[MantaObject]]:
        """A page of the objects that were put off, from rows after `after`.

        They are not put off any more.  Returns the last row seen and the objects; none means
        there are no more.
        """

        def run(db: sqlite3.Connection) -> tuple[int, list[MantaObject]]:
            rows = db.execute(
                "SELECT rowid, object, tried, earlier_shark FROM evacuateobjects"
                " WHERE status = 'unprocessed' AND put_off AND rowid > ? ORDER BY rowid LIMIT ?",
                (after, PAGE),
            ).fetchall()
            last = rows[-1]["rowid"] if rows else after
            db.execute(
                "UPDATE evacuateobjects SET put_off = 0 WHERE status = 'unprocessed' AND put_off"
                " AND rowid > ? AND rowid <= ?",
                (after, last),
            )
            return last, [_waiting_object(row) for row in rows]

        last, objects = await self.database.write(run)
        self._put_off -= len(objects)
        return last, objects

    async def assign(self, assignment: NewAssignment) -> None:
        """Record an assignment: from now on its agent may know it."""

        def run(db: sqlite3.Connection) -> _Tally:
            db.execute(
                "INSERT INTO assignments (id, dest_shark, dest_datacenter, state, tasks, bytes)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    assignment.id,
                    assignment.destination.manta_storage_id,
                    assignment.destination.datacenter,
                    AssignmentState.INIT,
                    len(assignment.object_ids),
                    assignment.size,
                ),
            )
            changed = db.executemany(
                "UPDATE evacuateobjects SET status = 'assigned', assignment_id = ?, dest_shark = ?"
                " WHERE id = ? AND status = 'unprocessed'",
                [
                    (assignment.id, assignment.destination.manta_storage_id, object_id)
                    for object_id in assignment.object_ids
                ],
            ).rowcount
            if changed != len(assignment.object_ids):
                raise IllegalTransition(
                    f"assignment {assignment.id}: an object was not unprocessed"
                )
            tally = _Tally()
            tally.move("unprocessed", "assigned", None, changed, assignment.size)
            tally.save(db)
            return tally

        self._mirror(await self.database.write(run))

    async def refuse(self, refused: Sequence[tuple[str, Reason]], *, max_attempts: int) -> Uncopied:
        """There is no destination for these objects.

        What waiting may help is put off, until it has been refused `max_attempts` times; all
        else is skipped.
        """

        def run(db: sqlite3.Connection) -> tuple[Uncopied, _Tally]:
            tally = _Tally()
            waiting, skipped = 0, Counter[Reason]()
            for object_id, reason in refused:
                if remedy(reason) is Remedy.LATER and _put_off(db, object_id, max_attempts):
                    waiting += 1
                    continue
                _skip(db, tally, object_id, ObjectStatus.UNPROCESSED, reason)
                skipped[reason] += 1
            tally.save(db)
            return Uncopied(waiting, skipped), tally

        done, tally = await self.database.write(run)
        self._put_off += done.waiting
        self._mirror(tally)
        return done

    # --- assignments ---------------------------------------------------------------------

    async def accepted(self, assignment_id: str) -> None:
        """The agent has confirmed the assignment."""

        def run(db: sqlite3.Connection) -> None:
            _advance_assignment(db, assignment_id, AssignmentEvent.ACCEPTED)

        await self.database.write(run)

    async def withdraw(self, assignment_id: str) -> None:
        """The assignment was never sent: its objects are without a destination, as before."""

        def run(db: sqlite3.Connection) -> _Tally:
            _advance_assignment(db, assignment_id, AssignmentEvent.LOST, "never sent")
            tally = _Tally()
            for row in _objects_of(db, assignment_id, ObjectStatus.ASSIGNED):
                _return(db, tally, row)
            tally.save(db)
            return tally

        self._mirror(await self.database.write(run))

    async def give_back(
        self, assignment_id: str, reason: Reason, *, max_attempts: int, path: str, detail: str
    ) -> Uncopied:
        """The assignment came to nothing: its objects return to placement.

        Those that another destination cannot help, or that have failed `max_attempts` times, are
        skipped with `reason`.  An agent that may have had the assignment may have copied some, so
        their places are noted as possible orphans; `path` is a format string of `account` and
        `id`.
        """

        def run(db: sqlite3.Connection) -> tuple[Uncopied, _Tally]:
            (state,) = db.execute(
                "SELECT state FROM assignments WHERE id = ?", (assignment_id,)
            ).fetchone()
            never_sent = reason == reasons.AGENT_ASSIGNMENT_NO_ENT and state == AssignmentState.INIT
            _advance_assignment(db, assignment_id, AssignmentEvent.LOST, detail)
            tally = _Tally()
            waiting, skipped = 0, Counter[Reason]()
            for row in _objects_of(db, assignment_id, ObjectStatus.ASSIGNED):
                if never_sent:
                    _return(db, tally, row)
                    waiting += 1
                    continue
                _note_orphan(db, row, path, f"assignment lost: {reason}")
                tried = _read_tried(row).and_also(row["dest_shark"])
                if _try_again(db, tally, row, reason, tried, max_attempts, detail):
                    waiting += 1
                else:
                    skipped[reason] += 1
            tally.save(db)
            return Uncopied(waiting, skipped), tally

        done, tally = await self.database.write(run)
        self._mirror(tally)
        return done

    async def copied(
        self, assignment_id: str, failed: Mapping[str, Failure], *, max_attempts: int
    ) -> Uncopied:
        """The agent is done: all objects but those in `failed` are verified copies.

        Of the failed ones, those that another destination or source may help return to
        placement, until they have failed `max_attempts` times; the others are skipped.
        """

        def run(db: sqlite3.Connection) -> tuple[Uncopied, _Tally]:
            _advance_assignment(db, assignment_id, AssignmentEvent.AGENT_DONE)
            tally = _Tally()
            waiting, skipped = 0, Counter[Reason]()
            objects = size = 0
            for row in _objects_of(db, assignment_id, ObjectStatus.ASSIGNED):
                failure = failed.get(row["id"])
                if failure is None:
                    objects += 1
                    size += row["bytes"]
                    continue
                tried = _read_tried(row).and_also(row["dest_shark"], failure.bad_source)
                if _try_again(db, tally, row, failure.reason, tried, max_attempts):
                    waiting += 1
                else:
                    skipped[failure.reason] += 1
            if waiting + skipped.total() != len(failed):
                raise IllegalTransition(
                    f"assignment {assignment_id}: a failed object was not assigned"
                )
            db.execute(
                "UPDATE evacuateobjects SET status = ? WHERE assignment_id = ?"
                " AND status = 'assigned'",
                (
                    advance(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.COPIED),
                    assignment_id,
                ),
            )
            tally.move("assigned", "post_processing", None, objects, size)
            tally.save(db)
            return Uncopied(waiting, skipped), tally

        done, tally = await self.database.write(run)
        self._mirror(tally)
        return done

    async def open_assignments(self) -> list[OpenAssignment]:
        """What an earlier run left between placement and the end."""

        def run(db: sqlite3.Connection) -> list[OpenAssignment]:
            rows = db.execute(
                "SELECT * FROM assignments WHERE state IN ('init', 'assigned', 'agent_complete')"
                " ORDER BY created, id"
            ).fetchall()
            return [
                OpenAssignment(
                    row["id"],
                    Shark(row["dest_datacenter"], row["dest_shark"]),
                    AssignmentState(row["state"]),
                    tuple(o["id"] for o in _objects_of(db, row["id"], ObjectStatus.ASSIGNED)),
                    row["bytes"],
                )
                for row in rows
            ]

        return await self.database.read(run)

    # --- metadata ------------------------------------------------------------------------

    async def to_update(self, assignment_id: str) -> list[StoredRecord]:
        """The records of an assignment whose objects are copied, as discovered."""

        def run(db: sqlite3.Connection) -> list[StoredRecord]:
            rows = db.execute(
                "SELECT o.id, o.key, o.shard, o.etag, o.object, a.dest_shark, a.dest_datacenter"
                " FROM evacuateobjects o JOIN assignments a ON a.id = o.assignment_id"
                " WHERE o.assignment_id = ? AND o.status = 'post_processing'",
                (assignment_id,),
            )
            return [_stored_record(row) for row in rows]

        return await self.database.read(run)

    async def settle(self, settled: Iterable[Settled]) -> None:
        """Record how the metadata updates of objects ended."""

        def run(db: sqlite3.Connection) -> _Tally:
            tally = _Tally()
            for item in settled:
                _settle(db, tally, item)
            tally.save(db)
            return tally

        self._mirror(await self.database.write(run))

    async def finish_assignment(self, assignment_id: str) -> None:
        """Every object of the assignment is settled, and its agent need not keep it."""

        def run(db: sqlite3.Connection) -> None:
            _advance_assignment(db, assignment_id, AssignmentEvent.SETTLED)

        await self.database.write(run)

    async def waiting_links(self, after: tuple[int, str]) -> list[StoredRecord]:
        """A page of further records of objects whose copy is at its destination."""

        def run(db: sqlite3.Connection) -> list[StoredRecord]:
            rows = db.execute(
                "SELECT l.id, l.key, l.shard, l.etag, l.object, a.dest_shark, a.dest_datacenter"
                " FROM links l JOIN evacuateobjects o ON o.id = l.id"
                " JOIN assignments a ON a.id = o.assignment_id"
                " WHERE l.status = 'waiting' AND (l.shard, l.key) > (?, ?)"
                " AND (o.status = 'complete' OR o.outcome IN ('deleted', 'overwritten'))"
                " ORDER BY l.shard, l.key LIMIT ?",
                (*after, PAGE),
            )
            return [_stored_record(row) for row in rows]

        return await self.database.read(run)

    async def settle_link(self, link: StoredRecord, status: str, detail: str | None) -> None:
        """Record how the update of a further record ended: complete, skipped or error."""

        def run(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE links SET status = ?, detail = ? WHERE shard = ? AND key = ?",
                (status, detail, link.shard, link.key),
            )
            if status == "complete":
                _forget_orphan(db, link.id, link.destination.manta_storage_id)

        await self.database.write(run)

    # --- final scans ---------------------------------------------------------------------

    async def round(self) -> int:
        """The round that runs, or ran last: 0 is discovery, the others are final scans."""
        rounds = await self.rounds()
        return rounds[-1].round if rounds else 0

    async def rounds(self) -> list[Round]:
        """The final scans, in their order."""
        return await self.database.read(read_rounds)

    async def begin_round(self) -> int:
        """Begin the next final scan, which lists anew what remains; its number."""

        def run(db: sqlite3.Connection) -> int:
            (number,) = db.execute("SELECT ifnull(max(round), 0) + 1 FROM rounds").fetchone()
            db.execute("INSERT INTO rounds (round) VALUES (?)", (number,))
            db.execute("DELETE FROM remaining")
            return int(number)

        return await self.database.write(run)

    async def found_again(
        self,
        records: Iterable[FoundRecord | Remaining],
        scanned: ScanPosition,
        *,
        is_last: bool,
        path: str,
    ) -> list[MantaObject]:
        """Take up what one window of a final scan met, and store how far it has come.

        All `records` name the evacuated shark, and are consumed in the writer's thread.  Those
        that are news get another turn, unless this round `is_last`; all others that are not
        having one are listed as remaining.  `path` is a format string of `account` and `id`,
        for copies that lose their name.  Returns the objects that need a destination.
        """

        def run(db: sqlite3.Connection) -> tuple[list[MantaObject], _Tally]:
            tally, new, found, listed = _Tally(), list[MantaObject](), 0, 0
            for record in records:
                if isinstance(record, Remaining):
                    listed += _list_remaining(db, record)
                    continue
                met = _meet_again(db, tally, record, is_last=is_last, path=path)
                found += met.is_news
                if met.why is not None:
                    left = Remaining(record.shard, record.key, record.id, met.why)
                    listed += _list_remaining(db, left)
                if met.obj is not None:
                    new.append(met.obj)
            db.execute(
                "UPDATE rounds SET found = found + ?, remaining = remaining + ? WHERE round = ?",
                (found, listed, scanned.round),
            )
            _write_scan(db, scanned)
            tally.save(db)
            return new, tally

        new, tally = await self.database.write(run)
        self._mirror(tally)
        return new

    # --- pre-flight ----------------------------------------------------------------------

    async def has_begun(self) -> bool:
        """Whether the job has looked for objects already."""
        return bool(await self.database.read(read_scans))

    async def warn(self, findings: Sequence[Finding]) -> None:
        """Record what the pre-flight found, in place of what an earlier one did."""

        def run(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM warnings")
            db.executemany(
                "INSERT OR IGNORE INTO warnings VALUES (?, ?)", [attrs.astuple(f) for f in findings]
            )

        await self.database.write(run)


# --- steps of transactions ---------------------------------------------------------------


def _first_status(record: FoundRecord) -> ObjectStatus:
    """The status in which a record that was just read begins its turn, or ends it at once."""
    status = ObjectStatus.UNPROCESSED
    if record.error is not None:
        return advance(states.OBJECT, status, ObjectEvent.UNUSABLE)
    if record.outcome is not None:
        return advance(states.OBJECT, status, ObjectEvent.REFUSED)
    return status


def _insert(db: sqlite3.Connection, record: FoundRecord) -> ObjectStatus | None:
    """Insert a discovered object; None if its id is known already."""
    status = _first_status(record)
    done = db.execute(
        "INSERT INTO evacuateobjects (id, object, shard, etag, status, error, key, bytes,"
        " outcome, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
        (
            record.id,
            record.text,
            record.shard,
            record.etag,
            status,
            record.error,
            record.key,
            record.size,
            record.outcome,
            record.detail,
        ),
    )
    return status if done.rowcount else None


def _note_duplicate(db: sqlite3.Connection, record: FoundRecord, tally: _Tally) -> None:
    first = db.execute(
        "SELECT shard, key FROM evacuateobjects WHERE id = ?", (record.id,)
    ).fetchone()
    if (first["shard"], first["key"]) == (record.shard, record.key):
        return  # the same record, met again
    done = db.execute(
        "INSERT INTO links (shard, key, id, object, etag) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        (record.shard, record.key, record.id, record.text, record.etag),
    )
    if not done.rowcount:
        return
    known = db.execute("SELECT key, shards FROM duplicates WHERE id = ?", (record.id,)).fetchone()
    # Smallest key and sorted numbers: the row must not depend on the order of discovery.
    keys = {record.key, first["key"], *([known["key"]] if known else [])}
    shards = {record.shard, first["shard"], *(json.loads(known["shards"]) if known else [])}
    db.execute(
        "INSERT OR REPLACE INTO duplicates VALUES (?, ?, ?)",
        (record.id, min(keys), json.dumps(sorted(shards))),
    )
    if known is None:
        tally.add("duplicates", None, 1, 0)


@attrs.frozen
class _Met:
    """What a record that a final scan met comes to: perhaps another turn, perhaps a line."""

    is_news: bool = False
    #: Why it is listed as remaining.
    why: str | None = None
    #: What needs a destination.
    obj: MantaObject | None = None


def _meet_again(
    db: sqlite3.Connection, tally: _Tally, record: FoundRecord, *, is_last: bool, path: str
) -> _Met:
    known = db.execute(
        "SELECT *, coalesce(skipped_reason, error, outcome) AS reason"
        " FROM evacuateobjects WHERE id = ?",
        (record.id,),
    ).fetchone()
    if known is not None and (known["shard"], known["key"]) != (record.shard, record.key):
        return _meet_link(db, tally, record, known, is_last=is_last)
    if known is not None:
        is_unchanged = known["etag"] == record.etag
        if not is_news(known["status"], known["reason"], is_unchanged=is_unchanged):
            return _Met(why=known["reason"])
    if known is not None and known["status"] == ObjectStatus.COMPLETE:
        _note_lost_name(db, known, path)
    if is_last:
        return _Met(why=FOUND_TOO_LATE)
    earlier = None
    if known is None:
        _insert(db, record)
    else:
        earlier = _take_again(db, tally, record, known)
    status = _first_status(record)
    tally.add(status, record.error or record.outcome, 1, record.size)
    if status is not ObjectStatus.UNPROCESSED or record.obj is None:
        return _Met(why=record.error or record.outcome)
    return _Met(is_news=True, obj=attrs.evolve(record.obj, earlier=earlier))


def _take_again(
    db: sqlite3.Connection, tally: _Tally, record: FoundRecord, known: sqlite3.Row
) -> str | None:
    """Give a known object another turn, with its record as it is now; where it has a copy."""
    old = ObjectStatus(known["status"])
    advance(states.OBJECT, old, ObjectEvent.FOUND_AGAIN)
    has_copy = old is ObjectStatus.COMPLETE or known["reason"] in GONE
    earlier = known["dest_shark"] if has_copy else None
    db.execute(
        "UPDATE evacuateobjects SET status = ?, object = ?, etag = ?, bytes = ?, error = ?,"
        " outcome = ?, detail = ?, skipped_reason = NULL, assignment_id = NULL, dest_shark = NULL,"
        " earlier_shark = ?, attempts = 0, tried = NULL, put_off = 0 WHERE id = ? AND status = ?",
        (
            _first_status(record),
            record.text,
            record.etag,
            record.size,
            record.error,
            record.outcome,
            record.detail,
            earlier,
            record.id,
            old,
        ),
    )
    tally.add(old, known["reason"], -1, -known["bytes"])
    return None if earlier is None else str(earlier)


def _note_lost_name(db: sqlite3.Connection, known: sqlite3.Row, path: str) -> None:
    """No record names the copy of a complete object, until one does again."""
    # With several records there is no telling here whether another of them does.
    if db.execute("SELECT 1 FROM links WHERE id = ?", (known["id"],)).fetchone() is None:
        _note_orphan(db, known, path, "its record was put back")


def _meet_link(
    db: sqlite3.Connection,
    tally: _Tally,
    record: FoundRecord,
    first: sqlite3.Row,
    *,
    is_last: bool,
) -> _Met:
    """A further record of an object: it is written at the end of the round."""
    link = db.execute(
        "SELECT status, etag, detail FROM links WHERE shard = ? AND key = ?",
        (record.shard, record.key),
    ).fetchone()
    if link is not None and link["status"] == "waiting":
        return _Met(why=first["reason"])
    if link is not None:
        is_unchanged = link["etag"] == record.etag
        if not is_news(link["status"], link["detail"], is_unchanged=is_unchanged):
            return _Met(why=link["detail"] or link["status"])
    if is_last:
        return _Met(why=FOUND_TOO_LATE)
    if link is None:
        _note_duplicate(db, record, tally)
    else:
        db.execute(
            "UPDATE links SET status = 'waiting', object = ?, etag = ?, detail = NULL"
            " WHERE shard = ? AND key = ?",
            (record.text, record.etag, record.shard, record.key),
        )
    return _Met(is_news=True)


def _list_remaining(db: sqlite3.Connection, left: Remaining) -> int:
    """1 if it was not on the list yet, else 0."""
    return db.execute(
        "INSERT INTO remaining VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", attrs.astuple(left)
    ).rowcount


def _skip(
    db: sqlite3.Connection,
    tally: _Tally,
    object_id: str,
    old: ObjectStatus,
    reason: Reason,
    detail: str | None = None,
) -> None:
    new = advance(states.OBJECT, old, ObjectEvent.REFUSED)
    column, text = (reason.column, detail) if reason.is_known else (None, _tame(reason.column))
    row = db.execute(
        "UPDATE evacuateobjects SET status = ?, skipped_reason = ?, outcome = ?, detail = ?"
        " WHERE id = ? AND status = ? RETURNING bytes",
        (new, column, None if column else reasons.UNKNOWN, text, object_id, old),
    ).fetchone()
    if row is None:
        raise IllegalTransition(f"object {object_id} is not {old}, so it cannot be skipped")
    tally.move(old, new, column or reasons.UNKNOWN, 1, row["bytes"])


def _tame(text: str) -> str:
    """`text` from outside as a column takes it: not endless, and without halves of characters."""
    return text[:200].encode(errors="replace").decode()


def _put_off(db: sqlite3.Connection, object_id: str, max_attempts: int) -> bool:
    """Whether the object waits for another try; if not, nothing is changed."""
    advance(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.PUT_OFF)
    done = db.execute(
        "UPDATE evacuateobjects SET put_off = 1, attempts = attempts + 1"
        " WHERE id = ? AND status = 'unprocessed' AND attempts + 1 < ?",
        (object_id, max_attempts),
    )
    return bool(done.rowcount)


def _try_again(
    db: sqlite3.Connection,
    tally: _Tally,
    row: sqlite3.Row,
    reason: Reason,
    tried: Tried,
    max_attempts: int,
    detail: str | None = None,
) -> bool:
    """Whether an assigned object returns to placement; if not, it is skipped with `reason`."""
    if remedy(reason) is Remedy.NONE or row["attempts"] + 1 >= max_attempts:
        _skip(db, tally, row["id"], ObjectStatus.ASSIGNED, reason, detail)
        return False
    _return(db, tally, row)
    db.execute(
        "UPDATE evacuateobjects SET attempts = attempts + 1, tried = ?, earlier_shark = NULL"
        " WHERE id = ?",
        (_write_tried(tried), row["id"]),
    )
    return True


def _return(db: sqlite3.Connection, tally: _Tally, row: sqlite3.Row) -> None:
    """An assigned object is without a destination again."""
    new = advance(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.RETURNED)
    db.execute(
        "UPDATE evacuateobjects SET status = ?, dest_shark = NULL"
        " WHERE id = ? AND status = 'assigned'",
        (new, row["id"]),
    )
    tally.move("assigned", new, None, 1, row["bytes"])


def _read_tried(row: sqlite3.Row) -> Tried:
    if row["tried"] is None:
        return Tried()
    known = json.loads(row["tried"])
    return Tried(frozenset(known["destinations"]), frozenset(known["sources"]))


def _write_tried(tried: Tried) -> str:
    return json.dumps(
        {"destinations": sorted(tried.destinations), "sources": sorted(tried.sources)}
    )


def _waiting_object(row: sqlite3.Row) -> MantaObject:
    obj = read_object(json.loads(row["object"]))
    return attrs.evolve(obj, tried=_read_tried(row), earlier=row["earlier_shark"])


def _settle(db: sqlite3.Connection, tally: _Tally, item: Settled) -> None:
    old = ObjectStatus.POST_PROCESSING
    new = advance(states.OBJECT, old, item.event)
    row = db.execute(
        "UPDATE evacuateobjects SET status = ?, error = ?, outcome = ?, detail = ?"
        " WHERE id = ? AND status = ? RETURNING id, bytes, dest_shark",
        (new, item.error, item.outcome, item.detail, item.id, old),
    ).fetchone()
    if row is None:
        raise IllegalTransition(f"object {item.id} is not {old}, so it cannot become {new}")
    tally.move(old, new, item.error or item.outcome, 1, row["bytes"])
    if new is ObjectStatus.COMPLETE:
        _forget_orphan(db, item.id, row["dest_shark"])
    elif item.orphan is not None:
        reason = str(item.error or item.outcome)
        db.execute(
            "INSERT OR REPLACE INTO orphans VALUES (?, ?, ?, ?)",
            (item.id, row["dest_shark"], item.orphan, reason),
        )


def _note_orphan(db: sqlite3.Connection, row: sqlite3.Row, path: str, reason: str) -> None:
    record = json.loads(row["object"])
    account = record.get("creator") or record.get("owner")
    db.execute(
        "INSERT OR REPLACE INTO orphans VALUES (?, ?, ?, ?)",
        (row["id"], row["dest_shark"], path.format(account=account, id=row["id"]), reason),
    )


def _forget_orphan(db: sqlite3.Connection, object_id: str, shark: str) -> None:
    db.execute("DELETE FROM orphans WHERE object_id = ? AND shark = ?", (object_id, shark))


def _advance_assignment(
    db: sqlite3.Connection, assignment_id: str, event: AssignmentEvent, detail: str | None = None
) -> None:
    row = db.execute("SELECT state FROM assignments WHERE id = ?", (assignment_id,)).fetchone()
    if row is None:
        raise IllegalTransition(f"there is no assignment {assignment_id}")
    new = advance(states.ASSIGNMENT, AssignmentState(row["state"]), event)
    db.execute(
        "UPDATE assignments SET state = ?, detail = ? WHERE id = ?", (new, detail, assignment_id)
    )


def _objects_of(
    db: sqlite3.Connection, assignment_id: str, status: ObjectStatus
) -> list[sqlite3.Row]:
    return db.execute(
        "SELECT id, object, bytes, attempts, tried, dest_shark FROM evacuateobjects"
        " WHERE assignment_id = ? AND status = ?",
        (assignment_id, status),
    ).fetchall()


def _stored_record(row: sqlite3.Row) -> StoredRecord:
    destination = Shark(row["dest_datacenter"], row["dest_shark"])
    return StoredRecord(
        row["id"], row["key"], row["shard"], row["etag"], row["object"], destination
    )


def _count_objects(db: sqlite3.Connection) -> int:
    (count,) = db.execute(
        "SELECT ifnull(sum(objects), 0) FROM counters WHERE status <> 'duplicates'"
    ).fetchone()
    return int(count)


def read_status(db: sqlite3.Connection) -> Status:
    """The counts that the writer keeps."""
    rows = db.execute("SELECT * FROM counters")
    return Status({(r["status"], r["reason"]): (r["objects"], r["bytes"]) for r in rows})


def read_scans(db: sqlite3.Connection) -> list[ScanPosition]:
    """How far discovery has come on each shard, in each round."""
    rows = db.execute("SELECT shard, id_column, position, until, round FROM scans ORDER BY 5, 1, 2")
    return [ScanPosition(*row) for row in rows]


def _write_scan(db: sqlite3.Connection, scanned: ScanPosition) -> None:
    db.execute("INSERT OR REPLACE INTO scans VALUES (?, ?, ?, ?, ?)", attrs.astuple(scanned))


def read_rounds(db: sqlite3.Connection) -> list[Round]:
    """The rounds of the job: discovery, then final scans."""
    rows = db.execute("SELECT round, started, found, remaining FROM rounds ORDER BY round")
    return [Round(*row) for row in rows]


def read_warnings(db: sqlite3.Connection) -> list[Finding]:
    """What was amiss before the job began."""
    return [Finding(*row) for row in db.execute("SELECT * FROM warnings ORDER BY rowid")]


def read_origin(db: sqlite3.Connection) -> Shark | None:
    """The evacuated shark; its datacenter is empty until it is known."""
    row = db.execute("SELECT from_shark FROM config WHERE id = 1").fetchone()
    return None if row is None else Shark(**json.loads(row["from_shark"]))


def _write_origin(db: sqlite3.Connection, shark: Shark) -> None:
    db.execute("INSERT OR REPLACE INTO config VALUES (1, ?)", (json.dumps(attrs.asdict(shark)),))


# --- files -------------------------------------------------------------------------------


@asynccontextmanager
async def open_store(path: Path, *, run: RunSync | None = None) -> AsyncIterator[JobStore]:
    """Open a job's file, made anew if need be.

    Raises:
      StoreError: it cannot be opened or is another kind of file.
    """
    options = {} if run is None else {"run": run}
    async with open_database(path, SCHEMA, **options) as database:
        store = JobStore(database)
        await store.load()
        yield store


def create(path: Path, origin: Shark) -> None:
    """Make the file of a new job.  Blocking.

    Raises:
      StoreError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(connect(path)) as db:
            db.executescript(SCHEMA)
            _write_origin(db, origin)
    except (sqlite3.Error, OSError) as exc:
        raise StoreError(f"{path}: {exc}") from exc
