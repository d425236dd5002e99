"""This stage finds records that still name the evacuated node when a job seems done.

Other writers put back whole records as they had read them, and uploads that began long ago end on
the node.  Only the live metadata shows that, so the scan asks Moray, even if discovery scanned
clones.
"""

from collections.abc import Iterable, Iterator

import trio

from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Feed, Job, feed_placement
from rebalancer.manager.pipeline.stages.scan_shards import read_rows, scan_shards
from rebalancer.manager.store import final_scans
from rebalancer.manager.store.records import FoundRecord, Remaining, ScanPosition
from rebalancer.peers import scan
from rebalancer.sqlite import Kept

log = get_logger()


async def run_final_scan(job: Job, scan_round: int, feeds: trio.MemorySendChannel[Feed]) -> None:
    """Send on every object that has to be moved after all; list the other records as remaining.

    After the last of the configured rounds, every record is listed.  The scan of a shard that does
    not answer is noted in `job.failed_scans`, and those of the other shards go on.
    """
    is_last = scan_round > job.config.final_scans

    async def keep(scanned: ScanPosition, rows: list[scan.FoundRow]) -> None:
        records = _read_rows(job, scanned.shard, rows)
        new = await job.store.write(
            final_scans.store_found, Kept(records), scanned, is_last=is_last
        )
        await feed_placement(feeds, new)

    await scan_shards(job, job.shards, keep, scan_round=scan_round)


async def next_round(job: Job) -> int | None:
    """Begin another round of final scans and return its number; return None if none is due.

    Only a job that takes all objects of the node has final scans.  If a round found something to
    move, another follows, to see whether the records name the node no more.
    """
    if why := _why_none(job):
        log.info("no final scan", job=job.id, why=why)
        return None
    rounds = await job.store.read(final_scans.read_rounds)
    if rounds:
        last = rounds[-1]
        log.info(
            "final scan", job=job.id, round=last.round, found=last.found, remaining=last.remaining
        )
        if not last.found:
            return None
    return await job.store.write(final_scans.begin_round)


def _why_none(job: Job) -> str | None:
    """Return why a job has no final scans, None if it has."""
    if not job.config.final_scans:
        return "final_scans is 0"
    if not job.scans_shards:
        return "the job takes listed objects only"
    if job.max_objects is not None:
        return "the job takes a limited number of objects"
    return None


def _read_rows(
    job: Job, number: int, rows: Iterable[scan.FoundRow]
) -> Iterator[FoundRecord | Remaining]:
    """Yield the records and uploads of a window that name the evacuated node.

    The store takes them in its thread, so that they are parsed there and not in the event loop.
    """
    for row in rows:
        if not row.may_be_upload:
            yield from read_rows(job, number, [row])
        elif (upload := job.decisions.read_upload(number, row.key, row.value)) is not None:
            yield upload
