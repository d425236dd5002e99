"""This module writes the objects of a predecessor's job into the file of a job of ours."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

import attrs

from rebalancer.domain.completeness import NO_SHARD
from rebalancer.domain.imported import ImportedObject
from rebalancer.domain.objects import Shark
from rebalancer.domain.reasons import Column
from rebalancer.manager.store import job_info
from rebalancer.manager.store.records import Finding
from rebalancer.manager.store.schema import count_anew
from rebalancer.manager.store.unplaced import last_row
from rebalancer.sqlite import insert_rows


@attrs.frozen
class Duplicate:
    """A row of a predecessor's table `duplicates`: an object that has further records."""

    id: str
    key: str | None
    shards: Sequence[int]

    @property
    def is_odd(self) -> bool:
        """Tell whether a retry cannot find the records by the row, or not in their shards alone."""
        return not self.key or not self.shards


def add_objects(db: sqlite3.Connection, objects: Sequence[ImportedObject]) -> None:
    """Add objects, at least one, in the order in which they come."""
    numbers = range(last_row(db) + 1, last_row(db) + 1 + len(objects))
    pairs = list(zip(numbers, objects, strict=True))
    insert_rows(
        db,
        "records (number, id, shard, key, etag, object)",
        [(n, one.id, one.shard, one.key, one.etag, one.text) for n, one in pairs],
    )
    insert_rows(
        db,
        "progress (number, status, bytes, dest_shark, skipped_reason, error, outcome, detail)",
        [
            (n, one.status, one.bytes, one.dest_shark, *_columns(one), one.detail)
            for n, one in pairs
        ],
    )


def _columns(one: ImportedObject) -> list[str | None]:
    """Return the columns of a reason, of which at most one holds it."""
    return [
        one.reason.word if one.reason is not None and one.reason.column is column else None
        for column in (Column.SKIPPED_REASON, Column.ERROR, Column.OUTCOME)
    ]


def add_duplicates(db: sqlite3.Connection, duplicates: Sequence[Duplicate]) -> None:
    """Add objects with further records, which no predecessor has updated: each waits as a link."""
    for one in duplicates:
        shards = sorted(set(one.shards))
        db.execute(
            "INSERT OR REPLACE INTO duplicates VALUES (?, ?, ?)",
            (one.id, one.key, json.dumps(shards)),
        )
        # A retry looks for a link in all shards where its own is not known.
        rows: list[tuple[Any, ...]] = [(n, one.key, one.id) for n in shards or [NO_SHARD]]
        if one.key:
            db.executemany(
                "INSERT OR IGNORE INTO links (shard, key, id, object, etag)"
                " VALUES (?, ?, ?, '{}', '')",
                rows,
            )


def finish(db: sqlite3.Connection, origin: Shark, findings: Sequence[Finding]) -> None:
    """Count all rows, and note where the job comes from."""
    count_anew(db)
    job_info.write_origin(db, origin)
    job_info.write_warnings(db, findings)
