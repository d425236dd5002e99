"""Discovery: the records of every shard that name the evacuated shark, and what comes back."""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import trio

from rebalancer.domain.objects import MantaObject, read_object
from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.job import Found, Job
from rebalancer.manager.store import FoundRecord
from rebalancer.peers import scan
from rebalancer.retry import insistently

#: A question that fails is asked again this often before its shard is given up.
TRIES = 8
#: Objects in one message to placement.
CHUNK = 200

log = get_logger()
_insistently = partial(insistently, tries=TRIES, first_s=0.5, longest_s=15.0)


async def discover(job: Job, last_row: int, found: trio.MemorySendChannel[Found]) -> None:
    """Feed placement with all that needs a destination, until nothing can any more.

    That is: what an earlier run stored (rows up to `last_row`), what the scans find, and the
    objects of assignments that came to nothing, for as long as any are under way.
    """
    scanned = trio.Event()
    async with found, trio.open_nursery() as nursery:
        nursery.start_soon(_feed_given_back, job, scanned, found)
        async with trio.open_nursery() as scans:
            readers = trio.CapacityLimiter(job.config.options.max_md_read_threads)
            scans.start_soon(_feed_stored, job, last_row, found)
            for number, shard in job.scanned.items():
                scans.start_soon(_scan_shard, job, number, shard, readers, found)
        await found.send(Found((), flush=True))
        scanned.set()
        job.store.wake()


async def _feed_stored(job: Job, last_row: int, found: trio.MemorySendChannel[Found]) -> None:
    row = 0
    while row < last_row:
        row, texts = await job.store.unprocessed(row, last_row)
        await _send(found, [read_object(json.loads(text)) for text in texts])


async def _feed_given_back(
    job: Job, scanned: trio.Event, found: trio.MemorySendChannel[Found]
) -> None:
    while True:
        while job.given_back:
            texts = await job.store.returned(job.given_back.popleft())
            objects = tuple(read_object(json.loads(text)) for text in texts)
            await found.send(Found(objects, flush=True))
        if scanned.is_set() and not job.store.unsettled:
            return
        await job.store.wait_change()


async def _scan_shard(
    job: Job,
    number: int,
    shard: scan.Shard,
    readers: trio.CapacityLimiter,
    found: trio.MemorySendChannel[Found],
) -> None:
    async with readers:
        try:
            columns = await _insistently(partial(scan.id_columns, shard))
            for column in columns:
                await _scan_column(job, number, shard, columns, column, found)
        except PeerError as exc:
            # The other shards go on; the job fails when they are done.
            log.error("scan given up", job=job.id, shard=number, error=str(exc))
            job.failures.append(f"discovery on shard {number} did not finish: {exc}")
        else:
            log.info("scan finished", job=job.id, shard=number)


async def _scan_column(
    job: Job,
    number: int,
    shard: scan.Shard,
    columns: tuple[str, ...],
    column: str,
    found: trio.MemorySendChannel[Found],
) -> None:
    begun = await job.store.scan_position(number, column)
    if begun is None:
        begun = 0, await _insistently(partial(scan.last_id, shard, column))
    position, until = begun
    shark = job.action.origin.manta_storage_id
    while position < until and not _has_enough(job):
        end = min(position + job.config.options.md_read_chunk_size, until)
        ask = partial(scan.window, shard, columns, column, position, end, shark)
        rows = await _insistently(ask)
        new = await job.store.found(
            _read_rows(job, number, rows),
            shard=number,
            column=column,
            position=end,
            until=until,
            limit=job.max_objects,
        )
        await _send(found, new)
        position = end


def _read_rows(job: Job, number: int, rows: Iterable[scan.FoundRow]) -> Iterator[FoundRecord]:
    """The records of a window that concern the job: parsed as they are taken, in a thread."""
    for row in rows:
        record = job.action.read(shard=number, key=row.key, etag=row.etag, text=row.value)
        if record is not None:
            yield record


def _has_enough(job: Job) -> bool:
    return job.max_objects is not None and job.store.objects >= job.max_objects


async def _send(found: trio.MemorySendChannel[Found], objects: Sequence[MantaObject]) -> None:
    for start in range(0, len(objects), CHUNK):
        await found.send(Found(tuple(objects[start : start + CHUNK])))
