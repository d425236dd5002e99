"""The first stage of a filter is the WHERE that Moray makes of what is indexed.

The text is the real server's, parameters and blanks included, because `sql_only` shows it;
`for_sqlite` says the same to sqlite.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from rebalancer_devregion.moray import filters
from rebalancer_devregion.moray.errors import MorayError, not_indexed
from rebalancer_devregion.moray.filters import Either, Every, Filter, Not, Term
from rebalancer_devregion.moray.javascript import parse_float
from rebalancer_devregion.moray.pgtypes import checked_text, normalise

#: Presence of these cannot be asked for: the server makes no clause of it.
_WITHOUT_PRESENCE = ("_key", "_etag", "_txn_snap")
#: PostgreSQL's names of the types of columns that are no text.
_TYPES: Mapping[str, str] = {
    "number": "numeric",
    "boolean": "boolean",
    "date": "timestamp with time zone",
    "ip": "inet",
    "mac": "macaddr",
    "subnet": "cidr",
    "uuid": "uuid",
    "numrange": "numrange",
    "daterange": "tstzrange",
}
_INTERNAL_TYPES: Mapping[str, str] = {"_id": "bigint", "_mtime": "bigint", "_txn_snap": "integer"}


@attrs.frozen
class Where:
    """A condition has parameters $1 and on, and their values."""

    text: str
    values: tuple[Any, ...]

    @property
    def for_sqlite(self) -> str:
        """Return the condition in sqlite's spelling."""
        text = re.sub(r"LIKE (lower\(\$\d+\)|\$\d+)", r"LIKE \1 ESCAPE '\\'", self.text)
        return re.sub(r"\$(\d+)", r":p\1", text)

    @property
    def bindings(self) -> dict[str, Any]:
        """Return the parameters by sqlite's names."""
        return {f"p{number}": value for number, value in enumerate(self.values, 1)}


def compile_where(bucket: str, found: Filter, index: Mapping[str, str]) -> Where | None:
    """Return the condition on indexed fields; None if there is none of them.

    `index` gives the type of each usable index.

    Raises:
      MorayError: NotIndexedError: an alternative has a member that no index serves.
    """
    values: list[Any] = []

    def parameter(value: Any) -> str:
        values.append(checked_text(value) if isinstance(value, str) else value)
        return f"${len(values)}"

    text = _compile(bucket, found, index, parameter)
    return Where(text, tuple(values)) if text else None


def _compile(
    bucket: str, found: Filter, index: Mapping[str, str], parameter: Callable[[Any], str]
) -> str:
    match found:
        case Term():
            return _term(found, index, parameter)
        case Not(member=member):
            inner = _compile(bucket, member, index, parameter)
            return f" NOT ({inner})" if inner else ""
        case Every(members=members):
            texts = [_compile(bucket, member, index, parameter) for member in members]
            return "AND".join(f" ({text}) " for text in texts if text)
        case Either(members=members):
            texts = []
            for position, member in enumerate(members):
                texts.append(_compile(bucket, member, index, parameter))
                if not texts[-1]:
                    raise _no_alternative(bucket, found, members[:position], index)
            return "OR".join(f" ({text}) " for text in texts)


def _no_alternative(
    bucket: str, found: Filter, before: tuple[Filter, ...], index: Mapping[str, str]
) -> MorayError:
    """Return the error of a filter in which the server has put numbers, so cannot write it out."""
    kinds = [
        index.get(name, filters.INTERNAL.get(name))
        for one in before
        for name in filters.fields(one)
    ]
    if "number" in kinds:
        return MorayError("Error", "invalid value type")
    return not_indexed(bucket, filters.to_text(found))


def _term(term: Term, index: Mapping[str, str], parameter: Callable[[Any], str]) -> str:
    kind = index.get(term.field) or filters.INTERNAL.get(term.field)
    if kind is None:
        return ""
    column = term.field
    if term.is_presence:
        return "" if column in _WITHOUT_PRESENCE else f"{column} IS NOT NULL"
    if len(term.parts) > 1:
        _check_has_pattern(column, kind, ignores_case=term.ignores_case)
        name = parameter(_pattern(term.parts))
        if term.ignores_case:
            return f"lower({column}) LIKE lower({name})"
        return f"{column} LIKE {name}"
    if term.rule == filters.WITHIN:
        return _within(term, kind, parameter)
    value = _parameter_value(term.parts[0], kind)
    if term.ignores_case:
        return f" ( lower({parameter(value)}) = lower({column}) AND {column} IS NOT NULL ) "
    mirrored = {"=": "=", ">=": "<=", "<=": ">="}[term.operator]
    return f" ( {parameter(value)} {mirrored} {column} AND {column} IS NOT NULL ) "


def _within(term: Term, kind: str, parameter: Callable[[Any], str]) -> str:
    """Return the bounds one by one: sqlite has no ranges."""
    limits = filters.read_range(term.parts[0])
    tests = [f"{term.field} IS NOT NULL"]
    if limits.low is not None:
        operator = "<=" if limits.low_included else "<"
        tests.append(f"{parameter(_parameter_value(limits.low, kind))} {operator} {term.field}")
    if limits.high is not None:
        operator = ">=" if limits.high_included else ">"
        tests.append(f"{parameter(_parameter_value(limits.high, kind))} {operator} {term.field}")
    return f" ( {' AND '.join(tests)} ) "


def _parameter_value(text: str, kind: str) -> Any:
    if kind == "number":
        return parse_float(text)  # NaN matches nothing, and is no error
    if kind == "boolean":
        return text.lower() == "true"
    return normalise(kind, text)


def _check_has_pattern(column: str, kind: str, *, ignores_case: bool) -> None:
    """Refuse a pattern for a column that is no text, as PostgreSQL does.

    Raises:
      MorayError: `error`.
    """
    name = kind.strip("[]")
    called = _INTERNAL_TYPES.get(column) or _TYPES.get(name)
    if kind.startswith("["):
        called = f"{called or 'text'}[]"
    if called is not None:
        if ignores_case:
            raise MorayError("error", f"function lower({called}) does not exist")
        raise MorayError("error", f"operator does not exist: {called} ~~ unknown")


def _pattern(parts: tuple[str, ...]) -> str:
    """Return LIKE's pattern: a piece at the end may be anywhere, and % and _ are not escaped."""
    first, *others = parts
    return (f"{first}%" if first else "") + "".join(f"%{part}%" for part in others if part)
