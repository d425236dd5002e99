"""Requests are made of JSON with bounds, and of numbers in a query, read here.  Pure."""

from typing import Any

from rebalancer.converter import parse_json
from rebalancer.errors import BadRequest

#: Lists and objects within one another.  An assignment has four, a job three.
MAX_DEPTH = 32
#: Digits of a number in a query, more than any such number has without leading zeros.
MAX_DIGITS = 19


def read_body(body: bytes) -> Any:
    """Parse the JSON body of a request.

    Raises:
      BadRequest: it is no JSON, nested too deeply, or has text that no file and no socket can take.
      TooLarge: it has too many values.
    """
    value = parse_json(body)
    level, depth = [value], 0
    while level:
        depth += 1
        below = list[Any]()
        for one in level:
            if isinstance(one, str):
                if (fault := _fault(one)) is not None:
                    raise BadRequest(f"expected text, got {fault} at {_place(value, one)}")
            elif isinstance(one, list | dict) and depth > MAX_DEPTH:
                raise BadRequest(f"not JSON that can be used: nested more than {MAX_DEPTH} deep")
            elif isinstance(one, list):
                below += one
            elif isinstance(one, dict):
                below += one
                below += one.values()
        level = below
    return value


def _fault(text: str) -> str | None:
    """Say what keeps `text` from being written to a file; None if nothing does."""
    if "\0" in text:
        return "NUL"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            return f"half of a character, \\u{ord(text[exc.start]):04x},"
    return None


def _place(value: Any, text: str, path: str = "$") -> str | None:
    """Say where in `value` this very `text` is; nothing above it is nested deeply."""
    if value is text:
        return path
    if isinstance(value, dict):
        if any(key is text for key in value):
            return f"a key of {path}"
        inner = ((f"{path}.{key}", one) for key, one in value.items())
    elif isinstance(value, list):
        inner = ((f"{path}[{index}]", one) for index, one in enumerate(value))
    else:
        return None
    return next((found for where, one in inner if (found := _place(one, text, where))), None)


def whole_number(name: str, text: str, minimum: int, maximum: int) -> int:
    """Read the number that the parameter `name` of a query gives as `text`.

    Raises:
      BadRequest: it is none, or out of bounds.
    """
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    if not is_number or not minimum <= int(text) <= maximum:
        expected = f"expected a whole number from {minimum} to {maximum}"
        raise BadRequest(f"{name}: {expected}, got {text[:80]!r}")
    return int(text)
