"""This module has rows of what discovery met, and how far it has come."""

import json
import sqlite3
from collections.abc import Collection, Sequence
from itertools import islice

import attrs

from rebalancer.domain import reasons, states
from rebalancer.domain.objects import MantaObject
from rebalancer.domain.reasons import Column
from rebalancer.domain.records import shares_copies
from rebalancer.domain.states import ObjectEvent, ObjectStatus, advance
from rebalancer.domain.tiers import Tier, tier_of
from rebalancer.manager.store import scans, tier_counts
from rebalancer.manager.store.counts import Tally, count_objects, error_and_outcome
from rebalancer.manager.store.records import Dropped, FoundRecord, Orphan, ScanPosition, unknown_id
from rebalancer.manager.store.unplaced import last_row
from rebalancer.sqlite import Kept, insert_rows

#: Records inserted at a time.
TOGETHER = 100


def store_found(
    db: sqlite3.Connection,
    records: Kept[FoundRecord] | Sequence[FoundRecord],
    scanned: ScanPosition,
    *,
    limit: int | None = None,
    dropped: Sequence[Dropped] = (),
    orphans: Sequence[Orphan] = (),
) -> list[MantaObject]:
    """Store the records of one window and how far the scan has come; return the new objects.

    A record that is known changes nothing, so a window may be scanned again.  A further record of
    a known object becomes a link.  At most `limit` objects are kept in the whole job.  `records`
    are read in the thread of the writer.  The returned objects need a destination, each once.
    """
    tally, new = Tally(), list[MantaObject]()
    room = None if limit is None else max(0, limit - count_objects(db))
    left = iter(records)
    while part := list(islice(left, TOGETHER if room is None else min(room, TOGETHER))):
        statuses = insert(db, part)
        for record, status in zip(part, statuses, strict=True):
            if status is None:
                note_duplicate(db, record, tally)
                continue
            tally.add(status, record.reason, 1, record.size)
            if status is ObjectStatus.UNPROCESSED and record.obj is not None:
                new.append(record.obj)
        if room is not None:
            room -= sum(status is not None for status in statuses)
    scans.write(db, [scanned])
    db.executemany(
        "INSERT OR REPLACE INTO dropped VALUES (?, ?, ?)",
        [attrs.astuple(one) for one in dropped],
    )
    db.executemany(
        "INSERT OR REPLACE INTO orphans VALUES (?, ?, ?, ?)",
        [attrs.astuple(one) for one in orphans],
    )
    tally.save(db)
    return new


def first_status(
    record: FoundRecord, status: ObjectStatus = ObjectStatus.UNPROCESSED
) -> ObjectStatus:
    """Return the status in which a record that was just read begins its turn, or ends it at once.

    `status` is the one that its object is in, or would be in if it were new.
    """
    if record.reason is None:
        return status
    is_error = record.reason.column is Column.ERROR
    event = ObjectEvent.UNUSABLE if is_error else ObjectEvent.REFUSED
    return advance(states.OBJECT, status, event)


def insert(db: sqlite3.Connection, records: Sequence[FoundRecord]) -> list[ObjectStatus | None]:
    """Insert discovered objects; return the status of each, or None if its id is known already."""
    if any(tier_of(record.shard) is Tier.BUCKETS for record in records):
        tier_counts.begin(db)
    last = last_row(db)
    numbers = range(last + 1, last + 1 + len(records))
    count = insert_rows(
        db,
        "records (number, id, shard, key, etag, object)",
        [(n, r.id, r.shard, r.key, r.etag, r.text) for n, r in zip(numbers, records, strict=True)],
        "ON CONFLICT (id) DO NOTHING",
    )
    kept: Collection[int] = numbers
    if count < len(records):
        kept = {n for (n,) in db.execute("SELECT number FROM records WHERE number > ?", (last,))}
    statuses = [
        first_status(record) if number in kept else None
        for number, record in zip(numbers, records, strict=True)
    ]
    rows = [
        (n, status, r.size, *error_and_outcome(r.reason), r.detail, r.earlier)
        for n, status, r in zip(numbers, statuses, records, strict=True)
        if status is not None
    ]
    if rows:
        columns = "number, status, bytes, error, outcome, detail, earlier_shark"
        insert_rows(db, f"progress ({columns})", rows)
    return statuses


def is_record_of(known: sqlite3.Row, record: FoundRecord) -> bool:
    """Tell whether a record, met again, is the one that is `known`, and no link.

    A row of the buckets tier is the same in whichever shard: its vnode may be moved to another.
    """
    if known["key"] != record.key:
        return False
    return bool(known["shard"] == record.shard) or tier_of(record.shard) is Tier.BUCKETS


def note_duplicate(db: sqlite3.Connection, record: FoundRecord, tally: Tally) -> None:
    """Store a record of a known object: the same record, or one more, which becomes a link."""
    first = db.execute(
        "SELECT shard, key, object FROM records WHERE id = ?", (record.id,)
    ).fetchone()
    if is_record_of(first, record):
        return
    if not shares_copies(first["object"] or "", record.text):
        _store_stranger(db, record, tally)
        return
    done = db.execute(
        "INSERT INTO links (shard, key, id, object, etag) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        (record.shard, record.key, record.id, record.text, record.etag),
    )
    if not done.rowcount:
        return
    known = db.execute("SELECT key, shards FROM duplicates WHERE id = ?", (record.id,)).fetchone()
    # Smallest key and sorted numbers: the row must not depend on the order of discovery.
    # A row that a person has put in may lack either.
    keys = {record.key, first["key"], known and known["key"]} - {None}
    shards = {record.shard, first["shard"], *(json.loads(known["shards"]) if known else [])} - {
        None
    }
    db.execute(
        "INSERT OR REPLACE INTO duplicates VALUES (?, ?, ?)",
        (record.id, min(keys), json.dumps(sorted(shards))),
    )
    if known is None:
        tally.add("duplicates", None, 1, 0)


def _store_stranger(db: sqlite3.Connection, record: FoundRecord, tally: Tally) -> None:
    """Store a record that has the id of a known object and other copies, for a person to mend."""
    stranger = attrs.evolve(
        record,
        id=unknown_id(record.shard, record.key),
        obj=None,
        reason=reasons.BAD_MANTA_OBJECT,
        detail=f"an object of another owner has its id too: {record.id}",
    )
    (status,) = insert(db, [stranger])
    if status is not None:
        tally.add(status, stranger.reason, 1, stranger.size)
