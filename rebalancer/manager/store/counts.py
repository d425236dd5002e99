"""This module keeps how many objects and bytes there are by status and reason.

The counters change in the transactions that change rows, so that they are never counted anew.
"""

import sqlite3
from collections import Counter

import attrs

from rebalancer.domain.reasons import OF_OBJECTS, Column, Reason
from rebalancer.domain.states import Move, ObjectStatus
from rebalancer.manager.store.records import StatusCounts
from rebalancer.manager.store.schema import PUT_OFF

#: The word of an object's reason in SQL, null without one.
REASON = f"coalesce({', '.join(OF_OBJECTS)})"


def error_and_outcome(reason: Reason | None) -> tuple[str | None, str | None]:
    """Return what columns `error` and `outcome` hold of a reason of our own, or of none."""
    if reason is None:
        return None, None
    return (reason.word, None) if reason.column is Column.ERROR else (None, reason.word)


@attrs.frozen
class Counts:
    """The counts of objects by status, and of those that are deferred."""

    by_status: Counter[str] = attrs.field(factory=Counter)
    deferred: int = 0
    #: The same with bytes, by status and reason.
    status: StatusCounts = attrs.field(factory=lambda: StatusCounts({}))


class Tally:
    """Changes of the counters within one transaction."""

    def __init__(self) -> None:
        self._objects: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()

    def add(self, status: str, reason: Reason | None, objects: int, size: int) -> None:
        """Count so many more objects and bytes with `status` and `reason`."""
        key = (status, "" if reason is None else reason.word)
        self._objects[key] += objects
        self._bytes[key] += size

    def move(
        self, move: Move[ObjectStatus], objects: int, size: int, reason: Reason | None = None
    ) -> None:
        """Count so many `objects` that have made `move`, from no reason to `reason`."""
        # An object that can still move has no reason yet.
        self.add(move.before, None, -objects, -size)
        self.add(move.after, reason, objects, size)

    def defer(self, objects: int) -> None:
        """Count so many `objects` more of the unprocessed ones as deferred."""
        self.add(PUT_OFF, None, objects, 0)

    def save(self, db: sqlite3.Connection) -> None:
        """Add the changes to the counters."""
        db.executemany(
            "INSERT INTO counters VALUES (?, ?, ?, ?) ON CONFLICT (status, reason) DO UPDATE"
            " SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes",
            [(*key, count, self._bytes[key]) for key, count in self._objects.items()],
        )


def move_rows(
    db: sqlite3.Connection, tally: Tally, move: Move[ObjectStatus], where: str, *values: object
) -> int:
    """Let the rows of `progress` that can make `move` make it; return how many.

    `where` is a condition with its `values`.
    """
    where = f"{where} AND status = ?"
    count, size = db.execute(
        f"SELECT count(*), ifnull(sum(bytes), 0) FROM progress WHERE {where}",
        (*values, move.before),
    ).fetchone()
    db.execute(f"UPDATE progress SET status = ? WHERE {where}", (move.after, *values, move.before))
    tally.move(move, count, size)
    return int(count)


def count_objects(db: sqlite3.Connection) -> int:
    """Return how many objects the job has."""
    (count,) = db.execute(
        "SELECT ifnull(sum(objects), 0) FROM counters WHERE status NOT IN ('duplicates', ?)",
        (PUT_OFF,),
    ).fetchone()
    return int(count)


def read_status(db: sqlite3.Connection) -> StatusCounts:
    """Read the counts that the writer keeps."""
    rows = db.execute("SELECT * FROM counters WHERE status <> ?", (PUT_OFF,))
    return StatusCounts({(r["status"], r["reason"]): (r["objects"], r["bytes"]) for r in rows})


def read_counts(db: sqlite3.Connection) -> Counts:
    """Read the counts whose changes the stages of a job wait for."""
    by_status, by_reason = Counter[str](), dict[tuple[str, str], tuple[int, int]]()
    for status, reason, objects, size in db.execute(
        "SELECT status, reason, objects, bytes FROM counters"
    ):
        by_status[status] += objects
        by_reason[status, reason] = objects, size
    by_reason.pop((PUT_OFF, ""), None)
    return Counts(by_status, by_status.pop(PUT_OFF, 0), StatusCounts(by_reason))
