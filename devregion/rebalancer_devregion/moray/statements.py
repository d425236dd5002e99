"""This module translates the statements of Moray's `sql` for sqlite, with their columns' types.

One SELECT of one table, with the expressions that somebody would ask a shard: comparisons,
arithmetic, casts, `position`, aggregates.  All else is refused by name, never guessed.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from rebalancer_devregion.moray.errors import MorayError

_TOKEN = re.compile(
    r"""\s*(?:(?P<comment>--.*)
    |(?P<number>\d+\.\d*|\.\d+|\d+)
    |(?P<string>'(?:[^']|'')*')
    |(?P<parameter>\$\d+)
    |(?P<word>[A-Za-z_][\w]*(?:\.[A-Za-z_]\w*)?)
    |(?P<sign>::|<=|>=|<>|!=|\|\||[-+*/%=<>(),;])
    |(?P<bad>\S))""",
    re.VERBOSE,
)
#: Verbs that PostgreSQL knows and the region does not run.
_VERBS = frozenset(
    {
        *("alter", "analyze", "begin", "commit", "copy", "create", "delete", "drop", "explain"),
        *("grant", "insert", "listen", "lock", "notify", "set", "show", "truncate", "update"),
        *("vacuum", "values", "with"),
    }
)
_CLAUSES = frozenset(
    {
        *("from", "where", "order", "limit", "offset", "as", "and", "or", "not", "is", "in"),
        *("between", "like", "asc", "desc", "group", "having", "union", "for"),
    }
)
#: PostgreSQL's types by their names, as the driver returns them.
_CASTS: Mapping[str, tuple[str, str]] = {
    "int": ("integer", "INTEGER"),
    "int4": ("integer", "INTEGER"),
    "integer": ("integer", "INTEGER"),
    "smallint": ("integer", "INTEGER"),
    "bigint": ("bigint", "INTEGER"),
    "int8": ("bigint", "INTEGER"),
    "numeric": ("numeric", "NUMERIC"),
    "float8": ("numeric", "REAL"),
    "text": ("text", "TEXT"),
    "boolean": ("boolean", "INTEGER"),
    "timestamptz": ("timestamptz", "TEXT"),
    "date": ("date", "TEXT"),
    "regclass": ("text", "TEXT"),
}
_FUNCTIONS: Mapping[str, str] = {
    "length": "integer",
    "lower": "text",
    "upper": "text",
    "coalesce": "",  # the type of its first argument
    "max": "",
    "min": "",
    "count": "bigint",
    "sum": "bigint",
    "repeat": "text",
    "pg_sleep": "void",
}
_COMPARISONS = frozenset({"=", "<>", "!=", "<", ">", "<=", ">="})
#: `information_schema.columns`, from sqlite's own schema.
_SCHEMA_COLUMNS = (
    "(SELECT t.name AS table_name, c.name AS column_name"
    " FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table')"
)
#: `pg_attribute`, in which a table is known by its name.
_ATTRIBUTES = (
    "(SELECT t.name AS attrelid, c.name AS attname, 0 AS attisdropped"
    " FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table')"
)


@attrs.frozen
class Statement:
    """A statement for sqlite has the name and type of each column of its rows."""

    text: str
    columns: tuple[tuple[str, str], ...]


@attrs.frozen
class _Expression:
    text: str
    kind: str = "text"
    name: str = "?column?"


def normalise(statement: str) -> str:
    """Return a text as the server sees it: newlines are deleted, not replaced by blanks."""
    return statement.replace("\n", "")


def translate(statement: str, columns_of: Callable[[str], Mapping[str, str]]) -> Statement:
    """Return a statement for sqlite; `columns_of` gives the columns of a table and their types.

    Raises:
      MorayError: it is no SQL, or none that the region runs.
    """
    return _Translator(statement, columns_of).select()


def _tokens(statement: str) -> list[tuple[str, str]]:
    found = []
    for match in _TOKEN.finditer(normalise(statement)):
        kind = str(match.lastgroup)
        if kind == "comment":
            break  # the newline that would end it is gone
        found.append((kind, match[kind]))
    while found and found[-1] == ("sign", ";"):
        found.pop()
    return found


class _Translator:
    """A translator passes once over the tokens, by precedence.  Mutable state: the place."""

    def __init__(self, statement: str, columns_of: Callable[[str], Mapping[str, str]]) -> None:
        self._statement = statement
        self._tokens = _tokens(statement)
        self._at = 0
        self._columns_of = columns_of
        self._columns: Mapping[str, str] = {}

    # --- clauses -------------------------------------------------------------------------

    def select(self) -> Statement:
        if not self._word("select"):
            raise self._not_select()
        source = self._source()
        results = self._results()
        text = "SELECT " + ", ".join(one.text for one in results)
        if self._word("from"):
            self._table()
            text += f" FROM {source}"
        if self._word("where"):
            text += f" WHERE {self._expression().text}"
        if self._word("order"):
            self._need("by")
            text += f" ORDER BY {self._orders()}"
        text += self._bounds()
        if self._at < len(self._tokens):
            raise self._unexpected()
        return Statement(text, tuple((one.name, one.kind) for one in results))

    def _bounds(self) -> str:
        limit = self._expression().text if self._word("limit") else "-1"
        offset = self._expression().text if self._word("offset") else "0"
        return f" LIMIT {limit} OFFSET {offset}" if (limit, offset) != ("-1", "0") else ""

    def _not_select(self) -> MorayError:
        first = self._peek()[1].lower()
        if first in _VERBS:
            return MorayError("error", f"this region runs no {first.upper()} through sql")
        return self._unexpected()

    def _source(self) -> str:
        """Read the table of the rows, which is looked up before the results that name columns."""
        start, depth = self._at, 0
        for position in range(start, len(self._tokens)):
            value = self._tokens[position][1]
            depth += (value == "(") - (value == ")")
            if depth == 0 and value.lower() == "from":
                self._at = position + 1
                source = self._table()
                self._at = start
                return source
        return ""

    def _table(self) -> str:
        name = self._next_word().lower()
        if name == "generate_series":
            return self._series()
        if name == "information_schema.columns":
            self._columns = {"table_name": "text", "column_name": "text"}
            return _SCHEMA_COLUMNS
        if name == "pg_attribute":
            self._columns = {"attrelid": "text", "attname": "text", "attisdropped": "boolean"}
            return _ATTRIBUTES
        self._columns = self._columns_of(name)
        return name

    def _series(self) -> str:
        self._need("(")
        low = self._expression().text
        self._need(",")
        high = self._expression().text
        self._need(")")
        alias = self._next_word() if self._word("as") else "generate_series"
        self._columns = {alias: "integer"}
        return (
            f"(WITH RECURSIVE s({alias}) AS (SELECT {low} UNION ALL"
            f" SELECT {alias} + 1 FROM s WHERE {alias} < {high}) SELECT {alias} FROM s)"
        )

    def _results(self) -> list[_Expression]:
        results: list[_Expression] = []
        while True:
            if self._word("*"):
                results += [_Expression(n, k, n) for n, k in self._columns.items()]
            else:
                one = self._expression()
                if self._word("as") or self._is_name():
                    one = attrs.evolve(one, name=self._next_word().lower())
                results.append(one)
            if not self._word(","):
                return results

    def _orders(self) -> str:
        orders = []
        while True:
            text = self._expression().text
            descending = not self._word("asc") and self._word("desc")
            orders.append(f"{text} DESC" if descending else text)
            if not self._word(","):
                return ", ".join(orders)

    # --- expressions, from the loosest operator to the tightest -----------------------------

    def _expression(self) -> _Expression:
        left = self._conjunction()
        while self._word("or"):
            left = _Expression(f"({left.text} OR {self._conjunction().text})", "boolean")
        return left

    def _conjunction(self) -> _Expression:
        left = self._negation()
        while self._word("and"):
            left = _Expression(f"({left.text} AND {self._negation().text})", "boolean")
        return left

    def _negation(self) -> _Expression:
        if self._word("not"):
            return _Expression(f"(NOT {self._negation().text})", "boolean")
        return self._comparison()

    def _comparison(self) -> _Expression:
        left = self._sum()
        sign = self._peek()[1]
        if sign in _COMPARISONS:
            self._at += 1
            return _Expression(f"{left.text} {sign} {self._sum().text}", "boolean")
        if self._word("is"):
            negated = "NOT " if self._word("not") else ""
            self._need("null")
            return _Expression(f"{left.text} IS {negated}NULL", "boolean")
        negated = "NOT " if self._word("not") else ""
        if self._word("in"):
            self._need("(")
            items = self._list()
            return _Expression(f"{left.text} {negated}IN ({items})", "boolean")
        if self._word("like"):
            pattern = self._sum().text
            return _Expression(f"{left.text} {negated}LIKE {pattern} ESCAPE '\\'", "boolean")
        if self._word("between"):
            low = self._sum().text
            self._need("and")
            high = self._sum().text
            return _Expression(f"{left.text} {negated}BETWEEN {low} AND {high}", "boolean")
        if negated:
            raise self._unexpected()
        return left

    def _sum(self) -> _Expression:
        left = self._product()
        while (sign := self._peek()[1]) in ("+", "-", "||"):
            self._at += 1
            right = self._product()
            kind = "text" if sign == "||" else _wider(left.kind, right.kind)
            left = _Expression(f"({left.text} {sign} {right.text})", kind)
        return left

    def _product(self) -> _Expression:
        left = self._cast()
        while (sign := self._peek()[1]) in ("*", "/", "%"):
            self._at += 1
            right = self._cast()
            kind = _wider(left.kind, right.kind)
            text = f"({left.text} {sign} {right.text})"
            if sign == "/":
                # sqlite makes null of a division by zero, where PostgreSQL fails.
                text = f"pg_div({left.text}, {right.text}, {int(kind != 'numeric')})"
            left = _Expression(text, kind)
        return left

    def _cast(self) -> _Expression:
        made = self._primary()
        while self._word("::"):
            name = self._next_word().lower()
            if name not in _CASTS:
                raise MorayError("error", f'type "{name}" does not exist')
            kind, affinity = _CASTS[name]
            made = _Expression(f"CAST({made.text} AS {affinity})", kind, made.name)
        return made

    def _primary(self) -> _Expression:
        kind, value = self._next()
        match kind, value:
            case "number", _:
                return _Expression(value, "numeric" if "." in value else "integer")
            case "string", _:
                return _Expression(value)
            case "parameter", _:
                return _Expression(f":{value[1:]}")
            case "sign", "(":
                inner = self._expression()
                self._need(")")
                return attrs.evolve(inner, text=f"({inner.text})")
            case "sign", "-":
                inner = self._cast()
                return attrs.evolve(inner, text=f"(-{inner.text})")
            case "word", _ if value.lower() not in _CLAUSES:
                return self._named(value.lower())
        self._at -= 1
        raise self._unexpected()

    def _named(self, name: str) -> _Expression:
        if self._word("("):
            return self._call(name)
        match name:
            case "null":
                return _Expression("NULL")
            case "true" | "false":
                return _Expression(str(int(name == "true")), "boolean", "bool")
        name = name.rpartition(".")[2]
        # An unknown one gets into the statement, and sqlite's complaint is PostgreSQL's.
        return _Expression(name, self._columns.get(name, "text"), name)

    def _call(self, name: str) -> _Expression:
        if name == "position":
            inner = self._sum().text
            self._need("in")
            outer = self._sum().text
            self._need(")")
            return _Expression(f"instr({outer}, {inner})", "integer", name)
        if name not in _FUNCTIONS:
            raise MorayError("error", f"function {name} does not exist")
        if name == "count" and self._word("*"):
            self._need(")")
            return _Expression("count(*)", "bigint", name)
        first = self._expression()
        rest = f", {self._list()}" if self._word(",") else self._need(")")
        return _Expression(f"{name}({first.text}{rest})", _FUNCTIONS[name] or first.kind, name)

    def _list(self) -> str:
        items = [self._expression().text]
        while self._word(","):
            items.append(self._expression().text)
        self._need(")")
        return ", ".join(items)

    # --- tokens --------------------------------------------------------------------------

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token

    def _word(self, text: str) -> bool:
        """Tell whether the next token is this word, and pass it then."""
        kind, value = self._peek()
        if kind in ("word", "sign") and value.lower() == text:
            self._at += 1
            return True
        return False

    def _is_name(self) -> bool:
        kind, value = self._peek()
        return kind == "word" and value.lower() not in _CLAUSES

    def _need(self, text: str) -> str:
        if not self._word(text):
            raise self._unexpected()
        return ""

    def _next_word(self) -> str:
        kind, value = self._next()
        if kind != "word":
            self._at -= 1
            raise self._unexpected()
        return value

    def _unexpected(self) -> MorayError:
        kind, value = self._peek()
        what = "at end of input" if kind == "end" else f'at or near "{value}"'
        return MorayError("InternalError", f"Invalid SQL: syntax error {what}")


def _wider(left: str, right: str) -> str:
    for kind in ("numeric", "bigint"):
        if kind in (left, right):
            return kind
    return "integer"


def to_wire(kind: str) -> Callable[[Any], Any] | None:
    """Return how the driver gives a value of a column; None if as it is."""
    return _TO_WIRE.get(kind)


def _timestamp(value: Any) -> Any:
    return None if value is None else _iso(str(value))


def _iso(text: str) -> str:
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


_TO_WIRE: Mapping[str, Callable[[Any], Any]] = {
    "bigint": lambda value: None if value is None else str(value),
    "boolean": lambda value: None if value is None else bool(value),
    "numeric": lambda value: None if value in ("NaN", math.inf, -math.inf) else value,
    "array": lambda value: None if value is None else json.loads(value),
    "timestamptz": _timestamp,
    "date": _timestamp,
    "void": lambda _: "",
}
