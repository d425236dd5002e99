"""This module says what an object is on its way to the disk, and how the disk can fail it."""

import base64
import errno

import attrs

from rebalancer.agent.transfer.disk.folders import Tree
from rebalancer.domain import reasons
from rebalancer.domain.copies import is_copy
from rebalancer.domain.reasons import Reason
from rebalancer.transient import SHORTAGES

#: Errors of a full disk, or an exhausted quota.
FULL = (errno.ENOSPC, errno.EDQUOT)


# Not frozen, because that takes four times as long to make, and there is one for each object.
@attrs.define(eq=False)
class Whole:
    """An object lies whole in memory, not verified, with the MD5 (base64) that it is to have."""

    owner: str
    #: The name of the copy, as by `domain.copies`.
    name: str
    md5: str
    body: bytes


@attrs.define(eq=False)
class Staged:
    """A verified object lies in `tree` under its temporary name, until it gets its own."""

    tree: Tree
    temporary: str
    owner: str
    name: str


class LocalFailure(Exception):
    """The node's disk did not do what was asked.

    With `is_short` this process was short of files or memory, which is not the fault of the
    object: it is tried again.
    """

    def __init__(self, reason: Reason, detail: str, *, is_short: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.is_short = is_short


def failure_of(exc: OSError) -> LocalFailure:
    """Return the failure of an object whose disk answered with `exc`."""
    full = exc.errno in FULL
    reason = reasons.DESTINATION_INSUFFICIENT_SPACE if full else reasons.AGENT_FS_ERROR
    return LocalFailure(reason, str(exc), is_short=exc.errno in SHORTAGES)


def no_room(detail: str) -> LocalFailure:
    """Return the failure of an object for which the disk has no room."""
    return LocalFailure(reasons.DESTINATION_INSUFFICIENT_SPACE, detail)


def check_names(owner: str, name: str) -> None:
    """Check that these are an account and the name of a copy.

    Raises:
      LocalFailure: one is none, so the path could lead anywhere.
    """
    if not is_copy(owner, name):
        raise LocalFailure(
            reasons.AGENT_FS_ERROR, f"{owner}/{name}: expected the account and the name of a copy"
        )


def check_digest(digest: bytes, md5: str) -> None:
    """Compare an MD5 with the base64 form of the expected one.

    Raises:
      LocalFailure: `MD5Mismatch`.
    """
    actual = base64.b64encode(digest).decode()
    if actual != md5:
        raise LocalFailure(reasons.MD5_MISMATCH, f"MD5 is {actual}, expected {md5}")
