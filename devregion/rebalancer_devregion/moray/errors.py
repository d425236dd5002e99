"""A shard that cannot do what was asked answers one of these errors, under their real names."""

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rebalancer_devregion.moray.javascript import stringify, to_string

_NO_COLUMN = re.compile(r"table (\w+) has no column named (\w+)")


class MorayError(Exception):
    """An ERROR message has a name, a message, a context and info.

    `rows` go out before it: those of an answer that failed on the way.
    """

    def __init__(
        self,
        name: str,
        message: str,
        context: Mapping[str, Any] | None = None,
        info: Mapping[str, Any] | None = None,
        rows: Sequence[Any] = (),
    ) -> None:
        super().__init__(f"{name}: {message}")
        self.payload: dict[str, Any] = {
            "name": name,
            "message": message,
            "context": dict(context or {}),
            "info": dict(info or {}),
        }
        self.rows = rows

    def after(self, rows: Sequence[Any]) -> "MorayError":
        """Return the error with rows that go out before it."""
        return MorayError(**self.payload, rows=rows)


def conflict(bucket: str, key: str, expected: str | None, actual: str | None) -> MorayError:
    """Make the error of a record without the etag that a write is conditional on."""
    want = "null" if expected is None else expected
    have = "null" if actual is None else actual
    return MorayError(
        "EtagConflictError",
        f'{bucket}::{key} was expected to have etag "{want}", but was "{have}"',
        {"bucket": bucket, "key": key, "expected": want, "actual": have},
    )


def not_found(bucket: str, key: str) -> MorayError:
    """Make the error of a missing record."""
    return MorayError("ObjectNotFoundError", f"{bucket}::{key} does not exist")


def no_bucket(bucket: str) -> MorayError:
    """Make the error of a missing bucket."""
    return MorayError("BucketNotFoundError", f"{bucket} does not exist")


def invalid_query(text: str) -> MorayError:
    """Make the error of a filter that does not parse, or in which nothing is indexed."""
    return MorayError("InvalidQueryError", f"{text} is an invalid filter")


def not_indexed(bucket: str, text: str) -> MorayError:
    """Make the error of a filter's alternative, or a field to update, without index."""
    message = f"{bucket} does not have indexes that support {text}"
    return MorayError("NotIndexedError", message)


def indexes_required(
    bucket: str, text: str, reindexing: Iterable[str], unindexed: Iterable[str]
) -> MorayError:
    """Make the error of a filter that must use indexes only, and does not."""
    return MorayError(
        "NotIndexedError",
        f"{bucket} does not have indexes that support {text}."
        f" Reindexing fields: {_inspected(reindexing)}. Unindexed fields: {_inspected(unindexed)}",
    )


def _inspected(names: Iterable[str]) -> str:
    """Spell a list of names as Node shows it."""
    shown = ", ".join(f"'{name}'" for name in names)
    return f"[ {shown} ]" if shown else "[]"


def not_unique(attribute: str, value: Any) -> MorayError:
    """Make the error of a value that a unique index, or the primary key, has already."""
    return MorayError(
        "UniqueAttributeError",
        f'"{attribute}" is a unique attribute; value "{to_string(value)}" already exists',
    )


def bad_update(fields: Mapping[str, Any]) -> MorayError:
    """Make the error of an update without fields."""
    return MorayError("FieldUpdateError", f"{stringify(fields)} is not a valid update definition")


def invocation(method: str, argument: str, position: int, expected: str, why: str) -> MorayError:
    """Make the error of an argument that the method does not take."""
    return MorayError(
        "InvocationError",
        f'{method} expects "{argument}" (args[{position}]) to be {expected}: {why}',
    )


def query_timeout(statement: str) -> MorayError:
    """Make the error of a statement without a row within the `timeout` of its request."""
    return MorayError("QueryTimeoutError", f"query timeout: {statement}")


def from_sqlite(error: sqlite3.Error) -> MorayError:
    """Make PostgreSQL's error of sqlite's; without SQLSTATE, as Moray passes it on."""
    text = str(error)
    if missing := _NO_COLUMN.fullmatch(text):
        relation, column = missing.groups()
        return MorayError("error", f'column "{column}" of relation "{relation}" does not exist')
    kind, _, name = text.partition(": ")
    match kind:
        case "no such column":
            return MorayError("error", f'column "{name.lower()}" does not exist')
        case "no such table":
            return MorayError("error", f'relation "{name}" does not exist')
    return MorayError("error", text)
