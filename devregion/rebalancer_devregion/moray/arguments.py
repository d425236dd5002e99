"""This module checks the arguments of methods, with the complaints of the server's validator."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from rebalancer_devregion.moray.errors import MorayError, invocation

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DIGITS = re.compile(r"[0-9]+", re.ASCII)
_ORDERS = ("ASC", "asc", "DESC", "desc")
_OPERATIONS = ("put", "delete", "update", "deleteMany")
_OPERATIONS_TEXT = '("put", "delete", "update", "deleteMany")'
_STRING = (str, "a nonempty string", "string")
#: By the name of an argument: its type, and what the server calls it.
_KINDS: Mapping[str, tuple[type, str, str]] = {
    **dict.fromkeys(("bucket", "key", "filter", "statement", "channel", "id"), _STRING),
    "count": (int, "a nonnegative integer", "integer"),
    **dict.fromkeys(("value", "fields", "config"), (dict, "an object", "object")),
    "requests": (list, "an array of valid request objects", "array"),
    "values": (list, "an array", "array"),
    "options": (dict, "a valid options object", "object"),
}

#: Says what is wrong with a value, given the path to it; None if nothing is.
_Check = Callable[[str, Any], str | None]


def check_arguments(method: str, names: tuple[str, ...], args: list[Any]) -> None:
    """Check the number and the types of a method's arguments.

    Raises:
      MorayError: InvocationError.
    """
    if len(args) != len(names):
        plural = "" if len(names) == 1 else "s"
        raise MorayError("InvocationError", f"{method} expects {len(names)} argument{plural}")
    for position, (name, value) in enumerate(zip(names, args, strict=True)):
        problem = _problem(name, value)
        if problem is not None:
            raise invocation(method, name, position, _KINDS[name][1], problem)


def _problem(name: str, value: Any) -> str | None:
    kind, _, called = _KINDS[name]
    is_right: bool = isinstance(value, kind) and not isinstance(value, bool)
    if not is_right:
        return f"{name} should be {called}"
    if value == "":
        return f"{name} should NOT be shorter than 1 characters"
    if name == "count" and value < 0:
        return f"{name} should be >= 0"
    if name == "options":
        return _options(name, value)
    if name == "requests":
        problems = (_request(f"{name}[{number}]", one) for number, one in enumerate(value))
        return next((problem for problem in problems if problem is not None), None)
    return None


def _request(path: str, value: Any) -> str | None:
    if not isinstance(value, dict):
        return f"{path} should be object"
    operation = value.get("operation", "put")
    if operation not in _OPERATIONS:
        return f"{path}.operation should be equal to one of the allowed values {_OPERATIONS_TEXT}"
    needed: Mapping[str, Mapping[str, type]] = {
        "put": {"key": str, "value": dict},
        "delete": {"key": str},
        "update": {"fields": dict, "filter": str},
        "deleteMany": {"filter": str},
    }
    for name, kind in {"bucket": str, **needed[operation]}.items():
        if name not in value:
            return f"{path} should have required property '{name}'"
        if not isinstance(value[name], kind):
            return f"{path}.{name} should be {'string' if kind is str else 'object'}"
    options = value.get("options", {})
    return _options(f"{path}.options", options)


def _options(path: str, options: Any) -> str | None:
    if not isinstance(options, dict):
        return f"{path} should be object"
    for name, check in _OPTIONS.items():
        if name in options:
            problem = check(f"{path}.{name}", options[name])
            if problem is not None:
                return problem
    return None


def _request_id(path: str, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{path} should be string"
    return None if _UUID.fullmatch(value) else f'{path} should match format "uuid"'


def _etag(path: str, value: Any) -> str | None:
    return None if value is None or isinstance(value, str) else f"{path} should be null,string"


def _boolean(path: str, value: Any) -> str | None:
    return None if isinstance(value, bool) else f"{path} should be boolean"


def _string(path: str, value: Any) -> str | None:
    return None if isinstance(value, str) else f"{path} should be string"


def _object(path: str, value: Any) -> str | None:
    return None if isinstance(value, dict) else f"{path} should be object"


def _integer(path: str, value: Any) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return f"{path} should be integer"
    return None if value >= 0 else f"{path} should be >= 0"


def _limit(path: str, value: Any) -> str | None:
    if isinstance(value, str):
        return None if _DIGITS.fullmatch(value) else f'{path} should match pattern "^[0-9]+$"'
    problem = _integer(path, value)
    return f"{path} should be integer,string" if problem and "integer" in problem else problem


def _sort(path: str, value: Any) -> str | None:
    entries = value if isinstance(value, list) else [value]
    for entry in entries:
        if not isinstance(entry, dict):
            return (
                f"{path} should be array, {path} should be object,"
                f" {path} should match some schema in anyOf"
            )
        if entry.get("order", "ASC") not in _ORDERS:
            return (
                f"{path}.order should be equal to one of the allowed values"
                f' ("ASC", "DESC"), {path} should match some schema in anyOf'
            )
    return None


#: The options whose type is checked.  All others are ignored without a word.
_OPTIONS: Mapping[str, _Check] = {
    "timeout": _integer,
    "req_id": _request_id,
    "etag": _etag,
    "_value": _string,
    **dict.fromkeys(("noBucketCache", "noCache", "noLimit", "no_count", "sql_only"), _boolean),
    **dict.fromkeys(("requireIndexes", "requireOnlineReindexing"), _boolean),
    **dict.fromkeys(("no_reindex", "deep"), _boolean),
    **dict.fromkeys(("headers", "internalOpts"), _object),
    **dict.fromkeys(("limit", "offset"), _limit),
    "sort": _sort,
}
