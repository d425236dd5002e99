"""This module reads and writes JSON that comes in masses: records, and what brings them.

msgspec reads it, where that is installed, in a third of the time that Python's parser takes.
"""

import json
import math
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any, NoReturn

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class JsonText(str):
    """A value that is JSON text already."""

    __slots__ = ()


def dumps(value: Any) -> str:
    """Write `value` as JavaScript would: compact, and not only in ASCII.

    Raises:
      ValueError: a number is infinite or none, for which JSON has no form.
    """
    if type(value) is str:
        return encode_basestring(value)
    return value if isinstance(value, JsonText) else _ENCODER.encode(value)


def loads(text: str | bytes) -> Any:
    """Parse as `json.loads` does, but without its constants.

    Raises:
      ValueError: it is no JSON, as NaN and Infinity are none, or no text.
      RecursionError: it is nested too deeply.
    """
    return _loads(text, float)


def loads_exactly(text: str | bytes) -> Any:
    """Return what `loads` returns, if `dumps` can write it again.

    Raises:
      ValueError: as of `loads`, and for a number that no double can hold, such as 1e999.
      RecursionError: it is nested too deeply.
    """
    return _loads(text, _finite)


def is_text(value: str) -> bool:
    """Tell whether UTF-8 can hold `value`: JSON can name halves of characters, disks cannot."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _finite(number: str) -> float:
    if math.isinf(made := float(number)):
        raise ValueError(f"no double holds {number[:40]}")
    return made


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _read(text: str | bytes, read_float: Callable[[str], float]) -> Any:
    return json.loads(text, parse_constant=_refuse, parse_float=read_float)


try:
    import msgspec
except ImportError:
    _loads = _read
else:
    _DECODER = msgspec.json.Decoder()

    def _loads(text: str | bytes, read_float: Callable[[str], float]) -> Any:
        # msgspec is strict where Python's parser is not: lone surrogates, which JavaScript writes,
        # and numbers that no double can hold.  So whatever it refuses is read once more.
        try:
            return _DECODER.decode(text)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return _read(text, read_float)
