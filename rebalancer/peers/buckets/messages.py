"""This module has the messages to and from buckets-mdapi.  Pure.

What a server answers is kept as text wherever it is sent back: numbers have digits that no double
holds, and an update that drops a header or a property of a user's loses it for good.
"""

import datetime
import enum
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from typing import Any

import attrs

from rebalancer import jsontext
from rebalancer.domain.bucket_objects import BucketKey, shark_text, split_shark
from rebalancer.errors import PeerMalformed
from rebalancer.jsontext import JsonText
from rebalancer.peers.buckets.rows import read_row
from rebalancer.peers.metadata import Kind, MetadataError
from rebalancer.peers.moray.errors import classify

#: The columns of an object, as every answer with one has them.
COLUMNS = frozenset(
    """id name owner bucket_id created modified content_length content_md5 content_type headers
    sharks properties""".split()  # noqa: SIM905
)


class Method(enum.StrEnum):
    """A method that this program may call.

    Others would hand living copies to garbage collection, so there is no way to call them.
    """

    GET_OBJECT = "getobject"
    UPDATE_OBJECT = "updateobject"
    #: Only without objects, to learn whether the server can change sharks.
    BATCH_UPDATE_OBJECTS = "batchupdateobjects"
    LIST_VNODES = "listvnodes"


_KINDS: Mapping[str, Kind] = {
    "ObjectNotFound": Kind.MISSING,
    "PreconditionFailedError": Kind.CONFLICT,
    "OverloadedError": Kind.OVERLOADED,
}


class MdapiError(MetadataError):
    """A buckets-mdapi answered with an error, or cannot be asked for what is needed."""


def error_of(name: str, message: str, key: str | None = None) -> MdapiError:
    """Return the error of an answer; one that is not known is permanent."""
    kind = _KINDS.get(name, Kind.PERMANENT)
    if name == "PostgresError":
        kind = classify("error", message)
    return MdapiError(name, message, kind, key)


@attrs.frozen
class BucketRow:
    """A bucket row is an object as a server showed it, with the texts to send back."""

    text: JsonText
    id: str
    #: As a row has them, except that servers do not show what follows a second colon.
    sharks: list[str]
    modified: str
    content_type: JsonText
    headers: JsonText
    properties: JsonText

    @property
    def value(self) -> dict[str, Any]:
        """Return the columns, as a row's own text has them."""
        return {**read_row(self.text), "sharks": self.sharks}


def get_object(key: BucketKey, request_id: str) -> JsonText:
    """Return the arguments of `getobject`."""
    return _arguments(_key(key), request_id=request_id)


def update_object(
    key: BucketKey, row: BucketRow, sharks: Sequence[str], request_id: str
) -> JsonText:
    """Return the arguments of an `updateobject` that changes nothing of `row` but its sharks.

    It is conditional on the row's id and time of modification.
    """
    fields = {
        **_key(key),
        "id": jsontext.dumps(row.id),
        "content_type": row.content_type,
        "headers": row.headers,
        "sharks": jsontext.dumps([_shark(shark) for shark in sharks]),
        "conditions": jsontext.dumps({"if-match": [row.id], "if-unmodified-since": row.modified}),
    }
    if row.properties != "null":  # which an update without any makes of them
        fields["properties"] = row.properties
    return _arguments(fields, request_id=request_id)


def probe(request_id: str) -> JsonText:
    """Return the arguments of a `batchupdateobjects` of no object."""
    return _arguments({"objects": "[]"}, request_id=request_id)


def list_vnodes(request_id: str) -> JsonText:
    """Return the arguments of `listvnodes`."""
    return _arguments({}, request_id=request_id)


def _key(key: BucketKey) -> dict[str, str]:
    return {
        "owner": jsontext.dumps(key.owner),
        "bucket_id": jsontext.dumps(key.bucket_id),
        "name": jsontext.dumps(key.name),
        "vnode": f"{key.vnode:d}",
    }


def _arguments(fields: Mapping[str, str], *, request_id: str) -> JsonText:
    """Return one object in a list, of values that are JSON already."""
    every = {**fields, "request_id": jsontext.dumps(request_id)}
    members = ",".join(f"{jsontext.dumps(name)}:{value}" for name, value in every.items())
    return JsonText(f"[{{{members}}}]")


def _shark(text: str) -> dict[str, str]:
    datacenter, storage_id = split_shark(text) or ("", text)
    return {"datacenter": datacenter, "manta_storage_id": storage_id}


def read_payload(payload: bytes) -> Any:
    """Parse the payload of a Fast message, and leave the elements of its `d` as texts.

    Raises:
      ValueError: it is no object.
      RecursionError: it is nested too deeply.
    """
    document: dict[str, Any] = dict(jsontext.members(payload.decode()))
    for name, text in document.items():
        is_list = name == "d" and text.startswith("[")
        document[name] = jsontext.elements(text) if is_list else jsontext.loads(text)
    return document


def read_object(rows: Sequence[JsonText], key: str) -> BucketRow:
    """Return the object of an answer.

    Raises:
      MdapiError: the answer is an error.
      PeerMalformed: it is neither.
    """
    text, members = _only(rows, key)
    if not members.keys() >= COLUMNS:
        raise PeerMalformed(f"an answer that is neither an object nor an error: {text[:200]}")
    match [jsontext.loads(members[name]) for name in ("id", "modified", "sharks")]:
        case [str(object_id), str(modified), [*sharks]]:
            pass
        case _:
            raise PeerMalformed(f"an object without id, time or sharks: {text[:200]}")
    return BucketRow(
        text,
        object_id,
        [_text_of(shark) for shark in sharks],
        modified,
        members["content_type"],
        members["headers"],
        members["properties"],
    )


def read_probe(rows: Sequence[JsonText]) -> None:
    """Return if a server answered a batch of no object as one that can change sharks.

    Raises:
      MdapiError: the answer is an error.
      PeerMalformed: it is neither.
    """
    text, _ = _only(rows, None)
    if jsontext.loads(text) != {"failed_vnodes": []}:
        raise PeerMalformed(f"an answer to an empty batch that is none: {text[:200]}")


def read_vnodes(rows: Sequence[JsonText]) -> list[int]:
    """Return the vnodes of an answer.

    Raises:
      MdapiError: the answer is an error.
      PeerMalformed: it is neither.
    """
    text, _ = _only(rows, None)
    match jsontext.loads(text):
        case {"vnodes": [*vnodes]} if all(type(vnode) is int for vnode in vnodes):
            return list(vnodes)
    raise PeerMalformed(f"an answer without vnodes: {text[:200]}")


def _only(rows: Sequence[JsonText], key: str | None) -> tuple[JsonText, dict[str, JsonText]]:
    """Return the only element of an answer, and its members.

    Raises:
      MdapiError: it is an error, in one of the forms that there are.
      PeerMalformed: there is another number of them, or it is no object.
    """
    if len(rows) != 1:
        raise PeerMalformed(f"expected one object, got {len(rows)}")
    try:
        members = jsontext.members(rows[0])
        if members.keys() >= COLUMNS:
            return rows[0], members
        document = jsontext.loads(rows[0])
    except (ValueError, RecursionError) as exc:
        raise PeerMalformed(f"expected an object: {exc}") from exc
    match document:
        case {"error": {"name": str(name), "message": str(message)}}:
            raise error_of(name, message, key)
        case {"name": str(name), "message": str(message)}:
            raise error_of(name, message, key)
        case {"LimitConstraintError": str(message)}:
            raise error_of("LimitConstraintError", message, key)
    return rows[0], members


def _text_of(shark: object) -> str:
    match shark:
        case {"datacenter": str(datacenter), "manta_storage_id": str(storage_id)}:
            return shark_text(datacenter, storage_id)
    raise PeerMalformed("a shark without datacenter or storage id")


def is_shown_exactly(row: BucketRow, known: JsonText) -> bool:
    """Tell whether a server shows the properties as the database had them, to the digit.

    `known` is the text of the row as it was in the database; if the row was modified since, there
    is nothing to compare.
    """
    members = jsontext.members(known)
    if "properties" not in members or "modified" not in members:
        return True
    if _time(jsontext.loads(members["modified"])) != _time(row.modified):
        return True
    return bool(_to_the_digit(members["properties"]) == _to_the_digit(row.properties))


def _time(text: object) -> datetime.datetime | None:
    with suppress(ValueError):
        return datetime.datetime.fromisoformat(str(text))
    return None


_to_the_digit = partial(json.loads, parse_int=Decimal, parse_float=Decimal)
