"""This module keeps the rows of assignments, and of their objects until they are copied."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping

import attrs

from rebalancer.domain import reasons, states
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Reason
from rebalancer.domain.records import read_object
from rebalancer.domain.retries import Failure, Next, Tried, after_failure
from rebalancer.domain.states import (
    AssignmentEvent,
    AssignmentState,
    ObjectEvent,
    ObjectStatus,
    advance,
    move,
)
from rebalancer.errors import IllegalTransition
from rebalancer.manager.store import destinations
from rebalancer.manager.store.counts import Tally, move_rows
from rebalancer.manager.store.orphans import note_orphan
from rebalancer.manager.store.unplaced import OF_ID, read_tried, skip, write_tried

#: SQL condition: the row of `progress` belongs to the assignment with this id.
_IN = "assignment = (SELECT number FROM assignments WHERE id = ?)"
#: SQL condition: the row belongs to this assignment, and its object is not copied yet.
_UNCOPIED_IN = f"{_IN} AND status = '{ObjectStatus.ASSIGNED}'"
_OPEN = ", ".join(f"'{state}'" for state in states.OPEN_ASSIGNMENTS)

_PLACE = move(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.PLACED)
_COPY = move(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.COPIED)
_REQUEUE = move(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.REQUEUED)
_SKIP = move(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.REFUSED)
_DEFER = move(states.OBJECT, _REQUEUE.after, ObjectEvent.DEFERRED)


def assign(db: sqlite3.Connection, assignment: Assignment) -> None:
    """Record an assignment with its objects, before its agent can know it.

    Raises:
      IllegalTransition: one of the objects is not unplaced, or is deferred.
    """
    number = db.execute(
        "INSERT INTO assignments (id, dest_shark, dest_datacenter, state, tasks, bytes)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            assignment.id,
            assignment.shark,
            assignment.destination.datacenter,
            assignment.state,
            len(assignment.object_ids),
            assignment.size,
        ),
    ).lastrowid
    destinations.give(db, assignment)
    count = db.execute(
        "UPDATE progress SET status = ?, assignment = ?, dest_shark = ?"
        " WHERE number IN (SELECT number FROM records WHERE id IN (SELECT value FROM json_each(?)))"
        # The plus sign keeps sqlite from walking the index of all unplaced objects.
        " AND +status = ? AND NOT put_off",
        (
            _PLACE.after,
            number,
            assignment.shark,
            json.dumps(assignment.object_ids),
            _PLACE.before,
        ),
    ).rowcount
    if count != len(assignment.object_ids):
        raise IllegalTransition(f"assignment {assignment.id}: an object was not unprocessed")
    # Cheaper than RETURNING, which hands over a row for each object.
    (size,) = db.execute(
        "SELECT ifnull(sum(bytes), 0) FROM progress WHERE assignment = ?", (number,)
    ).fetchone()
    tally = Tally()
    tally.move(_PLACE, count, size)
    tally.save(db)


def accept(db: sqlite3.Connection, assignment_id: str) -> None:
    """Record that the agent has confirmed an assignment."""
    _advance(db, assignment_id, AssignmentEvent.ACCEPTED)


def withdraw(db: sqlite3.Connection, assignment_id: str, *, is_in_doubt: bool) -> None:
    """End an assignment that no agent got, and requeue its objects, which costs them no attempt.

    If the agent may have got it, the copies that it may have made are listed as orphans.
    """
    _advance(db, assignment_id, AssignmentEvent.LOST, "never sent")
    tally = Tally()
    for row in _objects_of(db, assignment_id):
        if is_in_doubt:
            note_orphan(db, row, "its agent may have been given it")
        _make_unplaced(db, tally, row)
    tally.save(db)


def requeue_lost(
    db: sqlite3.Connection,
    assignment_id: str,
    reason: Reason,
    *,
    max_attempts: int,
    detail: str,
) -> int:
    """End an assignment that its agent did not finish, and requeue its objects.

    Objects that another destination cannot help, or that have failed `max_attempts` times, are
    skipped instead.  The agent may have copied some of the objects nevertheless, so their copies
    are listed as orphans.  `reason` is why the assignment is lost; `detail` is for a person.
    Returns how many objects placement gets at once.
    """
    _advance(db, assignment_id, AssignmentEvent.LOST, detail)
    failing = _Failing(db, max_attempts)
    for row in _objects_of(db, assignment_id):
        note_orphan(db, row, f"assignment lost: {reason}")
        failing.fail(row, reason, detail=detail)
    return failing.save(assignment_id, copied=0)


def record_copied(
    db: sqlite3.Connection,
    assignment_id: str,
    failed: Mapping[str, Failure],
    *,
    max_attempts: int,
) -> int:
    """Record that the agent is done: it has copied and verified all objects but `failed` ones.

    `failed` has the failures by object id.  A failed object is requeued if another destination or
    source may help and it has failed fewer than `max_attempts` times; otherwise it is skipped.
    Returns how many objects placement gets at once.

    Raises:
      IllegalTransition: an object in `failed` is not in the assignment.
    """
    _advance(db, assignment_id, AssignmentEvent.AGENT_DONE)
    failing = _Failing(db, max_attempts)
    for object_id, failure in failed.items():
        failing.report(_object_of(db, assignment_id, object_id), failure)
    copied = move_rows(db, failing.tally, _COPY, _IN, assignment_id)
    return failing.save(assignment_id, copied=copied)


def requeue_unaccounted(
    db: sqlite3.Connection,
    assignment_id: str,
    failed: Mapping[str, Failure],
    *,
    max_attempts: int,
    detail: str,
) -> int:
    """End an assignment whose agent is done, but accounts only for the objects in `failed`.

    Failed objects are treated as by `record_copied`.  The others are requeued, and this destination
    is tried first for them, because its agent will find the copies that it made.  The first time,
    this costs an object no attempt; the second time it does, so that an agent that never counts
    right does not get the object for ever.  `detail` is for a person.
    """
    _advance(db, assignment_id, AssignmentEvent.LOST, detail)
    failing = _Failing(db, max_attempts)
    for row in _objects_of(db, assignment_id):
        failure = failed.get(row["id"])
        if failure is not None:
            failing.report(row, failure)
            continue
        note_orphan(db, row, "its agent did not account for it")
        if row["earlier_shark"] is None:
            failing.prefer_same_destination(row)
        else:
            failing.fail(row, reasons.ASSIGNMENT_MISMATCH)
    return failing.save(assignment_id, copied=0)


def read_open(db: sqlite3.Connection) -> list[Assignment]:
    """Return the assignments that have not ended, the oldest first."""
    rows = db.execute(
        f"SELECT * FROM assignments WHERE state IN ({_OPEN}) ORDER BY created, id"
    ).fetchall()
    return [
        Assignment(
            row["id"],
            Shark(row["dest_datacenter"], row["dest_shark"]),
            _ids_of(db, row["id"]),
            row["bytes"],
            state=AssignmentState(row["state"]),
        )
        for row in rows
    ]


def count_open(db: sqlite3.Connection, shark: str) -> int:
    """Return how many assignments to a destination have not ended."""
    (count,) = db.execute(
        f"SELECT count(*) FROM assignments WHERE state IN ({_OPEN}) AND dest_shark = ?", (shark,)
    ).fetchone()
    return int(count)


def _ids_of(db: sqlite3.Connection, assignment_id: str) -> tuple[str, ...]:
    rows = db.execute(
        f"SELECT id FROM progress JOIN records USING (number) WHERE {_UNCOPIED_IN}",
        (assignment_id,),
    )
    return tuple(row["id"] for row in rows)


def finish(db: sqlite3.Connection, assignment_id: str) -> None:
    """End an assignment whose objects are all settled."""
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
    """Return the rows of the objects that an assignment still has to copy."""
    return db.execute(
        "SELECT id, object, bytes, attempts, tried, dest_shark, earlier_shark"
        f" FROM progress JOIN records USING (number) WHERE {_UNCOPIED_IN}",
        (assignment_id,),
    ).fetchall()


def _object_of(db: sqlite3.Connection, assignment_id: str, object_id: str) -> sqlite3.Row:
    """Return the row of one of the objects that an assignment still has to copy.

    Raises:
      IllegalTransition: the object is not one of them.
    """
    row: sqlite3.Row | None = db.execute(
        "SELECT id, object, bytes, attempts, tried, dest_shark"
        " FROM progress JOIN records USING (number)"
        f" WHERE id = ? AND {_UNCOPIED_IN}",
        (object_id, assignment_id),
    ).fetchone()
    if row is None:
        raise IllegalTransition(f"assignment {assignment_id}: a failed object was not assigned")
    return row


@attrs.define
class _Failing:
    """This object requeues or skips the uncopied objects of one assignment, and counts them.

    Mutable state: the counts, which `save` writes.
    """

    db: sqlite3.Connection
    max_attempts: int
    tally: Tally = attrs.field(factory=Tally)
    _next_steps: Counter[Next] = attrs.field(factory=Counter)

    def report(self, row: sqlite3.Row, failure: Failure) -> None:
        """Requeue or skip an object that its agent reports as failed.

        A failure that is excused, because the source was away, costs the object no attempt.
        """
        if read_tried(row).is_excused(failure):
            self._excuse(row, failure)
        else:
            self.fail(row, failure.reason, failure.bad_source)

    def fail(
        self,
        row: sqlite3.Row,
        reason: Reason,
        bad_source: str | None = None,
        *,
        detail: str | None = None,
    ) -> None:
        """Requeue an object that failed, or skip it.

        `reason` is why it failed this time.  A skipped object is recorded and counted under the
        most telling reason of all its failures.
        """
        tried = read_tried(row).and_also(row["dest_shark"], bad_source, reason)
        next_step = after_failure(reason, row["attempts"] + 1, self.max_attempts)
        self._next_steps[next_step] += 1
        if next_step is Next.SKIPPED:
            recorded = tried.reason or reason
            if recorded != reason:
                detail = f"in the end: {reason}"
            skip(self.db, self.tally, row["id"], _SKIP, recorded, detail)
            return
        self._requeue(row, 1, tried, is_deferred=next_step is Next.DEFERRED)

    def _excuse(self, row: sqlite3.Row, failure: Failure) -> None:
        """Requeue an object whose source was away; defer it if no other source is left."""
        tried = read_tried(row).without_answer(row["dest_shark"], failure)
        sharks = read_object(json.loads(row["object"])).sharks
        is_last = {shark.manta_storage_id for shark in sharks} <= tried.away | tried.sources
        self._next_steps[Next.DEFERRED if is_last else Next.AT_ONCE] += 1
        self._requeue(row, 0, tried, is_deferred=is_last)

    def _requeue(self, row: sqlite3.Row, attempts: int, tried: Tried, *, is_deferred: bool) -> None:
        """Make an object unplaced again, with so many more `attempts`, and note what it `tried`."""
        _make_unplaced(self.db, self.tally, row)
        if is_deferred:
            self.tally.defer(1)
        self.db.execute(
            "UPDATE progress SET status = ?, attempts = attempts + ?, tried = ?,"
            f" earlier_shark = NULL, put_off = ? WHERE {OF_ID}",
            (
                _DEFER.after if is_deferred else _REQUEUE.after,
                attempts,
                write_tried(tried),
                is_deferred,
                row["id"],
            ),
        )

    def prefer_same_destination(self, row: sqlite3.Row) -> None:
        """Requeue an object whose copy may lie at this destination, which costs it no attempt."""
        _make_unplaced(self.db, self.tally, row)
        self.db.execute(
            f"UPDATE progress SET earlier_shark = ? WHERE {OF_ID}", (row["dest_shark"], row["id"])
        )
        self._next_steps[Next.AT_ONCE] += 1

    def save(self, assignment_id: str, *, copied: int) -> int:
        """Write the counts, also of `copied` objects; return how many placement gets at once."""
        destinations.count(self.db, assignment_id, copied=copied, failed=self._next_steps.total())
        self.tally.save(self.db)
        return self._next_steps[Next.AT_ONCE]


def _make_unplaced(db: sqlite3.Connection, tally: Tally, row: sqlite3.Row) -> None:
    """Take an assigned object's destination from it, so that it is unplaced again."""
    updated = db.execute(
        f"UPDATE progress SET status = ?, dest_shark = NULL WHERE {OF_ID} AND status = ?",
        (_REQUEUE.after, row["id"], _REQUEUE.before),
    )
    if updated.rowcount != 1:
        raise IllegalTransition(
            f"object {row['id']} is not {_REQUEUE.before}, so it cannot be requeued"
        )
    tally.move(_REQUEUE, 1, row["bytes"])
