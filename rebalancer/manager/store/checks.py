"""This module has rows of objects that a job looks at without moving them."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable

import attrs

from rebalancer.domain import states
from rebalancer.domain.reasons import Reason
from rebalancer.domain.states import ObjectEvent, ObjectStatus, move
from rebalancer.manager.store.counts import Tally, error_and_outcome

#: Rows read at once.
PAGE = 200


@attrs.frozen
class Unchecked:
    """An object that was not looked at yet, with the shard and the key of each of its records."""

    number: int
    id: str
    records: tuple[tuple[int, str], ...]


@attrs.frozen
class CheckResult:
    """A result of looking at an object, by the number of its row.

    `reason` is why it is not confirmed; `detail` is for a person.
    """

    number: int
    event: ObjectEvent
    reason: Reason | None = None
    detail: str | None = None


def read_unchecked(db: sqlite3.Connection, after: int) -> list[Unchecked]:
    """Return a page of the objects that were not looked at yet, from rows behind `after`.

    A row that a person has changed is deferred, and not read before `JobStore.take_changes`.
    """
    rows = db.execute(
        "SELECT number, id, shard, key FROM progress JOIN records USING (number)"
        " WHERE status = ? AND NOT put_off AND number > ? ORDER BY number LIMIT ?",
        (ObjectStatus.UNPROCESSED, after, PAGE),
    ).fetchall()
    further = defaultdict[str, list[tuple[int, str]]](list)
    listed = json.dumps([row["id"] for row in rows])
    for link in db.execute(
        "SELECT id, shard, key FROM links WHERE id IN (SELECT value FROM json_each(?))", (listed,)
    ):
        further[link["id"]].append((link["shard"], link["key"]))
    return [
        Unchecked(row["number"], row["id"], ((row["shard"], row["key"]), *further[row["id"]]))
        for row in rows
    ]


def record_checks(db: sqlite3.Connection, results: Iterable[CheckResult]) -> list[int]:
    """End the objects that were looked at, but for those whose rows a person changed meanwhile.

    Returns the numbers of these rows, of which nothing is recorded.
    """
    tally, changed = Tally(), list[int]()
    for result in results:
        ended = move(states.OBJECT, ObjectStatus.UNPROCESSED, result.event)
        row = db.execute(
            "UPDATE progress SET status = ?, error = ?, outcome = ?, detail = ?"
            " WHERE number = ? AND status = ? AND NOT put_off RETURNING bytes",
            (
                ended.after,
                *error_and_outcome(result.reason),
                result.detail,
                result.number,
                ended.before,
            ),
        ).fetchone()
        if row is None:
            changed.append(result.number)
        else:
            tally.move(ended, 1, row["bytes"], result.reason)
    tally.save(db)
    return changed
