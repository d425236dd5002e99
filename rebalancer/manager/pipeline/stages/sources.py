"""This module finds objects by scans of shards, or in a listing whose records are read anew."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import trio

from rebalancer.domain.completeness import NO_SHARD
from rebalancer.domain.objects import MantaObject, copy_path
from rebalancer.errors import PeerError
from rebalancer.log import get_logger
from rebalancer.manager.pipeline.job import Job, Unplaced
from rebalancer.manager.pipeline.listings import Listed, Listing
from rebalancer.manager.store import discovery, scans
from rebalancer.manager.store.records import (
    NOT_CONFIGURED,
    Dropped,
    FoundRecord,
    Orphan,
    ScanPosition,
)
from rebalancer.peers import scan
from rebalancer.retry import retry_while_transient
from rebalancer.sqlite import Kept

#: Objects in one message to placement.
CHUNK = 200

#: Takes the rows of a window, and keeps them together with how far the scan has come.
Sink = Callable[[ScanPosition, list[scan.FoundRow]], Awaitable[None]]

log = get_logger()


async def find(job: Job, found: trio.MemorySendChannel[Unplaced]) -> None:
    """Send on every object of the job's source, each once, behind the stored positions.

    A shard that waiting cannot help is noted in `job.failures`; the others go on.
    """
    if job.listing is not None:
        await _look_up(job, job.listing, found)
    if not job.scans:
        return

    async def keep(scanned: ScanPosition, rows: list[scan.FoundRow]) -> None:
        records = read_rows(job, scanned.shard, rows)
        new = await job.store.write(
            discovery.store_found, Kept(records), scanned, limit=job.max_objects
        )
        await send(found, new)

    await scan_shards(job, job.scanned, keep)


async def send(found: trio.MemorySendChannel[Unplaced], objects: Sequence[MantaObject]) -> None:
    """Send `objects` on in messages of bounded size."""
    for start in range(0, len(objects), CHUNK):
        await found.send(Unplaced(tuple(objects[start : start + CHUNK])))


# --- scans -------------------------------------------------------------------------------


def phase(scan_round: int, shard: int) -> str:
    """Name the scan of a shard in a round, or the reading of a listing, for a person."""
    if shard == NO_SHARD:
        return "discovery"
    return f"the final scan of shard {shard}" if scan_round else f"discovery on shard {shard}"


async def scan_shards(
    job: Job, shards: Mapping[int, scan.Shard], keep: Sink, *, scan_round: int = 0
) -> None:
    """Hand the rows that mention the evacuated shark to `keep`, behind the stored positions.

    Round 0 is discovery, which looks at objects only; the others are final scans, which look
    at directories too.  A shard that does not answer is waited for, one that waiting cannot help
    is noted in `job.failures`; either way the others go on.
    """
    readers = trio.CapacityLimiter(job.config.options.max_md_read_threads)
    async with trio.open_nursery() as nursery:
        for number, shard in shards.items():
            nursery.start_soon(_scan_shard, job, number, shard, readers, keep, scan_round)


async def _scan_shard(
    job: Job,
    number: int,
    shard: scan.Shard,
    readers: trio.CapacityLimiter,
    keep: Sink,
    scan_round: int,
) -> None:
    turn = _Turn(readers)
    where = "shard" if job.moray.get(number) is shard else "the clone of shard"
    patient = _Patient(job, shard, f"{where} {number}", turn.rest)
    await turn.take()
    try:
        columns = await scan.id_columns(patient)
        for column in columns:
            await _scan_column(job, number, patient, columns, column, keep, scan_round)
    except PeerError as exc:
        # The other shards go on; the job fails when they are done.
        log.error("scan given up", job=job.id, shard=number, error=str(exc))
        job.failures.append(f"{phase(scan_round, number)} did not finish: {exc}")
    else:
        log.info("scan finished", job=job.id, shard=number, round=scan_round)
    finally:
        turn.give()


@attrs.define(eq=False)
class _Turn:
    """A turn is leave to read, which so many readers have at a time.

    A shard that is waited for gives its turn away meanwhile: others may have an answer.  Mutable
    state: whether it has its turn.
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


@attrs.frozen
class _Patient:
    """A patient shard is asked again for as long as the job waits for it."""

    job: Job
    shard: scan.Shard
    #: What the job waits for, in words.
    subject: str
    rest: Callable[[float], Awaitable[None]] = trio.sleep

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = scan.STATEMENT_S
    ) -> list[dict[str, Any]]:
        """Return the rows of a statement; this is the method of `scan.Shard`."""
        return await retry_while_transient(
            partial(self.shard.sql, statement, values, within_s=within_s),
            waits=self.job.waits,
            subject=self.subject,
            bound_s=self.job.patience_s,
            sleep=self.rest,
        )


async def _scan_column(
    job: Job,
    number: int,
    shard: scan.Shard,
    columns: tuple[str, ...],
    column: str,
    keep: Sink,
    scan_round: int,
) -> None:
    begun = await job.store.read(scans.read_position, number, column, scan_round)
    if begun is None:
        until = await scan.last_id(shard, column)
        begun = ScanPosition(number, column, 0, until, scan_round)
    window = await _window_behind(begun, job, shard, columns)
    while window is not None and not job.has_enough:
        job.metrics.scanned(window.scanned)
        ask = partial(_window_behind, window.scanned, job, shard, columns)
        # The server looks for the next rows while these are stored, and never further ahead.
        window = await _while_asking(partial(keep, window.scanned, window.rows), ask)


@attrs.frozen
class _Window:
    """A window has its rows, and how far the scan has come once they are kept."""

    scanned: ScanPosition
    rows: list[scan.FoundRow]


async def _window_behind(
    done: ScanPosition, job: Job, shard: scan.Shard, columns: tuple[str, ...]
) -> _Window | None:
    """Ask for the next window of a scan that has come as far as `done`; None behind the last.

    Raises:
      PeerError: the shard does not answer.
    """
    if done.position >= done.until or job.has_enough:
        return None
    end = min(done.position + job.config.options.md_read_chunk_size, done.until)
    shark = job.action.origin.manta_storage_id
    span = columns, done.column, done.position, end
    with job.metrics.timed("scan"):
        rows = await scan.window(shard, *span, shark, directories=done.round > 0)
    return _Window(attrs.evolve(done, position=end), rows)


async def _while_asking(
    keep: Callable[[], Awaitable[None]], ask: Callable[[], Awaitable[_Window | None]]
) -> _Window | None:
    """Do both at a time; once `keep` is done, returns or raises what `ask` did."""
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
    """Yield the records of a window that concern the job, parsed as they are taken, in a thread."""
    for row in rows:
        record = job.action.read(shard=number, key=row.key, etag=row.etag, text=row.value)
        if record is not None:
            yield record


# --- listings ----------------------------------------------------------------------------


async def _look_up(job: Job, listing: Listing, found: trio.MemorySendChannel[Unplaced]) -> None:
    run = job.store.database.run
    insist = partial(
        retry_while_transient,
        waits=job.waits,
        subject="the list of objects",
        bound_s=job.patience_s,
    )
    for part in listing.parts:
        begun = await job.store.read(scans.read_position, NO_SHARD, part)
        if begun is None:
            until = await insist(partial(run, listing.until, part))
            begun = ScanPosition(NO_SHARD, part, 0, until)
            # An empty part has an end too, and the job's end asks for it.
            await job.store.write(discovery.store_found, [], begun)
        while begun.position < begun.until and not job.has_enough:
            end, listed = await insist(partial(run, listing.page, part, begun.position))
            begun = attrs.evolve(begun, position=end if listed else begun.until)
            try:
                read = await _read_anew(job, listed)
            except PeerError as exc:
                job.failures.append(f"{phase(0, NO_SHARD)} did not finish: {exc}")
                return
            job.metrics.scanned(begun)
            new = await job.store.write(
                discovery.store_found,
                read.records,
                begun,
                limit=job.max_objects,
                dropped=read.dropped,
                orphans=read.orphans,
            )
            await send(found, new)


@attrs.frozen
class _Read:
    """The listed records as they are now, and those that the job has no business with.

    `orphans` are the copies, made by an earlier job, of the latter.
    """

    records: list[FoundRecord] = attrs.field(factory=list)
    dropped: list[Dropped] = attrs.field(factory=list)
    orphans: list[Orphan] = attrs.field(factory=list)

    def drop(self, shard: int, listed: Listed, why: str, now: str = "") -> None:
        """Leave a listed record out; `now` is its text, if there still is one."""
        self.dropped.append(Dropped(shard, listed.key, why))
        copy = listed.copy
        # A record that names the copy was updated, though its job did not come to know.
        if copy is not None and why != NOT_CONFIGURED and f'"{copy.shark}"' not in now:
            path = copy_path(copy.account, copy.object_id)
            self.orphans.append(Orphan(copy.object_id, copy.shark, path, f"its record {why}"))

    def take(self, record: FoundRecord, listed: Listed) -> None:
        """Take a record, with the copy that an earlier job made, unless it is another object's."""
        copy = listed.copy
        if copy is not None and copy.object_id != record.id:
            path = copy_path(copy.account, copy.object_id)
            self.orphans.append(
                Orphan(copy.object_id, copy.shark, path, "its record was overwritten")
            )
        elif copy is not None and record.obj is not None:
            obj = attrs.evolve(record.obj, earlier=copy.shark)
            record = attrs.evolve(record, earlier=copy.shark, obj=obj)
        self.records.append(record)


async def _read_anew(job: Job, listed: Sequence[Listed]) -> _Read:
    wanted = defaultdict[int, list[Listed]](list)
    for one in listed:
        for number in job.moray if one.shard is None else [one.shard]:
            wanted[number].append(one)
    read, known = _Read(), set[str]()
    for number, members in wanted.items():
        if number not in job.moray:
            for one in members:
                read.drop(number, one, NOT_CONFIGURED)
            continue
        # Of records of one object the first counts, and that must not depend on the shard's mood.
        places = {one.key: one for one in reversed(members)}
        shard = _Patient(job, job.moray[number], f"shard {number}")
        by_key = {row.key: row for row in await scan.rows_of(shard, list(places))}
        for key, one in reversed(places.items()):
            if (row := by_key.get(key)) is None:
                continue
            known.add(key)
            record = _read_mention(job, number, row)
            if record is None:
                read.drop(number, one, "is not on the shark any more", row.value)
            else:
                read.take(record, one)
    for one in listed:
        if one.key not in known and (one.shard is None or one.shard in job.moray):
            read.drop(one.shard or NO_SHARD, one, "does not exist any more")
    return read


def _read_mention(job: Job, number: int, row: scan.FoundRow) -> FoundRecord | None:
    if f'"{job.action.origin.manta_storage_id}"' not in row.value:
        return None
    return next(read_rows(job, number, [row]), None)
