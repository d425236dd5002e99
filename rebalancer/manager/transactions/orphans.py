"""Files on destinations that no record names, or may not name."""

import json
import sqlite3
from collections.abc import Iterable


def note_orphan(db: sqlite3.Connection, row: sqlite3.Row, path: str, reason: str) -> None:
    """A file that no record names, or may not name."""
    record = json.loads(row["object"])
    account = record.get("creator") or record.get("owner")
    db.execute(
        "INSERT OR REPLACE INTO orphans VALUES (?, ?, ?, ?)",
        (row["id"], row["dest_shark"], path.format(account=account, id=row["id"]), reason),
    )


def forget_orphans(db: sqlite3.Connection, copies: Iterable[tuple[str, str]]) -> None:
    """Records name these copies now, each given by the id of its object and its shark."""
    db.executemany("DELETE FROM orphans WHERE object_id = ? AND shark = ?", copies)
