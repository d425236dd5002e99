"""This module cuts updates into batches, and says how to go on with one that was not written."""

import json
from collections.abc import Iterable, Iterator
from operator import attrgetter

from rebalancer.domain import reasons
from rebalancer.domain.states import ObjectEvent
from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.store.records import Update, UpdateResult
from rebalancer.peers.metadata import MetadataError, Put

#: The most records in a batch.  A real server is busy with 200 for 0.2 s, and serves nobody else.
MAX_BATCH_RECORDS = 100
#: The most bytes in a batch, unless a single record is larger.  A socket's buffers hold as many, so
#: that the death of this process cannot cut the message: half a message would end the server.
MAX_BATCH_BYTES = 64 << 10
#: Bytes of a put beside its key and record: braces, names, etag, and the new shark's name.
_PUT_BYTES = 200
#: A record is given up when others have changed it so many times between our read and our write.
#: Each try takes milliseconds, so no ordinary user does this.
CONFLICTS = 20

log = get_logger()


def chunks(updates: Iterable[Update]) -> Iterator[list[Update]]:
    """Return the updates of one shard in order of their keys, cut into batches."""
    chunk: list[Update] = []
    size = 0
    # Two batches that lock the same keys in different orders deadlock.
    for update in sorted(updates, key=attrgetter("key")):
        length = put_bytes(update.key, update.text)
        is_full = len(chunk) >= MAX_BATCH_RECORDS or size + length > MAX_BATCH_BYTES
        if chunk and is_full:
            yield chunk
            chunk, size = [], 0
        chunk.append(update)
        size += length
    if chunk:
        yield chunk


def put_bytes(key: str, text: str) -> int:
    """Estimate how many bytes a put of a record adds to a message."""
    return _bytes_of(key) + _bytes_of(text) + _PUT_BYTES


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def pieces(writes: list[tuple[Update, Put]]) -> Iterator[list[tuple[Update, Put]]]:
    """Cut the writes where records that were read anew have become too long for one batch."""
    if not any(update.was_read for update, _ in writes):
        if writes:
            yield writes
        return
    piece: list[tuple[Update, Put]] = []
    size = 0
    for update, put in writes:
        text = update.text
        if update.was_read:  # a value that JSON cannot spell is refused when it is sent
            text = json.dumps(update.value, ensure_ascii=False)
        length = put_bytes(put.key, text)
        if piece and size + length > MAX_BATCH_BYTES:
            yield piece
            piece, size = [], 0
        piece.append((update, put))
        size += length
    if piece:
        yield piece


def after_conflict(exc: PeerError, group: list[Update], conflicts: int) -> list[list[Update]]:
    """Return the groups to go on with, when an etag did not match, for the `conflicts`-th time.

    The update with the conflict goes on by itself, and the rest is written at once.  After a second
    conflict more are to be expected, and a server names only one for each batch, so all records
    that were not read yet are read.
    """
    key = exc.conflicting_key if isinstance(exc, MetadataError) else None
    named = group if len(group) == 1 else [update for update in group if update.key == key]
    unread = [update for update in group if not update.was_read]
    if conflicts > 1 or not named:
        for update in unread:
            update.is_stale = True
    if not named:
        return [group] if unread else _halves(group)
    (culprit,) = named
    culprit.conflicts += 1
    if culprit.conflicts >= CONFLICTS:
        give_up(named, exc)
    culprit.is_stale = True
    rest = [update for update in group if update is not culprit]
    return [rest, named] if rest else [named]


def after_refusal(exc: PeerError, group: list[Update]) -> list[list[Update]]:
    """Return the groups to go on with, when no further try of `group` can help."""
    if len(group) > 1:
        return _halves(group)
    give_up(group, exc)
    return []


def give_up(updates: Iterable[Update], cause: PeerError) -> None:
    """Let updates end as failed."""
    for update in updates:
        log.error("metadata update failed", object=update.id, error=str(cause))
        detail = f"{cause}; whether it was written is unknown" if update.is_stale else str(cause)
        update.result = UpdateResult(ObjectEvent.UNUSABLE, reasons.METADATA_UPDATE_FAILED, detail)


def _halves(group: list[Update]) -> list[list[Update]]:
    middle = len(group) // 2
    return [group[:middle], group[middle:]]
