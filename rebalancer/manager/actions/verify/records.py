"""This module decides which copies of an object are verified, from its records.  Pure."""

from collections.abc import Sequence

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.objects import MantaObject, UnusableRecord
from rebalancer.domain.reasons import DELETED, OVERWRITTEN, Reason
from rebalancer.domain.records import id_of, parse_record, read_object, read_sharks
from rebalancer.manager.actions.verify.copies import Copy, copies_of
from rebalancer.manager.store.records import FoundRecord, unknown_id


@attrs.frozen
class Skip:
    """An object is skipped, because its records changed meanwhile, which is no fault."""

    reason: Reason


@attrs.frozen
class Unusable:
    """An object has a record that cannot be read as one of an object."""

    reason: Reason
    detail: str


@attrs.frozen
class ToVerify:
    """An object is verified by these copies: all that its records name, each once."""

    copies: tuple[Copy, ...]


def read_record(text: str) -> tuple[MantaObject, frozenset[str]]:
    """Return the object of a record, and the names of the storage nodes that the record names.

    Raises:
      UnusableRecord: no object can be made of it.
    """
    record = parse_record(text)
    sharks = read_sharks(record)
    names = [shark.manta_storage_id for shark in sharks]
    if len(set(names)) < len(names):
        raise UnusableRecord(reasons.DUPLICATE_SHARK, "a storage node is named twice")
    obj = read_object(record, sharks)
    if obj.size and not sharks:
        raise UnusableRecord(reasons.MISSING_SHARKS, "no storage node is named")
    return obj, frozenset(names)


def found_record(
    shard: int, key: str, etag: str, text: str, node: str | None = None
) -> FoundRecord | None:
    """Return a record as the store keeps it; None if it does not name `node` as a copy's place."""
    try:
        obj, names = read_record(text)
    except UnusableRecord as exc:
        known = _object_id(text) or unknown_id(shard, key)
        return FoundRecord(known, key, shard, etag, text, reason=exc.reason, detail=str(exc))
    if node is not None and node not in names:
        return None
    return FoundRecord(obj.object_id, key, shard, etag, text, obj.size, obj)


def left_out(object_id: str, shard: int, key: str) -> FoundRecord:
    """Return a record that an earlier job knew and that was not found, as the store keeps it."""
    return FoundRecord(object_id, key, shard, "", "")


def judge_records(object_id: str, texts: Sequence[str | None]) -> ToVerify | Skip | Unusable:
    """Return how to verify an object, from its records as they are now.

    A text is None if that record is gone.  A record that another object has now is left out.
    """
    there = [text for text in texts if text is not None]
    own = [text for text in there if _object_id(text) in (object_id, None)]
    if not own:
        return Skip(OVERWRITTEN if there else DELETED)
    copies = dict[Copy, None]()
    try:
        for text in own:
            obj, _ = read_record(text)
            copies |= dict.fromkeys(copies_of(obj))
    except UnusableRecord as exc:
        return Unusable(exc.reason, str(exc))
    return ToVerify(tuple(copies))


def _object_id(text: str) -> str | None:
    try:
        return id_of(parse_record(text))
    except UnusableRecord:
        return None
