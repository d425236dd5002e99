"""This module has steps of transactions on records of one bucket; the connection is in one."""

import json
import secrets
import sqlite3
import time
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

from rebalancer.peers.moray.crc import record_etag
from rebalancer_devregion.moray.buckets import Bucket
from rebalancer_devregion.moray.columns import overlay, to_column
from rebalancer_devregion.moray.errors import (
    MorayError,
    bad_update,
    conflict,
    not_found,
    not_indexed,
    not_unique,
)
from rebalancer_devregion.moray.javascript import stringify
from rebalancer_devregion.moray.pgtypes import checked_text, to_bigint


class Absent(Enum):
    """An absent etag is no condition, which is neither null nor a string."""

    ABSENT = auto()


ABSENT: Final = Absent.ABSENT
Etag = str | None | Absent


def put(db: sqlite3.Connection, bucket: Bucket, key: str, value: Any, etag: Etag) -> str:
    """Replace the whole record if the condition on its etag holds; return the new etag.

    Raises:
      MorayError: EtagConflictError, UniqueAttributeError, InvalidIndexTypeError.
    """
    if etag is not ABSENT:
        actual = etag_of(db, bucket, key)
        if etag != actual:
            raise conflict(bucket.name, key, etag, actual)
    return write(db, bucket, key, value)


def write(db: sqlite3.Connection, bucket: Bucket, key: str, value: Any) -> str:
    """Replace the whole record, and every column from it; return the new etag.

    Raises:
      MorayError: UniqueAttributeError, InvalidIndexTypeError.
    """
    checked_text(key)
    text = stringify(value)
    etag = record_etag(text)
    columns = [to_column(name, value.get(name), kind) for name, kind in bucket.index.items()]
    if bucket.reindexing:
        columns.append(bucket.version)
    now = time.time_ns() // 1_000_000
    try:
        db.execute(bucket.put_sql, (key, text, etag, now, to_bigint(value.get("vnode")), *columns))
    except sqlite3.IntegrityError as exc:
        raise _unique(exc, value) from exc
    return etag


def _unique(error: sqlite3.IntegrityError, values: Mapping[str, Any]) -> MorayError:
    """Return the error of a unique index, which sqlite calls `table.column`."""
    column = str(error).rpartition(".")[2]
    named = {name.lower(): item for name, item in values.items()}
    return not_unique(column, named.get(column))


def delete(db: sqlite3.Connection, bucket: Bucket, key: str, etag: Etag) -> None:
    """Remove a record; null is no condition here.

    Raises:
      MorayError: ObjectNotFoundError, EtagConflictError.
    """
    actual = etag_of(db, bucket, key)
    if actual is None:
        raise not_found(bucket.name, key)
    # Nor is the empty text one.
    if isinstance(etag, str) and etag not in ("", actual):
        raise conflict(bucket.name, key, etag, actual)
    _keep_last_id(db, bucket)
    db.execute(f"DELETE FROM {bucket.name} WHERE _key = ?", (key,))


def etag_of(db: sqlite3.Connection, bucket: Bucket, key: str) -> str | None:
    """Return the etag of a record; None if there is none."""
    statement = f"SELECT _etag FROM {bucket.name} WHERE _key = ?"
    row = db.execute(statement, (checked_text(key),)).fetchone()
    return None if row is None else str(row["_etag"])


def delete_many(
    db: sqlite3.Connection, bucket: Bucket, rest: str, values: Mapping[str, Any]
) -> int:
    """Remove the records of a WHERE with its LIMIT; return how many."""
    _keep_last_id(db, bucket)
    return db.execute(
        f"DELETE FROM {bucket.name} WHERE rowid IN (SELECT rowid FROM {bucket.name} {rest})",
        values,
    ).rowcount


def _keep_last_id(db: sqlite3.Connection, bucket: Bucket) -> None:
    """Note the highest id before a removal, for it must not be given again."""
    db.execute(
        "INSERT INTO serials (bucket, last)"
        f" SELECT ?, max(_id) FROM {bucket.name} HAVING max(_id) IS NOT NULL"
        " ON CONFLICT (bucket) DO UPDATE SET last = max(last, excluded.last)",
        (bucket.name,),
    )


def update_many(
    db: sqlite3.Connection,
    bucket: Bucket,
    fields: Mapping[str, Any],
    rest: str,
    values: Mapping[str, Any],
    *,
    may_be_empty: bool = False,
) -> tuple[int, str]:
    """Set columns of the records of a WHERE with its LIMIT, whose values stay as they are.

    How many, and the one etag that all of them get, also without `fields` if there may be none.

    Raises:
      MorayError: FieldUpdateError, NotIndexedError, NotNullableError, UniqueAttributeError.
    """
    if not fields and not may_be_empty:
        raise bad_update(fields)
    if not set(fields) <= set(bucket.index):
        raise not_indexed(bucket.name, stringify(dict(fields)))
    if None in fields.values():
        names = [name for name, value in fields.items() if value is None]
        message = f"{bucket.name} does not support null for {', '.join(names)}"
        raise MorayError("NotNullableError", message)
    etag = f"u{secrets.token_hex(4)[:7]}"
    given = {
        f"new_{name}": to_column(name, value, bucket.index[name]) for name, value in fields.items()
    }
    sets = "".join(f", {name.lower()} = :new_{name}" for name in fields)
    try:
        cursor = db.execute(
            f"UPDATE {bucket.name} SET _etag = :new_etag, _mtime = :new_mtime{sets}"
            f" WHERE rowid IN (SELECT rowid FROM {bucket.name} {rest})",
            {**values, **given, "new_etag": etag, "new_mtime": time.time_ns() // 1_000_000},
        )
    except sqlite3.IntegrityError as exc:
        raise _unique(exc, fields) from exc
    return cursor.rowcount, etag


def reindex(db: sqlite3.Connection, bucket: Bucket, count: int) -> tuple[int, int]:
    """Fill the columns of up to `count` records that are behind; return how many, and the rest.

    Raises:
      MorayError: a value does not fit its index.
    """
    behind = f"_rver IS NULL OR _rver < {bucket.version}"
    rows = db.execute(f"SELECT * FROM {bucket.name} WHERE {behind} LIMIT {count}").fetchall()
    sets = "".join(f", {name.lower()} = ?" for name in bucket.index)
    for row in rows:
        # What an update has put into columns only gets into the value here.
        value = read_value(row, bucket.usable)
        columns = [to_column(name, value.get(name), kind) for name, kind in bucket.index.items()]
        db.execute(
            f"UPDATE {bucket.name} SET _value = ?, _rver = ?{sets} WHERE _key = ?",
            (stringify(value), bucket.version, *columns, row["_key"]),
        )
    (remaining,) = db.execute(f"SELECT count(*) FROM {bucket.name} WHERE {behind}").fetchone()
    return len(rows), int(remaining)


def read_value(row: sqlite3.Row, index: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of a row with its columns laid over it."""
    value: dict[str, Any] = json.loads(row["_value"])
    overlay(value, row, index)
    return value


def read_record(bucket: Bucket, row: sqlite3.Row) -> dict[str, Any]:
    """Return a record as get and find return it."""
    return {
        "bucket": bucket.name,
        "key": row["_key"],
        "value": read_value(row, bucket.usable),
        "_id": row["_id"],
        "_etag": row["_etag"],
        "_mtime": row["_mtime"],
        "_txn_snap": row["_txn_snap"],
    }
