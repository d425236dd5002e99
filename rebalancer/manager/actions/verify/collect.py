"""This module stores the objects that a verify job looks at, each once, behind stored positions.

They are what an earlier job has moved, what the shards name a storage node for, or what an earlier
verify job did not find to be right.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from rebalancer.domain.completeness import NO_SHARD
from rebalancer.domain.reasons import BAD_SHARD_NUMBER, DELETED, OVERWRITTEN
from rebalancer.domain.states import ObjectStatus
from rebalancer.manager.actions.verify.records import (
    found_record,
    left_out,
)
from rebalancer.manager.store import discovery, scans, views
from rebalancer.manager.store.job_store import JobStore
from rebalancer.manager.store.records import FoundRecord, ScanPosition
from rebalancer.peers import scan
from rebalancer.retry import retry_while_transient
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Waits

T = TypeVar("T")

#: Lines of a report that have a record each.
KINDS = ("object", "link")
#: Takes a line of an earlier job's report: whether its record is to be verified.
Choice = Callable[[Mapping[str, Any]], bool]
#: The position that is stored when all has been collected.
ALL = ScanPosition(NO_SHARD, "collected", 1, 1)


def has_moved(line: Mapping[str, Any]) -> bool:
    """Tell whether a line of a report has a record that its job made to name a new copy."""
    return bool(line["status"] == ObjectStatus.COMPLETE)


def is_not_right(line: Mapping[str, Any]) -> bool:
    """Tell whether a line of a verify job's report has an object that was not found to be right."""
    return bool(line["type"] == "link" or line["status"] != ObjectStatus.COMPLETE)


def has_collected_all(file: Path) -> bool:
    """Read whether an earlier verify job has collected everything.  Blocking.

    Raises:
      StoreError: its file cannot be read.
    """
    return ALL in views.read_job(file).scans


@attrs.frozen
class Shards:
    """The live metadata, which is asked for as long as waiting can help."""

    moray: Mapping[int, scan.Shard]
    waits: Waits

    async def ask(self, number: int, question: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of a shard.

        Raises:
          PeerError: one that waiting does not change.
        """
        subject = f"shard {number}"
        return await retry_while_transient(question, waits=self.waits, subject=subject)

    async def texts(
        self, places: Sequence[tuple[int, str]]
    ) -> dict[tuple[int, str], scan.FoundRow]:
        """Return the records that are there, by shard and key.

        Raises:
          PeerError: a shard gave an answer that waiting does not change.
        """
        keys, found = defaultdict[int, list[str]](list), dict[tuple[int, str], scan.FoundRow]()
        for number, key in places:
            keys[number].append(key)
        for number in keys.keys() & self.moray.keys():
            ask = partial(scan.rows_of, self.moray[number], list(dict.fromkeys(keys[number])))
            found |= {(number, row.key): row for row in await self.ask(number, ask)}
        return found


@attrs.frozen
class Collector:
    """A collector stores objects in the file of a verify job."""

    store: JobStore
    shards: Shards
    readers: int
    window: int
    #: Called with each position that was stored.
    on_position: Callable[[ScanPosition], None]

    async def has_all(self) -> bool:
        """Tell whether everything was collected, by this run or an earlier one."""
        return await self.store.read(scans.read_position, NO_SHARD, ALL.column) is not None

    async def finish(self) -> None:
        """Note that everything was collected."""
        await self.store.write(discovery.store_found, [], ALL)

    # --- what an earlier job knows ---------------------------------------------------------

    async def take_listed(self, file: Path, is_chosen: Choice, prefix: str) -> None:
        """Store the records in the file of an earlier job that `is_chosen` is true of.

        Positions are stored under names that begin with `prefix`.

        Raises:
          StoreError: the file cannot be read.
          PeerError: a shard gave an answer that waiting does not change.
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
        found = await self.shards.texts([(line["shard"], line["key"]) for line in lines])
        return [self._read_line(line, found) for line in lines]

    def _read_line(
        self, line: Mapping[str, Any], found: Mapping[tuple[int, str], scan.FoundRow]
    ) -> FoundRecord:
        object_id, shard, key = line["id"], line["shard"], line["key"]
        if shard not in self.shards.moray:
            detail = f"shard {shard} is not configured"
            why = BAD_SHARD_NUMBER
            return FoundRecord(object_id, key, shard, "", "", reason=why, detail=detail)
        if (row := found.get((shard, key))) is None:
            return left_out(object_id, shard, key, DELETED)
        record = found_record(shard, key, row.etag, row.value)
        if record is None or (record.obj is not None and record.id != object_id):
            return left_out(object_id, shard, key, OVERWRITTEN)
        return record

    # --- what shards name a node for -------------------------------------------------------

    async def take_named(self, node: str) -> None:
        """Store the records of all shards that name the storage node `node`.

        Raises:
          ExceptionGroup: a PeerError of a shard that waiting does not change.
        """
        turns = trio.CapacityLimiter(self.readers)
        async with trio.open_nursery() as nursery:
            for number in self.shards.moray:
                nursery.start_soon(self._scan, number, node, turns)

    async def _scan(self, number: int, node: str, turns: trio.CapacityLimiter) -> None:
        shard = self.shards.moray[number]
        async with turns:
            columns = await self.shards.ask(number, partial(scan.id_columns, shard))
            for column in columns:
                await self._scan_column(number, columns, column, node)

    async def _scan_column(
        self, number: int, columns: Sequence[str], column: str, node: str
    ) -> None:
        shard, ask = self.shards.moray[number], self.shards.ask
        done = await self.store.read(scans.read_position, number, column)
        if done is None:
            until = await ask(number, partial(scan.last_id, shard, column))
            done = ScanPosition(number, column, 0, until)
        while done.position < done.until:
            end = min(done.position + self.window, done.until)
            window = partial(scan.window, shard, columns, column, done.position, end, node)
            rows = await ask(number, window)
            records = [found_record(number, row.key, row.etag, row.value, node) for row in rows]
            done = attrs.evolve(done, position=end)
            await self._keep([record for record in records if record is not None], done)

    async def _keep(self, records: Sequence[FoundRecord], done: ScanPosition) -> None:
        await self.store.write(discovery.store_found, records, done)
        self.on_position(done)
