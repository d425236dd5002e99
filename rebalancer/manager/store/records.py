"""This module has the values that pass between the stages of a job and its store."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import attrs

from rebalancer.domain.completeness import Reached
from rebalancer.domain.objects import MantaObject, Shark
from rebalancer.domain.reasons import Reason
from rebalancer.domain.states import (
    OPEN_OBJECTS,
    ObjectEvent,
    ObjectStatus,
)

#: Why a record that a listing names was dropped, if its shard is not there to be asked.
NOT_CONFIGURED = "its shard is not configured"


def unknown_id(shard: int, key: str) -> str:
    """Return what stands for the id of an object whose record does not tell it."""
    return f"{shard}:{key}"


# Not frozen, because that takes three times as long to make, and there is one for each record.
@attrs.define
class FoundRecord:
    """A record that discovery met, ready to be stored."""

    id: str
    key: str
    shard: int
    etag: str
    text: str
    size: int = 0
    #: The object, for placement; None if the record cannot be used.
    obj: MantaObject | None = None
    #: Why the object ends at once: the record cannot be used, or the operator wants it left alone.
    reason: Reason | None = None
    detail: str | None = None
    #: The destination where an earlier job left a copy, which need not be made again.
    earlier: str | None = None


@attrs.frozen
class ScanPosition:
    """A position says that all ids up to it are stored, of a column whose last id is `until`.

    `column` may be a part of a listing instead.  `round` 0 is discovery, the others are final
    scans.
    """

    shard: int
    column: str
    position: int
    until: int
    round: int = 0
    #: Where the scan goes on, as `Reached` has it.
    cursor: str | None = None

    @classmethod
    def of(cls, shard: int, part: str, scan_round: int, reached: Reached) -> Self:
        """Return the position in a part of a shard that was reached in a round."""
        return cls(shard, part, reached.position, reached.until, scan_round, reached.cursor)

    @property
    def reached(self) -> Reached:
        """Return how far the scan is, in its part."""
        return Reached(self.position, self.until, self.cursor)


@attrs.frozen
class ScanProgress:
    """The shards and listings that a job has to scan, and how far it has come in each."""

    #: Every shard that the job has to empty, configured or not.
    shards: frozenset[int]
    scans: Sequence[ScanPosition]
    #: The rounds that have begun: discovery, and final scans.
    rounds: Sequence[int]
    #: Shards that are not configured, though listed records are on them.
    dropped: Sequence[int] = ()


@attrs.frozen
class Round:
    """A final scan: records that it sent through the pipeline, and those that it listed."""

    round: int
    started: str
    found: int
    remaining: int


@attrs.frozen
class Remaining:
    """A record that names the evacuated shark and stays as it is, and why."""

    shard: int
    key: str
    object_id: str
    why: str


@attrs.frozen
class Finding:
    """Something that the pre-flight found: the name of its check, and a text for a person."""

    check: str
    detail: str


@attrs.frozen
class Dropped:
    """A record that a listing named, and why it is not the job's business."""

    shard: int
    key: str
    reason: str


@attrs.frozen
class Orphan:
    """A file on a destination that no record names, as far as is known."""

    object_id: str
    shark: str
    path: str
    reason: str


@attrs.frozen
class Listed:
    """A record that a listing names; `shard` is None if the listing does not say."""

    shard: int | None
    key: str
    #: A copy that an earlier job made of its object, or may have made, and that no record names.
    copy: Orphan | None = None


@attrs.frozen
class UpdateResult:
    """A result says how the update of a record ended."""

    event: ObjectEvent
    #: Why the record does not name the new copy.
    reason: Reason | None = None
    detail: str | None = None
    #: The nodes that the record names, where somebody else has moved the object.
    named: tuple[str, ...] = ()


WRITTEN = UpdateResult(ObjectEvent.METADATA_WRITTEN)


# Not frozen, because that takes three times as long to make, and there is one for each object.
@attrs.define(eq=False)
class Update:
    """An update is of one record, `text`, which was discovered and is to name `destination`.

    Mutable state: the etag last known; whether the record must be read before the next write,
    whether it ever was, and the value that was read then (None: there is no record); how often
    somebody else was quicker; and the result.
    """

    #: The row of the object.
    number: int
    id: str
    key: str
    shard: int
    etag: str
    text: str
    destination: Shark
    is_stale: bool = False
    was_read: bool = False
    value: Any = None
    conflicts: int = 0
    result: UpdateResult | None = None


@attrs.frozen
class StatusCounts:
    """The counts of a job's objects by status and reason."""

    #: (status, reason) -> (objects, bytes); reason is empty where the status says it all.
    counts: Mapping[tuple[str, str], tuple[int, int]]

    def objects(self, status: str) -> int:
        """Return how many objects have `status`, whatever the reason."""
        return sum(n for (name, _), (n, _) in self.counts.items() if name == status)

    @property
    def settled(self) -> int:
        """Return objects that are at an end."""
        return sum(self.objects(status) for status in ObjectStatus if status not in OPEN_OBJECTS)

    @property
    def total(self) -> int:
        """Return all objects."""
        return sum(self.objects(status) for status in ObjectStatus)

    def size(self, status: str | None = None) -> int:
        """Return bytes of the objects that have `status`, or of all."""
        return sum(b for (name, _), (_, b) in self.counts.items() if status in (name, None))
