"""This module reads what an audit looks at: files of nodes, records, and the rows of a job.

It shares no code with the programs that are audited.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from rebalancer_devregion.contents import md5


def last_look_of(job: sqlite3.Connection) -> float:
    """Return when the job's last round began, in seconds of the epoch; 0 if it has none."""
    row = job.execute("SELECT started FROM rounds ORDER BY round DESC LIMIT 1").fetchone()
    return 0.0 if row is None else datetime.fromisoformat(row["started"]).timestamp()


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a sqlite file that is not to be changed; the caller closes it."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    db.row_factory = sqlite3.Row
    return db


def files_below(root: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    """Yield the path, and size and MD5, of each copy of an object of the directory tier."""
    for path in root.rglob("*"):
        name = path.relative_to(root)
        if path.is_file() and name.parts[0] not in ("rebalancer", "v2"):
            content = path.read_bytes()
            yield str(name), (len(content), md5(content))


def names_in(record: Mapping[str, Any] | None) -> set[str]:
    """Return the storage nodes that a record names."""
    sharks = (record or {}).get("sharks")
    if not isinstance(sharks, list):
        return set()
    return {s["manta_storage_id"] for s in sharks if isinstance(s, dict)}


def datacenters_in(record: Mapping[str, Any]) -> set[str]:
    """Return the datacenters that a record names."""
    return {s["datacenter"] for s in record.get("sharks", []) if isinstance(s, dict)}


def texts_of(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the JSON of each field of a record, in which 1 is not 1.0."""
    return {name: json.dumps(value) for name, value in record.items()}


def reason_of(row: sqlite3.Row) -> str:
    """Return why an object ended as it did, from whichever column says so; empty without one."""
    return str(row["skipped_reason"] or row["error"] or row["outcome"] or "")
