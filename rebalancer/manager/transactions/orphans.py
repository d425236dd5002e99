"""Files on destinations that no record names, or may not name."""

import json
import sqlite3


def note_orphan(db: sqlite3.Connection, row: sqlite3.Row, path: str, reason: str) -> None:
    """A file that no record names, or may not name."""
    record = json.loads(row["object"])
    account = record.get("creator") or record.get("owner")
    db.execute(
        "INSERT OR REPLACE INTO orphans VALUES (?, ?, ?, ?)",
        (row["id"], row["dest_shark"], path.format(account=account, id=row["id"]), reason),
    )


def forget_orphan(db: sqlite3.Connection, object_id: str, shark: str) -> None:
    """A record names that file now, or one in its place."""
    db.execute("DELETE FROM orphans WHERE object_id = ? AND shark = ?", (object_id, shark))
