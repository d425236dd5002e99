"""Rows of objects that are without a destination."""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence

import attrs

from rebalancer.domain import reasons, states
from rebalancer.domain.objects import MantaObject, read_object
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Remedy, Tried, remedy
from rebalancer.domain.states import ObjectEvent, ObjectStatus, advance
from rebalancer.errors import IllegalTransition
from rebalancer.manager.records import Status, Uncopied
from rebalancer.manager.transactions.counters import Tally, read_status

#: Rows read at once where a job's rows are walked.
PAGE = 500
#: Of a row of `progress`: that it is the object's which has this id.
OF_ID = "number = (SELECT number FROM records WHERE id = ?)"
_WAITING = (
    "SELECT number, object, tried, earlier_shark FROM progress JOIN records USING (number)"
    " WHERE status = 'unprocessed' AND"
)


def take_over(db: sqlite3.Connection) -> Status:
    """Make those given back or put off by an earlier run like new ones; the counts."""
    db.execute(
        "UPDATE progress SET assignment = NULL, put_off = 0"
        " WHERE status = 'unprocessed' AND (assignment IS NOT NULL OR put_off)"
    )
    return read_status(db)


def last_row(db: sqlite3.Connection) -> int:
    """The number of the newest object."""
    return int(db.execute("SELECT ifnull(max(number), 0) FROM progress").fetchone()[0])


def unprocessed(db: sqlite3.Connection, after: int, until: int) -> tuple[int, list[MantaObject]]:
    """A page of objects never placed in this run, and the last number seen."""
    rows = db.execute(
        f"{_WAITING} assignment IS NULL AND NOT put_off"
        " AND number > ? AND number <= ? ORDER BY number LIMIT ?",
        (after, until, PAGE),
    ).fetchall()
    return (rows[-1]["number"] if rows else until), [_waiting_object(row) for row in rows]


def returned(db: sqlite3.Connection, assignment_id: str) -> list[MantaObject]:
    """The objects that an assignment has returned."""
    rows = db.execute(
        f"{_WAITING} assignment = (SELECT number FROM assignments WHERE id = ?) AND NOT put_off",
        (assignment_id,),
    )
    return [_waiting_object(row) for row in rows]


def take_up(db: sqlite3.Connection, after: int) -> tuple[int, list[MantaObject]]:
    """A page of those put off, which they are no longer, and the last number seen."""
    rows = db.execute(
        f"{_WAITING} put_off AND number > ? ORDER BY number LIMIT ?", (after, PAGE)
    ).fetchall()
    last = rows[-1]["number"] if rows else after
    db.execute(
        "UPDATE progress SET put_off = 0 WHERE status = 'unprocessed' AND put_off"
        " AND number > ? AND number <= ?",
        (after, last),
    )
    return last, [_waiting_object(row) for row in rows]


def refuse(
    db: sqlite3.Connection, refused: Sequence[tuple[str, Reason]], max_attempts: int
) -> tuple[Uncopied, Tally]:
    """Put off or skip what there is no destination for."""
    tally = Tally()
    put_off, skipped = 0, Counter[Reason]()
    for object_id, reason in refused:
        if remedy(reason) is Remedy.LATER and _put_off(db, object_id, max_attempts):
            put_off += 1
            continue
        skip(db, tally, object_id, ObjectStatus.UNPROCESSED, reason)
        skipped[reason] += 1
    tally.save(db)
    return Uncopied(0, put_off, skipped), tally


def _put_off(db: sqlite3.Connection, object_id: str, max_attempts: int) -> bool:
    """Whether the object waits for another try; if not, nothing is changed."""
    advance(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.PUT_OFF)
    done = db.execute(
        "UPDATE progress SET put_off = 1, attempts = attempts + 1"
        f" WHERE {OF_ID} AND status = 'unprocessed' AND NOT put_off AND attempts + 1 < ?",
        (object_id, max_attempts),
    )
    return bool(done.rowcount)


def skip_page(db: sqlite3.Connection, outcome: str) -> tuple[bool, Tally]:
    """End a page of them as skipped, for a cause that the predecessor has no word for.

    Tells whether there were any.
    """
    new = advance(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.REFUSED)
    sizes = db.execute(
        "UPDATE progress SET status = ?, outcome = ?, put_off = 0 WHERE number IN"
        " (SELECT number FROM progress WHERE status = 'unprocessed' LIMIT ?)"
        " RETURNING bytes",
        (new, outcome, PAGE),
    ).fetchall()
    tally = Tally()
    size = sum(row["bytes"] for row in sizes)
    tally.move(ObjectStatus.UNPROCESSED, new, outcome, len(sizes), size)
    tally.save(db)
    return bool(sizes), tally


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
    """`text` from outside as a column takes it: not endless, and without halves of characters."""
    return text[:200].encode(errors="replace").decode()


def _waiting_object(row: sqlite3.Row) -> MantaObject:
    obj = read_object(json.loads(row["object"]))
    return attrs.evolve(obj, tried=read_tried(row), earlier=row["earlier_shark"])


def read_tried(row: sqlite3.Row) -> Tried:
    """With what copying the object has failed."""
    if row["tried"] is None:
        return Tried()
    known = json.loads(row["tried"])
    return Tried(frozenset(known["destinations"]), frozenset(known["sources"]))


def write_tried(tried: Tried) -> str:
    """`tried` as its column holds it."""
    return json.dumps(
        {"destinations": sorted(tried.destinations), "sources": sorted(tried.sources)}
    )
