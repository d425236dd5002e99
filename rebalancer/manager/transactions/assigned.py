"""Rows of assignments, and of the objects in them until they are copied."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping

from rebalancer.domain import reasons, states
from rebalancer.domain.objects import Shark, read_object
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import Failure, Next, Tried, after_failure
from rebalancer.domain.states import (
    AssignmentEvent,
    AssignmentState,
    ObjectEvent,
    ObjectStatus,
    advance,
)
from rebalancer.errors import IllegalTransition
from rebalancer.manager.records import NewAssignment, OpenAssignment, Uncopied
from rebalancer.manager.transactions import destinations
from rebalancer.manager.transactions.counters import Tally, move_rows
from rebalancer.manager.transactions.orphans import note_orphan
from rebalancer.manager.transactions.waiting import OF_ID, read_tried, skip, write_tried

#: Of a row of `progress`: that it is in the assignment which has this id.
_IN = "assignment = (SELECT number FROM assignments WHERE id = ?)"


def assign(db: sqlite3.Connection, assignment: NewAssignment) -> None:
    """Insert an assignment, and give it its objects."""
    number = db.execute(
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
    ).lastrowid
    destinations.give(db, assignment)
    sizes = db.execute(
        "UPDATE progress SET status = 'assigned', assignment = ?, dest_shark = ?"
        " WHERE number IN (SELECT number FROM records WHERE id IN (SELECT value FROM json_each(?)))"
        # The sign keeps sqlite from walking the index of all that waits.
        " AND +status = 'unprocessed' AND NOT put_off RETURNING bytes",
        (number, assignment.destination.manta_storage_id, json.dumps(assignment.object_ids)),
    ).fetchall()
    if len(sizes) != len(assignment.object_ids):
        raise IllegalTransition(f"assignment {assignment.id}: an object was not unprocessed")
    tally = Tally()
    tally.move("unprocessed", "assigned", None, len(sizes), sum(size for (size,) in sizes))
    tally.save(db)


def accept(db: sqlite3.Connection, assignment_id: str) -> None:
    """The agent has it."""
    _advance(db, assignment_id, AssignmentEvent.ACCEPTED)


def withdraw(db: sqlite3.Connection, assignment_id: str, path: str | None = None) -> None:
    """It came to no agent: its objects are as before; with `path` there may be copies of them."""
    _advance(db, assignment_id, AssignmentEvent.LOST, "never sent")
    tally = Tally()
    for row in _objects_of(db, assignment_id):
        if path is not None:
            note_orphan(db, row, path, "its agent may have been given it")
        _return(db, tally, row)
    tally.save(db)


def give_back(
    db: sqlite3.Connection,
    assignment_id: str,
    reason: Reason,
    max_attempts: int,
    path: str,
    detail: str,
) -> Uncopied:
    """It came to nothing: its objects return, or are skipped."""
    (state,) = db.execute("SELECT state FROM assignments WHERE id = ?", (assignment_id,)).fetchone()
    never_sent = reason == reasons.AGENT_ASSIGNMENT_NO_ENT and state == AssignmentState.INIT
    _advance(db, assignment_id, AssignmentEvent.LOST, detail)
    tally = Tally()
    fates, skipped = Counter[Next](), Counter[Reason]()
    for row in _objects_of(db, assignment_id):
        if never_sent:
            _return(db, tally, row)
            fates[Next.AT_ONCE] += 1
            continue
        note_orphan(db, row, path, f"assignment lost: {reason}")
        tried = read_tried(row).and_also(row["dest_shark"], reason=reason)
        fate, told = _try_again(db, tally, row, reason, tried, max_attempts, detail)
        fates[fate] += 1
        if fate is Next.SKIPPED:
            skipped[told] += 1
    if not never_sent:
        destinations.count(db, assignment_id, copied=0, failed=fates.total())
    tally.save(db)
    return Uncopied(fates[Next.AT_ONCE], fates[Next.PUT_OFF], skipped)


def copied(
    db: sqlite3.Connection, assignment_id: str, failed: Mapping[str, Failure], max_attempts: int
) -> Uncopied:
    """Its objects are copies, but those in `failed`, which return or are skipped."""
    _advance(db, assignment_id, AssignmentEvent.AGENT_DONE)
    tally = Tally()
    fates, skipped = Counter[Next](), Counter[Reason]()
    for object_id, failure in failed.items():
        row = _object_of(db, assignment_id, object_id)
        if read_tried(row).is_excused(failure):
            fates[_excuse(db, tally, row, failure)] += 1
            continue
        reason = failure.reason
        tried = read_tried(row).and_also(row["dest_shark"], failure.bad_source, reason)
        fate, told = _try_again(db, tally, row, reason, tried, max_attempts)
        fates[fate] += 1
        if fate is Next.SKIPPED:
            skipped[told] += 1
    new = advance(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.COPIED)
    left = move_rows(db, tally, ObjectStatus.ASSIGNED, new, _IN, assignment_id)
    destinations.count(db, assignment_id, copied=left, failed=len(failed))
    tally.save(db)
    return Uncopied(fates[Next.AT_ONCE], fates[Next.PUT_OFF], skipped)


def ask_again(
    db: sqlite3.Connection,
    assignment_id: str,
    failed: Mapping[str, Failure],
    max_attempts: int,
    path: str,
    detail: str,
) -> Uncopied:
    """Its report accounts for the objects in `failed` only, which return or are skipped.

    The others, which may be copied, are to be asked of the same destination under another
    assignment: there they are found, if they are.  That costs an object no attempt, once between
    two attempts, so that an agent which never counts right does not get them for ever.
    """
    _advance(db, assignment_id, AssignmentEvent.LOST, detail)
    tally = Tally()
    fates, skipped = Counter[Next](), Counter[Reason]()
    for row in _objects_of(db, assignment_id):
        failure = failed.get(row["id"])
        if failure is None:
            note_orphan(db, row, path, "its agent did not account for it")
            if row["earlier_shark"] is None:
                _return(db, tally, row)
                db.execute(
                    f"UPDATE progress SET earlier_shark = ? WHERE {OF_ID}",
                    (row["dest_shark"], row["id"]),
                )
                fates[Next.AT_ONCE] += 1
                continue
        elif read_tried(row).is_excused(failure):
            fates[_excuse(db, tally, row, failure)] += 1
            continue
        reason = reasons.ASSIGNMENT_MISMATCH if failure is None else failure.reason
        source = None if failure is None else failure.bad_source
        tried = read_tried(row).and_also(row["dest_shark"], source, reason)
        fate, told = _try_again(db, tally, row, reason, tried, max_attempts)
        fates[fate] += 1
        if fate is Next.SKIPPED:
            skipped[told] += 1
    destinations.count(db, assignment_id, copied=0, failed=fates.total())
    tally.save(db)
    return Uncopied(fates[Next.AT_ONCE], fates[Next.PUT_OFF], skipped)


def open_assignments(db: sqlite3.Connection) -> list[OpenAssignment]:
    """Those that are not at their end, oldest first."""
    rows = db.execute(
        "SELECT * FROM assignments WHERE state IN ('init', 'assigned', 'agent_complete')"
        " ORDER BY created, id"
    ).fetchall()
    return [
        OpenAssignment(
            row["id"],
            Shark(row["dest_datacenter"], row["dest_shark"]),
            AssignmentState(row["state"]),
            _ids_of(db, row["id"]),
            row["bytes"],
        )
        for row in rows
    ]


def _ids_of(db: sqlite3.Connection, assignment_id: str) -> tuple[str, ...]:
    rows = db.execute(
        f"SELECT id FROM progress JOIN records USING (number) WHERE {_IN} AND status = 'assigned'",
        (assignment_id,),
    )
    return tuple(row["id"] for row in rows)


def finish(db: sqlite3.Connection, assignment_id: str) -> None:
    """Every object of it is settled."""
    _advance(db, assignment_id, AssignmentEvent.SETTLED)


def _advance(
    db: sqlite3.Connection, assignment_id: str, event: AssignmentEvent, detail: str | None = None
) -> None:
    row = db.execute("SELECT state FROM assignments WHERE id = ?", (assignment_id,)).fetchone()
    if row is None:
        raise IllegalTransition(f"there is no assignment {assignment_id}")
    new = advance(states.ASSIGNMENT, AssignmentState(row["state"]), event)
    db.execute(
        "UPDATE assignments SET state = ?, detail = ? WHERE id = ?", (new, detail, assignment_id)
    )


def _objects_of(db: sqlite3.Connection, assignment_id: str) -> list[sqlite3.Row]:
    """What is in an assignment."""
    return db.execute(
        "SELECT id, object, bytes, attempts, tried, dest_shark, earlier_shark"
        f" FROM progress JOIN records USING (number) WHERE {_IN} AND status = 'assigned'",
        (assignment_id,),
    ).fetchall()


def _object_of(db: sqlite3.Connection, assignment_id: str, object_id: str) -> sqlite3.Row:
    """One of them.

    Raises:
      IllegalTransition: it is not in it.
    """
    row: sqlite3.Row | None = db.execute(
        "SELECT id, object, bytes, attempts, tried, dest_shark"
        " FROM progress JOIN records USING (number)"
        f" WHERE id = ? AND {_IN} AND status = 'assigned'",
        (object_id, assignment_id),
    ).fetchone()
    if row is None:
        raise IllegalTransition(f"assignment {assignment_id}: a failed object was not assigned")
    return row


def _try_again(
    db: sqlite3.Connection,
    tally: Tally,
    row: sqlite3.Row,
    reason: Reason,
    tried: Tried,
    max_attempts: int,
    detail: str | None = None,
) -> tuple[Next, Reason]:
    """End an assigned object as skipped, or return it to placement.

    `reason` is why it failed this time; what is recorded, and returned, is what tells most of all
    that it failed for, `tried.reason`.
    """
    fate = after_failure(reason, row["attempts"] + 1, max_attempts)
    told = tried.reason or reason
    if fate is Next.SKIPPED:
        if told != reason:
            detail = f"in the end: {reason}"
        skip(db, tally, row["id"], ObjectStatus.ASSIGNED, told, detail)
        return fate, told
    _return(db, tally, row)
    if fate is Next.PUT_OFF:
        advance(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.PUT_OFF)
        tally.put_off(1)
    db.execute(
        "UPDATE progress SET attempts = attempts + 1, tried = ?, earlier_shark = NULL,"
        f" put_off = ? WHERE {OF_ID}",
        (write_tried(tried), fate is Next.PUT_OFF, row["id"]),
    )
    return fate, told


def _excuse(db: sqlite3.Connection, tally: Tally, row: sqlite3.Row, failure: Failure) -> Next:
    """Return an object whose source was away: it waits, if none is left that was not."""
    tried = read_tried(row).without_answer(row["dest_shark"], failure)
    sources = {shark.manta_storage_id for shark in read_object(json.loads(row["object"])).sharks}
    is_last = sources <= tried.away | tried.sources
    _return(db, tally, row)
    if is_last:
        advance(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.PUT_OFF)
        tally.put_off(1)
    db.execute(
        f"UPDATE progress SET tried = ?, earlier_shark = NULL, put_off = ? WHERE {OF_ID}",
        (write_tried(tried), is_last, row["id"]),
    )
    return Next.PUT_OFF if is_last else Next.AT_ONCE


def _return(db: sqlite3.Connection, tally: Tally, row: sqlite3.Row) -> None:
    """An assigned object is without a destination again."""
    new = advance(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.RETURNED)
    db.execute(
        f"UPDATE progress SET status = ?, dest_shark = NULL WHERE {OF_ID} AND status = 'assigned'",
        (new, row["id"]),
    )
    tally.move("assigned", new, None, 1, row["bytes"])
