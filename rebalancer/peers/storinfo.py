"""This module asks storinfo which storage nodes accept writes, and how full they are."""

import math
from typing import Any
from urllib.parse import quote

from rebalancer.domain.objects import StorageNode
from rebalancer.errors import PeerMalformed, PeerRefused
from rebalancer.jsontext import is_text
from rebalancer.log import get_logger
from rebalancer.peers.http import HttpClient
from rebalancer.peers.names import is_address

#: The most a real storinfo gives at once.
PAGE = 500
#: Pages of one walk; no region has so many nodes.
PAGES = 1000
#: Walks of the list begun before giving up.
WALKS = 3
DEADLINE_S = 10.0
#: Numbers above this are no sizes, shares or times: JavaScript does not count so far.
MOST = 2**53
#: Bad entries that are remembered, to log each of them once.
REMEMBERED = 1000

log = get_logger()


class LeftOut:
    """A record of the entries of storinfo's list that cannot be used.

    Mutable state: what is wrong with entries of the last list, and what was logged already.
    """

    def __init__(self) -> None:
        self.problems: tuple[str, ...] = ()
        self._logged: set[str] = set()

    def note(self, problems: list[str]) -> None:
        """Keep what is wrong with a list, and log what is new of it."""
        for problem in problems:
            if problem not in self._logged and len(self._logged) < REMEMBERED:
                self._logged.add(problem)
                log.warning("storage node left out", reason=problem, left_out=len(problems))
        self.problems = tuple(problems)


async def storage_nodes(
    http: HttpClient, host: str, left_out: LeftOut | None = None
) -> list[StorageNode]:
    """Read every node on the list that can be used; the others are noted in `left_out`.

    A node that drops off the list between two pages makes a real storinfo answer 404 or begin
    anew, so either means to start over; and a cursor on an empty list kills it, so the first
    page has none.

    Raises:
      PeerError: no answer, or none that can be used.
    """
    for _ in range(WALKS):
        problems: list[str] = []
        if (nodes := await _walk(http, host, problems)) is not None:
            (left_out or LeftOut()).note(problems)
            return nodes
    raise PeerRefused(f"storinfo {host}: its list kept changing under the walk")


async def _walk(http: HttpClient, host: str, problems: list[str]) -> list[StorageNode] | None:
    found: dict[str, StorageNode] = {}
    cursors = [""]
    while len(cursors) <= PAGES:
        after = f"&after_id={quote(cursors[-1], safe='', errors='replace')}" if cursors[-1] else ""
        reply = await http.request(
            "GET", host, f"/storagenodes?limit={PAGE}{after}", within_s=DEADLINE_S
        )
        if reply.status == 404 and after:
            return None
        if reply.status != 200:
            raise PeerRefused(f"storinfo {host}: {reply.status} {reply.text[:200]}")
        page = reply.json()
        if not isinstance(page, list):
            raise PeerMalformed(f"storinfo {host}: expected a list")
        for node in read_nodes(page, problems):
            if node.manta_storage_id in found:
                return None
            found[node.manta_storage_id] = node
        if len(page) < PAGE:
            return list(found.values())
        cursor = next(filter(None, map(_name, reversed(page))), "")
        if cursor in cursors:
            return None
        cursors.append(cursor)
    raise PeerMalformed(f"storinfo {host}: its list has no end")


def read_nodes(entries: list[Any], problems: list[str]) -> list[StorageNode]:
    """Read the nodes of a list; what is wrong with other entries is added to `problems`.

    One bad entry must not take the others from us, as it did from the predecessor.
    """
    nodes = []
    for entry in entries:
        try:
            nodes.append(_read_node(entry))
        except ValueError as exc:
            problems.append(str(exc))
    return nodes


def _read_node(entry: Any) -> StorageNode:
    """Read an entry as a node.

    Raises:
      ValueError: the entry is none: says which and why.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"an entry is no object but {type(entry).__name__}")
    name, datacenter = _name(entry), entry.get("datacenter")
    if name is None or not is_address(name):
        raise ValueError(f"manta_storage_id: expected a host's name, not {_shown(name)}")
    if not isinstance(datacenter, str) or not is_text(datacenter):
        raise ValueError(f"{name}: datacenter: expected a text, not {_shown(datacenter)}")
    return StorageNode(
        name,
        datacenter,
        available_mb=int(_number(name, entry, "availableMB")),
        percent_used=math.ceil(_number(name, entry, "percentUsed")),
        timestamp_ms=int(_number(name, {"timestamp": entry.get("timestamp") or 0}, "timestamp")),
    )


def _name(entry: Any) -> str | None:
    name = entry.get("manta_storage_id") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else None


def _number(name: str, entry: dict[str, Any], key: str) -> int | float:
    value: Any = entry.get(key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= MOST:  # which neither infinity nor NaN is
        found: int | float = value
        return found
    raise ValueError(f"{name}: {key}: expected a number from 0 to 2^53, not {_shown(value)}")


def _shown(value: Any) -> str:
    """Make a value short enough for the log; of a list or an object only its kind is shown."""
    if isinstance(value, list | dict):
        return type(value).__name__
    if isinstance(value, int) and abs(value) > MOST:
        return "a number of many digits"
    return repr(value)[:100]
