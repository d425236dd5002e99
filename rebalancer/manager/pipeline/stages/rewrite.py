"""This module has a shard's records name their new copies: in one batch, if all goes well.

A write is conditional on the etag that was read, so it may be tried again without harm; one
whose outcome is unknown is settled by reading.  Nothing is given up because a shard is down or
overloaded, but after the patience of `UpdateLimiter`.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import trio

from rebalancer import jsontext
from rebalancer.domain import reasons
from rebalancer.domain.objects import UnusableRecord
from rebalancer.domain.reasons import Reason
from rebalancer.domain.sharks import Verdict
from rebalancer.domain.states import ObjectEvent
from rebalancer.errors import PeerError, PeerRefused
from rebalancer.jsontext import JsonText
from rebalancer.log import get_logger
from rebalancer.manager.actions import Action
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.store.records import StoredRecord
from rebalancer.peers.moray.client import Put
from rebalancer.peers.moray.errors import Kind, MorayError
from rebalancer.peers.protocols import RecordStore
from rebalancer.retry import pauses

BUCKET = "manta"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
#: A record that somebody else changes between our read and our write, so many times in a row,
#: is left alone.  Each try takes milliseconds, so this is no ordinary user's doing.
CONFLICTS = 20
#: Records read at a time.  A server has some fifteen database connections, for all its clients.
READERS = 4
#: A batch has no more bytes than this.  So many fit into a socket's buffers whole, so that the
#: death of this process does not cut the message, which would end the server; only a single record
#: can be larger.
MAX_BATCH_BYTES = 64 << 10
#: What a put has beside its key and record: braces, names, etag, and the new shark's name.
_PUT_BYTES = 200

log = get_logger()


@attrs.frozen
class Outcome:
    """An outcome says how a record's update ended."""

    event: ObjectEvent
    #: Why the record does not name the new copy.
    reason: Reason | None = None
    detail: str | None = None

    @property
    def is_complete(self) -> bool:
        """Tell whether the record names the new copy."""
        return self.event is ObjectEvent.METADATA_WRITTEN


WRITTEN = Outcome(ObjectEvent.METADATA_WRITTEN)

_SUPERSEDED = {
    Verdict.DELETED: reasons.DELETED,
    Verdict.OVERWRITTEN: reasons.OVERWRITTEN,
    Verdict.MOVED_ELSEWHERE: reasons.MOVED_ELSEWHERE,
}


@attrs.define(eq=False)
class Member:
    """A member of a batch is a record to be rewritten.

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
        """Let it end as failed."""
        log.error("metadata update failed", object=self.record.id, error=str(cause))
        detail = f"{cause}; whether it was written is unknown" if self.is_stale else str(cause)
        reason = reasons.METADATA_UPDATE_FAILED
        self.outcome = Outcome(ObjectEvent.UNUSABLE, reason, detail)


def as_discovered(record: StoredRecord) -> Member:
    """Return a record that is taken to be as it was discovered."""
    return Member(record, record.etag)


@attrs.frozen
class Rewriter:
    """A rewriter writes records of one shard."""

    shard: int
    moray: RecordStore
    action: Action
    update_limiter: UpdateLimiter
    #: Whether several records may be written by one call.
    batched: bool = True

    async def rewrite(self, members: Sequence[Member]) -> None:
        """Give each of the members its outcome.

        Cancelled, some may have been written without having theirs: a later call with the same
        records reads them, and finds it so.
        """
        waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        patience = self.update_limiter.patience()
        conflicts = 0
        groups = deque([list(members)] if self.batched else [[member] for member in members])
        while groups:
            group = [member for member in groups.popleft() if member.outcome is None]
            asked_at = trio.current_time()
            try:
                await self._read_stale(group)
                await self._write(self._still_to_write(group))
                patience.on_success()
                continue
            except PeerError as exc:
                failure = exc
            group = [member for member in group if member.outcome is None]
            match kind := _kind(failure, group):
                case Kind.CONFLICT | Kind.MISSING:
                    patience.on_success()
                    self.update_limiter.succeeded(self.shard)
                    conflicts += 1
                    groups.extendleft(reversed(_after_conflict(failure, group, conflicts)))
                case Kind.PERMANENT:
                    self.update_limiter.answered(self.shard)
                    groups.extendleft(reversed(_after_refusal(failure, group)))
                case Kind.PASSING | Kind.OVERLOADED:
                    if kind is Kind.OVERLOADED:
                        self.update_limiter.overloaded(asked_at)
                    self.update_limiter.failed(self.shard, str(failure))
                    patience.on_failure(trio.current_time())
                    is_over = patience.is_over(trio.current_time())
                    if is_over or self.update_limiter.is_given_up(self.shard):
                        _give_up(group, failure)
                        continue
                    await trio.sleep(next(waits))
                    groups.appendleft(group)

    async def _read_stale(self, group: list[Member]) -> None:
        """Bring what is stale up to date.

        Raises:
          PeerError: the first that a reader met; who was not read is still stale.
        """
        stale = deque(member for member in group if member.is_stale)
        failures: list[PeerError] = []

        async def read() -> None:
            while stale and not failures:
                try:
                    await self._read(stale.popleft())
                except PeerError as exc:
                    failures.append(exc)

        if stale:
            await self._read(stale.popleft())  # alone: the server may still be away
        if stale:
            async with trio.open_nursery() as nursery:
                for _ in range(READERS):
                    nursery.start_soon(read)
        if failures:
            raise failures[0]

    async def _read(self, member: Member) -> None:
        known = await self.moray.get_object(BUCKET, member.record.key)
        member.value = None if known is None else known.value
        member.etag = "" if known is None else known.etag
        member.is_stale, member.was_read = False, True

    def _still_to_write(self, group: list[Member]) -> list[tuple[Member, Put]]:
        """Return the writes that are left to do; a member that needs none has an outcome now."""
        left = []
        for member in group:
            record = member.record
            try:
                # What discovery stored has been judged by it.
                if member.was_read and (found := self._judge(member)) is not None:
                    member.outcome = found
                    continue
                value = self._rewritten(member)
            except UnusableRecord as exc:
                member.outcome = Outcome(ObjectEvent.UNUSABLE, exc.reason, str(exc))
                continue
            left.append((member, Put(BUCKET, record.key, value, member.etag)))
        return left

    def _rewritten(self, member: Member) -> Mapping[str, Any] | JsonText:
        record = member.record
        if member.was_read:
            return self.action.rewrite(member.value, record.destination)
        text = self.action.splice(record.text, record.destination)
        if text is not None:
            return JsonText(text)
        return self.action.rewrite(jsontext.loads(record.text), record.destination)

    def _judge(self, member: Member) -> Outcome | None:
        """Return how an update ended, going by the record; None if that is still to be written.

        Raises:
          UnusableRecord: the record has no usable `sharks`.
        """
        record = member.record
        verdict = self.action.judge(member.value, record.id, record.destination)
        if verdict is Verdict.REWRITE:
            return None
        if verdict is Verdict.ALREADY_MOVED:
            return WRITTEN
        return Outcome(ObjectEvent.SUPERSEDED, _SUPERSEDED[verdict])

    async def _write(self, writes: list[tuple[Member, Put]]) -> None:
        for piece in _pieces(writes):
            await self._write_at_once(piece)

    async def _write_at_once(self, writes: list[tuple[Member, Put]]) -> None:
        if len(writes) == 1:
            put = writes[0][1]
            await self.moray.put_object(put.bucket, put.key, put.value, put.etag)
        else:
            await self.moray.batch([put for _, put in writes])
        for member, _ in writes:
            member.outcome = WRITTEN
        self.update_limiter.succeeded(self.shard)


def put_bytes(key: str, text: str) -> int:
    """Estimate how many bytes a put of a record adds to a message."""
    return _bytes_of(key) + _bytes_of(text) + _PUT_BYTES


def _bytes_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _pieces(writes: list[tuple[Member, Put]]) -> Iterator[list[tuple[Member, Put]]]:
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


def _kind(exc: PeerError, group: list[Member]) -> Kind:
    """Return what to do about a call that failed; whether it took effect may be unknown."""
    if isinstance(exc, MorayError):
        return exc.kind
    if isinstance(exc, PeerRefused):
        return Kind.PERMANENT
    for member in group:
        member.is_stale = True
    return Kind.PASSING


def _after_conflict(exc: PeerError, group: list[Member], conflicts: int) -> list[list[Member]]:
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


def _after_refusal(exc: PeerError, group: list[Member]) -> list[list[Member]]:
    """Return the groups to go on with, when no further try of this one can help."""
    if len(group) > 1:
        return _halves(group)
    _give_up(group, exc)
    return []


def _give_up(group: list[Member], exc: PeerError) -> None:
    for member in group:
        member.give_up(exc)


def _halves(group: list[Member]) -> list[list[Member]]:
    middle = len(group) // 2
    return [group[:middle], group[middle:]]
