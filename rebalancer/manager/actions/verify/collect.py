"""This module stores the objects that a verify job is to verify, each of them once.

They are the objects that an earlier job has moved, those with a copy on one storage node, or those
that an earlier verify job did not confirm.  Each page or window is stored together with the
position that was reached, so that a job that was stopped goes on from there.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.domain.completeness import NO_SHARD
from rebalancer.domain.states import ObjectStatus
from rebalancer.domain.tiers import number_of, shard_name
from rebalancer.manager.actions.verify.records import (
    found_record,
    left_out,
)
from rebalancer.manager.store import discovery, scans, views
from rebalancer.manager.store.job_store import JobStore
from rebalancer.manager.store.records import FoundRecord, ScanPosition, unknown_id
from rebalancer.peers import scan
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Waits

#: The kinds of lines of a report that name a record each.
KINDS = ("object", "link")
#: Tells whether the record that a line of an earlier job's report names is to be verified.
Choice = Callable[[Mapping[str, Any]], bool]
#: The position that is stored when all objects have been collected.
ALL = ScanPosition(NO_SHARD, "collected", 1, 1)


def has_moved(line: Mapping[str, Any]) -> bool:
    """Tell whether a line of a report is of a record that its job has updated."""
    return bool(line["status"] == ObjectStatus.COMPLETE)


def is_unconfirmed(line: Mapping[str, Any]) -> bool:
    """Tell whether a line of a verify job's report is of an object that it did not confirm."""
    return bool(line["type"] == "link" or line["status"] != ObjectStatus.COMPLETE)


def has_collected_all(file: Path) -> bool:
    """Tell whether an earlier verify job has collected all its objects.  Blocking.

    Raises:
      StoreError: its file cannot be read.
    """
    return ALL in views.read_job(file).scans


@attrs.frozen
class LiveShards:
    """The live shards of both tiers, each of which is waited for."""

    live: Mapping[int, scan.Scannable]
    waits: Waits

    def records(self, number: int) -> scan.PatientRecords:
        """Return a shard's records, asked for as long as failures are transient."""
        return scan.PatientRecords(self.live[number].records(), shard_name(number), self.waits)

    async def texts(
        self, places: Sequence[tuple[int, str]]
    ) -> dict[tuple[int, str], scan.FoundRow]:
        """Return those records at `places` that exist, by shard and key.

        Raises:
          PeerError: a shard's failure is not transient.
        """
        keys, found = defaultdict[int, list[str]](list), dict[tuple[int, str], scan.FoundRow]()
        for number, key in places:
            keys[number].append(key)
        for number in keys.keys() & self.live.keys():
            rows = await self.records(number).rows_of(list(dict.fromkeys(keys[number])))
            found |= {(number, row.key): row for row in rows}
        return found


def _shard_of(line: Mapping[str, Any]) -> int:
    """Return the number by which stages know the shard of a line in a report."""
    return number_of(line["tier"], line["shard"])


@attrs.frozen
class Collector:
    """A collector stores objects in the file of a verify job."""

    store: JobStore
    shards: LiveShards
    readers: int
    window: int

    async def has_finished(self) -> bool:
        """Tell whether all objects are collected, by this run of the job or an earlier one."""
        return await self.store.read(scans.read_position, NO_SHARD, ALL.column) is not None

    async def finish(self) -> None:
        """Note that all objects are collected."""
        await self.store.write(discovery.store_found, [], ALL)

    # --- objects of an earlier job ---------------------------------------------------------

    async def store_reported(self, file: Path, is_chosen: Choice, prefix: str) -> None:
        """Store the records that lines in an earlier job's report name, if `is_chosen` of the line.

        `file` is that job's file.  Positions are stored under names that begin with `prefix`.

        Raises:
          StoreError: the file cannot be read.
          PeerError: a shard's failure is not transient.
        """
        for kind in KINDS:
            column = f"{prefix} {kind}s"
            done = await self.store.read(scans.read_position, NO_SHARD, column)
            if done is None:
                until = await run_sync(Work.VIEWS, views.last_reported, file, kind)
                done = ScanPosition(NO_SHARD, column, 0, until)
            while done.position < done.until:
                ask = partial(views.report_page, file, kind, done.position)
                end, lines = await run_sync(Work.VIEWS, ask)
                records = await self._read(list(filter(is_chosen, lines)))
                done = attrs.evolve(done, position=end if lines else done.until)
                await self._keep(records, done)

    async def _read(self, lines: Sequence[Mapping[str, Any]]) -> list[FoundRecord]:
        """Return the records that lines of a report name, as they are now."""
        found = await self.shards.texts([(_shard_of(line), line["key"]) for line in lines])
        return [self._read_line(line, found) for line in lines]

    def _read_line(
        self, line: Mapping[str, Any], found: Mapping[tuple[int, str], scan.FoundRow]
    ) -> FoundRecord:
        """Return the record that a line of a report names, under the line's object.

        Whether one that is gone, or became another object's, ends its object is judged when all
        records of the object are known: a link may have outlived it.
        """
        object_id, shard, key = line["id"], _shard_of(line), line["key"]
        if (row := found.get((shard, key))) is None:
            return left_out(object_id, shard, key)
        record = found_record(shard, key, row.etag, row.value)
        if record is None or record.id not in (object_id, unknown_id(shard, key)):
            return left_out(object_id, shard, key)
        return attrs.evolve(record, id=object_id)

    # --- objects with a copy on one node ---------------------------------------------------

    async def store_named(self, node: str) -> None:
        """Store the records of all shards that name the storage node `node`.

        Raises:
          ExceptionGroup: a PeerError of a shard that is not transient.
        """
        turns = trio.CapacityLimiter(self.readers)
        async with trio.open_nursery() as nursery:
            for number in self.shards.live:
                nursery.start_soon(self._scan, number, node, turns)

    async def _scan(self, number: int, node: str, turns: trio.CapacityLimiter) -> None:
        async with turns:
            records = self.shards.records(number)
            for part in await records.parts():
                await self._scan_part(number, records, part, node)

    async def _scan_part(self, number: int, shard: scan.Records, part: str, node: str) -> None:
        done = await self.store.read(scans.read_position, number, part)
        if done is None:
            done = ScanPosition.of(number, part, 0, await shard.end_of(part))
        while not done.reached.is_end:
            reached, rows = await shard.window(part, done.reached, self.window, node)
            records = [found_record(number, row.key, row.etag, row.value, node) for row in rows]
            done = ScanPosition.of(number, part, 0, reached)
            await self._keep([record for record in records if record is not None], done)

    async def _keep(self, records: Sequence[FoundRecord], done: ScanPosition) -> None:
        await self.store.write(discovery.store_found, records, done)
