"""This module reads and writes the key, the version and the sharks of a row of the buckets tier.

A key is `/v2/<vnode>/<owner>/<bucket id>/<name>`, where the name is all the rest, as it is.  Sharks
are texts `<datacenter>:<storage id>`; a server of the tier ignores what follows a second colon.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from rebalancer.domain.copies import UUID
from rebalancer.jsontext import dumps, loads

#: A name is a text that PostgreSQL can hold.
_NAME = r"[^\0\ud800-\udfff]*"
_KEY = re.compile(rf"/v2/(0|[1-9][0-9]*)/({UUID})/({UUID})/({_NAME})", re.ASCII)
#: How the names of what a multipart upload keeps begin; the id of the upload follows.
_UPLOADS, _PARTS = ".mpu-uploads/", ".mpu-parts/"
#: The headers of the record of an upload whose texts name the nodes that it was given.
UPLOAD_HEADERS = ("x-upload-record", "x-preallocated-sharks")


@attrs.frozen(order=True)
class BucketKey:
    """A bucket key names a row of a shard of the buckets tier, by schema and primary key."""

    vnode: int
    owner: str
    bucket_id: str
    name: str

    def __str__(self) -> str:
        return f"/v2/{self.vnode}/{self.owner}/{self.bucket_id}/{self.name}"

    @property
    def upload(self) -> str | None:
        """Return the id of the multipart upload whose part this is, None for any other object."""
        if not self.name.startswith(_PARTS):
            return None
        return self.name.removeprefix(_PARTS).partition("/")[0] or None

    def upload_record(self, upload: str) -> str:
        """Return the name that the record of an upload has, in the same bucket."""
        return f"{_UPLOADS}{upload}"


def read_key(text: str) -> BucketKey:
    """Read a key from the text that `str` makes of one.

    Raises:
      ValueError: the text is no key.
    """
    if (found := _KEY.fullmatch(text)) is None:
        raise ValueError(f"{text[:100]!r} is no key of the buckets tier")
    vnode, owner, bucket_id, name = found.groups()
    return BucketKey(int(vnode), owner, bucket_id, name)


def write_etag(object_id: str, sharks: object) -> str:
    """Return the version that an update of a row is conditional on: its id and raw sharks."""
    return dumps([object_id, sharks])


def read_etag(text: str) -> tuple[str, list[str]]:
    """Return the id and the sharks of a version that an update can be conditional on.

    Raises:
      ValueError: it is none, or its sharks are no list of texts.
    """
    match loads(text):
        case [str(object_id), [*sharks]] if all(isinstance(one, str) for one in sharks):
            return object_id, list[str](sharks)
    raise ValueError(f"{text[:200]!r} is no version of a row with sharks")


def shark_text(datacenter: str, storage_id: str) -> str:
    """Return a shark as the rows have it."""
    return f"{datacenter}:{storage_id}"


def split_shark(text: str) -> tuple[str, str] | None:
    """Return datacenter and storage id of a shark, as a server reads it; None without a colon."""
    parts = text.split(":")
    return (parts[0], parts[1]) if len(parts) > 1 else None


def is_named(record: Mapping[str, Any], node: str) -> bool:
    """Tell whether the sharks of a row mention a storage node, in a well-formed entry or not."""
    sharks = record.get("sharks")
    return isinstance(sharks, Sequence) and _mentions(sharks, node)


def _mentions(sharks: Sequence[Any], node: str) -> bool:
    # PostgreSQL's arrays may be of several dimensions, which no program of Manta's makes.
    return any(
        node in one.split(":") if isinstance(one, str) else bool(one) and _mentions(one, node)
        for one in sharks
    )


def is_named_by_upload(record: Mapping[str, Any], node: str) -> bool:
    """Tell whether a row is the record of an upload that was given a storage node."""
    headers = record.get("headers")
    if not isinstance(headers, Mapping):
        return False
    # JSON within a text, in which the name may end in front of a port.
    whole = re.compile(rf"(?<![A-Za-z0-9_.-]){re.escape(node)}(?![A-Za-z0-9_.-])")
    texts = (headers.get(name) for name in UPLOAD_HEADERS)
    return any(whole.search(text) for text in texts if isinstance(text, str))
