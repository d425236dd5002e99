"""Parsing JSON that comes in masses: records, and the messages that bring them."""

import json
from typing import Any

import msgspec


def loads(text: str | bytes) -> Any:
    """What `json.loads` returns or raises, for any input, in a third of the time.

    msgspec is strict where Python's parser is not: lone surrogates, which JavaScript writes, and
    numbers that no double can hold.  So whatever it refuses is read once more.

    Raises:
      ValueError: it is no JSON, or no text.
      RecursionError: it is nested too deeply.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return json.loads(text)
