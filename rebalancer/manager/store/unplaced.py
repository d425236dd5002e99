"""This module has rows of objects that are without a destination."""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence

import attrs

from rebalancer.domain import reasons, states
from rebalancer.domain.objects import MantaObject, RecordError, UnusableRecord, read_object
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Remedy, Tried, most_telling, remedy
from rebalancer.domain.states import ObjectEvent, ObjectStatus, advance
from rebalancer.errors import IllegalTransition
from rebalancer.manager.store.counts import Tally
from rebalancer.manager.store.records import Uncopied

#: Rows read at once where a job's rows are walked.
PAGE = 500
#: Of a row of `progress`: that it is the object's which has this id.
OF_ID = "number = (SELECT number FROM records WHERE id = ?)"
_WAITING = (
    "SELECT number, id, shard, key, etag, bytes, object, tried, earlier_shark"
    " FROM progress JOIN records USING (number)"
    " WHERE status = 'unprocessed' AND"
)


def take_over(db: sqlite3.Connection) -> int:
    """Make objects that an earlier run gave back or put off like new; says how many wait in all."""
    _take_put_off(db, 0, None)
    db.execute(
        "UPDATE progress SET assignment = NULL WHERE status = 'unprocessed'"
        " AND assignment IS NOT NULL"
    )
    (left,) = db.execute("SELECT count(*) FROM progress WHERE status = 'unprocessed'").fetchone()
    return int(left)


def last_row(db: sqlite3.Connection) -> int:
    """Return the number of the newest object."""
    return int(db.execute("SELECT ifnull(max(number), 0) FROM progress").fetchone()[0])


def unprocessed(db: sqlite3.Connection, after: int, until: int) -> tuple[int, list[MantaObject]]:
    """Return the last number seen, and a page of the objects never placed in this run."""
    rows = db.execute(
        f"{_WAITING} assignment IS NULL AND NOT put_off"
        " AND number > ? AND number <= ? ORDER BY number LIMIT ?",
        (after, until, PAGE),
    ).fetchall()
    return (rows[-1]["number"] if rows else until), [_waiting_object(row) for row in rows]


def returned(db: sqlite3.Connection, assignment_id: str) -> list[MantaObject]:
    """Return the objects that an assignment has given back to placement."""
    rows = db.execute(
        f"{_WAITING} assignment = (SELECT number FROM assignments WHERE id = ?) AND NOT put_off",
        (assignment_id,),
    )
    return [_waiting_object(row) for row in rows]


def take_up(db: sqlite3.Connection, after: int) -> tuple[int, list[MantaObject]]:
    """Take up a page of the objects that were put off; returns the last number seen, and those."""
    return _take_put_off(db, after, PAGE)


def _take_put_off(
    db: sqlite3.Connection, after: int, limit: int | None
) -> tuple[int, list[MantaObject]]:
    """Make a page, or all, of the objects put off like new; returns the last number, and a page.

    What a person has changed is put off too, so this is where it is found if no object can be
    made of a row: that ends as an error.
    """
    tally, objects = Tally(), list[MantaObject]()
    last = after
    while limit is None or not objects:
        rows = db.execute(
            f"{_WAITING} put_off AND number > ? ORDER BY number LIMIT ?", (last, PAGE)
        ).fetchall()
        if not rows:
            break
        for row in rows:
            last = row["number"]
            try:
                objects.append(_checked_object(row))
            except UnusableRecord as exc:
                _end_unusable(db, tally, row, exc)
        numbers = json.dumps([row["number"] for row in rows])
        db.execute(
            "UPDATE progress SET put_off = 0 WHERE number IN (SELECT value FROM json_each(?))",
            (numbers,),
        )
        tally.put_off(-len(rows))
        if limit is None:
            objects.clear()
    tally.save(db)
    return last, objects


def _checked_object(row: sqlite3.Row) -> MantaObject:
    """Read the object of a row that a person may have changed.

    Raises:
      UnusableRecord: no object can be made of it.
    """
    try:
        obj = _waiting_object(row)
    except UnusableRecord:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        text = f"the row cannot be read: {type(exc).__name__}"
        raise UnusableRecord(RecordError.BAD_MANTA_OBJECT, text) from exc
    if obj.object_id != row["id"]:
        raise UnusableRecord(RecordError.BAD_MANTA_OBJECT, "the record is another object's")
    known = (row["shard"], int), (row["key"], str), (row["etag"], str)
    if not all(isinstance(value, kind) for value, kind in known):
        raise UnusableRecord(RecordError.BAD_MORAY_OBJECT, "shard, key or etag is missing")
    return obj


def _end_unusable(
    db: sqlite3.Connection, tally: Tally, row: sqlite3.Row, why: UnusableRecord
) -> None:
    new = advance(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.UNUSABLE)
    db.execute(
        "UPDATE progress SET status = ?, error = ?, detail = ? WHERE number = ?",
        (new, why.error, str(why), row["number"]),
    )
    tally.move(ObjectStatus.UNPROCESSED, new, why.error, 1, row["bytes"])


def refuse(
    db: sqlite3.Connection, refused: Sequence[tuple[str, Reason]], max_attempts: int
) -> Uncopied:
    """Put off or skip objects for which there is no destination."""
    tally = Tally()
    put_off, skipped = 0, Counter[Reason]()
    for object_id, reason in refused:
        if remedy(reason) is Remedy.LATER and _put_off(db, object_id, max_attempts):
            put_off += 1
            tally.put_off(1)
            continue
        row = db.execute(f"SELECT tried FROM progress WHERE {OF_ID}", (object_id,)).fetchone()
        told = reason if row is None else most_telling(read_tried(row).reason, reason)
        detail = None if told == reason else f"in the end: {reason}"
        skip(db, tally, object_id, ObjectStatus.UNPROCESSED, told, detail)
        skipped[told] += 1
    tally.save(db)
    return Uncopied(0, put_off, skipped)


def postpone(db: sqlite3.Connection, object_ids: Sequence[str]) -> None:
    """Put off objects without a destination, which costs them no attempt."""
    advance(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.PUT_OFF)
    count = db.execute(
        "UPDATE progress SET put_off = 1 WHERE +status = 'unprocessed' AND NOT put_off"
        " AND number IN (SELECT number FROM records WHERE id IN (SELECT value FROM json_each(?)))",
        (json.dumps(object_ids),),
    ).rowcount
    tally = Tally()
    tally.put_off(count)
    tally.save(db)


def _put_off(db: sqlite3.Connection, object_id: str, max_attempts: int) -> bool:
    """Put an object off, if it may be tried again; tells whether it was."""
    advance(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.PUT_OFF)
    done = db.execute(
        "UPDATE progress SET put_off = 1, attempts = attempts + 1"
        f" WHERE {OF_ID} AND status = 'unprocessed' AND NOT put_off AND attempts + 1 < ?",
        (object_id, max_attempts),
    )
    return bool(done.rowcount)


def skip_page(db: sqlite3.Connection, outcome: str) -> bool:
    """Skip a page of unprocessed objects, for a cause that the predecessor has no word for.

    Tells whether there were any.
    """
    new = advance(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.REFUSED)
    rows = db.execute(
        "SELECT number, bytes, put_off FROM progress WHERE status = 'unprocessed' LIMIT ?", (PAGE,)
    ).fetchall()
    db.execute(
        "UPDATE progress SET status = ?, outcome = ?, put_off = 0"
        " WHERE number IN (SELECT value FROM json_each(?))",
        (new, outcome, json.dumps([row["number"] for row in rows])),
    )
    tally = Tally()
    size = sum(row["bytes"] for row in rows)
    tally.move(ObjectStatus.UNPROCESSED, new, outcome, len(rows), size)
    tally.put_off(-sum(row["put_off"] for row in rows))
    tally.save(db)
    return bool(rows)


def skip(
    db: sqlite3.Connection,
    tally: Tally,
    object_id: str,
    old: ObjectStatus,
    reason: Reason,
    detail: str | None = None,
) -> None:
    """End an object as skipped."""
    new = advance(states.OBJECT, old, ObjectEvent.REFUSED)
    column, text = (reason.column, detail) if reason.is_known else (None, _tame(reason.column))
    row = db.execute(
        "UPDATE progress SET status = ?, skipped_reason = ?, outcome = ?, detail = ?"
        f" WHERE {OF_ID} AND status = ? AND NOT put_off RETURNING bytes",
        (new, column, None if column else reasons.UNKNOWN, text, object_id, old),
    ).fetchone()
    if row is None:
        raise IllegalTransition(f"object {object_id} is not {old}, so it cannot be skipped")
    tally.move(old, new, column or reasons.UNKNOWN, 1, row["bytes"])


def _tame(text: str) -> str:
    """Make `text` from outside fit for a column: not endless, and without halves of characters."""
    return text[:200].encode(errors="replace").decode()


def _waiting_object(row: sqlite3.Row) -> MantaObject:
    obj = read_object(json.loads(row["object"]))
    return attrs.evolve(obj, tried=read_tried(row), earlier=row["earlier_shark"])


def read_tried(row: sqlite3.Row) -> Tried:
    """Read with what copying the object has failed."""
    if row["tried"] is None:
        return Tried()
    known = json.loads(row["tried"])
    told = known.get("reason")
    return Tried(
        frozenset(known["destinations"]),
        frozenset(known["sources"]),
        None if told is None else Reason(*told),
        frozenset(known.get("away", ())),
    )


def write_tried(tried: Tried) -> str:
    """Write `tried` as its column holds it."""
    told = None if tried.reason is None else (tried.reason.name[:200], tried.reason.code)
    return json.dumps(
        {
            "destinations": sorted(tried.destinations),
            "sources": sorted(tried.sources),
            "reason": told,
            "away": sorted(tried.away),
        }
    )
