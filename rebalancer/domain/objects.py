"""This module has what an object is to us: its copies, and the forms of ids and names."""

import binascii
import re
from typing import TypeGuard

import attrs

from rebalancer.domain.reasons import Reason
from rebalancer.domain.retries import UNTRIED, Tried

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

    #: As by `records.id_of`: of a bucket object the name of its copies.
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
