"""This module parses Moray's search filters, and applies them to one record.

The real server filters twice: in SQL on what is indexed (`where.py`), then in JavaScript on each
row, which is what `matches` does.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from rebalancer_devregion.moray.javascript import parse_float, to_number, to_string

_ATTRIBUTE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(>=|<=|~=|=|:([A-Za-z]+):=)")
_SPECIAL = re.compile(r"[()\\*]")
#: What may follow a backslash, beside two hexadecimal digits.
_ESCAPABLE = ("(", ")", "*", "\\", "=")
#: Columns that may be filtered without an index entry.
INTERNAL: Mapping[str, str] = {
    "_id": "number",
    "_mtime": "number",
    "_txn_snap": "number",
    "_etag": "string",
    "_key": "string",
}
#: The extension that compares with a range.
WITHIN = "within"
_IGNORING_CASE = ("caseIgnoreMatch", "caseIgnoreSubstringsMatch")


class InvalidFilter(ValueError):
    """A text is no filter."""


class Approximate(ValueError):
    """A filter has `~=`, on which the server fails in another way."""


@attrs.frozen
class Term:
    """A term is one comparison; `parts` are the pieces between wildcards, one piece meaning none.

    `rule` names the extension that compares, if one does.
    """

    field: str
    operator: str  # =, >=, <=
    parts: tuple[str, ...]
    rule: str = ""

    @property
    def is_presence(self) -> bool:
        """Tell whether it asks only for a value to be there."""
        return self.operator == "=" and self.parts == ("", "")

    @property
    def ignores_case(self) -> bool:
        """Tell whether upper and lower case are alike."""
        return self.rule in _IGNORING_CASE


@attrs.frozen
class Every:
    """A record matches if every member does."""

    members: "tuple[Filter, ...]"


@attrs.frozen
class Either:
    """A record matches if one member does."""

    members: "tuple[Filter, ...]"


@attrs.frozen
class Not:
    """A record matches if the member does not."""

    member: "Filter"


Filter = Term | Every | Either | Not


def parse(text: str) -> Filter:
    """Read a filter.

    Raises:
      InvalidFilter: it is none; blanks between parts are enough for that.
      Approximate: it uses `~=`.
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
    field, operator, rule = match[1], match[2], match[3] or ""
    if rule and rule not in (WITHIN, *_IGNORING_CASE):
        raise InvalidFilter(text)
    operator = "=" if rule else operator
    parts, end = [""], match.end()
    while end < len(text) and text[end] != ")":
        character = text[end]
        # A range may end in a parenthesis, which must be escaped like any other.
        if character == "(":
            raise InvalidFilter(text)
        if character == "\\":
            taken, end = _escaped(text, end + 1)
            parts[-1] += taken
            continue
        if character == "*" and operator == "=" and rule != "caseIgnoreMatch":
            parts.append("")
        else:
            parts[-1] += character
        end += 1
    if end >= len(text):
        raise InvalidFilter(text)
    if operator == "~=":
        raise Approximate(text)
    if rule == WITHIN:
        read_range(parts[0])
    return Term(field, operator, tuple(parts), rule), end + 1


def _escaped(text: str, at: int) -> tuple[str, int]:
    if re.fullmatch(r"[0-9a-fA-F]{2}", text[at : at + 2]):
        return chr(int(text[at : at + 2], 16)), at + 2
    if text[at : at + 1] not in _ESCAPABLE:
        raise InvalidFilter(text)
    return text[at : at + 1], at + 1


def to_text(found: Filter) -> str:
    """Return a filter as the server writes it in its errors."""
    match found:
        case Not(member=member):
            return f"(!{to_text(member)})"
        case Every(members=members):
            return f"(&{''.join(map(to_text, members))})"
        case Either(members=members):
            return f"(|{''.join(map(to_text, members))})"
    value = "*".join(_SPECIAL.sub(lambda m: f"\\{ord(m[0]):02x}", part) for part in found.parts)
    operator = f":{found.rule}:=" if found.rule else found.operator
    return f"({found.field}{operator}{value})"


def fields(found: Filter) -> list[str]:
    """Return every field that a filter names, once, in their order."""
    match found:
        case Term(field=field):
            return [field]
        case Not(member=member):
            return fields(member)
        case Every(members=members) | Either(members=members):
            return list(dict.fromkeys(name for member in members for name in fields(member)))


@attrs.frozen
class Range:
    """A range is in PostgreSQL's notation, `[a,b)` and the like; None is no end."""

    low: str | None
    high: str | None
    low_included: bool
    high_included: bool


def read_range(text: str) -> Range:
    """Return an interval.

    Raises:
      InvalidFilter: it is none.
    """
    match = re.fullmatch(r"([\[(])([^,]*),([^,]*)([\])])", text)
    if match is None:
        raise InvalidFilter(text)
    return Range(match[2] or None, match[3] or None, match[1] == "[", match[4] == "]")


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    ">=": lambda a, b: bool(a >= b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    "<": lambda a, b: bool(a < b),
}


def matches(found: Filter, value: Mapping[str, Any], index: Mapping[str, str]) -> bool:
    """Apply a filter's second stage to a whole record with its `_` fields laid over it.

    `index` gives the type of each field that the first stage could use.
    """
    match found:
        case Not(member=member):
            return not matches(member, value, index)
        case Every(members=members):
            return all(matches(member, value, index) for member in members)
        case Either(members=members):
            return any(matches(member, value, index) for member in members)
        case Term():
            kind = index.get(found.field) or INTERNAL.get(found.field)
            held = value.get(found.field)
            if isinstance(held, list):
                if found.is_presence:
                    return True  # also of an empty one
                return any(_term_matches(found, item, kind) for item in held)
            return _term_matches(found, held, kind)


def _term_matches(term: Term, value: Any, kind: str | None) -> bool:
    if value is None:
        return False
    if len(term.parts) > 1:
        pattern = ".*".join(re.escape(part) for part in term.parts)
        flags = re.DOTALL | (re.IGNORECASE if term.ignores_case else 0)
        return re.fullmatch(pattern, to_string(value), flags) is not None
    if term.rule == WITHIN:
        return _is_within(value, read_range(term.parts[0]), kind)
    if term.ignores_case:
        return to_string(value).lower() == term.parts[0].lower()
    return _compares(value, term.operator, term.parts[0], kind)


def _is_within(value: Any, limits: Range, kind: str | None) -> bool:
    low, high = limits.low, limits.high
    above = ">=" if limits.low_included else ">"
    below = "<=" if limits.high_included else "<"
    return (low is None or _compares(value, above, low, kind)) and (
        high is None or _compares(value, below, high, kind)
    )


def _compares(value: Any, operator: str, text: str, kind: str | None) -> bool:
    """Compare as JavaScript does; the first stage made numbers and booleans of indexed values."""
    compare = _COMPARE[operator]
    if isinstance(value, str):
        if kind != "number":
            return compare(value, text)
        value = to_number(value)
    elif isinstance(value, bool):
        if kind == "boolean":
            return compare(value, text.lower() == "true")
        # What is not indexed is compared with the text itself, strictly if for equality.
        return operator != "=" and compare(int(value), to_number(text))
    elif not isinstance(value, int | float):
        return compare(to_string(value), text)
    elif kind != "number":
        return operator != "=" and compare(value, to_number(text))
    wanted = parse_float(text)
    return not math.isnan(wanted) and compare(value, wanted)
