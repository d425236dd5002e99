"""This module has what an object is to us: the fields of its record that decisions need."""

import binascii
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeGuard

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import UNTRIED, Tried
from rebalancer.jsontext import loads_exactly

# Old ids are not version 4, so neither version nor variant is checked.
_LOOSE_UUID = re.compile(
    r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
)

# A host name, perhaps with a port; never anything that could change a URL's path or authority.
_STORAGE_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?")

#: The other forms in which the deployed programs' UUID parser takes one.
_ANY_UUID = re.compile(
    r"(?:urn:uuid:)?(\{)?([0-9a-f]{8})(-?)([0-9a-f]{4})\3([0-9a-f]{4})\3([0-9a-f]{4})\3([0-9a-f]{12})(?(1)\})",
    re.IGNORECASE | re.ASCII,
)


class UnusableRecord(ValueError):
    """A record that cannot be used, for `reason`; the text says what is wrong with it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@attrs.frozen
class Shark:
    """A shark is a storage node as a record names it."""

    datacenter: str
    manta_storage_id: str


@attrs.frozen
class StorageNode:
    """A storage node as storinfo lists it; sizes in MiB, `percent_used` rounded up by storinfo."""

    manta_storage_id: str
    datacenter: str
    available_mb: int
    percent_used: int
    timestamp_ms: int = 0

    @property
    def shark(self) -> Shark:
        """Return the entry that a record would get for a copy on this node."""
        return Shark(self.datacenter, self.manta_storage_id)


# Not frozen, because that takes three times as long to make, and there is one for each object.
@attrs.define
class MantaObject:
    """The part of an object's record that placement and transfer need."""

    object_id: str
    #: The account under which the copies lie on the storage nodes, as by `account_of`.
    account: str
    md5: str
    size: int
    sharks: tuple[Shark, ...]
    #: The node where a copy was made before, which is not made again if it is still there.
    earlier: str | None = None
    #: The nodes with which copying has failed in this job.
    tried: Tried = UNTRIED


def account_of(record: Mapping[str, Any]) -> Any:
    """Return the account under which the copies of a record's object lie on the storage nodes.

    A link to an object of another account has that one as `creator`; old records have no creator.
    The account is as the record has it, None if there is neither.
    """
    return record.get("creator") or record.get("owner")


def copy_path(account: str, object_id: str) -> str:
    """Return the path on its storage node of a copy of an object, for reports."""
    return f"/manta/{account}/{object_id}"


def is_loose_uuid(text: object) -> TypeGuard[str]:
    """Tell whether `text` is 8-4-4-4-12 hexadecimal digits of any case and any version."""
    return isinstance(text, str) and _LOOSE_UUID.fullmatch(text) is not None


def canonical_uuid(text: object) -> str | None:
    """Return the lower-case, hyphenated form of a UUID; None if `text` is none.

    It may be 32 digits without hyphens, in braces, or behind `urn:uuid:`.
    """
    if not isinstance(text, str) or (found := _ANY_UUID.fullmatch(text)) is None:
        return None
    first, second, third, fourth, last = found.group(2, 4, 5, 6, 7)
    return f"{first}-{second}-{third}-{fourth}-{last}".lower()


def is_storage_id(text: object) -> bool:
    """Tell whether `text` can be the name of a storage node: a host name, perhaps with a port."""
    return isinstance(text, str) and _STORAGE_ID.fullmatch(text) is not None


def is_md5(text: object) -> TypeGuard[str]:
    """Tell whether `text` is the base64 form of a 16-byte digest."""
    if not isinstance(text, str):
        return False
    try:
        return len(binascii.a2b_base64(text, strict_mode=True)) == 16
    except ValueError:
        return False


def parse_record(text: str) -> dict[str, Any]:
    """Parse the text of a record.

    Raises:
      UnusableRecord: `bad_moray_object`, it is no JSON object, or none that can be written anew.
    """
    try:
        record = loads_exactly(text)
    except (ValueError, RecursionError) as exc:
        raise UnusableRecord(reasons.BAD_MORAY_OBJECT, str(exc)) from exc
    if not isinstance(record, dict):
        raise UnusableRecord(reasons.BAD_MORAY_OBJECT, "the record is no object")
    return record


def read_sharks(record: Mapping[str, Any]) -> tuple[Shark, ...]:
    """Return the copies a record names.

    Raises:
      UnusableRecord: `missing_sharks`, when there is no list of them or an entry is malformed.
    """
    entries = record.get("sharks")
    if not isinstance(entries, list):
        raise UnusableRecord(reasons.MISSING_SHARKS, "sharks is not a list")
    return tuple(map(_read_shark, entries))


def upload_sharks(record: Mapping[str, Any]) -> tuple[Shark, ...]:
    """Return the storage nodes that an upload in progress was given, by its directory's record.

    The parts and at last the object go there, even if these nodes take no other writes.
    """
    upload = record.get("upload")
    try:
        return read_sharks(upload) if isinstance(upload, dict) else ()
    except UnusableRecord:
        return ()


def _read_shark(entry: object) -> Shark:
    if isinstance(entry, dict):
        datacenter, name = entry.get("datacenter"), entry.get("manta_storage_id")
        if isinstance(datacenter, str) and isinstance(name, str):
            shark = _known_shark(datacenter, name)
            if shark is not None:
                return shark
    raise UnusableRecord(reasons.MISSING_SHARKS, "an entry of sharks is malformed")


@lru_cache(4096)
def _known_shark(datacenter: str, name: str) -> Shark | None:
    """Return the storage node, if `name` can be one's.  Records share a thousand of them."""
    return Shark(datacenter, name) if is_storage_id(name) else None


def read_object(record: Mapping[str, Any], sharks: tuple[Shark, ...] | None = None) -> MantaObject:
    """Return the essentials of a record of bucket `manta`; `sharks` are those of `read_sharks`.

    Raises:
      UnusableRecord: a field that an evacuation needs is missing or of another kind.
    """
    sharks = read_sharks(record) if sharks is None else sharks
    if not isinstance(record.get("key"), str):
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "key is missing or no string")
    object_id, owner, md5 = record.get("objectId"), record.get("owner"), record.get("contentMD5")
    if not is_loose_uuid(object_id):
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "objectId is missing or no UUID")
    if not is_loose_uuid(owner):
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "owner is missing or no UUID")
    account = account_of(record)
    if account != owner and not is_loose_uuid(account):
        raise UnusableRecord(reasons.BAD_MANTA_OBJECT, "creator is no UUID")
    if not is_md5(md5):
        raise UnusableRecord(
            reasons.BAD_MANTA_OBJECT, "contentMD5 is missing or no base64 of 16 bytes"
        )
    return MantaObject(object_id, account, md5, _read_size(record.get("contentLength")), sharks)


def _read_size(value: object) -> int:
    # JSON from JavaScript has one kind of number; bool is an int to Python only.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 0:
        raise UnusableRecord(reasons.BAD_CONTENT_LENGTH, "contentLength is missing or no size")
    return value
