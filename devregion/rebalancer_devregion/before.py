"""This module keeps what a region was before anything moved, in a sqlite file for the audit."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from rebalancer_devregion.layout import Layout

_SCHEMA = """
CREATE TABLE records (
    shard INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, etag TEXT NOT NULL,
    kind TEXT NOT NULL, object_id TEXT NOT NULL, on_evacuated INTEGER NOT NULL,
    PRIMARY KEY (shard, key)
);
CREATE INDEX records_of ON records (object_id);
CREATE TABLE files (
    node TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL, md5 TEXT NOT NULL,
    PRIMARY KEY (node, path)
);
"""


class Before:
    """A `Before` is the file while it is being written."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    @classmethod
    @contextmanager
    def create(cls, path: Path) -> Iterator["Before"]:
        """Make the file; what was added is kept when the block ends well."""
        with closing(sqlite3.connect(path)) as db:
            db.executescript(_SCHEMA)
            yield cls(db)
            db.commit()

    def add_file(self, node: str, path: str, size: int, md5: str) -> None:
        """Note a file of a node."""
        self._db.execute("INSERT INTO files VALUES (?, ?, ?, ?)", (node, path, size, md5))

    def take_records(self, layout: Layout, kinds: Iterable[tuple[int, str, str, str]]) -> int:
        """Copy all records from the shards, with (shard, key, kind, object id) of each.

        Returns how many hold the evacuated node's name as a string.
        """
        self._db.execute("CREATE TEMP TABLE kinds (shard, key, kind, object_id)")
        self._db.executemany("INSERT INTO kinds VALUES (?, ?, ?, ?)", kinds)
        self._db.execute("CREATE INDEX temp.kinds_key ON kinds (shard, key)")
        self._db.commit()
        for number in layout.shards:
            self._db.execute("ATTACH ? AS live", (str(layout.shard_file(number)),))
            self._db.execute(
                "INSERT INTO records SELECT k.shard, k.key, m._value, m._etag, k.kind,"
                " k.object_id, instr(m._value, ?) > 0"
                " FROM live.manta m JOIN kinds k ON k.shard = ? AND k.key = m._key",
                (f'"{layout.evacuated}"', number),
            )
            self._db.commit()
            self._db.execute("DETACH live")
        (count,) = self._db.execute("SELECT sum(on_evacuated) FROM records").fetchone()
        return int(count or 0)
