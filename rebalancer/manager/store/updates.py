"""This module keeps the rows of copied objects, until their records name the copies."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from functools import lru_cache

from rebalancer.domain import states
from rebalancer.domain.objects import Shark
from rebalancer.domain.states import Move, ObjectEvent, ObjectStatus, move
from rebalancer.errors import IllegalTransition
from rebalancer.manager.store.assignments import finish
from rebalancer.manager.store.counts import Tally, error_and_outcome, move_rows
from rebalancer.manager.store.orphans import forget_orphans, keep_named, note_orphan
from rebalancer.manager.store.records import Update, UpdateResult

_COMPLETE = move(states.OBJECT, ObjectStatus.POST_PROCESSING, ObjectEvent.METADATA_WRITTEN)


def read_pending(db: sqlite3.Connection, assignment_id: str) -> list[Update]:
    """Return the updates that the copied objects of an assignment need.

    Call it by `JobStore.write`, though it only reads: the writer's connection has the rows in its
    cache, and the reader's cache is emptied by each commit.
    """
    rows = db.execute(
        "SELECT r.number, r.id, r.key, r.shard, r.etag, r.object, a.dest_datacenter, a.dest_shark"
        " FROM assignments a JOIN progress p ON p.assignment = a.number"
        " JOIN records r ON r.number = p.number"
        f" WHERE a.id = ? AND p.status = '{_COMPLETE.before}'",
        (assignment_id,),
    )
    return [pending_update(row) for row in rows]


def record_updates(
    db: sqlite3.Connection, results: Mapping[int, UpdateResult], finished: str | None = None
) -> None:
    """Record how the metadata updates of objects ended, given by the numbers of their rows.

    `finished` is the id of the assignment of which these are the last results: it ends too.

    Raises:
      IllegalTransition: one of the objects is not copied, or its update is recorded already.
    """
    tally = Tally()
    written = list[int]()
    for number, result in results.items():
        if result.event is ObjectEvent.METADATA_WRITTEN:
            written.append(number)
        else:
            _end_unwritten(db, tally, number, result)
    _complete(db, tally, written)
    tally.save(db)
    if finished is not None:
        finish(db, finished)


def _complete(db: sqlite3.Connection, tally: Tally, numbers: Sequence[int]) -> None:
    """End objects whose records name their copies.

    One statement does it for all of them, because nearly all objects end so.
    """
    if not numbers:
        return
    listed = json.dumps(numbers)
    is_listed = "number IN (SELECT value FROM json_each(?))"
    if move_rows(db, tally, _COMPLETE, is_listed, listed) != len(numbers):
        raise _illegal("an object", _COMPLETE)
    forget_orphans(db, listed)


def _end_unwritten(db: sqlite3.Connection, tally: Tally, number: int, result: UpdateResult) -> None:
    """End an object whose record was not made to name its copy, which is an orphan from now on."""
    ended = move(states.OBJECT, ObjectStatus.POST_PROCESSING, result.event)
    row = db.execute(
        "UPDATE progress SET status = ?, error = ?, outcome = ?, detail = ?"
        " WHERE number = ? AND status = ? RETURNING bytes",
        (
            ended.after,
            *error_and_outcome(result.reason),
            result.detail,
            number,
            ended.before,
        ),
    ).fetchone()
    if row is None:
        raise _illegal(f"object {number}", ended)
    tally.move(ended, 1, row["bytes"], result.reason)
    copied = db.execute(
        "SELECT id, object, dest_shark FROM records JOIN progress USING (number) WHERE number = ?",
        (number,),
    ).fetchone()
    note_orphan(db, copied, str(result.reason))
    if result.named:
        keep_named(db, number, result.named)


def _illegal(subject: str, move: Move[ObjectStatus]) -> IllegalTransition:
    return IllegalTransition(f"{subject} is not {move.before}, so it cannot become {move.after}")


def pending_update(row: sqlite3.Row) -> Update:
    """Return the update of a record in a row as `read_pending` selects it."""
    number, object_id, key, shard, etag, text, datacenter, name = row
    return Update(number, object_id, key, shard, etag, text, _shark(datacenter, name))


#: Many records have the same destination.
_shark = lru_cache(4096)(Shark)
