"""This module has rows of assignments, and of their objects until these are copied."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping

import attrs

from rebalancer.domain import reasons, states
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.objects import Shark, read_object
from rebalancer.domain.reasons import Reason
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
from rebalancer.manager.store.records import UncopiedCounts
from rebalancer.manager.store.unplaced import OF_ID, read_tried, skip, write_tried

#: Condition of rows of `progress` that are in the assignment of an id.
_IN = "assignment = (SELECT number FROM assignments WHERE id = ?)"
#: Condition of rows among these whose objects are not copied yet.
_UNCOPIED_IN = f"{_IN} AND status = '{ObjectStatus.ASSIGNED}'"
_OPEN = ", ".join(f"'{state}'" for state in states.OPEN_ASSIGNMENTS)

_PLACE = move(states.OBJECT, ObjectStatus.UNPROCESSED, ObjectEvent.PLACED)
_COPY = move(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.COPIED)
_RETURN = move(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.RETURNED)
_SKIP = move(states.OBJECT, ObjectStatus.ASSIGNED, ObjectEvent.REFUSED)
_DEFER = move(states.OBJECT, _RETURN.after, ObjectEvent.DEFERRED)


def assign(db: sqlite3.Connection, assignment: Assignment) -> None:
    """Record an assignment with its objects, before its agent can know it.

    Raises:
      IllegalTransition: one of the objects is not waiting for a destination.
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
        # The sign keeps sqlite from walking the index of all that waits.
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
    # Cheaper than RETURNING, which hands over a row for each.
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
    """End an assignment that no agent got: its objects return to placement at no cost.

    If that is in doubt, the copies that its agent may have made are listed as orphans.
    """
    _advance(db, assignment_id, AssignmentEvent.LOST, "never sent")
    tally = Tally()
    for row in _objects_of(db, assignment_id):
        if is_in_doubt:
            note_orphan(db, row, "its agent may have been given it")
        _return(db, tally, row)
    tally.save(db)


def give_back(
    db: sqlite3.Connection,
    assignment_id: str,
    reason: Reason,
    *,
    max_attempts: int,
    detail: str,
) -> UncopiedCounts:
    """End an assignment that its agent did not finish: its objects return to placement.

    Objects that another destination cannot help, or that have failed `max_attempts` times, are
    skipped with `reason`.  The agent may have copied some of them before, so their copies are
    listed as possible orphans.  `detail` is for a person.
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
) -> UncopiedCounts:
    """Record that the agent is done: all objects are verified copies, except those in `failed`.

    `failed` has a failure by object id.  Failed objects that another destination or source may
    help return to placement, until they have failed `max_attempts` times; the others are skipped.

    Raises:
      IllegalTransition: an object in `failed` is not in the assignment.
    """
    _advance(db, assignment_id, AssignmentEvent.AGENT_DONE)
    failing = _Failing(db, max_attempts)
    for object_id, failure in failed.items():
        failing.report(_object_of(db, assignment_id, object_id), failure)
    left = move_rows(db, failing.tally, _COPY, _IN, assignment_id)
    return failing.save(assignment_id, copied=left)


def requeue_unaccounted(
    db: sqlite3.Connection,
    assignment_id: str,
    failed: Mapping[str, Failure],
    *,
    max_attempts: int,
    detail: str,
) -> UncopiedCounts:
    """End an assignment whose agent is done, but accounts only for the objects in `failed`.

    Objects in `failed` end as with `record_copied`.  The others return to placement, with this
    destination to be tried first under another assignment: its agent finds the copies that it
    made.  The first time that costs an object no attempt; an agent that never counts right must
    not get the object for ever.  `detail` is for a person.
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
            failing.ask_same_again(row)
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


def _ids_of(db: sqlite3.Connection, assignment_id: str) -> tuple[str, ...]:
    rows = db.execute(
        f"SELECT id FROM progress JOIN records USING (number) WHERE {_UNCOPIED_IN}",
        (assignment_id,),
    )
    return tuple(row["id"] for row in rows)


def finish(db: sqlite3.Connection, assignment_id: str) -> None:
    """End an assignment of which every object is settled."""
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
    """Select the objects that an assignment still has to copy."""
    return db.execute(
        "SELECT id, object, bytes, attempts, tried, dest_shark, earlier_shark"
        f" FROM progress JOIN records USING (number) WHERE {_UNCOPIED_IN}",
        (assignment_id,),
    ).fetchall()


def _object_of(db: sqlite3.Connection, assignment_id: str, object_id: str) -> sqlite3.Row:
    """Select one of the objects that an assignment still has to copy.

    Raises:
      IllegalTransition: the assignment does not have it.
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
    """Decides what becomes of the objects of one assignment that were not copied, and counts them.

    Mutable state: the counts, which `save` writes.
    """

    db: sqlite3.Connection
    max_attempts: int
    tally: Tally = attrs.field(factory=Tally)
    _fates: Counter[Next] = attrs.field(factory=Counter)
    _skipped: Counter[Reason] = attrs.field(factory=Counter)

    def report(self, row: sqlite3.Row, failure: Failure) -> None:
        """Take an object that its agent reports as failed; some failures cost it no attempt."""
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
        """End an assigned object as skipped, or return it to placement.

        `reason` is why it failed this time; what is recorded, and counted, is what tells most of
        all that it failed for.
        """
        tried = read_tried(row).and_also(row["dest_shark"], bad_source, reason)
        fate = after_failure(reason, row["attempts"] + 1, self.max_attempts)
        self._fates[fate] += 1
        if fate is Next.SKIPPED:
            told = tried.reason or reason
            if told != reason:
                detail = f"in the end: {reason}"
            skip(self.db, self.tally, row["id"], _SKIP, told, detail)
            self._skipped[told] += 1
            return
        self._return(row, 1, tried, is_deferred=fate is Next.DEFERRED)

    def _excuse(self, row: sqlite3.Row, failure: Failure) -> None:
        """Return an object whose source was away: it waits, if none is left that was not."""
        tried = read_tried(row).without_answer(row["dest_shark"], failure)
        sharks = read_object(json.loads(row["object"])).sharks
        is_last = {shark.manta_storage_id for shark in sharks} <= tried.away | tried.sources
        self._fates[Next.DEFERRED if is_last else Next.AT_ONCE] += 1
        self._return(row, 0, tried, is_deferred=is_last)

    def _return(self, row: sqlite3.Row, attempts: int, tried: Tried, *, is_deferred: bool) -> None:
        """Leave an object without a destination again, with what is to be avoided from now on."""
        _return(self.db, self.tally, row)
        if is_deferred:
            self.tally.defer(1)
        self.db.execute(
            "UPDATE progress SET status = ?, attempts = attempts + ?, tried = ?,"
            f" earlier_shark = NULL, put_off = ? WHERE {OF_ID}",
            (
                _DEFER.after if is_deferred else _RETURN.after,
                attempts,
                write_tried(tried),
                is_deferred,
                row["id"],
            ),
        )

    def ask_same_again(self, row: sqlite3.Row) -> None:
        """Return an object to placement whose copy may lie at this destination, at no cost."""
        _return(self.db, self.tally, row)
        self.db.execute(
            f"UPDATE progress SET earlier_shark = ? WHERE {OF_ID}", (row["dest_shark"], row["id"])
        )
        self._fates[Next.AT_ONCE] += 1

    def save(self, assignment_id: str, *, copied: int) -> UncopiedCounts:
        """Write the counts, with `copied` further objects; return the counts of the uncopied."""
        destinations.count(self.db, assignment_id, copied=copied, failed=self._fates.total())
        self.tally.save(self.db)
        fates = self._fates
        return UncopiedCounts(fates[Next.AT_ONCE], fates[Next.DEFERRED], self._skipped)


def _return(db: sqlite3.Connection, tally: Tally, row: sqlite3.Row) -> None:
    """Leave an assigned object without a destination again."""
    done = db.execute(
        f"UPDATE progress SET status = ?, dest_shark = NULL WHERE {OF_ID} AND status = ?",
        (_RETURN.after, row["id"], _RETURN.before),
    )
    if done.rowcount != 1:
        raise IllegalTransition(f"object {row['id']} is not {_RETURN.before}, so it cannot return")
    tally.move(_RETURN, 1, row["bytes"])
