"""This module has rows of copied objects, until records name the copies; and links."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache

from rebalancer.domain import states
from rebalancer.domain.objects import Shark
from rebalancer.domain.states import ObjectEvent, ObjectStatus, advance
from rebalancer.errors import IllegalTransition
from rebalancer.manager.store.assignments import finish
from rebalancer.manager.store.counts import Tally, move_rows
from rebalancer.manager.store.orphans import forget_orphans
from rebalancer.manager.store.records import Settled, StoredRecord
from rebalancer.manager.store.unplaced import PAGE


def to_update(db: sqlite3.Connection, assignment_id: str) -> list[StoredRecord]:
    """Return the records of an assignment's copies."""
    rows = db.execute(
        "SELECT r.number, r.id, r.key, r.shard, r.etag, r.object, a.dest_datacenter, a.dest_shark"
        " FROM assignments a JOIN progress p ON p.assignment = a.number"
        " JOIN records r ON r.number = p.number WHERE a.id = ? AND p.status = 'post_processing'",
        (assignment_id,),
    )
    return [_stored_record(row) for row in rows]


def settle(db: sqlite3.Connection, settled: Iterable[Settled], finished: str | None = None) -> None:
    """End objects as their updates ended, and the assignment `finished`, whose last they are."""
    tally = Tally()
    written = list[int]()
    for item in settled:
        if item.event is ObjectEvent.METADATA_WRITTEN:
            written.append(item.number)
        else:
            _settle(db, tally, item)
    _complete(db, tally, written)
    tally.save(db)
    if finished is not None:
        finish(db, finished)


def _complete(db: sqlite3.Connection, tally: Tally, numbers: Sequence[int]) -> None:
    """End objects whose records name their copies: nearly all, so in one statement."""
    old = ObjectStatus.POST_PROCESSING
    new = advance(states.OBJECT, old, ObjectEvent.METADATA_WRITTEN)
    if not numbers:
        return
    listed = json.dumps(numbers)
    these = "number IN (SELECT value FROM json_each(?))"
    if move_rows(db, tally, old, new, these, listed) != len(numbers):
        raise IllegalTransition(f"an object is not {old}, so it cannot become {new}")
    forget_orphans(db, listed)


def _settle(db: sqlite3.Connection, tally: Tally, item: Settled) -> None:
    old = ObjectStatus.POST_PROCESSING
    new = advance(states.OBJECT, old, item.event)
    row = db.execute(
        "UPDATE progress SET status = ?, error = ?, outcome = ?, detail = ?"
        " WHERE number = ? AND status = ? RETURNING bytes, dest_shark",
        (new, item.error, item.outcome, item.detail, item.number, old),
    ).fetchone()
    if row is None:
        raise IllegalTransition(f"object {item.number} is not {old}, so it cannot become {new}")
    tally.move(old, new, item.error or item.outcome, 1, row["bytes"])
    if item.orphan is not None:
        reason = str(item.error or item.outcome)
        db.execute(
            "INSERT OR REPLACE INTO orphans SELECT id, ?, ?, ? FROM records WHERE number = ?",
            (row["dest_shark"], item.orphan, reason, item.number),
        )


def waiting_links(db: sqlite3.Connection, after: tuple[int, str]) -> list[StoredRecord]:
    """Return a page of the further records of objects whose copies are made."""
    rows = db.execute(
        "SELECT r.number, l.id, l.key, l.shard, l.etag, l.object, a.dest_datacenter, a.dest_shark"
        " FROM links l JOIN records r ON r.id = l.id JOIN progress p ON p.number = r.number"
        " JOIN assignments a ON a.number = p.assignment"
        " WHERE l.status = 'waiting' AND (l.shard, l.key) > (?, ?)"
        " AND (p.status = 'complete' OR p.outcome IN ('deleted', 'overwritten'))"
        " ORDER BY l.shard, l.key LIMIT ?",
        (*after, PAGE),
    )
    return [_stored_record(row) for row in rows]


def settle_link(
    db: sqlite3.Connection, link: StoredRecord, status: str, detail: str | None
) -> None:
    """End a further record as its update ended."""
    db.execute(
        "UPDATE links SET status = ?, detail = ? WHERE shard = ? AND key = ?",
        (status, detail, link.shard, link.key),
    )
    if status == "complete":
        forget_orphans(db, json.dumps([link.number]))


def _stored_record(row: sqlite3.Row) -> StoredRecord:
    number, object_id, key, shard, etag, text, datacenter, name = row
    return StoredRecord(number, object_id, key, shard, etag, text, _shark(datacenter, name))


#: Many records have the same destination.
_shark = lru_cache(4096)(Shark)
