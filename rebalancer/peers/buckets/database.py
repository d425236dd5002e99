"""This module reads and updates the rows of a shard of the buckets tier in its PostgreSQL."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import attrs

from rebalancer.domain.bucket_objects import (
    BucketKey,
    is_named,
    is_named_by_upload,
    read_key,
    write_etag,
)
from rebalancer.domain.completeness import LAST_COLUMN, Reached
from rebalancer.errors import PeerRefused
from rebalancer.jsontext import JsonText
from rebalancer.peers.buckets import statements
from rebalancer.peers.buckets.rows import (
    conflict,
    key_of_row,
    read_row,
    sharks_to_write,
    version_of_row,
)
from rebalancer.peers.metadata import Put, Record
from rebalancer.peers.names import Endpoint
from rebalancer.peers.postgres import PostgresPrimary, PostgresShard, Statement
from rebalancer.peers.scan import WINDOW_S, FoundRow

DATABASE = "buckets_metadata"
#: Deleted rows that are looked at by one statement: only their number comes back.
DELETED_ROWS = 20_000
#: Rows that are read anew, or looked for, by one statement.
ROWS = 1_000
#: An update, or each one of a transaction, may take so many seconds.
WRITE_S = 20.0


@attrs.frozen
class DeletedWindow:
    """A window of a vnode's deleted rows: how many name the node, and how far it went."""

    named: int
    end: tuple[str, ...] | None = None


class BucketsDatabase:
    """A buckets database has the rows of one shard, in a clone, a standby or the primary.

    These are `Records`; a part is a vnode.  A vnode whose schema has gone, because it was moved to
    another shard, is an error of the whole scan.
    """

    def __init__(self, name: str, where: Endpoint) -> None:
        self.name = name
        self._scanner = self._reader = PostgresShard(name, where, DATABASE)

    def records(self) -> Self:
        """Return the records of the shard."""
        return self

    def close(self) -> None:
        """Close the connections, if there are any."""
        self._scanner.close()

    async def vnodes(self) -> list[int]:
        """Return the vnodes that the shard has now.

        Raises:
          PeerError.
        """
        return sorted(int(row["vnode"]) for row in await self._reader.sql(statements.VNODES))

    async def check_vnodes(self) -> None:
        """Return if there are vnodes to look at.

        Raises:
          PeerError: there are none, or no answer came.
        """
        if not await self.vnodes():
            raise PeerRefused(f"{self.name}: there is no vnode in database {DATABASE}")

    async def parts(self) -> tuple[str, ...]:
        """Return the vnodes that the shard has now, and `LAST_COLUMN`, which has no rows.

        A vnode that appears later is in the answer to the next question.
        """
        return (*map(str, await self.vnodes()), LAST_COLUMN)

    async def end_of(self, part: str, known: Reached | None = None) -> Reached:
        """Return how far the scan of a vnode is, and about how many rows there are.

        Keys are in no order of time, so whatever is new since a scan ended is found by another
        from the start; its rows are counted on.
        """
        if part == LAST_COLUMN:
            return known or Reached(0, 1)
        if known is not None and not known.is_end:
            return known
        done = 0 if known is None else known.position
        rows = await self._scanner.sql(statements.rows_estimate(int(part)))
        return Reached(done, done + max(1, int(rows[0]["rows"]) if rows else 0))

    async def window(
        self, part: str, done: Reached, width: int, shark: str, *, uploads: bool = False
    ) -> tuple[Reached, list[FoundRow]]:
        """Look at the next `width` rows of a vnode, and return those that mention `shark`.

        With `uploads`, records of uploads that were given `shark` too.
        """
        if part == LAST_COLUMN:
            return Reached(done.until, done.until), []
        vnode, after = int(part), None if done.cursor is None else read_key(done.cursor)
        begin = [] if after is None else [after.owner, after.bucket_id, after.name]
        statement = statements.window(vnode, width, is_first=after is None, uploads=uploads)
        rows = await self._scanner.sql(statement, [shark, *begin], within_s=WINDOW_S)
        found, reached = [], Reached(done.position, done.position)
        for row in rows:
            record = read_row(row["record"])
            named = is_named(record, shark)
            if named or (uploads and is_named_by_upload(record, shark)):
                found.append(_found(vnode, row["record"], record, may_be_upload=not named))
            if row["is_last"]:
                reached = _reached(done, width, int(row["number"]), _key_of(vnode, record))
        return reached, found

    async def deleted_window(
        self, vnode: int, after: tuple[str, ...] | None, node: str
    ) -> DeletedWindow:
        """Count the deleted rows that name a storage node among the next `DELETED_ROWS`.

        Raises:
          PeerError.
        """
        statement = statements.deleted_window(vnode, DELETED_ROWS, is_first=after is None)
        rows = await self._scanner.sql(statement, [node, *(after or ())], within_s=WINDOW_S)
        if not rows:
            return DeletedWindow(0)
        (row,) = rows
        end = tuple(row[column] for column in statements.DELETED_KEY)
        return DeletedWindow(int(row["named"]), end)

    async def deleted(self, node: str) -> int:
        """Count the deleted rows of all vnodes that name a storage node.

        Raises:
          PeerError.
        """
        count = 0
        for vnode in await self.vnodes():
            window = await self.deleted_window(vnode, None, node)
            while window.end is not None:
                count += window.named
                window = await self.deleted_window(vnode, window.end, node)
        return count

    async def rows_of(self, keys: Sequence[str]) -> list[FoundRow]:
        """Return the rows of these keys, as far as they exist.

        Raises:
          PeerError.
        """
        by_vnode = defaultdict[int, list[BucketKey]](list)
        for text in keys:
            # A listing that names no shards has keys of the other tier too, which are no row's.
            with suppress(ValueError):
                key = read_key(text)
                by_vnode[key.vnode].append(key)
        found = []
        # Where a listing names no shard, each is asked, and a vnode's schema is in one of them.
        for vnode in await self.vnodes() if by_vnode else []:
            found += await self._rows(vnode, by_vnode.get(vnode, []))
        return found

    async def _rows(self, vnode: int, wanted: Sequence[BucketKey]) -> list[FoundRow]:
        """Return the rows of these keys of a vnode, as far as they exist.

        Raises:
          PeerError: the shard does not have the vnode, or did not answer.
        """
        found = []
        for values in _lists(wanted):
            for row in await self._reader.sql(statements.rows_of(vnode), values):
                found.append(_found(vnode, row["record"], read_row(row["record"])))
        return found

    async def live_uploads(self, parts: Iterable[BucketKey]) -> set[tuple[str, str, str]]:
        """Return the uploads of these parts whose records exist, by owner, bucket and upload.

        The record of an upload is of another vnode than its parts as a rule, and may be of another
        shard: an upload is over when no shard has its record.

        Raises:
          PeerError.
        """
        records = {
            (part.owner, part.bucket_id, part.upload_record(part.upload)): part.upload
            for part in parts
            if part.upload is not None
        }
        live = set()
        for vnode in await self.vnodes() if records else []:
            for values in _lists([BucketKey(vnode, *name) for name in records]):
                for row in await self._reader.sql(statements.existing(vnode), values):
                    name = row["owner"], row["bucket_id"], row["name"]
                    live.add((*name[:2], records[name]))
        return live


class BucketsPrimary(BucketsDatabase):
    """A buckets primary updates rows, each by a statement that changes it only as it was read.

    It is a `LiveShard`.  A statement waits for a user's change in flight, and is made on what
    came of it: headers stay, and an object that was overwritten is not touched.
    """

    def __init__(self, name: str, where: Endpoint) -> None:
        super().__init__(name, where)
        # A connection of its own for what is read beside a scan, whose windows may take minutes.
        self._reader = PostgresShard(name, where, DATABASE)
        self._writer = PostgresPrimary(name, where, DATABASE)

    def close(self) -> None:
        """Close the connections, if there are any."""
        super().close()
        self._reader.close()
        self._writer.close()

    def resize(self, connections: int) -> None:
        """Leave the number of connections, which is one for each purpose."""

    async def check(self) -> None:
        """Return if this server takes updates.

        Raises:
          MetadataError: it is a standby, or read-only.
          PeerRefused: the role that asks may not update rows.
          PeerUnreachable: it does not answer.
        """
        await self._writer.check()
        if forbidden := await self._writer.sql(statements.FORBIDDEN):
            vnodes = f"{len(forbidden):,} vnodes, {forbidden[0]['vnode']} among them"
            raise PeerRefused(f"{self.name}: the role may not update rows of {vnodes}")

    async def get_object(self, bucket: str, key: str) -> Record | None:
        """Return the row as it is now, or None if there is none; there are no `bucket`s here.

        Raises:
          PeerError.
        """
        where = key_of_row(key)
        rows = await self._rows(where.vnode, [where])
        if not rows:
            return None
        (row,) = rows
        return Record(row.key, read_row(row.value), row.etag)

    async def put_object(
        self, bucket: str, key: str, value: Mapping[str, Any] | JsonText, etag: str | None
    ) -> str:
        """Give the row the sharks of `value`, if its id and sharks are as in `etag`.

        Raises:
          MetadataError: `is_conflict` when they are not; a row that is gone has none.
          PeerUnreachable: whether the row was updated is unknown.
        """
        object_id, old = version_of_row(key, etag)
        await self.batch([Put(bucket, key, value, etag or "")])
        return write_etag(object_id, sharks_to_write(value, old))

    async def batch(self, puts: Sequence[Put]) -> None:
        """Update all rows, or none, in one transaction.

        Raises:
          MetadataError: the first that failed, `conflicting_key` naming it.
          PeerUnreachable: whether the rows were updated is unknown.
        """
        # Two transactions that lock the same rows in other orders deadlock.
        ordered = sorted(puts, key=lambda put: put.key)
        failed = await self._writer.write(list(map(_update, ordered)), within_s=WRITE_S)
        if failed is not None:
            raise conflict(ordered[failed].key)


def _reached(done: Reached, width: int, looked: int, last: BucketKey) -> Reached:
    """Return how far a scan is with a window of so many rows."""
    position = done.position + looked
    if looked < width:
        return Reached(position, position)
    return Reached(position, max(done.until, position + 1), str(last))


def _key_of(vnode: int, record: Mapping[str, Any]) -> BucketKey:
    return BucketKey(vnode, record["owner"], record["bucket_id"], record["name"])


def _found(
    vnode: int, text: str, record: Mapping[str, Any], *, may_be_upload: bool = False
) -> FoundRow:
    etag = write_etag(record["id"], record["sharks"])
    return FoundRow(str(_key_of(vnode, record)), etag, text, may_be_upload)


def _update(put: Put) -> Statement:
    key, (object_id, old) = key_of_row(put.key), version_of_row(put.key, put.etag)
    new = sharks_to_write(put.value, old)
    values = [new, key.owner, key.bucket_id, key.name, object_id, old]
    return statements.update(key.vnode), values


def _lists(keys: Sequence[BucketKey]) -> Iterable[list[list[str]]]:
    for begin in range(0, len(keys), ROWS):
        piece = keys[begin : begin + ROWS]
        yield [
            [key.owner for key in piece],
            [key.bucket_id for key in piece],
            [key.name for key in piece],
        ]
