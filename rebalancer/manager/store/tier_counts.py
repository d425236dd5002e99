"""This module keeps how many bucket objects there are by status, beside the counts of all objects.

Triggers keep these counts, so whoever changes rows need not know of tiers, a person included.
They are made when the first bucket object comes: a job without any costs nothing, and an older
version of this program, which knows none, can use its file.
"""

import sqlite3
from collections.abc import Mapping

_IS_THERE = "SELECT 1 FROM sqlite_master WHERE name = 'bucket_counters'"
_OF_BUCKETS = "EXISTS (SELECT 1 FROM records WHERE number = new.number AND shard < 0)"
_ADD = """
    ON CONFLICT (status) DO UPDATE
    SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes;
"""
_STATEMENTS = (
    """CREATE TABLE bucket_counters (
    status          TEXT PRIMARY KEY NOT NULL,
    objects         INTEGER NOT NULL,
    bytes           INTEGER NOT NULL
) WITHOUT ROWID""",
    f"""CREATE TRIGGER count_bucket_object AFTER INSERT ON progress WHEN {_OF_BUCKETS}
BEGIN
    INSERT INTO bucket_counters VALUES (new.status, 1, new.bytes) {_ADD}
END""",
    f"""CREATE TRIGGER move_bucket_object AFTER UPDATE OF status, bytes ON progress
WHEN (old.status <> new.status OR old.bytes <> new.bytes) AND {_OF_BUCKETS}
BEGIN
    INSERT INTO bucket_counters VALUES (old.status, -1, -old.bytes) {_ADD}
    INSERT INTO bucket_counters VALUES (new.status, 1, new.bytes) {_ADD}
END""",
    # Before its progress, without which nobody knows the status.
    f"""CREATE TRIGGER forget_bucket_object AFTER DELETE ON records WHEN old.shard < 0
BEGIN
    INSERT INTO bucket_counters SELECT status, -1, -bytes FROM progress
        WHERE number = old.number {_ADD}
END""",
    # By a person: a job keeps an object's tier.
    f"""CREATE TRIGGER change_tier AFTER UPDATE OF shard ON records
WHEN ifnull(old.shard < 0, 0) <> ifnull(new.shard < 0, 0)
BEGIN
    INSERT INTO bucket_counters SELECT status, sign, sign * bytes
        FROM progress, (SELECT iif(new.shard < 0, 1, -1) AS sign)
        WHERE number = new.number {_ADD}
END""",
)


def begin(db: sqlite3.Connection) -> None:
    """Begin to count, before the first bucket object is inserted."""
    if db.execute(_IS_THERE).fetchone() is None:
        for statement in _STATEMENTS:
            db.execute(statement)


def read_bucket_counts(db: sqlite3.Connection) -> Mapping[str, tuple[int, int]]:
    """Read the numbers of bucket objects and of their bytes, by status."""
    if db.execute(_IS_THERE).fetchone() is None:
        return {}
    rows = db.execute("SELECT status, objects, bytes FROM bucket_counters")
    return {status: (objects, size) for status, objects, size in rows}
