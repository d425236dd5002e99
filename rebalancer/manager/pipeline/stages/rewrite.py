"""This module rewrites records of a shard to name their new copies: in one batch, if all goes well.

Each write is conditional on the etag that was read, so it may be retried without harm.  If it is
unknown whether a write took effect, the record is read again.  If a shard is down or overloaded,
updates are given up only after the patience of `UpdateLimiter`.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import trio

from rebalancer import jsontext
from rebalancer.domain import reasons
from rebalancer.domain.objects import UnusableRecord
from rebalancer.domain.sharks import Judgement
from rebalancer.domain.states import ObjectEvent
from rebalancer.errors import PeerError, PeerRefused
from rebalancer.jsontext import JsonText
from rebalancer.log import get_logger
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.pipeline.decisions import MoveDecisions
from rebalancer.manager.pipeline.stages.update_batches import (
    WRITTEN,
    Member,
    Outcome,
    after_conflict,
    after_refusal,
    give_up,
    pieces,
)
from rebalancer.peers.moray.client import Put
from rebalancer.peers.moray.errors import Kind, MorayError
from rebalancer.peers.protocols import RecordStore
from rebalancer.retry import pauses

BUCKET = "manta"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
#: Records that are read at a time: a Moray has some fifteen connections to its database, for all
#: clients.
READERS = 4

log = get_logger()


_SUPERSEDED = {
    Judgement.DELETED: reasons.DELETED,
    Judgement.OVERWRITTEN: reasons.OVERWRITTEN,
    Judgement.MOVED_ELSEWHERE: reasons.MOVED_ELSEWHERE,
}


@attrs.frozen
class Rewriter:
    """A rewriter writes records of one shard."""

    shard: int
    moray: RecordStore
    decisions: MoveDecisions
    update_limiter: UpdateLimiter
    #: Whether several records may be written by one call.
    batched: bool = True

    async def rewrite(self, members: Sequence[Member]) -> None:
        """Update the record of each member, and set the member's outcome.

        If this is cancelled, a record may be written whose member has no outcome yet.  A later call
        with the same record reads it, and finds it written.
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
                await self._write(self._due_writes(group))
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
                    groups.extendleft(reversed(after_conflict(failure, group, conflicts)))
                case Kind.PERMANENT:
                    self.update_limiter.answered(self.shard)
                    groups.extendleft(reversed(after_refusal(failure, group)))
                case Kind.TRANSIENT | Kind.OVERLOADED:
                    self._note_failure(kind, failure, asked_at)
                    patience.on_failure(trio.current_time())
                    is_over = patience.is_over(trio.current_time())
                    if is_over or self.update_limiter.is_given_up(self.shard):
                        give_up(group, failure)
                        continue
                    await trio.sleep(next(waits))
                    groups.appendleft(group)

    def _note_failure(self, kind: Kind, failure: PeerError, asked_at: float) -> None:
        if kind is Kind.OVERLOADED:
            self.update_limiter.overloaded(asked_at)
        self.update_limiter.failed(self.shard, str(failure))

    async def _read_stale(self, group: list[Member]) -> None:
        """Read the stale records of a group.

        Raises:
          PeerError: the first failure; the records that were not read stay stale.
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
            await self._read(stale.popleft())  # one alone, in case the server is still away
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

    def _due_writes(self, group: list[Member]) -> list[tuple[Member, Put]]:
        """Return the writes that members need; set the outcome of each member that needs none."""
        due = []
        for member in group:
            record = member.record
            try:
                # A record that was not read since discovery has been judged there.
                if member.was_read and (outcome := self._judge(member)) is not None:
                    member.outcome = outcome
                    continue
                value = self._rewritten(member)
            except UnusableRecord as exc:
                member.outcome = Outcome(ObjectEvent.UNUSABLE, exc.reason, str(exc))
                continue
            due.append((member, Put(BUCKET, record.key, value, member.etag)))
        return due

    def _rewritten(self, member: Member) -> Mapping[str, Any] | JsonText:
        record = member.record
        if member.was_read:
            return self.decisions.rewrite(member.value, record.destination)
        text = self.decisions.splice(record.text, record.destination)
        if text is not None:
            return JsonText(text)
        return self.decisions.rewrite(jsontext.loads(record.text), record.destination)

    def _judge(self, member: Member) -> Outcome | None:
        """Return how an update ended, as the record shows; None if it must still be written.

        Raises:
          UnusableRecord: the record has no usable `sharks`.
        """
        record = member.record
        judgement = self.decisions.judge(member.value, record.id, record.destination)
        if judgement is Judgement.REWRITE:
            return None
        if judgement is Judgement.ALREADY_MOVED:
            return WRITTEN
        return Outcome(ObjectEvent.SUPERSEDED, _SUPERSEDED[judgement])

    async def _write(self, writes: list[tuple[Member, Put]]) -> None:
        for batch in pieces(writes):
            await self._write_batch(batch)

    async def _write_batch(self, writes: list[tuple[Member, Put]]) -> None:
        if len(writes) == 1:
            put = writes[0][1]
            await self.moray.put_object(put.bucket, put.key, put.value, put.etag)
        else:
            await self.moray.batch([put for _, put in writes])
        for member, _ in writes:
            member.outcome = WRITTEN
        self.update_limiter.succeeded(self.shard)


def _kind(exc: PeerError, group: list[Member]) -> Kind:
    """Return the kind of a failed call; mark members as stale if it may have taken effect."""
    if isinstance(exc, MorayError):
        return exc.kind
    if isinstance(exc, PeerRefused):
        return Kind.PERMANENT
    for member in group:
        member.is_stale = True
    return Kind.TRANSIENT
