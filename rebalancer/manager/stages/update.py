"""Metadata: each record of a copied object comes to name the new copy, if nobody was quicker."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import attrs
import trio

from rebalancer.domain.objects import RecordError, UnusableRecord
from rebalancer.domain.sharks import Verdict
from rebalancer.domain.states import ObjectEvent
from rebalancer.errors import PeerError, PeerUnreachable
from rebalancer.log import get_logger
from rebalancer.manager.job import COPY_PATH, Job, Moved
from rebalancer.manager.store import Settled, StoredRecord
from rebalancer.peers.moray.client import MorayClient, Put, Record
from rebalancer.peers.moray.errors import MorayError
from rebalancer.retry import pauses

BUCKET = "manta"
#: A batch holds one assignment's records of one shard, but not more bytes than this: a put of
#: 1 MiB takes a real server 0.2 s, during which it serves nobody else.
MAX_BATCH_BYTES = 1 << 20
#: Tries to write one record before it is given up.
TRIES = 8
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
DELETE_TRIES = 3

log = get_logger()


@attrs.frozen
class _Outcome:
    """How a record's update ended: for `Settled` and for links."""

    event: ObjectEvent
    error: RecordError | None = None
    outcome: str | None = None
    detail: str | None = None

    @property
    def is_complete(self) -> bool:
        return self.event is ObjectEvent.METADATA_WRITTEN


WRITTEN = _Outcome(ObjectEvent.METADATA_WRITTEN)

_SUPERSEDED = {
    Verdict.DELETED: "deleted",
    Verdict.OVERWRITTEN: "overwritten",
    Verdict.MOVED_ELSEWHERE: "moved_elsewhere",
}


async def update(job: Job, moved: trio.MemoryReceiveChannel[Moved]) -> None:
    """Update the records of each assignment, as many at a time as `job.updaters` allows."""
    async with moved, trio.open_nursery() as nursery:
        async for item in moved:
            # Before the task starts, so that no more of them exist than may work.
            await job.updaters.acquire_on_behalf_of(item)
            nursery.start_soon(_release_after, job, item, partial(_update_assignment, job, item))


async def update_links(job: Job) -> None:
    """Update the further records of objects that have several, once their copies are made."""
    after = (-1, "")
    while links := await job.store.waiting_links(after):
        async with trio.open_nursery() as nursery:
            for link in links:
                await job.updaters.acquire_on_behalf_of(link)
                nursery.start_soon(_release_after, job, link, partial(_update_link, job, link))
        after = (links[-1].shard, links[-1].key)


async def _release_after(job: Job, borrower: object, work: Callable[[], Any]) -> None:
    try:
        await work()
    finally:
        job.updaters.release_on_behalf_of(borrower)


async def _update_assignment(job: Job, item: Moved) -> None:
    records = await job.store.to_update(item.id)
    by_shard: defaultdict[int, list[StoredRecord]] = defaultdict(list)
    for record in records:
        by_shard[record.shard].append(record)
    for shard, members in by_shard.items():
        for chunk in _chunks(members):
            outcomes = await _update_chunk(job, shard, chunk)
            await job.store.settle(
                _settled(record, outcome) for record, outcome in zip(chunk, outcomes, strict=True)
            )
            _count(job, outcomes)
    await _forget(job, item)
    await job.store.finish_assignment(item.id)
    log.debug("assignment", id=item.id, state="post_processed")


def _chunks(records: Iterable[StoredRecord]) -> Iterator[list[StoredRecord]]:
    chunk: list[StoredRecord] = []
    size = 0
    for record in records:
        if chunk and size + len(record.text) > MAX_BATCH_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += len(record.text)
    if chunk:
        yield chunk


async def _update_chunk(job: Job, shard: int, records: list[StoredRecord]) -> list[_Outcome]:
    """One batch if all goes well; what a batch could not do, record by record."""
    if (moray := job.moray.get(shard)) is None:
        return [_no_such_shard(shard)] * len(records)
    if job.config.options.use_batched_updates and len(records) > 1:
        try:
            await moray.batch([_put(job, record) for record in records])
        except (PeerError, UnusableRecord) as exc:
            log.debug("batch failed, going on one by one", shard=moray.name, error=str(exc))
        else:
            return [WRITTEN] * len(records)
    return [await _update_one(job, moray, record) for record in records]


def _no_such_shard(shard: int) -> _Outcome:
    detail = f"shard {shard} is not configured any more"
    return _Outcome(ObjectEvent.UNUSABLE, error=RecordError.BAD_SHARD_NUMBER, detail=detail)


def _put(job: Job, record: StoredRecord) -> Put:
    value = job.action.rewrite(json.loads(record.text), record.destination)
    return Put(BUCKET, record.key, value, record.etag)


async def _update_one(job: Job, moray: MorayClient, record: StoredRecord) -> _Outcome:
    """Write one record, reading it again whenever it is not, or may not be, as we knew it."""
    known: Record | None = Record(record.key, json.loads(record.text), record.etag)
    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    failure = ""
    for attempt in range(TRIES):
        try:
            if attempt:
                known = await moray.get_object(BUCKET, record.key)
            outcome = _judge(job, record, known)
            if outcome is None and known is not None:
                value = job.action.rewrite(known.value, record.destination)
                await moray.put_object(BUCKET, record.key, value, known.etag)
                outcome = WRITTEN
            if outcome is not None:
                return outcome
        except UnusableRecord as exc:
            return _Outcome(ObjectEvent.UNUSABLE, error=exc.error, detail=str(exc))
        except PeerError as exc:
            failure = str(exc)
            if isinstance(exc, MorayError) and exc.is_conflict:
                continue  # read it and judge again, at once
            if not exc.retryable and not isinstance(exc, PeerUnreachable):
                break
            await trio.sleep(next(waits))
    log.error("metadata update failed", job=job.id, object=record.id, error=failure)
    return _Outcome(ObjectEvent.UNUSABLE, error=RecordError.METADATA_UPDATE_FAILED, detail=failure)


def _judge(job: Job, record: StoredRecord, known: Record | None) -> _Outcome | None:
    """How it ended, going by the record; None if it is still to be written.

    Raises:
      UnusableRecord: the record has no usable `sharks`.
    """
    value = None if known is None else known.value
    verdict = job.action.judge(value, record.id, record.destination)
    if verdict is Verdict.REWRITE:
        return None
    if verdict is Verdict.ALREADY_MOVED:
        return WRITTEN
    return _Outcome(ObjectEvent.SUPERSEDED, outcome=_SUPERSEDED[verdict])


def _settled(record: StoredRecord, outcome: _Outcome) -> Settled:
    orphan = None
    if not outcome.is_complete:
        known = json.loads(record.text)
        account = known.get("creator") or known["owner"]
        orphan = COPY_PATH.format(account=account, id=record.id)
    return Settled(record.id, outcome.event, outcome.error, outcome.outcome, outcome.detail, orphan)


def _count(job: Job, outcomes: Iterable[_Outcome]) -> None:
    outcomes = list(outcomes)
    job.metrics.moved(sum(outcome.is_complete for outcome in outcomes))
    for outcome in outcomes:
        if outcome.error is not None:
            job.metrics.failed(outcome.error)


async def _forget(job: Job, item: Moved) -> None:
    """Let the agent drop the assignment.  One that stays is only clutter, so not worth more."""
    if not job.config.delete_assignments:
        return
    waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    for _ in range(DELETE_TRIES):
        try:
            await job.agents.delete(item.destination.manta_storage_id, item.id)
        except PeerError as exc:
            log.warning("assignment not deleted at its agent", id=item.id, error=str(exc))
            await trio.sleep(next(waits))
        else:
            return


async def _update_link(job: Job, link: StoredRecord) -> None:
    (outcome,) = await _update_chunk(job, link.shard, [link])
    status = {
        ObjectEvent.METADATA_WRITTEN: "complete",
        ObjectEvent.SUPERSEDED: "skipped",
    }.get(outcome.event, "error")
    await job.store.settle_link(link, status, outcome.detail or outcome.outcome)
