"""This module fills a job's file with what a long job leaves behind."""

import sqlite3
from contextlib import closing
from pathlib import Path

from rebalancer.sqlite import connect, transact
from simulated.objects import Objects, etag, object_id

#: Objects written by one transaction, and in one assignment.
TOGETHER, TASKS = 50_000, 50


def fill(file: Path, objects: Objects, done: int) -> None:
    """Add to a job's file so many objects that are done, none of which the region has."""
    with closing(connect(file, mode="rw")) as db:
        for start in range(0, done, TOGETHER):
            count = min(TOGETHER, done - start)
            transact(db, _add, objects, objects.shape.objects + start, count)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _add(db: sqlite3.Connection, objects: Objects, first: int, count: int) -> None:
    (last,) = db.execute("SELECT ifnull(max(number), 0) FROM records").fetchone()
    (given,) = db.execute("SELECT ifnull(max(number), 0) FROM assignments").fetchone()
    node = objects.nodes[0]
    rows = []
    for place in range(count):
        number = first + place
        text = objects.record(number, objects.origins[0])
        shard = number % objects.shape.shards + 1
        key = objects.key(number)
        rows.append((last + 1 + place, object_id(number), shard, key, etag(text), text))
    db.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", rows)
    db.executemany(
        "INSERT INTO progress (number, status, bytes, assignment, dest_shark)"
        " VALUES (?, 'complete', 1000, ?, ?)",
        [(row[0], given + 1 + place // TASKS, node.name) for place, row in enumerate(rows)],
    )
    db.executemany(
        "INSERT INTO assignments (number, id, dest_shark, dest_datacenter, state, tasks, bytes)"
        " VALUES (?, ?, ?, ?, 'post_processed', ?, ?)",
        [
            # Ids as random as any, which are no object's.
            (given + 1 + place, object_id(2**40 + first + place), node.name, node.datacenter, 1, 1)
            for place in range((count + TASKS - 1) // TASKS)
        ],
    )
    db.execute(
        "INSERT INTO counters VALUES ('complete', '', ?, ?) ON CONFLICT (status, reason) DO UPDATE"
        " SET objects = objects + excluded.objects, bytes = bytes + excluded.bytes",
        (count, 1000 * count),
    )
