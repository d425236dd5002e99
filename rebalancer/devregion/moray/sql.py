"""The statements of Moray's `sql` that the region understands, translated for sqlite."""

import re
from typing import Any

from rebalancer.devregion.moray.errors import MorayError

#: bigint in PostgreSQL, which the real server's driver returns as strings.
BIGINTS = frozenset({"_id", "_idx", "_mtime", "_vnode", "max_id", "max", "min", "count"})

_COLUMNS_OF = re.compile(
    r"SELECT column_name FROM information_schema\.columns"
    r" WHERE table_name = '(\w+)' AND column_name = '(\w+)'",
    re.IGNORECASE,
)
_AGGREGATE = re.compile(r"SELECT (max|min|count)\((\*|\w+)\)( AS (\w+))? FROM (\w+)", re.IGNORECASE)
_SCAN = re.compile(
    r"SELECT ([\w, ]+|\*) FROM (\w+)( WHERE ((?!.*\bSELECT\b).+?))?"
    r"( ORDER BY (\w+))?( LIMIT (\d+))?",
    re.IGNORECASE,
)
_POSITION = re.compile(r"position\((\$\d+|'(?:[^']|'')*') in (\w+)\)", re.IGNORECASE)


def normalise(statement: str) -> str:
    """The text as the server sees it: newlines are deleted, not replaced by blanks."""
    return re.sub(r" +", " ", statement.replace("\n", "")).strip().rstrip(";").strip()


def translate(statement: str) -> str:
    """A statement for sqlite.

    Raises:
      MorayError: the statement is none of those known here.
    """
    text = normalise(statement)
    if match := _COLUMNS_OF.fullmatch(text):
        table, column = match.groups()
        return (
            f"SELECT name AS column_name FROM pragma_table_info('{table}') WHERE name = '{column}'"
        )
    if match := _AGGREGATE.fullmatch(text):
        function, column, _, alias, table = match.groups()
        return f"SELECT {function}({column}) AS {alias or function.lower()} FROM {table}"
    if match := _SCAN.fullmatch(text):
        columns, table, _, where, _, order, _, limit = match.groups()
        made = f"SELECT {columns} FROM {table}"
        if where:
            made += f" WHERE {_condition(where)}"
        if order:
            made += f" ORDER BY {order}"
        return f"{made} LIMIT {limit}" if limit else made
    first = text.split(" ", 1)[0]
    raise MorayError("InternalError", f'Invalid SQL: syntax error at or near "{first}"')


def _condition(where: str) -> str:
    """PostgreSQL's position and parameters in sqlite's spelling."""
    text = _POSITION.sub(r"instr(\2, \1)", where)
    return re.sub(r"\$(\d+)", r"?\1", text)


def to_wire(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the server's driver gives it."""
    return {
        name: str(value) if name in BIGINTS and value is not None else value
        for name, value in row.items()
    }
