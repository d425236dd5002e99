"""This module keeps the rows of unplaced objects: objects without a destination."""

import json
import sqlite3
from collections.abc import Sequence

import attrs

from rebalancer.domain import reasons, states
from rebalancer.domain.objects import MantaObject, UnusableRecord
from rebalancer.domain.reasons import Column, Reason, Remedy
from rebalancer.domain.records import read_object
from rebalancer.domain.retries import Tried, most_telling
from rebalancer.domain.states import Move, ObjectEvent, ObjectStatus, move
from rebalancer.errors import IllegalTransition
from rebalancer.manager.store.counts import Tally

#: Rows that are read or changed by one statement.
PAGE = 500
#: SQL condition: the row of `progress` belongs to the object with this id.
OF_ID = "number = (SELECT number FROM records WHERE id = ?)"
#: SQL condition: the object is unplaced.  The status is part of the text and no parameter, because
#: sqlite uses the partial index of these rows only where it sees the status.
_IS_UNPLACED = f"status = '{ObjectStatus.UNPROCESSED}'"
_UNPLACED = (
    "SELECT number, id, shard, key, etag, bytes, object, tried, earlier_shark"
    f" FROM progress JOIN records USING (number) WHERE {_IS_UNPLACED} AND"
)

_DEFER = move(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.DEFERRED)
_REQUEUE = move(states.OBJECT, _DEFER.after, ObjectEvent.REQUEUED)
_SKIP = move(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.REFUSED)
_FAIL = move(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.UNUSABLE)


def requeue_all(db: sqlite3.Connection) -> int:
    """Make objects that were deferred or requeued like new ones.

    Returns how many objects are unplaced in all.  From now on `read_new` reads them, and
    `read_requeued` and `requeue_deferred` do not.
    """
    _requeue_deferred(db, 0, None)
    db.execute(
        f"UPDATE progress SET assignment = NULL WHERE {_IS_UNPLACED} AND assignment IS NOT NULL"
    )
    (count,) = db.execute(f"SELECT count(*) FROM progress WHERE {_IS_UNPLACED}").fetchone()
    return int(count)


def last_row(db: sqlite3.Connection) -> int:
    """Return the row number of the newest object: an end for `read_new`."""
    return int(db.execute("SELECT ifnull(max(number), 0) FROM progress").fetchone()[0])


def read_new(db: sqlite3.Connection, after: int, until: int) -> tuple[int, list[MantaObject]]:
    """Return a page of objects that were not placed yet, from rows after `after` up to `until`.

    Returns the last row seen and the objects; no objects means that there are no more.  Objects
    that were requeued or deferred during this run are read by `read_requeued` and
    `requeue_deferred`.
    """
    rows = db.execute(
        f"{_UNPLACED} assignment IS NULL AND NOT put_off"
        " AND number > ? AND number <= ? ORDER BY number LIMIT ?",
        (after, until, PAGE),
    ).fetchall()
    return (rows[-1]["number"] if rows else until), [_object_of(row) for row in rows]


def read_requeued(db: sqlite3.Connection, assignment_id: str) -> list[MantaObject]:
    """Return the objects of an assignment that were requeued."""
    rows = db.execute(
        f"{_UNPLACED} assignment = (SELECT number FROM assignments WHERE id = ?) AND NOT put_off",
        (assignment_id,),
    )
    return [_object_of(row) for row in rows]


def requeue_deferred(db: sqlite3.Connection, after: int) -> tuple[int, list[MantaObject]]:
    """Make a page of deferred objects, from rows after `after`, like new ones.

    Returns the last row seen and the objects; no objects means that there are no more.
    """
    return _requeue_deferred(db, after, PAGE)


def _requeue_deferred(
    db: sqlite3.Connection, after: int, limit: int | None
) -> tuple[int, list[MantaObject]]:
    """Make a page of the deferred objects like new ones; all of them if `limit` is None.

    Returns the last row seen and the objects of the last page.  Rows that a person has changed are
    deferred, so they are read here; a row that no object can be made of ends as an error.
    """
    tally, objects = Tally(), list[MantaObject]()
    last = after
    while limit is None or not objects:
        rows = db.execute(
            f"{_UNPLACED} put_off AND number > ? ORDER BY number LIMIT ?", (last, PAGE)
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
            "UPDATE progress SET status = ?, put_off = 0"
            " WHERE number IN (SELECT value FROM json_each(?)) AND status = ?",
            (_REQUEUE.after, numbers, _REQUEUE.before),
        )
        tally.defer(-len(rows))
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
        obj = _object_of(row)
    except UnusableRecord:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        text = f"the row cannot be read: {type(exc).__name__}"
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, text) from exc
    if obj.object_id != row["id"]:
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "the record is another object's")
    required = (row["shard"], int), (row["key"], str), (row["etag"], str)
    if not all(isinstance(value, kind) for value, kind in required):
        raise UnusableRecord(reasons.BAD_MORAY_OBJECT, "shard, key or etag is missing")
    return obj


def _end_unusable(
    db: sqlite3.Connection, tally: Tally, row: sqlite3.Row, why: UnusableRecord
) -> None:
    db.execute(
        "UPDATE progress SET status = ?, put_off = 0, error = ?, detail = ?"
        " WHERE number = ? AND status = ?",
        (_FAIL.after, why.reason.word, str(why), row["number"], _FAIL.before),
    )
    tally.move(_FAIL, 1, row["bytes"], why.reason)


def refuse(
    db: sqlite3.Connection, refused: Sequence[tuple[str, Reason]], *, max_attempts: int
) -> None:
    """Record that no destination was found for objects; `refused` has ids, each with its reason.

    An object is deferred if waiting may help and it has an attempt left; otherwise it is skipped.
    """
    tally = Tally()
    for object_id, reason in refused:
        if reason.remedy is Remedy.LATER and _defer(db, object_id, max_attempts):
            tally.defer(1)
            continue
        row = db.execute(f"SELECT tried FROM progress WHERE {OF_ID}", (object_id,)).fetchone()
        recorded = reason if row is None else most_telling(read_tried(row).reason, reason)
        detail = None if recorded == reason else f"in the end: {reason}"
        skip(db, tally, object_id, _SKIP, recorded, detail)
    tally.save(db)


def defer(db: sqlite3.Connection, object_ids: Sequence[str]) -> None:
    """Defer objects whose destinations are all away, which costs them no attempt."""
    count = db.execute(
        "UPDATE progress SET status = ?, put_off = 1 WHERE +status = ? AND NOT put_off"
        " AND number IN (SELECT number FROM records WHERE id IN (SELECT value FROM json_each(?)))",
        (_DEFER.after, _DEFER.before, json.dumps(object_ids)),
    ).rowcount
    if count != len(object_ids):
        raise IllegalTransition(f"an object is not {_DEFER.before}, so it cannot be deferred")
    tally = Tally()
    tally.defer(count)
    tally.save(db)


def _defer(db: sqlite3.Connection, object_id: str, max_attempts: int) -> bool:
    """Defer an object at the cost of an attempt; return whether it had one left."""
    updated = db.execute(
        "UPDATE progress SET status = ?, put_off = 1, attempts = attempts + 1"
        f" WHERE {OF_ID} AND status = ? AND NOT put_off AND attempts + 1 < ?",
        (_DEFER.after, object_id, _DEFER.before, max_attempts),
    )
    return bool(updated.rowcount)


def skip_page(db: sqlite3.Connection, reason: Reason) -> bool:
    """Skip a page of unplaced objects for `reason`; return whether there were any.

    `reason` must be one of ours, because it goes into the column that the predecessor lacks.
    """
    rows = db.execute(
        f"SELECT number, bytes, put_off FROM progress WHERE {_IS_UNPLACED} LIMIT ?", (PAGE,)
    ).fetchall()
    db.execute(
        "UPDATE progress SET status = ?, outcome = ?, put_off = 0"
        " WHERE number IN (SELECT value FROM json_each(?)) AND status = ?",
        (_SKIP.after, reason.word, json.dumps([row["number"] for row in rows]), _SKIP.before),
    )
    tally = Tally()
    tally.move(_SKIP, len(rows), sum(row["bytes"] for row in rows), reason)
    tally.defer(-sum(row["put_off"] for row in rows))
    tally.save(db)
    return bool(rows)


def skip(
    db: sqlite3.Connection,
    tally: Tally,
    object_id: str,
    move: Move[ObjectStatus],
    reason: Reason,
    detail: str | None = None,
) -> None:
    """End an object as skipped for `reason`; `move` leads there from the status that it has now.

    Raises:
      IllegalTransition: the object has another status, or is deferred.
    """
    known, text = (reason, detail) if reason.is_known else (reasons.UNKNOWN, _tame(reason.word))
    columns = {Column.SKIPPED_REASON: None, Column.OUTCOME: None, known.column: known.word}
    row = db.execute(
        "UPDATE progress SET status = ?, skipped_reason = ?, outcome = ?, detail = ?"
        f" WHERE {OF_ID} AND status = ? AND NOT put_off RETURNING bytes",
        (
            move.after,
            columns[Column.SKIPPED_REASON],
            columns[Column.OUTCOME],
            text,
            object_id,
            move.before,
        ),
    ).fetchone()
    if row is None:
        raise IllegalTransition(f"object {object_id} is not {move.before}, so it cannot be skipped")
    tally.move(move, 1, row["bytes"], known)


def _tame(text: str) -> str:
    """Make a text from outside fit for a column: cut it, and replace lone surrogates."""
    return text[:200].encode(errors="replace").decode()


def _object_of(row: sqlite3.Row) -> MantaObject:
    obj = read_object(json.loads(row["object"]))
    return attrs.evolve(obj, tried=read_tried(row), earlier=row["earlier_shark"])


def read_tried(row: sqlite3.Row) -> Tried:
    """Return the destinations and sources with which copying the object has failed, and why."""
    if row["tried"] is None:
        return Tried()
    known = json.loads(row["tried"])
    reason = known.get("reason")
    return Tried(
        frozenset(known["destinations"]),
        frozenset(known["sources"]),
        None if reason is None else Reason(*reason),
        frozenset(known.get("away", ())),
    )


def write_tried(tried: Tried) -> str:
    """Return `tried` as the text of its column."""
    reason = None if tried.reason is None else (tried.reason.name[:200], tried.reason.code)
    return json.dumps(
        {
            "destinations": sorted(tried.destinations),
            "sources": sorted(tried.sources),
            "reason": reason,
            "away": sorted(tried.away),
        }
    )
