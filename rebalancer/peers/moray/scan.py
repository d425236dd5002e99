"""Finding the records that name a shark, through Moray's `sql`, in bounded windows of ids.

`sharks` has no index, so every row must be looked at; the filter runs in the server.  A window
bounds what one statement may return and is the point from which a scan goes on after a crash.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from rebalancer.errors import PeerMalformed
from rebalancer.peers.moray.client import MorayClient

# Shards that ran out of 32-bit ids have a second column; old rows use the first only and new
# rows the second only, and every new id is above every old one.
ID_COLUMNS = ("_id", "_idx")


@attrs.frozen
class FoundRow:
    """A row that mentions the shark: the text of its record and its version."""

    key: str
    etag: str
    value: str


async def id_columns(moray: MorayClient) -> tuple[str, ...]:
    """The id columns that table `manta` of this shard has, in the order to scan them.

    Raises:
      PeerError.
    """
    rows = await moray.sql(
        "SELECT column_name FROM information_schema.columns"
        " WHERE table_name = 'manta' AND column_name = '_idx'"
    )
    return ID_COLUMNS if rows else ID_COLUMNS[:1]


async def last_id(moray: MorayClient, column: str) -> int:
    """The highest id in `column`, 0 in an empty table.

    Raises:
      PeerError.
    """
    rows = await moray.sql(f"SELECT max({column}) AS max_id FROM manta")
    return int(rows[0]["max_id"] or 0) if rows else 0


async def window(
    moray: MorayClient, column: str, after: int, until: int, shark: str
) -> list[FoundRow]:
    """The objects' rows with `after < id <= until` whose record holds `shark` as a string.

    Some may hold it in another field: look at the parsed `sharks` too.

    Raises:
      PeerError: and nothing of the window can be relied on.
    """
    # position() is twice as fast as LIKE; with its quotes the name matches whole strings only.
    rows = await moray.sql(
        f"SELECT _id, _key, _etag, _value FROM manta WHERE {column} > $1 AND {column} <= $2"
        f" AND type = 'object' AND position($3 in _value) > 0 ORDER BY {column}",
        [after, until, f'"{shark}"'],
    )
    return [_found(row) for row in rows]


def _found(row: Mapping[str, Any]) -> FoundRow:
    match row:
        case {"_key": str(key), "_etag": str(etag), "_value": str(value)}:
            return FoundRow(key, etag, value)
    raise PeerMalformed("a row without _key, _etag or _value")
