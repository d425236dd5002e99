"""Moray's search filters: parsed, turned into SQL on indexed fields, and applied once more.

The real server filters twice: in SQL on what is indexed, then in JavaScript on each row.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

_ATTRIBUTE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(>=|<=|=)")
#: Columns that may be filtered without an index entry.
_INTERNAL = frozenset({"_id", "_mtime", "_etag", "_key", "_txn_snap"})


class InvalidFilter(ValueError):
    """Text that is no filter."""


class NotIndexed(ValueError):
    """An OR over a field without index: `args[0]` are the fields."""


@attrs.frozen
class Term:
    """One comparison; `parts` are the pieces between wildcards, one piece meaning none."""

    field: str
    operator: str  # =, >=, <=
    parts: tuple[str, ...]

    @property
    def is_presence(self) -> bool:
        """Whether it asks only for a value to be there."""
        return self.operator == "=" and self.parts == ("", "")


@attrs.frozen
class Every:
    """Every member must match."""

    members: "tuple[Filter, ...]"


@attrs.frozen
class Either:
    """One member must match."""

    members: "tuple[Filter, ...]"


@attrs.frozen
class Not:
    """The member must not match."""

    member: "Filter"


Filter = Term | Every | Either | Not


def parse(text: str) -> Filter:
    """Read a filter.

    Raises:
      InvalidFilter: it is none; blanks between parts are enough for that.
    """
    if not text.startswith(("(", "!")):
        text = f"({text})"
    found, end = _parse(text, 0)
    if end != len(text):
        raise InvalidFilter(text)
    return found


def _parse(text: str, at: int) -> tuple[Filter, int]:
    if text[at : at + 1] == "!":
        member, end = _parse(text, at + 1)
        return Not(member), end
    if text[at : at + 1] != "(":
        raise InvalidFilter(text)
    kind = text[at + 1 : at + 2]
    if kind in ("&", "|"):
        members, end = [], at + 2
        while text[end : end + 1] == "(":
            member, end = _parse(text, end)
            members.append(member)
        if not members or text[end : end + 1] != ")":
            raise InvalidFilter(text)
        made: Filter = Every(tuple(members)) if kind == "&" else Either(tuple(members))
        return made, end + 1
    if kind == "!":
        member, end = _parse(text, at + 2)
        if text[end : end + 1] != ")":
            raise InvalidFilter(text)
        return Not(member), end + 1
    return _parse_term(text, at + 1)


def _parse_term(text: str, at: int) -> tuple[Term, int]:
    match = _ATTRIBUTE.match(text, at)
    if match is None:
        raise InvalidFilter(text)
    parts, end = [""], match.end()
    while end < len(text) and text[end] != ")":
        character = text[end]
        if character == "(":
            raise InvalidFilter(text)
        if character == "\\":
            taken, end = _escaped(text, end + 1)
            parts[-1] += taken
            continue
        if character == "*" and match[2] == "=":
            parts.append("")
        else:
            parts[-1] += character
        end += 1
    if end >= len(text):
        raise InvalidFilter(text)
    return Term(match[1], match[2], tuple(parts)), end + 1


def _escaped(text: str, at: int) -> tuple[str, int]:
    if re.fullmatch(r"[0-9a-fA-F]{2}", text[at : at + 2]):
        return chr(int(text[at : at + 2], 16)), at + 2
    return text[at : at + 1], at + 1


def fields(found: Filter) -> set[str]:
    """Every field a filter names."""
    match found:
        case Term(field=field):
            return {field}
        case Not(member=member):
            return fields(member)
        case Every(members=members) | Either(members=members):
            return set().union(*(fields(member) for member in members))


def to_sql(found: Filter, index: Mapping[str, str]) -> tuple[str, list[Any]] | None:
    """The first stage: a WHERE and its parameters; None if nothing in it is indexed.

    `index` gives the type, string or number, of each indexed field.

    Raises:
      NotIndexed: an OR has a member that no index serves.
    """
    match found:
        case Term():
            return _term_sql(found, index)
        case Not(member=member):
            inner = to_sql(member, index)
            return None if inner is None else (f"NOT ({inner[0]})", inner[1])
        case Every(members=members):
            usable = [sql for member in members if (sql := to_sql(member, index)) is not None]
            return _join(" AND ", usable)
        case Either(members=members):
            parts = [to_sql(member, index) for member in members]
            if None in parts:
                raise NotIndexed(sorted(fields(found) - set(index)))
            return _join(" OR ", [part for part in parts if part is not None])


def _join(word: str, parts: list[tuple[str, list[Any]]]) -> tuple[str, list[Any]] | None:
    if not parts:
        return None
    return word.join(f"({sql})" for sql, _ in parts), [v for _, values in parts for v in values]


def _term_sql(term: Term, index: Mapping[str, str]) -> tuple[str, list[Any]] | None:
    kind = index.get(term.field) or ("number" if term.field in ("_id", "_mtime") else None)
    if kind is None and term.field not in _INTERNAL:
        return None
    column = f'"{term.field}"'
    if len(term.parts) > 1:
        if term.is_presence:
            return f"{column} IS NOT NULL", []
        pattern = "%".join(re.sub(r"([%_\\])", r"\\\1", part) for part in term.parts)
        return f"{column} LIKE ? ESCAPE '\\'", [pattern]
    value: Any = term.parts[0]
    if kind == "number":
        try:
            value = float(value)
        except ValueError:
            return "0", []  # no match, and no error
    return f"{column} {term.operator} ? AND {column} IS NOT NULL", [value]


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    ">=": lambda a, b: bool(a >= b),
    "<=": lambda a, b: bool(a <= b),
}


def matches(found: Filter, value: Mapping[str, Any], index: Mapping[str, str]) -> bool:
    """The second stage, on a whole record with its `_` fields laid over it."""
    match found:
        case Not(member=member):
            return not matches(member, value, index)
        case Every(members=members):
            return all(matches(member, value, index) for member in members)
        case Either(members=members):
            return any(matches(member, value, index) for member in members)
        case Term():
            return _term_matches(found, value.get(found.field), index)


def _term_matches(term: Term, value: Any, index: Mapping[str, str]) -> bool:
    if value is None:
        return False
    if len(term.parts) > 1:
        pattern = ".*".join(re.escape(part) for part in term.parts)
        return re.fullmatch(pattern, str(value), re.DOTALL) is not None
    wanted: Any = term.parts[0]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # An unindexed number never equals the filter's string, while >= and <= coerce.
    if is_number and (term.operator != "=" or term.field in index or term.field in _INTERNAL):
        try:
            wanted = float(wanted)
        except ValueError:
            return False
    elif is_number:
        return False
    elif not isinstance(value, str):
        value = str(value)
    return _COMPARE[term.operator](value, wanted)
