"""These rows tell what a job must look at, and how far it has looked."""

import sqlite3
from collections.abc import Iterable

import attrs

from rebalancer.domain.completeness import NO_SHARD
from rebalancer.manager.store.records import NOT_CONFIGURED, Looked, ScanPosition


def know_shards(db: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Record shards that the job has to empty, besides those that it knows already.

    A shard that was taken out of the configuration stays known, or the job would end without it.
    """
    if db.execute("SELECT 1 FROM shards LIMIT 1").fetchone() is None:
        # The file of an earlier version, perhaps, which tells only by its rows.
        db.execute(
            "INSERT INTO shards SELECT shard FROM"
            " (SELECT shard FROM scans UNION SELECT shard FROM links"
            " UNION SELECT shard FROM records) WHERE shard <> ?",
            (NO_SHARD,),
        )
    db.executemany("INSERT OR IGNORE INTO shards VALUES (?)", [(number,) for number in numbers])


def take_over(
    db: sqlite3.Connection, positions: Iterable[ScanPosition], shards: Iterable[int]
) -> None:
    """Go on where an earlier job's scans ended; what this job has scanned itself stays."""
    know_shards(db, shards)
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


def read_looked(db: sqlite3.Connection) -> Looked:
    """Read what decides whether the job has looked at all that it must."""
    rounds = [number for (number,) in db.execute("SELECT round FROM rounds ORDER BY 1")]
    dropped = db.execute(
        "SELECT DISTINCT shard FROM dropped WHERE reason = ? ORDER BY 1", (NOT_CONFIGURED,)
    )
    return Looked(
        read_known_shards(db),
        read_scans(db),
        (0, *rounds),
        tuple(shard for (shard,) in dropped),
    )
