"""A shard of the buckets tier in memory, behind the protocols that the manager knows shards by."""

import base64
import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import trio

from rebalancer.domain.bucket_objects import BucketKey, is_named, is_named_by_upload, write_etag
from rebalancer.domain.completeness import LAST_COLUMN, Reached
from rebalancer.jsontext import JsonText
from rebalancer.peers.metadata import Kind, MetadataError, Put, Record
from rebalancer.peers.scan import FoundRow, Records
from tests.manager.world import NODES, ORIGIN
from tests.peers.fakes import parsed

OWNER = "a0000000-0000-4000-8000-000000000001"
BUCKET = "b0000000-0000-4000-8000-000000000001"
MD5 = base64.b64encode(hashlib.md5(b"bucket").digest()).decode()
#: The vnodes of a shard, over which `make` spreads its rows.
VNODES = (3, 11)


def row(number: int, **changes: Any) -> dict[str, Any]:
    """The row of an object on the evacuated node and another."""
    other = NODES[0] if number % 2 else NODES[2]
    sharks = [f"{one.datacenter}:{one.manta_storage_id}" for one in (ORIGIN, other.shark)]
    return {
        "id": f"c0000000-0000-4000-8000-{number:012x}",
        "owner": OWNER,
        "bucket_id": BUCKET,
        "name": f"a/{number:04}",
        "created": "2026-01-01T00:00:00.000000Z",
        "modified": "2026-01-01T00:00:00.000000Z",
        "content_length": number,
        "content_md5": MD5,
        "content_type": "text/plain",
        "headers": {"m-n": str(number), "null-one": None},
        "sharks": sharks,
        "properties": {"roles": ["r"]},
        **changes,
    }


@attrs.define(eq=False)
class FakeBuckets:
    """A shard: its rows by key.  `check` is given each row before it is changed."""

    rows: dict[BucketKey, dict[str, Any]]
    #: Rows that users have deleted.
    gone: list[dict[str, Any]] = attrs.field(factory=list)
    check: Callable[[Mapping[str, Any]], None] = lambda _row: None
    #: Called with the shard around its writes.
    before_write: Callable[["FakeBuckets"], None] = lambda _shard: None
    after_write: Callable[["FakeBuckets"], None] = lambda _shard: None

    @classmethod
    def make(cls, rows: Sequence[dict[str, Any]]) -> "FakeBuckets":
        """A shard with these rows."""
        keys = [
            BucketKey(VNODES[n % len(VNODES)], one["owner"], one["bucket_id"], one["name"])
            for n, one in enumerate(rows)
        ]
        return cls(dict(zip(keys, copy.deepcopy(list(rows)), strict=True)))

    def records(self) -> Records:
        return self

    def resize(self, connections: int) -> None:
        pass

    async def parts(self) -> tuple[str, ...]:
        await trio.sleep(0.01)
        return (*map(str, sorted({key.vnode for key in self.rows})), LAST_COLUMN)

    async def end_of(self, part: str, known: Reached | None = None) -> Reached:
        await trio.sleep(0.01)
        if part == LAST_COLUMN:
            return known or Reached(0, 1)
        if known is not None and not known.is_end:
            return known
        done = 0 if known is None else known.position
        return Reached(done, done + 1)

    async def window(
        self, part: str, done: Reached, width: int, shark: str, *, uploads: bool = False
    ) -> tuple[Reached, list[FoundRow]]:
        await trio.sleep(0.01)
        if part == LAST_COLUMN:
            return Reached(done.until, done.until), []
        keys = sorted(str(key) for key in self.rows if key.vnode == int(part))
        behind = [key for key in keys if done.cursor is None or key > done.cursor][:width]
        found = [row for row in map(self._found, behind) if self._concerns(row, shark, uploads)]
        position = done.position + len(behind)
        if len(behind) < width:
            return Reached(position, position), found
        return Reached(position, position + 1, behind[-1]), found

    async def rows_of(self, keys: Sequence[str]) -> list[FoundRow]:
        await trio.sleep(0.01)
        known = {str(key) for key in self.rows}
        return [self._found(key) for key in keys if key in known]

    async def deleted(self, shark: str) -> int:
        await trio.sleep(0.01)
        return sum(is_named(one, shark) for one in self.gone)

    def _key(self, text: str) -> BucketKey | None:
        return next((key for key in self.rows if str(key) == text), None)

    def _found(self, text: str) -> FoundRow:
        key = self._key(text)
        assert key is not None
        record = self.rows[key]
        etag = write_etag(record["id"], record["sharks"])
        live = {one.name.rpartition("/")[2] for one in self.rows if "mpu-uploads" in one.name}
        is_upload = not record["sharks"] and "x-preallocated-sharks" in (record["headers"] or {})
        return FoundRow(text, etag, json.dumps(record), is_upload, key.upload in live)

    @staticmethod
    def _concerns(row: FoundRow, shark: str, uploads: bool) -> bool:
        record = json.loads(row.value)
        if row.may_be_upload:
            return uploads and is_named_by_upload(record, shark)
        return is_named(record, shark)

    async def get_object(self, bucket: str, key: str) -> Record | None:
        rows = await self.rows_of([key])
        return Record(key, json.loads(rows[0].value), rows[0].etag) if rows else None

    async def put_object(
        self, bucket: str, key: str, value: Mapping[str, Any] | JsonText, etag: str | None
    ) -> str:
        await self.batch([Put(bucket, key, value, etag or "")])
        return self._found(key).etag

    async def batch(self, puts: Sequence[Put]) -> None:
        """Change the sharks of all rows, or of none, each as a guarded statement does."""
        self.before_write(self)
        for put in puts:
            key = self._key(put.key)
            if key is None or self._found(put.key).etag != put.etag:
                await trio.sleep(0.01)
                raise MetadataError("Conflict", put.key, Kind.CONFLICT, put.key)
        for put in puts:
            changed = (
                {**self.rows[key], "sharks": list(parsed(put.value)["sharks"])}
                if (key := self._key(put.key))
                else {}
            )
            assert key is not None
            self.check(changed)
            self.rows[key] = changed
        self.after_write(self)
        await trio.sleep(0.01)
