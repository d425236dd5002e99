"""Rows of copied objects, until their records name the copies; and links."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

from rebalancer.domain import states
from rebalancer.domain.objects import Shark
from rebalancer.domain.states import ObjectEvent, ObjectStatus, advance
from rebalancer.errors import IllegalTransition
from rebalancer.manager.records import Settled, StoredRecord
from rebalancer.manager.transactions.counters import Tally
from rebalancer.manager.transactions.orphans import forget_orphans
from rebalancer.manager.transactions.waiting import OF_ID, PAGE


def to_update(db: sqlite3.Connection, assignment_id: str) -> list[StoredRecord]:
    """The records of an assignment's copies."""
    rows = db.execute(
        "SELECT r.id, r.key, r.shard, r.etag, r.object, a.dest_shark, a.dest_datacenter"
        " FROM assignments a JOIN progress p ON p.assignment = a.number"
        " JOIN records r ON r.number = p.number WHERE a.id = ? AND p.status = 'post_processing'",
        (assignment_id,),
    )
    return [_stored_record(row) for row in rows]


def settle(db: sqlite3.Connection, settled: Iterable[Settled]) -> Tally:
    """End objects as their updates ended."""
    tally = Tally()
    written = list[str]()
    for item in settled:
        if item.event is ObjectEvent.METADATA_WRITTEN:
            written.append(item.id)
        else:
            _settle(db, tally, item)
    _complete(db, tally, written)
    tally.save(db)
    return tally


def _complete(db: sqlite3.Connection, tally: Tally, ids: Sequence[str]) -> None:
    """End objects whose records name their copies: nearly all, so in one statement."""
    old = ObjectStatus.POST_PROCESSING
    new = advance(states.OBJECT, old, ObjectEvent.METADATA_WRITTEN)
    listed = json.dumps(ids)
    rows = db.execute(
        "UPDATE progress SET status = ? WHERE status = ? AND number IN"
        " (SELECT number FROM records WHERE id IN (SELECT value FROM json_each(?)))"
        " RETURNING bytes",
        (new, old, listed),
    ).fetchall()
    if len(rows) != len(ids):
        raise IllegalTransition(f"an object is not {old}, so it cannot become {new}")
    tally.move(old, new, None, len(rows), sum(row["bytes"] for row in rows))
    forget_orphans(db, listed)


def _settle(db: sqlite3.Connection, tally: Tally, item: Settled) -> None:
    old = ObjectStatus.POST_PROCESSING
    new = advance(states.OBJECT, old, item.event)
    row = db.execute(
        "UPDATE progress SET status = ?, error = ?, outcome = ?, detail = ?"
        f" WHERE {OF_ID} AND status = ? RETURNING bytes, dest_shark",
        (new, item.error, item.outcome, item.detail, item.id, old),
    ).fetchone()
    if row is None:
        raise IllegalTransition(f"object {item.id} is not {old}, so it cannot become {new}")
    tally.move(old, new, item.error or item.outcome, 1, row["bytes"])
    if item.orphan is not None:
        reason = str(item.error or item.outcome)
        db.execute(
            "INSERT OR REPLACE INTO orphans VALUES (?, ?, ?, ?)",
            (item.id, row["dest_shark"], item.orphan, reason),
        )


def waiting_links(db: sqlite3.Connection, after: tuple[int, str]) -> list[StoredRecord]:
    """A page of the further records of objects whose copies are made."""
    rows = db.execute(
        "SELECT l.id, l.key, l.shard, l.etag, l.object, a.dest_shark, a.dest_datacenter"
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
        forget_orphans(db, json.dumps([link.id]))


def _stored_record(row: sqlite3.Row) -> StoredRecord:
    destination = Shark(row["dest_datacenter"], row["dest_shark"])
    return StoredRecord(
        row["id"], row["key"], row["shard"], row["etag"], row["object"], destination
    )
