"""This module finds the records that name a shark, by SQL, in bounded windows of ids.

`sharks` has no index, so every row must be looked at; the filter runs in the server.  A window
bounds what one statement may return and is the point from which a scan goes on after a crash.
The same statements go to a shard's database or through Moray's `sql`.
"""

import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import attrs
import trio

from rebalancer.domain.completeness import LAST_COLUMN
from rebalancer.errors import PeerMalformed
from rebalancer.retry import retry_while_transient
from rebalancer.waits import Waits

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


class Shard(Protocol):
    """A shard runs statements: by its database, or by its Moray."""

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = STATEMENT_S
    ) -> list[dict[str, Any]]:
        """Return the rows of a one-line statement with parameters $1 and on, in `within_s`.

        Raises:
          PeerError: none of the rows can be relied on.
        """


@attrs.frozen
class PatientShard:
    """A patient shard is asked again while its failures are transient, and operators see that."""

    shard: Shard
    #: The name of the wait for this shard.
    subject: str
    waits: Waits
    #: Seconds after which its next failure is raised.
    patience_s: float = math.inf
    rest: Callable[[float], Awaitable[None]] = trio.sleep

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = STATEMENT_S
    ) -> list[dict[str, Any]]:
        """Return the rows of a statement, as every `Shard` does."""
        return await retry_while_transient(
            partial(self.shard.sql, statement, values, within_s=within_s),
            waits=self.waits,
            subject=self.subject,
            bound_s=self.patience_s,
            sleep=self.rest,
        )


# Not frozen, because that takes three times as long to make, and there is one for each row.
@attrs.define
class FoundRow:
    """A row that mentions the shark: the text of its record and its version."""

    key: str
    etag: str
    value: str
    is_directory: bool = False


async def id_columns(shard: Shard) -> tuple[str, ...]:
    """Return the id columns of table `manta` of this shard, and `NO_ID`, in the order to scan.

    Raises:
      PeerError.
    """
    # The table that the statements read: another schema may have one of the same name.
    rows = await shard.sql(
        "SELECT attname FROM pg_attribute"
        " WHERE attrelid = 'manta'::regclass AND attname = '_idx' AND NOT attisdropped"
    )
    return (*(ID_COLUMNS if rows else ID_COLUMNS[:1]), NO_ID)


async def last_id(shard: Shard, column: str) -> int:
    """Return the highest id in `column`, 0 in an empty table.

    Raises:
      PeerError.
    """
    if column == NO_ID:
        return 1
    rows = await shard.sql(f"SELECT max({column}) AS max_id FROM manta")
    found = rows[0].get("max_id") if rows and isinstance(rows[0], dict) else None
    try:
        return int(found or 0)
    except (TypeError, ValueError, OverflowError) as exc:
        raise PeerMalformed(f"max({column}) is no number") from exc


async def window(
    shard: Shard,
    columns: Sequence[str],
    column: str,
    after: int,
    until: int,
    shark: str,
    *,
    directories: bool = False,
) -> list[FoundRow]:
    """Return the objects' rows with `after < id <= until` whose record holds `shark` as a string.

    With `directories`, those too.  `columns` are all of `id_columns`.  Some
    rows may hold the name in another field: look at the parsed `sharks` too.

    Raises:
      PeerError: and nothing of the window can be relied on.
    """
    if column == NO_ID:
        where = " AND ".join(f"{name} IS NULL" for name in columns if name != NO_ID)
        bounds, order = [], "_key"
    else:
        where, order = f"{column} > $2 AND {column} <= $3", column
        bounds = [after, until]
    # position() is twice as fast as LIKE; with its quotes the name matches whole strings only.
    types = "type IN ('object', 'directory')" if directories else "type = 'object'"
    rows = await shard.sql(
        f"SELECT _key, _etag, _value, type FROM manta WHERE {where}"
        f" AND {types} AND position($1 in _value) > 0 ORDER BY {order}",
        [f'"{shark}"', *bounds],
        within_s=TABLE_S if column == NO_ID else WINDOW_S,
    )
    return _found(rows)


async def rows_of(shard: Shard, keys: Sequence[str]) -> list[FoundRow]:
    """Return the rows of the objects `keys`, as far as they exist.

    Raises:
      PeerError.
    """
    found = []
    for piece in _pieces(keys):
        numbers = ", ".join(f"${number}" for number in range(1, len(piece) + 1))
        rows = await shard.sql(
            f"SELECT _key, _etag, _value FROM manta WHERE _key IN ({numbers}) AND type = 'object'",
            piece,
        )
        found += _found(rows)
    return found


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
