"""This module has rows of the shards that a job must scan, and of how far it has come in them."""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from typing import Any

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
    known = {(one.round, one.shard, one.column) for one in read_scans(db)}
    write(db, [one for one in positions if (one.round, one.shard, one.column) not in known])


def read_known_shards(db: sqlite3.Connection) -> frozenset[int]:
    """Read the shards that the job has to empty."""
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'shards'").fetchone() is None:
        return frozenset(scan.shard for scan in read_scans(db)) - {NO_SHARD}  # an earlier version
    return frozenset(number for (number,) in db.execute("SELECT shard FROM shards"))


def write(db: sqlite3.Connection, positions: Sequence[ScanPosition]) -> None:
    """Store how far scans have come.

    The table of cursors is made when the first cursor comes, so that an older version of this
    program, which knows no shards with cursors, can use the file of a job without them.
    """
    db.executemany(
        "INSERT OR REPLACE INTO scans VALUES (?, ?, ?, ?, ?)",
        [(one.shard, one.column, one.position, one.until, one.round) for one in positions],
    )
    rows = [
        (one.round, one.shard, one.column, one.cursor)
        for one in positions
        if one.cursor is not None
    ]
    if rows and not _has_cursors(db):
        db.execute(
            "CREATE TABLE cursors (round INTEGER NOT NULL, shard INTEGER NOT NULL,"
            " id_column TEXT NOT NULL, cursor TEXT NOT NULL,"
            " PRIMARY KEY (round, shard, id_column)) WITHOUT ROWID"
        )
    if rows:
        db.executemany("INSERT OR REPLACE INTO cursors VALUES (?, ?, ?, ?)", rows)


def end_gone(db: sqlite3.Connection, shard: int, scan_round: int, parts: Collection[str]) -> None:
    """End the begun scans of parts that a shard, which has these `parts` now, has no more.

    They are vnodes that were moved to another shard while they were scanned: that shard's scan
    looks at their rows, and nobody else can.
    """
    gone = [
        attrs.evolve(one, until=one.position, cursor=None)
        for one in read_scans(db)
        if (one.round, one.shard) == (scan_round, shard)
        and one.cursor is not None
        and one.column not in parts
    ]
    write(db, gone)


def _has_cursors(db: sqlite3.Connection) -> bool:
    found = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'cursors'").fetchone()
    return found is not None


def read_scans(db: sqlite3.Connection) -> list[ScanPosition]:
    """Read how far the scan of each shard has come, in each round."""
    return _read(db, "ORDER BY round, shard, id_column")


def read_position(
    db: sqlite3.Connection, shard: int, column: str, scan_round: int = 0
) -> ScanPosition | None:
    """Return how far the scan of a column has come, or None if it has not begun."""
    found = _read(
        db, "WHERE round = ? AND shard = ? AND id_column = ?", (scan_round, shard, column)
    )
    return found[0] if found else None


def _read(db: sqlite3.Connection, which: str, values: Sequence[Any] = ()) -> list[ScanPosition]:
    columns, tables = "shard, id_column, position, until, round", "scans"
    if _has_cursors(db):
        columns += ", cursor"
        tables += " LEFT JOIN cursors USING (round, shard, id_column)"
    rows = db.execute(f"SELECT {columns} FROM {tables} {which}", values)
    return [ScanPosition(*row) for row in rows]


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
