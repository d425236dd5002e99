"""What a request may be made of: JSON with bounds, and numbers in a query.  Pure."""

from typing import Any

from rebalancer.errors import BadRequest
from rebalancer.wire import parse_json

#: Lists and objects within one another.  An assignment has four, a job three.
MAX_DEPTH = 32
#: Digits of a number in a query, more than any such number has without leading zeros.
MAX_DIGITS = 19


def read_body(body: bytes) -> Any:
    """The parsed JSON of a request.

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
                _check_text(one)
            elif isinstance(one, list | dict) and depth > MAX_DEPTH:
                raise BadRequest(f"not JSON that can be used: nested more than {MAX_DEPTH} deep")
            elif isinstance(one, list):
                below += one
            elif isinstance(one, dict):
                below += one
                below += one.values()
        level = below
    return value


def _check_text(text: str) -> None:
    if "\0" in text:
        raise BadRequest("expected text, got a NUL in it: \\u0000")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            half = f"\\u{ord(text[exc.start]):04x}"
            raise BadRequest(f"expected text, got half of a character: {half}") from None


def whole_number(name: str, text: str, minimum: int, maximum: int) -> int:
    """The number that the parameter `name` of a query gives as `text`.

    Raises:
      BadRequest: it is none, or out of bounds.
    """
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    if not is_number or not minimum <= int(text) <= maximum:
        expected = f"expected a whole number from {minimum} to {maximum}"
        raise BadRequest(f"{name}: {expected}, got {text[:80]!r}")
    return int(text)
