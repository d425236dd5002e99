"""This module keeps what each destination was given and how it did, as `counters` is kept."""

import sqlite3
from collections.abc import Mapping
from typing import Any

from rebalancer.domain.assignments import Assignment


def give(db: sqlite3.Connection, assignment: Assignment) -> None:
    """Count an assignment that a destination has been given."""
    db.execute(
        "INSERT INTO destinations (shark, datacenter, assignments, tasks, bytes)"
        " VALUES (?, ?, 1, ?, ?) ON CONFLICT (shark) DO UPDATE SET"
        " assignments = assignments + 1, tasks = tasks + excluded.tasks,"
        " bytes = bytes + excluded.bytes",
        (
            assignment.shark,
            assignment.destination.datacenter,
            len(assignment.object_ids),
            assignment.size,
        ),
    )


def count(db: sqlite3.Connection, assignment_id: str, *, copied: int, failed: int) -> None:
    """Count the end of an assignment at its destination."""
    db.execute(
        "UPDATE destinations SET copied = copied + ?, failed = failed + ?"
        " WHERE shark = (SELECT dest_shark FROM assignments WHERE id = ?)",
        (copied, failed, assignment_id),
    )


def read_destinations(db: sqlite3.Connection) -> list[Mapping[str, Any]]:
    """Return a row for each destination, by name."""
    return [dict(row) for row in db.execute("SELECT * FROM destinations ORDER BY shark")]
