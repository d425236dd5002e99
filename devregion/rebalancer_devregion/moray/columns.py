"""This module puts fields of values into columns of a bucket, and reads them back.

A column is laid over the value on reading, so what is read is not always what was put.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from rebalancer_devregion.moray.errors import MorayError
from rebalancer_devregion.moray.javascript import (
    as_double,
    parse_float,
    stringify,
    to_string,
)
from rebalancer_devregion.moray.pgtypes import checked_text, normalise

#: Types of index, and the affinity of their columns in sqlite.  Addresses, dates and ranges are
#: kept as the text that PostgreSQL gives back, which is enough for equality.
SCALARS: Mapping[str, str] = {
    "string": "TEXT",
    "number": "NUMERIC",
    "boolean": "INTEGER",
    **dict.fromkeys(("date", "ip", "mac", "subnet", "uuid", "numrange", "daterange"), "TEXT"),
}
#: Those of which there are arrays.
_LISTED = ("string", "number", "boolean", "date", "ip", "mac", "subnet")
TYPES: Mapping[str, str] = {**SCALARS, **{f"[{name}]": "TEXT" for name in _LISTED}}
#: PostgreSQL's numeric has NaN, above all numbers; sqlite orders any text so.
NAN = "NaN"

_BOOLEAN = re.compile("true|false", re.IGNORECASE)


def to_column(name: str, value: Any, kind: str) -> Any:
    """Return what index `name` of type `kind` holds for a field's value.

    Raises:
      MorayError: InvalidIndexTypeError, or that PostgreSQL does not take it.
    """
    if value is None:
        return None
    if kind == "string" and isinstance(value, str):
        return checked_text(value)
    if kind.startswith("["):
        items = value if isinstance(value, list) else [value]
        return stringify([_shown(to_column(name, item, kind[1:-1]), kind[1:-1]) for item in items])
    if kind == "number":
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        number = as_double(value) if is_number else parse_float(to_string(value))
        return NAN if math.isnan(number) else number
    text = to_string(value)
    if kind == "boolean":
        if not _BOOLEAN.fullmatch(text):
            raise MorayError("InvalidIndexTypeError", f"index({name}) is of type {kind}")
        return text.lower() == "true"
    return normalise(kind, checked_text(text))


def _shown(raw: Any, kind: str) -> Any:
    if kind == "number":
        # Nor is there an infinity in JSON.
        return None if raw == NAN or (isinstance(raw, float) and math.isinf(raw)) else raw
    if kind == "boolean":
        return bool(raw)
    return json.loads(raw) if kind.startswith("[") else raw


def overlay(value: dict[str, Any], row: Any, index: Mapping[str, str]) -> None:
    """Lay the columns of a row over its value.

    A null column removes the field, and an array is kept where its index is for one item.
    """
    for name, kind in index.items():
        raw = row[name]
        if raw is None:
            if value.get(name) is not None:
                del value[name]
        elif kind == "string":
            if not isinstance(value.get(name), list):
                value[name] = raw
        elif kind.startswith("[") or not isinstance(value.get(name), list):
            value[name] = _shown(raw, kind)
