"""This module has rows of the shards that a job must scan, and of how far it has come in them."""

import sqlite3
from collections.abc import Iterable

import attrs

from rebalancer.domain.completeness import NO_SHARD
from rebalancer.manager.store.records import NOT_CONFIGURED, ScanPosition, ScanProgress


def add_shards(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Record shards that the job has to empty, besides those that it knows already.

    A shard that was taken out of the configuration stays known, or the job would end without it.
    """
    if db.execute("SELECT 1 FROM shards LIMIT 1").fetchone() is None:
        # Perhaps the file of an earlier version, in which only the rows name shards.
        db.execute(
            "INSERT INTO shards SELECT shard FROM"
            " (SELECT shard FROM scans UNION SELECT shard FROM links"
            " UNION SELECT shard FROM records) WHERE shard <> ?",
            (NO_SHARD,),
        )
    db.executemany("INSERT OR IGNORE INTO shards VALUES (?)", [(number,) for number in numbers])


def continue_scans(
    db: sqlite3.Connection, positions: Iterable[ScanPosition], shards: Iterable[int]
) -> None:
    """Let a job go on at the `positions` of an earlier job's scans, and empty its `shards`.

    A position of the job itself stays.
    """
    add_shards(db, shards)
    db.executemany(
        "INSERT OR IGNORE INTO scans VALUES (?, ?, ?, ?, ?)",
        [attrs.astuple(position) for position in positions],
    )


def read_known_shards(db: sqlite3.Connection) -> frozenset[int]:
    """Read the shards that the job has to empty."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'shards'").fetchone() is None:
        return frozenset(scan.shard for scan in read_scans(db)) - {NO_SHARD}  # an earlier version
    return frozenset(number for (number,) in db.execute("SELECT shard FROM shards"))


def read_scans(db: sqlite3.Connection) -> list[ScanPosition]:
    """Read how far the scan of each shard has come, in each round."""
    rows = db.execute("SELECT shard, id_column, position, until, round FROM scans ORDER BY 5, 1, 2")
    return [ScanPosition(*row) for row in rows]


def read_position(
    db: sqlite3.Connection, shard: int, column: str, scan_round: int = 0
) -> ScanPosition | None:
    """Return how far the scan of a column has come, or None if it has not begun."""
    row = db.execute(
        "SELECT shard, id_column, position, until, round FROM scans"
        " WHERE round = ? AND shard = ? AND id_column = ?",
        (scan_round, shard, column),
    ).fetchone()
    return None if row is None else ScanPosition(*row)


def has_begun(db: sqlite3.Connection) -> bool:
    """Return whether the job has begun to look for objects."""
    return db.execute("SELECT 1 FROM scans LIMIT 1").fetchone() is not None


def read_progress(db: sqlite3.Connection) -> ScanProgress:
    """Return the shards that the job must scan, and how far it has come in each."""
    rounds = [number for (number,) in db.execute("SELECT round FROM rounds ORDER BY 1")]
    dropped = db.execute(
        "SELECT DISTINCT shard FROM dropped WHERE reason = ? ORDER BY 1", (NOT_CONFIGURED,)
    )
    return ScanProgress(
        read_known_shards(db),
        read_scans(db),
        (0, *rounds),
        tuple(shard for (shard,) in dropped),
    )
