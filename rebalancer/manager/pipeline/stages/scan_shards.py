"""This module scans shards in windows of ids, several at a time, behind the stored positions."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial

import attrs
import trio

from rebalancer.domain.completeness import UnfinishedScan
from rebalancer.domain.tiers import shard_name
from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.store import scans
from rebalancer.manager.store.records import FoundRecord, ScanPosition
from rebalancer.peers import scan

#: Takes the rows of a window, and keeps them together with how far the scan has come.
Sink = Callable[[ScanPosition, list[scan.FoundRow]], Awaitable[None]]

log = get_logger()


async def scan_shards(
    job: Job, shards: Mapping[int, scan.Scannable], keep: Sink, *, scan_round: int = 0
) -> None:
    """Hand the rows that mention the evacuated shark to `keep`, behind the stored positions.

    Round 0 is discovery, which looks at objects only; the others are final scans, which look
    at directories too.  When a final scan is done with all shards, it looks at the records that are
    new since: one that was renamed may have come to a shard behind the scan.  A shard that does
    not answer is waited for; if waiting cannot help it, its scan is noted in `job.failed_scans`.
    Either way the other scans go on.
    """
    readers = trio.CapacityLimiter(job.config.options.max_md_read_threads)
    for is_more in (False, True) if scan_round else (False,):
        failed = {one.shard for one in job.failed_scans if one.round == scan_round}
        scan_one = partial(_scan_shard, is_more=is_more)
        async with trio.open_nursery() as nursery:
            for number, shard in shards.items():
                if number not in failed:
                    nursery.start_soon(scan_one, job, number, shard, readers, keep, scan_round)


async def _scan_shard(
    job: Job,
    number: int,
    shard: scan.Scannable,
    readers: trio.CapacityLimiter,
    keep: Sink,
    scan_round: int,
    *,
    is_more: bool,
) -> None:
    turn = _Turn(readers)
    of = "" if job.shards.get(number) is shard else "the clone of "
    records = scan.PatientRecords(
        shard.records(), f"{of}{shard_name(number)}", job.waits, job.patience_s, turn.rest
    )
    await turn.take()
    try:
        parts = await records.parts()
        await job.store.write(scans.end_gone, number, scan_round, parts)
        for part in parts:
            begun = await _begin(job, number, records, part, scan_round, is_more=is_more)
            await _scan_part(job, records, begun, keep)
    except PeerError as exc:
        # The other shards go on; the job fails when they are done.
        log.error("scan given up", job=job.id, shard=number, error=str(exc))
        job.failed_scans.append(UnfinishedScan(scan_round, number, str(exc)))
    else:
        if is_more or not scan_round:
            log.info("scan finished", job=job.id, shard=number, round=scan_round)
    finally:
        turn.give()
    if not scan_round:
        job.ended_scans.add(number)


@attrs.define(eq=False)
class _Turn:
    """A turn is leave to read, which a bounded number of scans have at a time.

    A scan that waits for its shard lets another have the turn meanwhile.  Mutable state: whether
    this scan has its turn.
    """

    readers: trio.CapacityLimiter
    _has_it: bool = False

    async def take(self) -> None:
        await self.readers.acquire_on_behalf_of(self)
        self._has_it = True

    def give(self) -> None:
        if self._has_it:
            self._has_it = False
            self.readers.release_on_behalf_of(self)

    async def rest(self, pause_s: float) -> None:
        self.give()
        await trio.sleep(pause_s)
        await self.take()


async def _begin(
    job: Job, number: int, records: scan.Records, part: str, scan_round: int, *, is_more: bool
) -> ScanPosition:
    """Return how far the scan of a part has come, and until where it goes."""
    begun = await job.store.read(scans.read_position, number, part, scan_round)
    if begun is not None and not is_more:
        return begun
    known = None if begun is None else begun.reached
    return ScanPosition.of(number, part, scan_round, await records.end_of(part, known))


async def _scan_part(job: Job, records: scan.Records, begun: ScanPosition, keep: Sink) -> None:
    window = await _window_behind(begun, job, records)
    while window is not None and not job.has_enough:
        ask = partial(_window_behind, window.scanned, job, records)
        # The server looks for the next rows while these are stored, and never further ahead.
        window = await _while_asking(partial(keep, window.scanned, window.rows), ask)


@attrs.frozen
class _Window:
    """A window has its rows, and how far the scan has come once they are kept."""

    scanned: ScanPosition
    rows: list[scan.FoundRow]


async def _window_behind(done: ScanPosition, job: Job, records: scan.Records) -> _Window | None:
    """Ask for the next window of a scan that has come as far as `done`; None behind the last.

    Raises:
      PeerError: the shard does not answer.
    """
    if done.reached.is_end or job.has_enough:
        return None
    width, shark = job.config.options.md_read_chunk_size, job.decisions.origin.manta_storage_id
    uploads = done.round > 0
    with job.metrics.timed("scan"):
        reached, rows = await records.window(
            done.column, done.reached, width, shark, uploads=uploads
        )
    return _Window(ScanPosition.of(done.shard, done.column, done.round, reached), rows)


async def _while_asking(
    keep: Callable[[], Awaitable[None]], ask: Callable[[], Awaitable[_Window | None]]
) -> _Window | None:
    """Keep a window while asking for the next; return or raise what `ask` did, after `keep`."""
    window: _Window | None = None
    failure: PeerError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        try:
            window = await ask()
        except PeerError as exc:
            failure = exc
    if failure is not None:
        raise failure
    return window


def read_rows(job: Job, number: int, rows: Iterable[scan.FoundRow]) -> Iterator[FoundRecord]:
    """Yield the records of a window that concern the job, parsed by the thread that takes them."""
    for row in rows:
        record = job.decisions.read(
            shard=number, key=row.key, etag=row.etag, text=row.value, in_upload=row.in_upload
        )
        if record is not None:
            yield record
