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
from rebalancer.jsontext import dumps, loads

_SHARKS = '"sharks":['


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


def splice(text: str, old: str, new: Shark) -> str | None:
    """What `rewrite` makes of the record in `text`, every other byte of it untouched.

    `text` is JSON that has a list `sharks` at its top, as discovery found it.  None: where that
    list is cannot be told without parsing all of it.

    Raises:
      UnusableRecord: as `rewrite` does.
    """
    # Without a backslash every quote begins or ends a string; so what follows is the only key of
    # that name, at any depth.
    begin = text.find(_SHARKS)
    if begin < 0 or "\\" in text or text.count('"sharks"') != 1:
        return None
    # JavaScript's parser does not know what Python's takes for numbers.
    if "NaN" in text or "Infinity" in text:
        return None
    begin += len(_SHARKS) - 1
    end = text.find("]", begin) + 1
    try:
        # No part of a list is a list: what parses is the whole of it.
        entries = loads(text[begin:end])
        changed = rewrite({"sharks": entries}, old, new)
        return text[:begin] + dumps(changed["sharks"]) + text[end:]
    except UnusableRecord:
        raise
    except ValueError:
        return None
