"""One shard's records in one sqlite file, with the columns PostgreSQL would have.

Blocking; the server calls it in a thread, one call at a time.
"""

import enum
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rebalancer.devregion.moray import filters, sql
from rebalancer.devregion.moray.errors import MorayError, conflict, not_found
from rebalancer.peers.moray.crc import record_etag
from rebalancer.sqlite import connect, transact

BUCKETS: Mapping[str, Mapping[str, str]] = {
    "manta": {
        "dirname": "string",
        "name": "string",
        "owner": "string",
        "objectId": "string",
        "type": "string",
    },
    "manta_storage": {
        "hostname": "string",
        "availableMB": "number",
        "percentUsed": "number",
        "server_uuid": "string",
        "timestamp": "number",
        "zone_uuid": "string",
        "manta_compute_id": "string",
        "manta_storage_id": "string",
    },
}
DEFAULT_LIMIT = 1000


class Absent(enum.Enum):
    """No condition on the etag, which is neither null nor a string."""

    ABSENT = enum.auto()


ABSENT: Final = Absent.ABSENT
Etag = str | None | Absent


def to_text(value: Any) -> str:
    """JSON as JSON.stringify writes it: compact, non-ASCII as it is, whole numbers without .0."""
    return json.dumps(_as_javascript(value), ensure_ascii=False, separators=(",", ":"))


def _as_javascript(value: Any) -> Any:
    match value:
        case dict():
            return {key: _as_javascript(item) for key, item in value.items()}
        case list():
            return [_as_javascript(item) for item in value]
        case float() if value.is_integer() and abs(value) < 1e21:
            return int(value)
    return value


class ShardStore:
    """The records of one shard."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = connect(path)
        # Nothing here is worth an fsync: a region is made anew.
        self._db.execute("PRAGMA synchronous=OFF")
        for bucket, index in BUCKETS.items():
            columns = "".join(
                f', "{name}" {"TEXT" if kind == "string" else "NUMERIC"}'
                for name, kind in index.items()
            )
            self._db.execute(
                f"CREATE TABLE IF NOT EXISTS {bucket} (_id INTEGER, _txn_snap INTEGER,"
                " _key TEXT PRIMARY KEY NOT NULL, _value TEXT NOT NULL, _etag TEXT NOT NULL,"
                f" _mtime INTEGER, _vnode INTEGER{columns})"
            )
            self._db.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {bucket}_id ON {bucket} (_id)")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def seed(self, bucket: str, items: Iterable[tuple[str, Any]]) -> None:
        """Put many new records in one transaction."""

        def run(db: sqlite3.Connection) -> None:
            for key, value in items:
                self._write(bucket, key, value)

        transact(self._db, run)

    def put(self, bucket: str, key: str, value: Any, etag: Etag = ABSENT) -> str:
        """Replace the whole record if the condition on its etag holds; the new etag.

        Raises:
          MorayError: EtagConflictError, or BucketNotFoundError.
        """
        _index(bucket)
        return transact(self._db, lambda _db: self._put(bucket, key, value, etag))

    def batch(self, requests: Sequence[Mapping[str, Any]], outer: Mapping[str, Any]) -> list[Any]:
        """All of the operations in order, or none; options of the outer call override.

        Raises:
          MorayError: the first operation's that failed.
        """

        def run(_db: sqlite3.Connection) -> list[Any]:
            return [self._operation(request, outer) for request in requests]

        return transact(self._db, run)

    def _operation(self, request: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Any]:
        bucket, key = request["bucket"], request["key"]
        _index(bucket)
        options = {**request.get("options", {}), **outer}
        etag = options.get("etag", ABSENT)
        match request.get("operation", "put"):
            case "put":
                made = self._put(bucket, key, request["value"], etag)
                return {"bucket": bucket, "key": key, "etag": made}
            case "delete":
                self._delete(bucket, key, etag)
                return {"bucket": bucket, "key": key}
        raise MorayError("InvocationError", f"operation {request['operation']} is not supported")

    def delete(self, bucket: str, key: str, etag: Etag = ABSENT) -> None:
        """Remove a record; null means no condition here.

        Raises:
          MorayError: ObjectNotFoundError or EtagConflictError.
        """
        _index(bucket)
        transact(self._db, lambda _db: self._delete(bucket, key, etag))

    def get(self, bucket: str, key: str) -> dict[str, Any]:
        """One record.

        Raises:
          MorayError: ObjectNotFoundError, BucketNotFoundError.
        """
        index = _index(bucket)
        row = self._db.execute(f"SELECT * FROM {bucket} WHERE _key = ?", (key,)).fetchone()
        if row is None:
            raise not_found(bucket, key)
        return {**_record(bucket, row, index), "_count": None}

    def find(self, bucket: str, text: str, options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The records that match, filtered twice: LIMIT applies before the second time.

        Raises:
          MorayError: InvalidQueryError, NotIndexedError, BucketNotFoundError.
        """
        index = _index(bucket)
        try:
            found = filters.parse(text)
            made = filters.to_sql(found, index)
        except filters.InvalidFilter:
            made = None
        except filters.NotIndexed as exc:
            raise _not_indexed(bucket, text, exc.args[0]) from exc
        if made is None:
            raise MorayError("InvalidQueryError", f"{text} is an invalid filter")
        unindexed = sorted(f for f in filters.fields(found) if f not in index and f[0] != "_")
        if options.get("requireIndexes") and unindexed:
            raise _not_indexed(bucket, text, unindexed)
        where, values = made
        rows = self._db.execute(
            f"SELECT * FROM {bucket} WHERE {where}{_order(options)}{_limit(options)}", values
        ).fetchall()
        count = {}
        if not options.get("no_count"):
            total = self._db.execute(f"SELECT count(*) FROM {bucket} WHERE {where}", values)
            count = {"_count": total.fetchone()[0]}
        records = (_record(bucket, row, index) for row in rows)
        return [
            {**record, **count}
            for record in records
            if filters.matches(found, {**record["value"], **record, "_key": record["key"]}, index)
        ]

    def sql(self, statement: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """The rows of a statement that the rebalancer sends.

        Raises:
          MorayError: `error` with PostgreSQL's message, or InternalError.
        """
        try:
            rows = self._db.execute(sql.translate(statement), list(values)).fetchall()
        except sqlite3.OperationalError as exc:
            raise MorayError("error", _as_postgres(str(exc))) from exc
        return [sql.to_wire(dict(row)) for row in rows]

    # --- steps of transactions -----------------------------------------------------------

    def _put(self, bucket: str, key: str, value: Any, etag: Etag) -> str:
        if etag is not ABSENT:
            actual = self._etag(bucket, key)
            if etag != actual:
                raise conflict(bucket, key, etag, actual)
        return self._write(bucket, key, value)

    def _write(self, bucket: str, key: str, value: Any) -> str:
        index = BUCKETS[bucket]
        text = to_text(value)
        etag = record_etag(text)
        vnode = value.get("vnode") if isinstance(value, dict) else None
        columns = [_column(value.get(name), kind) for name, kind in index.items()]
        names = "".join(f', "{name}"' for name in index)
        updates = "".join(f', "{name}" = excluded."{name}"' for name in index)
        # The id is given at the first put and kept; the highest is never given twice.
        self._db.execute(
            f"INSERT INTO {bucket} (_id, _key, _value, _etag, _mtime, _vnode{names})"
            f" VALUES ((SELECT ifnull(max(_id), 0) + 1 FROM {bucket}), ?, ?, ?, ?, ?"
            f"{', ?' * len(index)}) ON CONFLICT (_key) DO UPDATE SET _value = excluded._value,"
            f" _etag = excluded._etag, _mtime = excluded._mtime, _vnode = excluded._vnode{updates}",
            (key, text, etag, time.time_ns() // 1_000_000, vnode, *columns),
        )
        return etag

    def _delete(self, bucket: str, key: str, etag: Etag) -> None:
        actual = self._etag(bucket, key)
        if actual is None:
            raise not_found(bucket, key)
        if isinstance(etag, str) and etag != actual:
            raise conflict(bucket, key, etag, actual)
        self._db.execute(f"DELETE FROM {bucket} WHERE _key = ?", (key,))

    def _etag(self, bucket: str, key: str) -> str | None:
        row = self._db.execute(f"SELECT _etag FROM {bucket} WHERE _key = ?", (key,)).fetchone()
        return None if row is None else str(row["_etag"])


def _index(bucket: str) -> Mapping[str, str]:
    if bucket not in BUCKETS:
        raise MorayError("BucketNotFoundError", f"{bucket} does not exist")
    return BUCKETS[bucket]


def _column(value: Any, kind: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if kind == "string":
        return value if isinstance(value, str) else to_text(value)
    return value if isinstance(value, int | float) else None


def _record(bucket: str, row: sqlite3.Row, index: Mapping[str, str]) -> dict[str, Any]:
    """A record as get and find return it: index columns laid over the value."""
    value = json.loads(row["_value"])
    for name in index:
        if name in value:
            if row[name] is None:
                del value[name]
            else:
                value[name] = row[name]
    return {
        "bucket": bucket,
        "key": row["_key"],
        "value": value,
        "_id": row["_id"],
        "_etag": row["_etag"],
        "_mtime": row["_mtime"],
        "_txn_snap": row["_txn_snap"],
    }


def _order(options: Mapping[str, Any]) -> str:
    sort = options.get("sort") or []
    entries = sort if isinstance(sort, list) else [sort]
    terms = []
    for entry in entries:
        attribute, order = entry["attribute"], str(entry.get("order", "ASC")).upper()
        if not attribute.isidentifier() or order not in ("ASC", "DESC"):
            raise MorayError("error", f'column "{attribute}" does not exist')
        terms.append(f'"{attribute}" {order}')
    return f" ORDER BY {', '.join(terms)}" if terms else ""


def _limit(options: Mapping[str, Any]) -> str:
    if options.get("noLimit"):
        return ""
    limit = int(options.get("limit") or DEFAULT_LIMIT)  # 0 means the default
    return f" LIMIT {limit} OFFSET {int(options.get('offset') or 0)}"


def _not_indexed(bucket: str, text: str, unindexed: list[str]) -> MorayError:
    names = ", ".join(f"'{name}'" for name in unindexed)
    return MorayError(
        "NotIndexedError",
        f"{bucket} does not have indexes that support {text}. Reindexing fields: []."
        f" Unindexed fields: [ {names} ]",
    )


def _as_postgres(message: str) -> str:
    kind, _, name = message.partition(": ")
    match kind:
        case "no such column":
            return f'column "{name}" does not exist'
        case "no such table":
            return f'relation "{name}" does not exist'
    return message
