"""This module reads the arguments of a request, and complains as the real server does.  Pure."""

import datetime
import json
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import attrs

Read = Callable[[Any], Any]

_WHOLE, _SIGNED = range(2**64), range(-(2**63), 2**64)
#: A time as the server takes it; Python would take other forms of ISO 8601 too.
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


class BadArguments(Exception):
    """A request whose arguments the server cannot read."""


@attrs.frozen
class Field:
    """A field of the argument object."""

    read: Read
    is_optional: bool = False
    other_name: str | None = None


def loads(text: str | bytes) -> Any:
    """Parse JSON as the server does, whose numbers are of 64 bits or doubles.

    Raises:
      ValueError: it is no JSON.
    """
    return json.loads(text, parse_int=_integer)


def _integer(text: str) -> float:
    return int(text) if int(text) in _SIGNED else float(text)


def read_fields(fields: Mapping[str, Field], value: Any) -> dict[str, Any]:
    """Return the values of an object's fields by their names; absent ones are None.

    Raises:
      BadArguments: one is missing, or of another type.
    """
    if not isinstance(value, dict):
        raise _wrong(value, "struct")
    names = {name: name for name in fields}
    names |= {field.other_name: name for name, field in fields.items() if field.other_name}
    found = {}
    for spelt, given in value.items():
        if (name := names.get(spelt)) is not None:
            field = fields[name]
            found[name] = None if given is None and field.is_optional else field.read(given)
    for name, field in fields.items():
        if name not in found and not field.is_optional:
            raise BadArguments(f"missing field `{name}`")
    return {**dict.fromkeys(fields), **found}


def text(value: Any) -> str:
    """Read a text."""
    if not isinstance(value, str):
        raise _wrong(value, "a string")
    return value


def whole(value: Any) -> int:
    """Read a number that counts something."""
    if type(value) is not int:
        raise _wrong(value, "u64")
    if value not in _WHOLE:
        raise BadArguments(f"invalid value: integer `{value}`, expected u64")
    return value


def uuid_text(value: Any) -> str:
    """Read a UUID, in any of its spellings."""
    try:
        return str(uuid.UUID(text(value)))
    except ValueError as exc:
        raise BadArguments(f"UUID parsing failed: {exc}") from exc


def headers(value: Any) -> dict[str, str | None]:
    """Read texts by name, some of which may be null."""
    if not isinstance(value, dict):
        raise _wrong(value, "a map")
    return {name: None if one is None else text(one) for name, one in value.items()}


def anything(value: Any) -> Any:
    """Read any value."""
    return value


def list_of(read: Read) -> Read:
    """Return how to read a list."""

    def read_list(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong(value, "a sequence")
        return [read(one) for one in value]

    return read_list


def object_of(fields: Mapping[str, Field]) -> Read:
    """Return how to read an object."""
    return lambda value: read_fields(fields, value)


def _time(value: Any) -> datetime.datetime:
    if not _TIME.fullmatch(text(value)):
        raise BadArguments("input contains invalid characters")
    try:
        return datetime.datetime.fromisoformat(value)
    except ValueError as exc:
        raise BadArguments("input is out of range") from exc


_SHARK = {"datacenter": Field(text), "manta_storage_id": Field(text)}
_ETAGS, _SINCE = list_of(text), _time
_CONDITIONS = {
    # Either spelling counts; any other name is ignored without a word.
    name: Field(read, is_optional=True, other_name=name.replace("_", "-"))
    for name, read in {
        "if_match": _ETAGS,
        "if_none_match": _ETAGS,
        "if_modified_since": _SINCE,
        "if_unmodified_since": _SINCE,
    }.items()
}
REQUEST_ID = {"request_id": Field(uuid_text)}
VNODE = {"vnode": Field(whole), **REQUEST_ID}
BUCKET = {"owner": Field(uuid_text), "name": Field(text), **VNODE}
_LIST = {
    "limit": Field(whole),
    "prefix": Field(text, is_optional=True),
    "marker": Field(text, is_optional=True),
    **VNODE,
}
LIST_BUCKETS = {"owner": Field(uuid_text), **_LIST}
LIST_OBJECTS = {"owner": Field(uuid_text), "bucket_id": Field(uuid_text), **_LIST}
OBJECT = {
    "owner": Field(uuid_text),
    "bucket_id": Field(uuid_text),
    "name": Field(text),
    **VNODE,
    "conditions": Field(object_of(_CONDITIONS), is_optional=True),
}
UPDATE_OBJECT = {
    **OBJECT,
    "id": Field(uuid_text),
    "content_type": Field(text),
    "headers": Field(headers),
    "sharks": Field(list_of(object_of(_SHARK)), is_optional=True),
    "properties": Field(anything, is_optional=True),
}
CREATE_OBJECT = {
    **UPDATE_OBJECT,
    "content_length": Field(whole),
    "content_md5": Field(text),
    "sharks": Field(list_of(object_of(_SHARK))),
}
BATCH = {"objects": Field(list_of(object_of(UPDATE_OBJECT))), **REQUEST_ID}
GC_BATCH = {"batch_id": Field(uuid_text), **REQUEST_ID}


def _wrong(value: Any, expected: str) -> BadArguments:
    return BadArguments(f"invalid type: {_described(value)}, expected {expected}")


def _described(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f"string {json.dumps(value, ensure_ascii=False)}"
        case list():
            return "sequence"
    return "map"
