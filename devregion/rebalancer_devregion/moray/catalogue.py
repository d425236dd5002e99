"""This module keeps the buckets of one shard: their configurations and tables in sqlite.

Configurations are cached, as every process of a real shard caches them for itself: one that does
not know of a change goes on with the old schema until its cache is old.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from rebalancer_devregion.moray import buckets
from rebalancer_devregion.moray.buckets import Bucket
from rebalancer_devregion.moray.columns import TYPES
from rebalancer_devregion.moray.errors import MorayError, no_bucket
from rebalancer_devregion.moray.javascript import stringify

#: A configuration is looked up again after this many seconds.
CACHE_S = 300.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS buckets_config (
    name TEXT PRIMARY KEY NOT NULL, "index" TEXT NOT NULL, pre TEXT NOT NULL, post TEXT NOT NULL,
    options TEXT, mtime TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS serials (bucket TEXT PRIMARY KEY NOT NULL, last INTEGER NOT NULL);
"""


class Catalogue:
    """A catalogue has the buckets of one file.  Blocking.

    Mutable state: the cached configurations, and the clock by which they age.
    """

    def __init__(self) -> None:
        self._cache: dict[str, tuple[float, Bucket]] = {}
        self.now: Callable[[], float] = time.monotonic

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make Manta's buckets unless the file has them."""
        db.executescript(_SCHEMA)
        known = {row["name"] for row in db.execute("SELECT name FROM buckets_config")}
        for bucket in buckets.MANTA:
            if bucket.name not in known:
                self._add(db, bucket)

    def load(self, db: sqlite3.Connection, name: str, *, fresh: bool = False) -> Bucket:
        """Return a bucket's configuration; `fresh` does without the cache.

        Raises:
          MorayError: BucketNotFoundError.
        """
        until, bucket = self._cache.get(name, (0.0, None))
        if bucket is not None and not fresh and self.now() < until:
            return bucket
        self._cache.pop(name, None)
        bucket = buckets.from_row(self.row(db, name))
        self._cache[name] = (self.now() + CACHE_S, bucket)
        return bucket

    def row(self, db: sqlite3.Connection, name: str) -> dict[str, Any]:
        """Return a bucket as it is stored.

        Raises:
          MorayError: BucketNotFoundError.
        """
        row = db.execute("SELECT * FROM buckets_config WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise no_bucket(name)
        return dict(row)

    def rows(self, db: sqlite3.Connection) -> list[dict[str, Any]]:
        """Return all buckets as they are stored, in the order they were made."""
        return [dict(row) for row in db.execute("SELECT * FROM buckets_config")]

    # --- steps of transactions -----------------------------------------------------------

    def create(self, db: sqlite3.Connection, name: str, config: Mapping[str, Any]) -> None:
        """Make a bucket.

        Raises:
          MorayError: BucketConflictError, or what is wrong with the configuration.
        """
        bucket = buckets.read_config(name, config)
        try:
            self._add(db, bucket)
        except sqlite3.IntegrityError as exc:
            message = f"{name} was likely being concurrently updated"
            raise MorayError("BucketConflictError", message) from exc

    def update(
        self, db: sqlite3.Connection, name: str, config: Mapping[str, Any], *, reindex: bool = True
    ) -> None:
        """Change a bucket: new indexes count only once every row is reindexed.

        Raises:
          MorayError: BucketNotFoundError, BucketVersionError, or what is wrong with it.
        """
        new = buckets.read_config(name, config)
        old = self.load(db, name, fresh=True)
        # Version 0 is that of buckets made without versions: these may always be changed.
        if old.version and old.version >= new.version:
            raise MorayError(
                "BucketVersionError",
                f"{name} has a newer version than {new.version} ({old.version})",
            )
        added = [field for field in new.index if field not in old.index]
        reindexing = dict(old.reindexing)
        is_versioned = reindex and new.version > 0
        if is_versioned:
            self._add_column(db, name, "_rver", "INTEGER")
            known = reindexing.get(str(new.version), [])
            reindexing[str(new.version)] = list(dict.fromkeys([*known, *added]))
        self._add_column(db, "buckets_config", "reindex_active", "TEXT")
        for field in old.index:
            if field not in new.index:
                db.execute(f"DROP INDEX IF EXISTS {name}_{field}_idx")
                db.execute(f"ALTER TABLE {name} DROP COLUMN {field.lower()}")
        for field in added:
            self._add_column(db, name, field.lower(), TYPES[new.index[field]])
        self._make_unique(db, attrs.evolve(new, unique=new.unique & frozenset(added)))
        self._store(db, new)
        if is_versioned:
            self._set_reindexing(db, name, reindexing)
        self._cache.pop(name, None)

    def reindexed(self, db: sqlite3.Connection, name: str) -> None:
        """Note that every row is up to date, so that all indexes may be used."""
        self._set_reindexing(db, name, {})
        self._cache.pop(name, None)

    def delete(self, db: sqlite3.Connection, name: str) -> None:
        """Remove a bucket and its records.

        Raises:
          MorayError: BucketNotFoundError.
        """
        self.row(db, name)
        db.execute("DELETE FROM buckets_config WHERE name = ?", (name,))
        db.execute("DELETE FROM serials WHERE bucket = ?", (name,))
        db.execute(f"DROP TABLE {name}")
        self._cache.pop(name, None)

    def _set_reindexing(
        self, db: sqlite3.Connection, name: str, reindexing: Mapping[str, list[str]]
    ) -> None:
        db.execute(
            "UPDATE buckets_config SET reindex_active = ? WHERE name = ?",
            (stringify(dict(reindexing)), name),
        )

    def _add(self, db: sqlite3.Connection, bucket: Bucket) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        db.execute(
            'INSERT INTO buckets_config (name, "index", pre, post, options, mtime)'
            " VALUES (?, '{}', '[]', '[]', '{}', ?)",
            (bucket.name, now),
        )
        self._store(db, bucket)
        # PostgreSQL's names are in lower case.  Files of an earlier version have the table.
        columns = "".join(
            f", {field.lower()} {TYPES[kind]}" for field, kind in bucket.index.items()
        )
        db.execute(
            f"CREATE TABLE IF NOT EXISTS {bucket.name} (_id INTEGER, _txn_snap INTEGER,"
            " _key TEXT PRIMARY KEY NOT NULL, _value TEXT NOT NULL, _etag TEXT NOT NULL,"
            f" _mtime INTEGER, _vnode INTEGER{columns})"
        )
        db.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {bucket.name}_id ON {bucket.name} (_id)")
        self._make_unique(db, bucket)

    def _store(self, db: sqlite3.Connection, bucket: Bucket) -> None:
        db.execute(
            'UPDATE buckets_config SET "index" = ?, pre = ?, post = ?, options = ? WHERE name = ?',
            (
                bucket.index_text,
                stringify(list(bucket.pre)),
                stringify(list(bucket.post)),
                stringify(dict(bucket.options)),
                bucket.name,
            ),
        )

    def _make_unique(self, db: sqlite3.Connection, bucket: Bucket) -> None:
        for field in bucket.unique:
            db.execute(
                f"CREATE UNIQUE INDEX {bucket.name}_{field}_idx ON {bucket.name} ({field.lower()})"
            )

    def _add_column(self, db: sqlite3.Connection, table: str, column: str, kind: str) -> None:
        rows = db.execute(f"SELECT name FROM pragma_table_info('{table}')")
        if column not in {row["name"] for row in rows}:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
