"""This module reads listed records anew, and drops those that are not the job's business."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import attrs
import trio

from rebalancer.domain.completeness import NO_SHARD, UnfinishedScan
from rebalancer.domain.objects import MantaObject
from rebalancer.domain.records import is_mentioned
from rebalancer.domain.tiers import shard_name, tier_of, tier_of_key
from rebalancer.errors import PeerError
from rebalancer.manager.pipeline.job import Feed, Job, feed_placement
from rebalancer.manager.pipeline.listings import Listing
from rebalancer.manager.pipeline.stages.scan_shards import read_rows
from rebalancer.manager.store import discovery, scans
from rebalancer.manager.store.records import (
    NOT_CONFIGURED,
    Dropped,
    FoundRecord,
    Listed,
    Orphan,
    ScanPosition,
)
from rebalancer.peers import scan
from rebalancer.retry import retry_while_transient

T = TypeVar("T")

#: Why a listed record is dropped whose tier the job does not take.
LEFT_ALONE = "is of a metadata tier that the job does not take"


async def read_listing(job: Job, listing: Listing, feeds: trio.MemorySendChannel[Feed]) -> None:
    """Send on every listed object that the job has to move, behind the stored positions.

    The file and the shards are waited for.  If waiting cannot help a shard, the reading ends, which
    is noted in `job.failed_scans`.
    """
    for part in listing.parts:
        begun = await _position(job, listing, part)
        while begun.position < begun.until and not job.has_enough:
            read = partial(job.store.database.run, listing.page, part, begun.position)
            end, listed = await _ask_listing(job, read)
            begun = attrs.evolve(begun, position=end if listed else begun.until)
            try:
                anew = await _read_anew(job, listed)
            except PeerError as exc:
                job.failed_scans.append(UnfinishedScan(0, NO_SHARD, str(exc)))
                return
            await feed_placement(feeds, await _store(job, anew, begun))


async def _position(job: Job, listing: Listing, part: str) -> ScanPosition:
    """Return how far a part of the listing was read; store the beginning of a new one."""
    begun = await job.store.read(scans.read_position, NO_SHARD, part)
    if begun is None:
        until = await _ask_listing(job, partial(job.store.database.run, listing.until, part))
        begun = ScanPosition(NO_SHARD, part, 0, until)
        # Stored for an empty part too, because the job ends only when each part has been read.
        await job.store.write(discovery.store_found, [], begun)
    return begun


async def _ask_listing(job: Job, read: Callable[[], Awaitable[T]]) -> T:
    """Call `read`, which reads the listing, for as long as a file cannot be used for now."""
    return await retry_while_transient(
        read, waits=job.waits, subject="the list of objects", bound_s=job.patience_s
    )


async def _store(job: Job, read: "_Read", until: ScanPosition) -> list[MantaObject]:
    return await job.store.write(
        discovery.store_found,
        read.records,
        until,
        limit=job.max_objects,
        dropped=read.dropped,
        orphans=read.orphans,
    )


@attrs.frozen
class _Read:
    """A reading has listed records as they are now, and lists those that are left out.

    `orphans` are copies that an earlier job made of objects that are left out or overwritten.
    """

    records: list[FoundRecord] = attrs.field(factory=list)
    dropped: list[Dropped] = attrs.field(factory=list)
    orphans: list[Orphan] = attrs.field(factory=list)

    def drop(self, shard: int, listed: Listed, why: str, now: str = "") -> None:
        """Leave a listed record out; `now` is its text, if there still is one."""
        self.dropped.append(Dropped(shard, listed.key, why))
        copy = listed.copy
        # A record that names the copy was updated, though the earlier job did not learn of it.
        if copy is not None and why != NOT_CONFIGURED and not is_mentioned(copy.shark, now):
            self.orphans.append(attrs.evolve(copy, reason=f"its record {why}"))

    def take(self, record: FoundRecord, listed: Listed) -> None:
        """Take a record, with the earlier copy, unless that is of another object."""
        copy = listed.copy
        if copy is not None and copy.object_id != record.id:
            self.orphans.append(attrs.evolve(copy, reason="its record was overwritten"))
        elif copy is not None and record.obj is not None:
            obj = attrs.evolve(record.obj, earlier=copy.shark)
            record = attrs.evolve(record, earlier=copy.shark, obj=obj)
        self.records.append(record)


async def _read_anew(job: Job, listed: Sequence[Listed]) -> _Read:
    wanted, read, known = defaultdict[int, list[Listed]](list), _Read(), set[str]()
    asked = list[Listed]()
    for one in listed:
        if tier_of_key(one.key) not in job.tiers:
            read.drop(one.shard or NO_SHARD, one, LEFT_ALONE)
        elif not (numbers := _shards_of(job, one)):
            read.drop(one.shard or NO_SHARD, one, NOT_CONFIGURED)
        else:
            asked.append(one)
            for number in numbers:
                wanted[number].append(one)
    for number, members in wanted.items():
        # Of several records of an object the first counts: the first listed, not the first sent.
        places = {one.key: one for one in reversed(members)}
        records = scan.PatientRecords(
            job.shards[number].records(), shard_name(number), job.waits, job.patience_s
        )
        by_key = {row.key: row for row in await records.rows_of(list(places))}
        for key, one in reversed(places.items()):
            if (row := by_key.get(key)) is None:
                continue
            known.add(key)
            record = _read_mention(job, number, row)
            if record is None:
                read.drop(number, one, "is not on the shark any more", row.value)
            else:
                read.take(record, one)
    for one in asked:
        if one.key not in known:
            read.drop(one.shard or NO_SHARD, one, "does not exist any more")
    return read


def _shards_of(job: Job, one: Listed) -> list[int]:
    """Return the shards that may have a listed record: all of its tier, if none is listed."""
    tier = tier_of_key(one.key)
    return [n for n in job.shards if (tier_of(n) is tier if one.shard is None else n == one.shard)]


def _read_mention(job: Job, number: int, row: scan.FoundRow) -> FoundRecord | None:
    if not is_mentioned(job.decisions.origin.manta_storage_id, row.value):
        return None
    return next(read_rows(job, number, [row]), None)
