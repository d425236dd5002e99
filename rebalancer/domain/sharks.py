"""Rewriting the `sharks` of a record, and judging a record that changed under us."""

import enum
from collections.abc import Mapping
from typing import Any

from rebalancer.domain.objects import (
    RecordError,
    Shark,
    UnusableRecord,
    is_loose_uuid,
    read_sharks,
)


class Verdict(enum.Enum):
    """What a record, as it is now, asks for."""

    REWRITE = enum.auto()  # still on the evacuated shark: exchange the entry
    ALREADY_MOVED = enum.auto()  # names the destination, and not the evacuated shark
    MOVED_ELSEWHERE = enum.auto()  # names neither: someone else moved it
    OVERWRITTEN = enum.auto()  # the key points to another object now
    DELETED = enum.auto()  # there is no record


def judge(record: Mapping[str, Any] | None, object_id: str, old: str, new: str) -> Verdict:
    """What to do about `object_id` moving from shark `old` to shark `new`, given its record.

    Raises:
      UnusableRecord: `missing_sharks`, the record has no usable list any more.
    """
    if record is None:
        return Verdict.DELETED
    current = record.get("objectId")
    if not is_loose_uuid(current) or current != object_id:
        return Verdict.OVERWRITTEN
    names = [shark.manta_storage_id for shark in read_sharks(record)]
    if old in names:
        return Verdict.REWRITE
    return Verdict.ALREADY_MOVED if new in names else Verdict.MOVED_ELSEWHERE


def rewrite(record: Mapping[str, Any], old: str, new: Shark) -> dict[str, Any]:
    """The record with the one entry of shark `old` naming `new`; every other value untouched.

    The entry keeps its place in the list and any fields we do not know.

    Raises:
      UnusableRecord: `duplicate_shark` when `old` is named twice or `new` is named already
        (the copy count would drop), `missing_sharks` when `old` is not named.
    """
    names = [shark.manta_storage_id for shark in read_sharks(record)]
    if names.count(old) > 1:
        raise UnusableRecord(RecordError.DUPLICATE_SHARK, f"{old} is named twice")
    if new.manta_storage_id in names:
        raise UnusableRecord(
            RecordError.DUPLICATE_SHARK, f"{new.manta_storage_id} is named already"
        )
    if old not in names:
        raise UnusableRecord(RecordError.MISSING_SHARKS, f"{old} is not named")
    changed = dict(record)
    changed["sharks"] = [
        {**entry, "datacenter": new.datacenter, "manta_storage_id": new.manta_storage_id}
        if entry["manta_storage_id"] == old
        else entry
        for entry in record["sharks"]
    ]
    return changed
