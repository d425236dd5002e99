"""This module keeps one shard's records in a sqlite file, with PostgreSQL's columns.

Blocking.  The server calls what writes one at a time; what reads sees all that was committed, and
any number of threads may read.
"""

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from rebalancer.sqlite import closed_on_failure, connect, transact
from rebalancer_devregion.moray import filters, queries, records, sql
from rebalancer_devregion.moray.buckets import INTERNAL, Bucket
from rebalancer_devregion.moray.catalogue import Catalogue
from rebalancer_devregion.moray.connections import Reader, Readers, prepare
from rebalancer_devregion.moray.errors import MorayError, from_sqlite, not_found
from rebalancer_devregion.moray.pgtypes import checked_text
from rebalancer_devregion.moray.records import ABSENT, Etag

P = ParamSpec("P")
T = TypeVar("T")
_NO_OPTIONS: Mapping[str, Any] = {}
#: Types of PostgreSQL for those of indexes, of columns that `sql` may name.
_KINDS = {"number": "numeric", "boolean": "boolean"}


def _kind(kind: str) -> str:
    return "array" if kind.startswith("[") else _KINDS.get(kind, "text")


class ShardStore:
    """A shard store has the records of one shard.

    Every method raises `MorayError` for what a client did wrong: BucketNotFoundError for a bucket
    that is not there, and what its own contract says.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.catalogue = Catalogue()
        with closed_on_failure(connect(path)) as self._db:
            prepare(self._db)
            # Nothing here is worth an fsync: a region is made anew.
            self._db.execute("PRAGMA synchronous=OFF")
            self.catalogue.prepare(self._db)
        self._readers = Readers(path)

    def close(self) -> None:
        """Close the file."""
        self._readers.close()
        self._db.close()

    # --- buckets -------------------------------------------------------------------------

    def buckets(self) -> list[dict[str, Any]]:
        """Return all buckets as they are stored."""
        with self._readers.reader() as reader:
            return self.catalogue.rows(reader.db)

    def bucket(self, name: str) -> dict[str, Any]:
        """Return one bucket as it is stored."""
        with self._readers.reader() as reader:
            return self.catalogue.row(reader.db, name)

    def create_bucket(self, name: str, config: Mapping[str, Any]) -> None:
        """Make a bucket.

        Raises:
          MorayError: BucketConflictError, or what is wrong with the configuration.
        """
        transact(self._db, self.catalogue.create, name, config)

    def update_bucket(
        self, name: str, config: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        """Change a bucket: new indexes count only once `reindex` has seen every record.

        Raises:
          MorayError: BucketVersionError, or what is wrong with the configuration.
        """
        reindex = not options.get("no_reindex")
        transact(self._db, self.catalogue.update, name, config, reindex=reindex)

    def delete_bucket(self, name: str) -> None:
        """Remove a bucket and its records."""
        transact(self._db, self.catalogue.delete, name)

    def reindex(self, name: str, count: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Bring up to `count` records up to date; return how many were, and how many are left.

        Raises:
          MorayError: InvalidArgumentError.
        """
        bucket = self.catalogue.load(self._db, name, fresh=True)
        if count <= 0:
            raise MorayError("InvalidArgumentError", f"count {count} < 1")
        if not bucket.reindexing:
            return {"processed": 0}
        processed, remaining = transact(self._db, records.reindex, bucket, count)
        if not processed:
            transact(self._db, self.catalogue.reindexed, name)
        left = {} if options.get("no_count") else {"remaining": remaining}
        return {"processed": processed, **left}

    # --- writing -------------------------------------------------------------------------

    def seed(self, bucket: str, items: Iterable[tuple[str, Any]]) -> None:
        """Put many new records in one transaction."""
        found = self.catalogue.load(self._db, bucket)

        def run(db: sqlite3.Connection) -> None:
            for key, value in items:
                records.write(db, found, key, value)

        transact(self._db, run)

    def put(
        self,
        bucket: str,
        key: str,
        value: Any,
        etag: Etag = ABSENT,
        options: Mapping[str, Any] = _NO_OPTIONS,
    ) -> str:
        """Replace the whole record if the condition on its etag holds; return the new etag.

        Raises:
          MorayError: EtagConflictError, UniqueAttributeError, InvalidIndexTypeError.
        """
        found = self._bucket(bucket, options)
        return self._write(records.put, found, key, value, etag)

    def delete(
        self,
        bucket: str,
        key: str,
        etag: Etag = ABSENT,
        options: Mapping[str, Any] = _NO_OPTIONS,
    ) -> None:
        """Remove a record; null means no condition here.

        Raises:
          MorayError: ObjectNotFoundError, EtagConflictError.
        """
        found = self._bucket(bucket, options)
        self._write(records.delete, found, key, etag)

    def update_many(
        self, bucket: str, fields: Mapping[str, Any], text: str, options: Mapping[str, Any]
    ) -> tuple[int, str]:
        """Set columns of the records that match, not their values; return how many, and their etag.

        Raises:
          MorayError: InvalidQueryError, NotIndexedError, NotNullableError, FieldUpdateError.
        """
        found = self._bucket(bucket, options)
        return self._write(self._update_many, found, fields, text, options)

    def delete_many(self, bucket: str, text: str, options: Mapping[str, Any]) -> int:
        """Remove the records that match; return how many.

        Raises:
          MorayError: InvalidQueryError, NotIndexedError.
        """
        found = self._bucket(bucket, options)
        return self._write(self._delete_many, found, text, options)

    def batch(self, requests: Sequence[Mapping[str, Any]], outer: Mapping[str, Any]) -> list[Any]:
        """Do all operations in order, or none; options of the outer call override.

        Raises:
          MorayError: the first operation's that failed.
        """

        def run(db: sqlite3.Connection) -> list[Any]:
            return [self._operation(db, request, outer) for request in requests]

        return self._write(run)

    def _operation(
        self, db: sqlite3.Connection, request: Mapping[str, Any], outer: Mapping[str, Any]
    ) -> dict[str, Any]:
        options = {**request.get("options", _NO_OPTIONS), **outer}
        bucket = self._bucket(request["bucket"], options)
        match request.get("operation", "put"):
            case "update":
                text = request["filter"]
                fields = request["fields"]
                count, etag = self._update_many(
                    db, bucket, fields, text, options, may_be_empty=True
                )
                return {"bucket": bucket.name, "filter": text, "count": count, "etag": etag}
            case "deleteMany":
                text = request["filter"]
                count = self._delete_many(db, bucket, text, options)
                return {"bucket": bucket.name, "filter": text, "count": count}
            case "delete":
                # The empty text is no condition in a batch.
                condition = options.get("etag") or ABSENT
                records.delete(db, bucket, request["key"], condition)
                return {"bucket": bucket.name, "key": request["key"]}
        key, condition = request["key"], options.get("etag", ABSENT)
        etag = records.put(db, bucket, key, request["value"], condition)
        return {"bucket": bucket.name, "key": key, "etag": etag}

    def _update_many(
        self,
        db: sqlite3.Connection,
        bucket: Bucket,
        fields: Mapping[str, Any],
        text: str,
        options: Mapping[str, Any],
        *,
        may_be_empty: bool = False,
    ) -> tuple[int, str]:
        query = queries.read_query(bucket, text, options, indexed_only=True)
        values = query.where.bindings
        return records.update_many(
            db, bucket, fields, query.rest, values, may_be_empty=may_be_empty
        )

    def _delete_many(
        self, db: sqlite3.Connection, bucket: Bucket, text: str, options: Mapping[str, Any]
    ) -> int:
        query = queries.read_query(bucket, text, options, indexed_only=True)
        return records.delete_many(db, bucket, query.rest, query.where.bindings)

    def _bucket(self, name: str, options: Mapping[str, Any]) -> Bucket:
        return self.catalogue.load(self._db, name, fresh=bool(options.get("noBucketCache")))

    def _write(
        self,
        run: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run one transaction; sqlite's complaints become PostgreSQL's."""
        try:
            return transact(self._db, run, *args, **kwargs)
        except sqlite3.OperationalError as exc:
            raise from_sqlite(exc) from exc

    # --- reading -------------------------------------------------------------------------

    def get(
        self, bucket: str, key: str, options: Mapping[str, Any] = _NO_OPTIONS
    ) -> dict[str, Any]:
        """Return one record.

        Raises:
          MorayError: ObjectNotFoundError.
        """
        with self._readers.reader() as reader:
            found = self.catalogue.load(reader.db, bucket, fresh=bool(options.get("noBucketCache")))
            statement = f"SELECT * FROM {found.name} WHERE _key = ?"
            try:
                row = reader.db.execute(statement, (checked_text(key),)).fetchone()
            except sqlite3.Error as exc:
                raise from_sqlite(exc) from exc
            if row is None:
                raise not_found(bucket, key)
            found = self._not_older(reader, found, row)
            return {**records.read_record(found, row), "_count": None}

    def _not_older(self, reader: Reader, bucket: Bucket, row: sqlite3.Row) -> Bucket:
        """Return the bucket, read anew if a row was written under a newer configuration."""
        if "_rver" in row.keys() and (row["_rver"] or 0) > bucket.version:  # noqa: SIM118
            return self.catalogue.load(reader.db, bucket.name, fresh=True)
        return bucket

    def find(self, bucket: str, text: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the records that match, filtered twice: LIMIT applies before the second time.

        With `sql_only`, what would be asked instead.

        Raises:
          MorayError: InvalidQueryError, NotIndexedError, `error`.
        """
        with self._readers.reader() as reader:
            fresh = bool(options.get("noBucketCache"))
            found = self.catalogue.load(reader.db, bucket, fresh=fresh)
            indexed_only = bool(options.get("requireIndexes"))
            query = queries.read_query(found, text, options, indexed_only=indexed_only)
            if options.get("sql_only"):
                shown = query.statements(bucket, str(options.get("req_id")))
                if options.get("no_count"):
                    del shown["count"]
                return [shown]
            return self._find(reader, found, query, options)

    def _find(
        self, reader: Reader, bucket: Bucket, query: queries.Query, options: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        values = query.where.bindings
        try:
            rows = reader.db.execute(f"SELECT * FROM {bucket.name} {query.rest}", values).fetchall()
            count = {}
            if not options.get("no_count"):
                where = query.where.for_sqlite
                total = reader.db.execute(
                    f"SELECT count(*) FROM {bucket.name} WHERE {where}", values
                )
                count = {"_count": total.fetchone()[0]}
        except sqlite3.Error as exc:
            raise from_sqlite(exc) from exc
        if rows:
            bucket = self._not_older(reader, bucket, rows[0])
        usable = bucket.usable
        made = (records.read_record(bucket, row) for row in rows)
        return [
            {**record, **count}
            for record in made
            if filters.matches(
                query.found, {**record["value"], **record, "_key": record["key"]}, usable
            )
        ]

    def sql(
        self,
        statement: str,
        values: Sequence[Any] = (),
        options: Mapping[str, Any] = _NO_OPTIONS,
    ) -> list[dict[str, Any]]:
        """Return the rows of a statement.

        Raises:
          MorayError: `error` with PostgreSQL's message, InternalError, QueryTimeoutError; some
            rows may have gone out before it.
        """
        with self._readers.reader() as reader:
            timeout_ms = int(options.get("timeout") or 0)
            columns_of = partial(self._columns, reader)
            return sql.run(reader, statement, values, timeout_ms, columns_of)

    def _columns(self, reader: Reader, table: str) -> dict[str, str]:
        """Return the columns of a table and their types in PostgreSQL, also if it is no bucket."""
        rows = reader.db.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
        try:
            index = self.catalogue.load(reader.db, table).index
        except MorayError:
            index = {}
        kinds = {name.lower(): _kind(kind) for name, kind in index.items()}
        kinds |= {**INTERNAL, "_idx": "bigint", "_rver": "integer"}
        names = [row["name"].lower() for row in rows]
        return {name: kinds.get(name, "text") for name in names}
