"""This module decides which copies are read whole, and what the fault of a copy is.

Pure: the module `reader` asks the storage nodes.
"""

import binascii
import enum
import hashlib
from collections.abc import Mapping, Sequence

import attrs

from rebalancer.domain.copies import path_of
from rebalancer.domain.objects import MantaObject

#: The count of numbers over which a digest spreads object ids evenly.
_SPAN = 1 << 64


class FaultKind(enum.StrEnum):
    """A kind of fault of a copy; the gravest of an object's faults gives the object's reason."""

    COPY_MISSING = "copy_missing"
    WRONG_MD5 = "wrong_md5"
    WRONG_SIZE = "wrong_size"
    COPY_UNREADABLE = "copy_unreadable"
    NODE_UNREACHABLE = "node_unreachable"


#: The gravest kind first.
GRAVITY = tuple(FaultKind)


@attrs.frozen
class Copy:
    """A copy of an object, as the object's record describes it.

    `shark` is the name of the storage node, `path` the copy's path on the node's web server, `size`
    is in bytes, `md5` is base64.
    """

    shark: str
    path: str
    size: int
    md5: str


@attrs.frozen
class Fault:
    """A copy that is not as its record says; `detail` is for a person."""

    kind: FaultKind
    shark: str
    detail: str

    def __str__(self) -> str:
        return f"{self.shark}: {self.detail}"


def copies_of(obj: MantaObject) -> tuple[Copy, ...]:
    """Return the copies that the record of `obj` names, in the record's order."""
    path = f"/{path_of(obj.account, obj.object_id)}"
    return tuple(Copy(shark.manta_storage_id, path, obj.size, obj.md5) for shark in obj.sharks)


def is_sampled(object_id: str, share: float) -> bool:
    """Tell whether an object belongs to the share of all objects whose copies are read whole.

    The answer depends on the two arguments only, so that a restart chooses the same objects, and
    a larger share contains every smaller one.
    """
    digest = hashlib.blake2b(object_id.lower().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _SPAN


def judge_head(copy: Copy, status: int, headers: Mapping[str, str]) -> Fault | None:
    """Return what is wrong with a copy, going by the head of an answer about it.

    The names in `headers` are in lower case.
    """
    if status == 404:
        return _fault(FaultKind.COPY_MISSING, copy, f"{copy.path} is not there")
    if status != 200:
        return _fault(FaultKind.COPY_UNREADABLE, copy, f"status {status} for {copy.path}")
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        return _fault(FaultKind.COPY_UNREADABLE, copy, f"{copy.path} comes encoded as {coding}")
    length = headers.get("content-length", "").strip()
    if not (length.isascii() and length.isdigit()):
        return _fault(FaultKind.COPY_UNREADABLE, copy, f"no length is given for {copy.path}")
    return judge_size(copy, int(length[:20]))


def judge_size(copy: Copy, size: int) -> Fault | None:
    """Return the fault of a copy of `size` bytes, if its record has another size."""
    if size == copy.size:
        return None
    detail = f"{copy.path} has {size:,} bytes, its record {copy.size:,}"
    return _fault(FaultKind.WRONG_SIZE, copy, detail)


def judge_md5(copy: Copy, digest: bytes) -> Fault | None:
    """Return the fault of a copy whose bytes have this MD5, if its record has another."""
    if digest == binascii.a2b_base64(copy.md5):
        return None
    found = binascii.b2a_base64(digest, newline=False).decode()
    detail = f"the MD5 of {copy.path} is {found}, its record has {copy.md5}"
    return _fault(FaultKind.WRONG_MD5, copy, detail)


def unreadable(copy: Copy, why: str) -> Fault:
    """Return the fault of a copy that its storage node does not send whole."""
    return _fault(FaultKind.COPY_UNREADABLE, copy, f"{copy.path} cannot be read: {why}")


def unreachable(copy: Copy, why: str) -> Fault:
    """Return the fault of a copy whose storage node did not answer for as long as it may."""
    return _fault(FaultKind.NODE_UNREACHABLE, copy, f"the storage node does not answer: {why}")


def gravest(faults: Sequence[Fault]) -> FaultKind:
    """Return the gravest kind of `faults`, of which there is at least one."""
    return min((fault.kind for fault in faults), key=GRAVITY.index)


def _fault(kind: FaultKind, copy: Copy, detail: str) -> Fault:
    return Fault(kind, copy.shark, detail)
