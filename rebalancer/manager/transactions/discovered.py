"""Rows of what discovery met, and how far it has come."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

import attrs

from rebalancer.domain import states
from rebalancer.domain.objects import MantaObject
from rebalancer.domain.states import ObjectEvent, ObjectStatus, advance
from rebalancer.manager.records import Dropped, FoundRecord, ScanPosition
from rebalancer.manager.transactions.counters import Tally, count_objects


def found(
    db: sqlite3.Connection,
    records: Iterable[FoundRecord],
    scanned: ScanPosition,
    limit: int | None,
    dropped: Sequence[Dropped],
) -> tuple[list[MantaObject], Tally]:
    """Store one window; the new objects, which need a destination, each once."""
    tally, new = Tally(), list[MantaObject]()
    room = None if limit is None else limit - count_objects(db)
    for record in records:
        if room is not None and room <= 0:
            break
        status = insert(db, record)
        if status is None:
            note_duplicate(db, record, tally)
            continue
        tally.add(status, record.error or record.outcome, 1, record.size)
        if status is ObjectStatus.UNPROCESSED and record.obj is not None:
            new.append(record.obj)
        if room is not None:
            room -= 1
    write_scan(db, scanned)
    db.executemany(
        "INSERT OR REPLACE INTO dropped VALUES (?, ?, ?)",
        [attrs.astuple(one) for one in dropped],
    )
    tally.save(db)
    return new, tally


def first_status(record: FoundRecord) -> ObjectStatus:
    """The status in which a record that was just read begins its turn, or ends it at once."""
    status = ObjectStatus.UNPROCESSED
    if record.error is not None:
        return advance(states.OBJECT, status, ObjectEvent.UNUSABLE)
    if record.outcome is not None:
        return advance(states.OBJECT, status, ObjectEvent.REFUSED)
    return status


def insert(db: sqlite3.Connection, record: FoundRecord) -> ObjectStatus | None:
    """Insert a discovered object; None if its id is known already."""
    status = first_status(record)
    done = db.execute(
        "INSERT INTO records (id, shard, key, etag, object) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT (id) DO NOTHING",
        (record.id, record.shard, record.key, record.etag, record.text),
    )
    if not done.rowcount:
        return None
    db.execute(
        "INSERT INTO progress (number, status, bytes, error, outcome, detail)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (done.lastrowid, status, record.size, record.error, record.outcome, record.detail),
    )
    return status


def note_duplicate(db: sqlite3.Connection, record: FoundRecord, tally: Tally) -> None:
    """A record of an object that is known: the same one, or one more, which becomes a link."""
    first = db.execute("SELECT shard, key FROM records WHERE id = ?", (record.id,)).fetchone()
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


def read_scans(db: sqlite3.Connection) -> list[ScanPosition]:
    """How far discovery has come on each shard, in each round."""
    rows = db.execute("SELECT shard, id_column, position, until, round FROM scans ORDER BY 5, 1, 2")
    return [ScanPosition(*row) for row in rows]


def write_scan(db: sqlite3.Connection, scanned: ScanPosition) -> None:
    """Store how far a scan has come."""
    db.execute("INSERT OR REPLACE INTO scans VALUES (?, ?, ?, ?, ?)", attrs.astuple(scanned))
