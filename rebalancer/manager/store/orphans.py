"""This module has rows of files on destinations that no record names, or may not name."""

import json
import sqlite3
from collections.abc import Sequence

from rebalancer.domain.records import account_of, copy_path
from rebalancer.domain.states import ObjectStatus


def note_orphan(db: sqlite3.Connection, row: sqlite3.Row, reason: str) -> None:
    """List the copy of an object at its destination, which no record names, or may not name.

    `row` has the columns `id`, `object` and `dest_shark`.
    """
    path = copy_path(account_of(json.loads(row["object"])), row["id"])
    db.execute(
        "INSERT OR REPLACE INTO orphans VALUES (?, ?, ?, ?)",
        (row["id"], row["dest_shark"], path, reason),
    )


def list_unused(db: sqlite3.Connection) -> None:
    """List as orphans the copies of an earlier job, or turn, that no record was made to name."""
    rows = db.execute(
        "SELECT records.id, object, earlier_shark AS dest_shark"
        " FROM progress JOIN records USING (number)"
        " WHERE earlier_shark IS NOT NULL"
        f" AND (status IN ('{ObjectStatus.SKIPPED}', '{ObjectStatus.ERROR}')"
        f" OR (status = '{ObjectStatus.COMPLETE}' AND dest_shark IS NOT earlier_shark))"
        # Where an object has links, one of them may name the copy.
        " AND NOT EXISTS (SELECT 1 FROM links WHERE links.id = records.id)"
        " AND NOT EXISTS (SELECT 1 FROM orphans"
        " WHERE object_id = records.id AND shark = earlier_shark)"
    )
    for row in rows.fetchall():
        note_orphan(db, row, "copied earlier, and not used")


def forget_orphans(db: sqlite3.Connection, numbers: str) -> None:
    """Take from the list the copies of objects whose records name them now.

    `numbers` is a JSON list of row numbers.
    """
    if db.execute("SELECT 1 FROM orphans LIMIT 1").fetchone() is None:
        return  # as is usual
    db.execute(
        "DELETE FROM orphans WHERE (object_id, shark) IN"
        " (SELECT r.id, p.dest_shark FROM json_each(?)"
        " JOIN records r ON r.number = value JOIN progress p ON p.number = value)",
        (numbers,),
    )


def keep_named(db: sqlite3.Connection, number: int, sharks: Sequence[str]) -> None:
    """Take from the list the copies of an object on nodes that its record was seen to name.

    A scan may have read the record just before an update of it, and taken the copy for one that
    it names no more.
    """
    listed = json.dumps(sharks)
    is_named = "IN (SELECT value FROM json_each(?))"
    db.execute(
        "DELETE FROM orphans WHERE object_id = (SELECT id FROM records WHERE number = ?)"
        f" AND shark {is_named}",
        (number, listed),
    )
    db.execute(
        f"UPDATE progress SET earlier_shark = NULL WHERE number = ? AND earlier_shark {is_named}",
        (number, listed),
    )
