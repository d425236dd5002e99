"""This module has rows about the job as a whole."""

import json
import sqlite3
from collections.abc import Sequence

import attrs

from rebalancer.domain.objects import Shark
from rebalancer.manager.store.records import Finding


# The column keeps the predecessor's name: operators query `config` by hand.
def read_origin(db: sqlite3.Connection) -> Shark | None:
    """Return the evacuated shark; its datacenter is empty until it is known."""
    row = db.execute("SELECT from_shark FROM config WHERE id = 1").fetchone()
    return None if row is None else Shark(**json.loads(row["from_shark"]))


def write_origin(db: sqlite3.Connection, shark: Shark) -> None:
    """Record the evacuated shark."""
    db.execute("INSERT OR REPLACE INTO config VALUES (1, ?)", (json.dumps(attrs.asdict(shark)),))


def read_warnings(db: sqlite3.Connection) -> list[Finding]:
    """Return the findings of the last pre-flight."""
    return [Finding(*row) for row in db.execute("SELECT * FROM warnings ORDER BY rowid")]


def write_warnings(db: sqlite3.Connection, findings: Sequence[Finding]) -> None:
    """Record the findings of a pre-flight, in place of those of an earlier one."""
    db.execute("DELETE FROM warnings")
    db.executemany(
        "INSERT OR IGNORE INTO warnings VALUES (?, ?)", [attrs.astuple(f) for f in findings]
    )
