"""This module opens the shards of the buckets tier, and sees which uploads still go on in it."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs

from rebalancer.domain.bucket_objects import read_key
from rebalancer.domain.completeness import Reached
from rebalancer.errors import PeerRefused
from rebalancer.jsontext import JsonText, dumps, loads, members
from rebalancer.peers.buckets.database import BucketsDatabase, BucketsPrimary
from rebalancer.peers.buckets.mdapi import open_mdapi
from rebalancer.peers.metadata import Put, Record
from rebalancer.peers.names import locate
from rebalancer.peers.postgres import DEFAULT_PORT
from rebalancer.peers.protocols import CheckedStore
from rebalancer.peers.scan import FoundRow, Records


@attrs.frozen
class TierRecords:
    """The records of one shard, in which parts of uploads that go on are marked.

    The record of an upload may be in any shard of the tier, and counts as it is now, so all
    primaries are asked.
    """

    records: Records
    tier: Sequence[BucketsDatabase]

    async def parts(self) -> tuple[str, ...]:
        """Return what `Records` promises."""
        return await self.records.parts()

    async def end_of(self, part: str, known: Reached | None = None) -> Reached:
        """Return what `Records` promises."""
        return await self.records.end_of(part, known)

    async def window(
        self, part: str, done: Reached, width: int, shark: str, *, uploads: bool = False
    ) -> tuple[Reached, list[FoundRow]]:
        """Return what `Records` promises."""
        reached, rows = await self.records.window(part, done, width, shark, uploads=uploads)
        await self._mark(rows)
        return reached, rows

    async def rows_of(self, keys: Sequence[str]) -> list[FoundRow]:
        """Return what `Records` promises."""
        rows = await self.records.rows_of(keys)
        await self._mark(rows)
        return rows

    async def deleted(self, shark: str) -> int:
        """Return what `Records` promises."""
        return await self.records.deleted(shark)

    async def _mark(self, rows: Sequence[FoundRow]) -> None:
        keys = [(row, read_key(row.key)) for row in rows]
        parts = [(row, key) for row, key in keys if key.upload is not None]
        if not parts:
            return
        live = set[tuple[str, str, str]]()
        for shard in self.tier:
            live |= await shard.live_uploads([key for _, key in parts])
        for row, key in parts:
            row.in_upload = (key.owner, key.bucket_id, key.upload) in live


@attrs.frozen
class BucketsClone:
    """The clone of a shard, whose records are looked for there."""

    clone: BucketsDatabase
    tier: Sequence[BucketsDatabase]

    def records(self) -> Records:
        """Return the records of the shard, as they were when the clone was made."""
        return TierRecords(self.clone, self.tier)

    async def check(self) -> None:
        """Return if there are rows to look at.

        Raises:
          PeerError: there are none, or no answer came.
        """
        await self.clone.check_vnodes()


@attrs.frozen
class BucketsShard:
    """A live shard of the buckets tier: scanned in its primary, and updated by `store`."""

    primary: BucketsPrimary
    store: CheckedStore
    tier: Sequence[BucketsDatabase]

    def records(self) -> Records:
        """Return the records of the shard."""
        return TierRecords(self.primary, self.tier)

    def resize(self, connections: int) -> None:
        """Leave the number of connections as it is: there is one for each purpose."""

    async def check(self, *, updates: bool) -> None:
        """Return if rows can be looked at and, with `updates`, be updated.

        Raises:
          PeerError: they cannot, or no answer came.
        """
        await self.primary.check_vnodes()
        if updates:
            await self.store.check()

    async def get_object(self, bucket: str, key: str) -> Record | None:
        """Return what `RecordStore` promises."""
        return await self.store.get_object(bucket, key)

    async def put_object(
        self, bucket: str, key: str, value: Mapping[str, Any] | JsonText, etag: str | None
    ) -> str:
        """Do what `RecordStore` promises."""
        if self.store is not self.primary:
            value = await self._with_digits(key, value)
        return await self.store.put_object(bucket, key, value, etag)

    async def _with_digits(
        self, key: str, value: Mapping[str, Any] | JsonText
    ) -> Mapping[str, Any] | JsonText:
        """Return a value with the properties as the database has them, to the digit.

        A server that shows other digits would write those, so it is asked for no update then.

        Raises:
          PeerError: they cannot be read.
        """
        rows = await self.primary.rows_of([key])
        if not rows:
            return value
        record = loads(value) if isinstance(value, JsonText) else value
        try:
            known = members(rows[0].value)
        except (ValueError, RecursionError) as exc:
            raise PeerRefused(f"{key}: its properties cannot be compared: {exc}") from exc
        exact = {name: known[name] for name in ("modified", "properties")}
        exact["sharks"] = JsonText(dumps(record.get("sharks")))
        return JsonText(f"{{{','.join(f'{dumps(name)}:{text}' for name, text in exact.items())}}}")

    async def batch(self, puts: Sequence[Put]) -> None:
        """Do what `RecordStore` promises."""
        await self.store.batch(puts)


@attrs.frozen
class BucketsTier:
    """The shards of the buckets tier, and their clones, if there are any."""

    shards: Mapping[int, BucketsShard]
    clones: Mapping[int, BucketsClone]


@asynccontextmanager
async def open_buckets(
    primaries: Mapping[int, str],
    clones: Mapping[int, str],
    servers: Mapping[int, str],
    hosts: Mapping[str, str],
) -> AsyncIterator[BucketsTier]:
    """Open clients of the primaries and clones with these names, and of the shards' `servers`.

    Rows are updated by the servers, where these are given, else in the primaries.  Nothing is
    connected yet: a server that is down fails what it is asked, not this.
    """
    opened = {
        number: BucketsPrimary(name, locate(name, hosts, DEFAULT_PORT))
        for number, name in primaries.items()
    }
    copies = {
        number: BucketsDatabase(name, locate(name, hosts, DEFAULT_PORT))
        for number, name in clones.items()
    }
    tier = list(opened.values())
    try:
        async with open_mdapi(servers, hosts) as by_rpc:
            stores: dict[int, CheckedStore] = {**opened, **by_rpc}
            yield BucketsTier(
                {number: BucketsShard(one, stores[number], tier) for number, one in opened.items()},
                {number: BucketsClone(one, tier) for number, one in copies.items()},
            )
    finally:
        for one in [*opened.values(), *copies.values()]:
            one.close()
