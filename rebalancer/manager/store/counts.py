"""How many objects and bytes there are by status and reason: kept by the writer, never counted."""

import sqlite3
from collections import Counter

import attrs

from rebalancer.manager.store.records import Status
from rebalancer.manager.store.schema import PUT_OFF


@attrs.frozen
class Counts:
    """How many objects there are by status, and how many of the unprocessed are deferred."""

    by_status: Counter[str] = attrs.field(factory=Counter)
    deferred: int = 0


class Tally:
    """Changes of the counters within one transaction."""

    def __init__(self) -> None:
        self._objects: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()

    def add(self, status: str, reason: str | None, objects: int, size: int) -> None:
        """There are so many more objects and bytes with `status` and `reason`."""
        self._objects[status, reason or ""] += objects
        self._bytes[status, reason or ""] += size

    def move(self, old: str, new: str, reason: str | None, objects: int, size: int) -> None:
        """Count so many `objects` that went from status `old`, without a reason, to `new`."""
        # What can still move has no reason yet.
        self.add(old, None, -objects, -size)
        self.add(new, reason, objects, size)

    def put_off(self, objects: int) -> None:
        """Count so many `objects` more of the unprocessed ones as put off."""
        self.add(PUT_OFF, None, objects, 0)

    def save(self, db: sqlite3.Connection) -> None:
        """Add the changes to the counters."""
        db.executemany(
            "INSERT INTO counters VALUES (?, ?, ?, ?) ON CONFLICT (status, reason) DO UPDATE"
            " SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes",
            [(*key, count, self._bytes[key]) for key, count in self._objects.items()],
        )


def move_rows(
    db: sqlite3.Connection, tally: Tally, old: str, new: str, these: str, *values: object
) -> int:
    """Bring the rows `these` of `progress` from status `old` to `new`; returns how many.

    `these` is a condition with its `values`.
    """
    where = f"{these} AND status = ?"
    count, size = db.execute(
        f"SELECT count(*), ifnull(sum(bytes), 0) FROM progress WHERE {where}", (*values, old)
    ).fetchone()
    db.execute(f"UPDATE progress SET status = ? WHERE {where}", (new, *values, old))
    tally.move(old, new, None, count, size)
    return int(count)


def count_objects(db: sqlite3.Connection) -> int:
    """Return how many objects the job has."""
    (count,) = db.execute(
        "SELECT ifnull(sum(objects), 0) FROM counters WHERE status NOT IN ('duplicates', ?)",
        (PUT_OFF,),
    ).fetchone()
    return int(count)


def read_status(db: sqlite3.Connection) -> Status:
    """Read the counts that the writer keeps."""
    rows = db.execute("SELECT * FROM counters WHERE status <> ?", (PUT_OFF,))
    return Status({(r["status"], r["reason"]): (r["objects"], r["bytes"]) for r in rows})


def read_counts(db: sqlite3.Connection) -> Counts:
    """Read the counts that tell what the stages of a job wait for."""
    by_status = Counter[str]()
    for row in db.execute("SELECT status, objects FROM counters"):
        by_status[row["status"]] += row["objects"]
    return Counts(by_status, by_status.pop(PUT_OFF, 0))
