"""This module updates records of a shard, each only if nobody has changed it since it was read.

A write bears the etag that was read, and Moray refuses it if the record has another one by now.  So
a write may be retried without harm, and if it is unknown whether one took effect, the record is
read once more.  All records go in one batch, if all goes well.  If a shard is down or overloaded,
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
from rebalancer.domain.records import read_sharks
from rebalancer.domain.sharks import Judgement
from rebalancer.domain.states import ObjectEvent
from rebalancer.errors import PeerError, PeerRefused
from rebalancer.jsontext import JsonText
from rebalancer.log import get_logger
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.pipeline.decisions import MoveDecisions
from rebalancer.manager.pipeline.stages.update_batches import (
    after_conflict,
    after_refusal,
    give_up,
    pieces,
)
from rebalancer.manager.store.records import WRITTEN, Update, UpdateResult
from rebalancer.peers.metadata import Kind, MetadataError, Put
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
class RecordUpdater:
    """A record updater writes records of one shard."""

    shard: int
    moray: RecordStore
    decisions: MoveDecisions
    update_limiter: UpdateLimiter
    #: Whether several records may be written by one call.
    batched: bool = True

    async def update(self, updates: Sequence[Update]) -> None:
        """Write the record of each update, and set its result.

        If this is cancelled, a record may be written whose update has no result yet.  A later call
        with the same record reads it, and finds it written.
        """
        waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        patience = self.update_limiter.patience()
        conflicts = 0
        groups = deque([list(updates)] if self.batched else [[update] for update in updates])
        while groups:
            group = [update for update in groups.popleft() if update.result is None]
            asked_at = trio.current_time()
            try:
                await self._read_stale(group)
                await self._write(self._due_writes(group))
                patience.on_success()
                continue
            except PeerError as exc:
                failure = exc
            group = [update for update in group if update.result is None]
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

    async def _read_stale(self, group: list[Update]) -> None:
        """Read the stale records of a group.

        Raises:
          PeerError: the first failure; the records that were not read stay stale.
        """
        stale = deque(update for update in group if update.is_stale)
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

    async def _read(self, update: Update) -> None:
        known = await self.moray.get_object(BUCKET, update.key)
        update.value = None if known is None else known.value
        update.etag = "" if known is None else known.etag
        update.is_stale, update.was_read = False, True

    def _due_writes(self, group: list[Update]) -> list[tuple[Update, Put]]:
        """Return the writes that updates need; set the result of each that needs none."""
        due = []
        for update in group:
            try:
                # A record that was not read anew has been judged by discovery.
                if update.was_read and (result := self._judge(update)) is not None:
                    update.result = result
                    continue
                value = self._rewritten(update)
            except UnusableRecord as exc:
                update.result = UpdateResult(ObjectEvent.UNUSABLE, exc.reason, str(exc))
                continue
            due.append((update, Put(BUCKET, update.key, value, update.etag)))
        return due

    def _rewritten(self, update: Update) -> Mapping[str, Any] | JsonText:
        if update.was_read:
            return self.decisions.rewrite(update.value, update.destination)
        text = self.decisions.splice(update.text, update.destination)
        if text is not None:
            return JsonText(text)
        return self.decisions.rewrite(jsontext.loads(update.text), update.destination)

    def _judge(self, update: Update) -> UpdateResult | None:
        """Return how an update ended, as the record shows; None if it must still be written.

        Raises:
          UnusableRecord: the record has no usable `sharks`.
        """
        judgement = self.decisions.judge(update.value, update.id, update.destination)
        if judgement is Judgement.REWRITE:
            return None
        if judgement is Judgement.ALREADY_MOVED:
            return WRITTEN
        named: tuple[str, ...] = ()
        if judgement is Judgement.MOVED_ELSEWHERE and update.value is not None:
            named = tuple(shark.manta_storage_id for shark in read_sharks(update.value))
        return UpdateResult(ObjectEvent.SUPERSEDED, _SUPERSEDED[judgement], named=named)

    async def _write(self, writes: list[tuple[Update, Put]]) -> None:
        for batch in pieces(writes):
            await self._write_batch(batch)

    async def _write_batch(self, writes: list[tuple[Update, Put]]) -> None:
        if len(writes) == 1:
            put = writes[0][1]
            await self.moray.put_object(put.bucket, put.key, put.value, put.etag)
        else:
            await self.moray.batch([put for _, put in writes])
        for update, _ in writes:
            update.result = WRITTEN
        self.update_limiter.succeeded(self.shard)


def _kind(exc: PeerError, group: list[Update]) -> Kind:
    """Return the kind of a failed call; mark updates as stale if it may have taken effect."""
    if isinstance(exc, MetadataError):
        return exc.kind
    if isinstance(exc, PeerRefused):
        return Kind.PERMANENT
    for update in group:
        update.is_stale = True
    return Kind.TRANSIENT
