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


def forget_orphans(db: sqlite3.Connection, ids: str) -> None:
    """Records name the copies of these objects now; `ids` is a JSON list."""
    db.execute(
        "DELETE FROM orphans WHERE object_id IN (SELECT value FROM json_each(?)) AND shark ="
        " (SELECT dest_shark FROM records JOIN progress USING (number) WHERE id = object_id)",
        (ids,),
    )
