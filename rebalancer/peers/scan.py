"""This module finds the records that name a shark, in bounded windows of the records of a shard.

`sharks` has no index, so every row must be looked at; the filter runs in the server.  A window
bounds what one statement may return and is the point from which a scan goes on after a crash.
In the directory tier it is a range of ids, and the same statements go to a shard's database or
through Moray's `sql`.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import attrs
import trio

from rebalancer.domain.completeness import LAST_COLUMN, Reached
from rebalancer.errors import PeerMalformed
from rebalancer.retry import retry_while_transient
from rebalancer.waits import Waits

T = TypeVar("T")

# Shards that ran out of 32-bit ids have a second column; old rows use the first only and new
# rows the second only, and every new id is above every old one.
ID_COLUMNS = ("_id", "_idx")
#: Stands for a column in which rows without any id have the id 1: `_id` may be NULL.
NO_ID = LAST_COLUMN
#: One window may take this many seconds: a cold disk reads some hundred rows in each.
WINDOW_S = 600.0
#: Rows without an id are in no index, so looking for them reads the whole table, in one go: a
#: hundred million records of a kilobyte at some ten megabytes a second.
TABLE_S = 4 * 3600.0
#: Keys asked for at a time: with what JSON adds their message fits into a socket's buffer.
KEYS_BYTES = 32 << 10
#: Any other statement may take this many seconds.
STATEMENT_S = 60.0


# Not frozen, because that takes three times as long to make, and there is one for each row.
@attrs.define
class FoundRow:
    """A row that mentions the shark: the text of its record and its version."""

    key: str
    etag: str
    value: str
    #: Whether the record is not an object's, but perhaps an upload's, whose object may come to lie
    #: on the shark.
    may_be_upload: bool = False
    #: Whether its object is a part of an upload that goes on.
    in_upload: bool = False


class Shard(Protocol):
    """A shard of the directory tier runs statements: by its database, or by its Moray."""

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = STATEMENT_S
    ) -> list[dict[str, Any]]:
        """Return the rows of a one-line statement with parameters $1 and on, in `within_s`.

        Raises:
          PeerError: none of the rows can be relied on.
        """


class Records(Protocol):
    """The records of a shard, to be scanned: in parts, and each part window by window."""

    async def parts(self) -> tuple[str, ...]:
        """Return the names of the parts, in the order to scan; `LAST_COLUMN` is the last.

        Raises:
          PeerError.
        """

    async def end_of(self, part: str, known: Reached | None = None) -> Reached:
        """Return where the scan of a part begins, or goes on behind `known`, and its end as of now.

        Raises:
          PeerError.
        """

    async def window(
        self, part: str, done: Reached, width: int, shark: str, *, uploads: bool = False
    ) -> tuple[Reached, list[FoundRow]]:
        """Return the rows of the next `width` records that mention `shark`, and how far that is.

        With `uploads`, rows that may be an upload's too.  Some rows may hold the name in another
        field: look at the parsed `sharks` too.

        Raises:
          PeerError: and nothing of the window can be relied on.
        """

    async def rows_of(self, keys: Sequence[str]) -> list[FoundRow]:
        """Return the rows of the objects `keys`, as far as they exist.

        Raises:
          PeerError.
        """

    async def deleted(self, shark: str) -> int:
        """Return how many records of deleted objects name `shark`, 0 where nobody can tell.

        Garbage collection has yet to remove their files.

        Raises:
          PeerError.
        """


class Scannable(Protocol):
    """A scannable shard has records that can be scanned."""

    def records(self) -> Records:
        """Return the records of the shard."""


class DirectoryShard(Shard, Scannable, Protocol):
    """A shard of the directory tier has its records in table `manta`."""

    def records(self) -> Records:
        """Return the records of the shard."""
        return DirectoryRecords(self)


@attrs.frozen
class PatientRecords:
    """Patient records are asked for again while failures are transient, and operators see that."""

    records: Records
    #: The name of the wait for this shard.
    subject: str
    waits: Waits
    #: Seconds after which its next failure is raised.
    patience_s: float = math.inf
    rest: Callable[[float], Awaitable[None]] = trio.sleep

    async def parts(self) -> tuple[str, ...]:
        """Return what `Records` promises."""
        return await self._ask(self.records.parts)

    async def end_of(self, part: str, known: Reached | None = None) -> Reached:
        """Return what `Records` promises."""
        return await self._ask(partial(self.records.end_of, part, known))

    async def window(
        self, part: str, done: Reached, width: int, shark: str, *, uploads: bool = False
    ) -> tuple[Reached, list[FoundRow]]:
        """Return what `Records` promises."""
        ask = partial(self.records.window, part, done, width, shark, uploads=uploads)
        return await self._ask(ask)

    async def rows_of(self, keys: Sequence[str]) -> list[FoundRow]:
        """Return what `Records` promises."""
        return await self._ask(partial(self.records.rows_of, keys))

    async def deleted(self, shark: str) -> int:
        """Return what `Records` promises."""
        return await self._ask(partial(self.records.deleted, shark))

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        return await retry_while_transient(
            ask,
            waits=self.waits,
            subject=self.subject,
            bound_s=self.patience_s,
            sleep=self.rest,
        )


@attrs.define
class DirectoryRecords:
    """The records of a shard of the directory tier: table `manta`, scanned by its ids.

    Mutable state: the columns of ids, which are known once the parts were asked for.
    """

    shard: Shard
    _columns: tuple[str, ...] = ()

    async def parts(self) -> tuple[str, ...]:
        """Return the id columns, and `NO_ID`."""
        # The table that the statements read: another schema may have one of the same name.
        rows = await self.shard.sql(
            "SELECT attname FROM pg_attribute"
            " WHERE attrelid = 'manta'::regclass AND attname = '_idx' AND NOT attisdropped"
        )
        self._columns = ID_COLUMNS if rows else ID_COLUMNS[:1]
        return (*self._columns, NO_ID)

    async def end_of(self, part: str, known: Reached | None = None) -> Reached:
        """Return how far the scan of a column is, and the highest id, 0 in an empty table."""
        if part == NO_ID:
            return known or Reached(0, 1)
        rows = await self.shard.sql(f"SELECT max({part}) AS max_id FROM manta")
        found = rows[0].get("max_id") if rows and isinstance(rows[0], dict) else None
        try:
            last = int(found or 0)
        except (TypeError, ValueError, OverflowError) as exc:
            raise PeerMalformed(f"max({part}) is no number") from exc
        return (
            Reached(0, last) if known is None else Reached(known.position, max(known.until, last))
        )

    async def window(
        self, part: str, done: Reached, width: int, shark: str, *, uploads: bool = False
    ) -> tuple[Reached, list[FoundRow]]:
        """Return the objects' rows of the next `width` ids whose record holds `shark` as a string.

        With `uploads`, directories too.
        """
        end = min(done.position + width, done.until)
        if part == NO_ID:
            where = " AND ".join(f"{name} IS NULL" for name in self._columns)
            bounds, order = list[int](), "_key"
        else:
            where, order = f"{part} > $2 AND {part} <= $3", part
            bounds = [done.position, end]
        # position() is twice as fast as LIKE; with its quotes the name matches whole strings only.
        types = "type IN ('object', 'directory')" if uploads else "type = 'object'"
        rows = await self.shard.sql(
            f"SELECT _key, _etag, _value, type FROM manta WHERE {where}"
            f" AND {types} AND position($1 in _value) > 0 ORDER BY {order}",
            [f'"{shark}"', *bounds],
            within_s=TABLE_S if part == NO_ID else WINDOW_S,
        )
        return Reached(end, done.until), _found(rows)

    async def rows_of(self, keys: Sequence[str]) -> list[FoundRow]:
        """Return what `Records` promises, asked for by pieces that each fit into a message."""
        found = []
        for piece in _pieces(keys):
            numbers = ", ".join(f"${number}" for number in range(1, len(piece) + 1))
            rows = await self.shard.sql(
                "SELECT _key, _etag, _value FROM manta"
                f" WHERE _key IN ({numbers}) AND type = 'object'",
                piece,
            )
            found += _found(rows)
        return found

    async def deleted(self, shark: str) -> int:
        """Return 0: what is to be removed is queued elsewhere."""
        await trio.lowlevel.checkpoint()
        return 0


def _pieces(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    """Cut the keys into pieces, so that the message with those of a piece goes out whole."""
    piece: list[str] = []
    size = 0
    for key in keys:
        size += len(key.encode(errors="surrogatepass"))
        if piece and size > KEYS_BYTES:
            yield piece
            piece, size = [], len(key.encode(errors="surrogatepass"))
        piece.append(key)
    if piece:
        yield piece


def _found(rows: Iterable[Mapping[str, Any]]) -> list[FoundRow]:
    found = []
    for row in rows:  # a pattern of a mapping takes twice as long
        if not isinstance(row, dict):
            raise PeerMalformed("a row that is no object")
        key, etag, value = row.get("_key"), row.get("_etag"), row.get("_value")
        if not (isinstance(key, str) and isinstance(etag, str) and isinstance(value, str)):
            raise PeerMalformed("a row without _key, _etag or _value")
        found.append(FoundRow(key, etag, value, row.get("type") == "directory"))
    return found
