"""This module does to values what a server written in JavaScript does on their way through.

Every number is a double there, and JSON text is what JSON.stringify writes.  Etags are computed
over that text, so it must be right to the letter.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any

#: Integers up to here are doubles.
MAX_SAFE = 2**53
#: Keys below this that look like integers are array indexes, which come first.
_MAX_INDEX = 2**32 - 1
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_SURROGATES = re.compile("[\ud800-\udfff]")
_FLOAT = re.compile(r"\s*([+-]?(?:Infinity|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?))")


def stringify(value: Any) -> str:
    """Return a value's JSON as JSON.stringify writes it: compact, non-ASCII as it is.

    Lone surrogates, which have no UTF-8, become U+FFFD as when Node writes the text out.
    """
    text = _write(value)
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def well_formed(value: Any) -> Any:
    """Replace lone surrogates in a value of JSON by U+FFFD, as Node does when it writes."""
    try:
        _ENCODER.encode(value).encode()
    except UnicodeEncodeError:
        return _mended(value)
    return value


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATES.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_mended(key): _mended(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_mended(item) for item in value]
    return value


def _write(value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    if isinstance(value, dict):
        members = [f"{encode_basestring(key)}:{_write(value[key])}" for key in _ordered(value)]
        return "{" + ",".join(members) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join([_write(item) for item in value]) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    number = as_double(value)
    return number_text(number) if math.isfinite(number) else "null"


def _ordered(members: Mapping[str, Any]) -> Iterable[str]:
    """Return the keys as JavaScript enumerates them: those like integers first, by value."""
    # Nearly no object has such keys, and one whose smallest key is above "9" has none.
    if min(members, default=":") >= ":":
        return members
    indexes = sorted((key for key in members if _is_index(key)), key=int)
    return [*indexes, *(key for key in members if not _is_index(key))]


def _is_index(key: str) -> bool:
    if not (key.isascii() and key.isdigit()) or len(key) > 10:
        return False
    return (key == "0" or key[0] != "0") and int(key) < _MAX_INDEX


def as_double(value: float) -> int | float:
    """Return the double nearest to a number; an int if that is exact and small."""
    if isinstance(value, int):
        if -MAX_SAFE <= value <= MAX_SAFE:
            return value
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    return int(value) if value.is_integer() and abs(value) <= MAX_SAFE else value


def number_text(value: float) -> str:
    """Return what String(number) gives: the fewest digits that read back as the same double."""
    if isinstance(value, int) and abs(value) <= MAX_SAFE:
        return str(value)
    value = float(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if value == 0:
        return "0"  # also of -0
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    text, point = "".join(map(str, digits)), len(digits) + int(exponent)
    return ("-" if sign else "") + _place(text, point)


def _place(digits: str, point: int) -> str:
    """Put the decimal point after the first `point` digits."""
    if len(digits) <= point <= 21:
        return digits + "0" * (point - len(digits))
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    mantissa = digits[0] + (f".{digits[1:]}" if len(digits) > 1 else "")
    return f"{mantissa}e{point - 1:+d}"


def to_string(value: Any) -> str:
    """Return what String(value) gives."""
    match value:
        case str():
            return value
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return number_text(as_double(value))
        case list():
            return ",".join("" if item is None else to_string(item) for item in value)
    return "[object Object]"


def parse_float(text: str) -> int | float:
    """Return what parseFloat(text) gives: the number that the text begins with, else NaN."""
    found = _FLOAT.match(text)
    return as_double(float(found[1])) if found else math.nan


def to_number(text: str) -> int | float:
    """Return what Number(text) gives: the whole text as a number, else NaN; 0 of blanks."""
    stripped = text.strip()
    if not stripped:
        return 0
    found = _FLOAT.fullmatch(stripped)
    return as_double(float(found[1])) if found else math.nan
