"""This module cuts updates into batches, and says how to go on with one that was not written."""

import json
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.reasons import Reason
from rebalancer.domain.states import ObjectEvent
from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.store.records import StoredRecord
from rebalancer.peers.moray.client import Put
from rebalancer.peers.moray.errors import MorayError

#: A batch holds records of one assignment and shard, but not more of them than this, nor more than
#: `MAX_BATCH_BYTES`: 200 keep a real server busy for 0.2 s, in which it serves nobody else.
MAX_BATCH_RECORDS = 100
#: A batch has no more bytes than this.  So many fit into a socket's buffers whole, so that the
#: death of this process does not cut the message, which would end the server; only a single record
#: can be larger.
MAX_BATCH_BYTES = 64 << 10
#: What a put has beside its key and record: braces, names, etag, and the new shark's name.
_PUT_BYTES = 200
#: A record that somebody else changes between our read and our write, so many times in a row,
#: is left alone.  Each try takes milliseconds, so this is no ordinary user's doing.
CONFLICTS = 20

log = get_logger()


@attrs.frozen
class Outcome:
    """An outcome is how a record's update ended."""

    event: ObjectEvent
    #: Why the record does not name the new copy.
    reason: Reason | None = None
    detail: str | None = None

    @property
    def is_complete(self) -> bool:
        """Tell whether the record names the new copy."""
        return self.event is ObjectEvent.METADATA_WRITTEN


WRITTEN = Outcome(ObjectEvent.METADATA_WRITTEN)


@attrs.define(eq=False)
class Member:
    """A member of a batch is a record to be updated.

    Mutable state: the etag last known; whether the record must be read before the next write,
    whether it ever was, and the value that was read then (none: there is no record); how often
    somebody else was quicker, and how it ended.
    """

    record: StoredRecord
    etag: str
    is_stale: bool = False
    was_read: bool = False
    value: Any = None
    conflicts: int = 0
    outcome: Outcome | None = None

    def give_up(self, cause: PeerError) -> None:
        """Let the update end as failed."""
        log.error("metadata update failed", object=self.record.id, error=str(cause))
        detail = f"{cause}; whether it was written is unknown" if self.is_stale else str(cause)
        reason = reasons.METADATA_UPDATE_FAILED
        self.outcome = Outcome(ObjectEvent.UNUSABLE, reason, detail)


def as_discovered(record: StoredRecord) -> Member:
    """Return a member whose record is taken to be as it was discovered."""
    return Member(record, record.etag)


def chunks(records: Iterable[StoredRecord]) -> Iterator[list[StoredRecord]]:
    """Return the records of one shard in order of their keys, cut into batches."""
    chunk: list[StoredRecord] = []
    size = 0
    # Two batches that lock the same keys in other orders deadlock.
    for record in sorted(records, key=attrgetter("key")):
        length = put_bytes(record.key, record.text)
        is_full = len(chunk) >= MAX_BATCH_RECORDS or size + length > MAX_BATCH_BYTES
        if chunk and is_full:
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += length
    if chunk:
        yield chunk


def put_bytes(key: str, text: str) -> int:
    """Estimate how many bytes a put of a record adds to a message."""
    return _bytes_of(key) + _bytes_of(text) + _PUT_BYTES


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def pieces(writes: list[tuple[Member, Put]]) -> Iterator[list[tuple[Member, Put]]]:
    """Cut the writes where records that were read anew have become too long for one batch."""
    if not any(member.was_read for member, _ in writes):
        if writes:
            yield writes
        return
    piece: list[tuple[Member, Put]] = []
    size = 0
    for member, put in writes:
        text = member.record.text
        if member.was_read:  # what JSON has no form for is refused when it is sent
            text = json.dumps(member.value, ensure_ascii=False)
        length = put_bytes(put.key, text)
        if piece and size + length > MAX_BATCH_BYTES:
            yield piece
            piece, size = [], 0
        piece.append((member, put))
        size += length
    if piece:
        yield piece


def after_conflict(exc: PeerError, group: list[Member], conflicts: int) -> list[list[Member]]:
    """Return the groups to go on with, when an etag did not match, for the `conflicts`-th time.

    That member is settled by itself and the rest is written at once.  After a second conflict
    more are to be expected, and a server tells only one of them for each batch: so all that
    were not read yet are.
    """
    key = exc.conflicting_key if isinstance(exc, MorayError) else None
    named = group if len(group) == 1 else [m for m in group if m.record.key == key]
    unread = [member for member in group if not member.was_read]
    if conflicts > 1 or not named:
        for member in unread:
            member.is_stale = True
    if not named:
        return [group] if unread else _halves(group)
    (culprit,) = named
    culprit.conflicts += 1
    if culprit.conflicts >= CONFLICTS:
        culprit.give_up(exc)
    culprit.is_stale = True
    rest = [member for member in group if member is not culprit]
    return [rest, named] if rest else [named]


def after_refusal(exc: PeerError, group: list[Member]) -> list[list[Member]]:
    """Return the groups to go on with, when no further try of this one can help."""
    if len(group) > 1:
        return _halves(group)
    give_up(group, exc)
    return []


def give_up(group: list[Member], exc: PeerError) -> None:
    """Let every update of a group end as failed."""
    for member in group:
        member.give_up(exc)


def _halves(group: list[Member]) -> list[list[Member]]:
    middle = len(group) // 2
    return [group[:middle], group[middle:]]
