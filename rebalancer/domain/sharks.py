"""This module rewrites the `sharks` of a record, and judges one that changed under us."""

import enum
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark, UnusableRecord, is_storage_id
from rebalancer.domain.records import id_of, read_sharks, rename_shark
from rebalancer.jsontext import dumps

#: As every component of Manta writes them: the name of the list, the name and what is before its
#: first entry, what is between two entries, and what is within the braces of one.
_NAME, _LIST, _BETWEEN = '"sharks"', '"sharks":[{', "},{"
_ENTRY = re.compile(r'"datacenter":"[^"\\\x00-\x1f]*","manta_storage_id":"([^"\\\x00-\x1f]*)"')
#: The beginning of a letter that is spelled by its number.
_SPELLED = "\\u"


class Judgement(enum.Enum):
    """A judgement says what a record, as it is now, asks for."""

    REWRITE = enum.auto()  # still on the evacuated shark: exchange the entry
    ALREADY_MOVED = enum.auto()  # names the destination, and not the evacuated shark
    MOVED_ELSEWHERE = enum.auto()  # names neither: someone else moved it
    OVERWRITTEN = enum.auto()  # the key points to another object now
    DELETED = enum.auto()  # there is no record


def judge(record: Mapping[str, Any] | None, object_id: str, old: str, new: str) -> Judgement:
    """Return what to do about `object_id` moving from shark `old` to shark `new`, given its record.

    Raises:
      UnusableRecord: `missing_sharks`, the record has no usable list any more.
    """
    if record is None:
        return Judgement.DELETED
    if id_of(record) != object_id:
        return Judgement.OVERWRITTEN
    names = [shark.manta_storage_id for shark in read_sharks(record)]
    if old in names:
        return Judgement.REWRITE
    return Judgement.ALREADY_MOVED if new in names else Judgement.MOVED_ELSEWHERE


def rewrite(record: Mapping[str, Any], old: str, new: Shark) -> dict[str, Any]:
    """Return the record with the entry of shark `old` naming `new`; all else is untouched.

    The entry keeps its place in the list and any fields we do not know.

    Raises:
      UnusableRecord: `duplicate_shark` when `old` is named twice or `new` is named already
        (the copy count would drop), `missing_sharks` when `old` is not named.
    """
    names = [shark.manta_storage_id for shark in read_sharks(record)]
    if names.count(old) > 1:
        raise UnusableRecord(reasons.DUPLICATE_SHARK, f"{old} is named twice")
    if new.manta_storage_id in names:
        raise UnusableRecord(reasons.DUPLICATE_SHARK, f"{new.manta_storage_id} is named already")
    if old not in names:
        raise UnusableRecord(reasons.MISSING_SHARKS, f"{old} is not named")
    changed = dict(record)
    changed["sharks"] = [
        rename_shark(entry, new) if name == old else entry
        for entry, name in zip(record["sharks"], names, strict=True)
    ]
    return changed


def splice(text: str, old: str, new: Shark) -> str | None:
    """Return what `rewrite` makes of the record in `text`, every other byte of it untouched.

    `text` is JSON that has a list `sharks` at its top, as discovery found it.  None: it takes a
    parser to tell where that list is, or whether it may be rewritten.
    """
    # The name of the list is in the text, unless a letter of it is spelled by its number.  If
    # nothing else looks like it, the list is here.
    begin = text.find(_NAME)
    if not text.startswith(_LIST, begin):
        return None
    begin += len(_LIST)
    end = text.find("}]", begin)
    if end < 0 or _NAME in text[begin:] or _SPELLED in text:
        return None
    entries = text[begin:end].split(_BETWEEN)
    names = [_name_in(entry) for entry in entries]
    if None in names or names.count(old) != 1 or new.manta_storage_id in names:
        return None
    entries[names.index(old)] = _entry_of(new.datacenter, new.manta_storage_id)
    return f"{text[:begin]}{_BETWEEN.join(entries)}{text[end:]}"


# A region has a thousand storage nodes, and each record two.
@lru_cache(4096)
def _name_in(entry: str) -> str | None:
    """Return the name in an entry's text without its braces, if it can be a node's."""
    found = _ENTRY.fullmatch(entry)
    return found[1] if found is not None and is_storage_id(found[1]) else None


@lru_cache(4096)
def _entry_of(datacenter: str, name: str) -> str:
    return dumps({"datacenter": datacenter, "manta_storage_id": name})[1:-1]
