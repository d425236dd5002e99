"""Moray's `sql` runs a statement on a connection, and gives its rows as the driver does."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rebalancer_devregion.moray.connections import Reader
from rebalancer_devregion.moray.errors import from_sqlite, query_timeout
from rebalancer_devregion.moray.statements import Statement, normalise, to_wire, translate

#: Rows that get out before an error, however many the statement had made.
ROWS_BEFORE_ERROR = 2


def run(
    reader: Reader,
    statement: str,
    values: Sequence[Any],
    timeout_ms: int,
    columns_of: Callable[[str], Mapping[str, str]],
) -> list[dict[str, Any]]:
    """Return the rows of a statement; `timeout_ms`, unless 0, is for its first row only.

    Raises:
      MorayError: InternalError, QueryTimeoutError, or `error` with PostgreSQL's message and the
        rows that got out before it.
    """
    made = translate(statement, columns_of)
    rows: list[Any] = []
    try:
        if timeout_ms:
            reader.limit(timeout_ms / 1000)
        cursor = reader.db.cursor()
        cursor.row_factory = None
        named = {str(number): value for number, value in enumerate(values, 1)}
        cursor.execute(made.text, named)  # makes the first row
        if timeout_ms:
            reader.limit(None)
        rows.extend(cursor)
    except sqlite3.Error as exc:
        if reader.is_late:
            raise query_timeout(normalise(statement)) from exc
        error = reader.take_failure() or from_sqlite(exc)
        raise error.after(_on_wire(made, rows[:ROWS_BEFORE_ERROR])) from exc
    finally:
        if timeout_ms:
            reader.limit(None)
    return _on_wire(made, rows)


def _on_wire(made: Statement, rows: list[Any]) -> list[dict[str, Any]]:
    """Return rows by column; of several columns of one name, the last."""
    names = [name for name, _ in made.columns]
    found = [dict(zip(names, row, strict=True)) for row in rows]
    for name, kind in dict(made.columns).items():
        convert = to_wire(kind)
        if convert is not None:
            for row in found:
                row[name] = convert(row[name])
    return found
