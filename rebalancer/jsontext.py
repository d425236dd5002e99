"""This module reads and writes JSON that comes in masses: records, and messages with records.

msgspec reads it, where that is installed, in a third of the time that Python's parser takes.
"""

import itertools
import json
import math
import re
from collections.abc import Callable
from json.encoder import encode_basestring
from typing import Any, NoReturn, cast

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


def members(text: str) -> dict[str, JsonText]:
    """Return the members of an object, each as the text that stands there, numbers to the digit.

    Raises:
      ValueError: it is no object.
      RecursionError: it is nested too deeply.
    """
    cut = _cut(text, "{", ":,", "}")
    names = [loads(name) for name in cut[::2]]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("a member without a name")
    return dict(zip(names, cut[1::2], strict=True))


def elements(text: str) -> list[JsonText]:
    """Return the elements of a list, each as the text that stands there.

    Raises:
      ValueError: it is no list.
      RecursionError: it is nested too deeply.
    """
    return _cut(text, "[", ",", "]")


def _cut(text: str, opening: str, separators: str, closing: str) -> list[JsonText]:
    """Cut what stands between two brackets at these separators, which take turns."""
    found: list[JsonText] = []
    at = _behind(text, opening, _BLANKS(text).end())
    if text.startswith(closing, at):
        at += 1
    else:
        for separator in itertools.cycle(separators):
            _, end = _VALUES.raw_decode(text, at)
            found.append(JsonText(text[at:end]))
            at = _BLANKS(text, end).end()
            if separator == separators[-1] and text.startswith(closing, at):
                at += 1
                break
            at = _behind(text, separator, at)
    if _BLANKS(text, at).end() != len(text):
        raise ValueError("more than one value")
    return found


def _behind(text: str, sign: str, at: int) -> int:
    if not text.startswith(sign, at):
        raise ValueError(f"expected {sign} at {at}")
    return _BLANKS(text, at + 1).end()


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


#: Finds where a value ends; no number is made of its digits, for there may be too many.
_VALUES = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_refuse)
_BLANKS = cast(Callable[..., re.Match[str]], re.compile(r"[ \t\n\r]*").match)

try:
    import msgspec
except ImportError:
    _loads = _read
else:
    _DECODER = msgspec.json.Decoder()

    def _loads(text: str | bytes, read_float: Callable[[str], float]) -> Any:
        # msgspec is strict where Python's parser is not: lone surrogates, which JavaScript writes,
        # and numbers that no double can hold.  So whatever it refuses is read once more.
        if isinstance(text, JsonText):  # it takes no subclass
            text = str(text)
        try:
            return _DECODER.decode(text)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return _read(text, read_float)
