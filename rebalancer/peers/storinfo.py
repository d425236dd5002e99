"""storinfo: which storage nodes accept writes, and how full they are."""

import math
from typing import Any

from rebalancer.domain.objects import StorageNode
from rebalancer.errors import PeerMalformed, PeerRefused
from rebalancer.peers.http import HttpClient

#: The most a real storinfo gives at once.
PAGE = 500
#: Walks of the list begun before giving up.
WALKS = 3
DEADLINE_S = 10.0


async def storage_nodes(http: HttpClient, host: str) -> list[StorageNode]:
    """Every node on the list.

    A node that drops off the list between two pages makes a real storinfo answer 404 or begin
    anew, so either means to start over; and a cursor on an empty list kills it, so the first
    page has none.

    Raises:
      PeerError: no answer, or none that can be used.
    """
    for _ in range(WALKS):
        if (nodes := await _walk(http, host)) is not None:
            return nodes
    raise PeerRefused(f"storinfo {host}: its list kept changing under the walk")


async def _walk(http: HttpClient, host: str) -> list[StorageNode] | None:
    found: dict[str, StorageNode] = {}
    cursor = ""
    while True:
        after = f"&after_id={cursor}" if cursor else ""
        reply = await http.request(
            "GET", host, f"/storagenodes?limit={PAGE}{after}", within_s=DEADLINE_S
        )
        if reply.status == 404 and cursor:
            return None
        if reply.status != 200:
            raise PeerRefused(f"storinfo {host}: {reply.status} {reply.text[:200]}")
        page = _read(reply.json(), host)
        if any(node.manta_storage_id in found for node in page):
            return None
        found.update((node.manta_storage_id, node) for node in page)
        if len(page) < PAGE:
            return list(found.values())
        cursor = page[-1].manta_storage_id


def _read(body: Any, host: str) -> list[StorageNode]:
    if not isinstance(body, list):
        raise PeerMalformed(f"storinfo {host}: expected a list")
    # One bad entry must not take the others from us, as it did from the predecessor.
    return [node for entry in body if (node := _read_node(entry)) is not None]


def _read_node(entry: Any) -> StorageNode | None:
    match entry:
        case {
            "manta_storage_id": str(name),
            "datacenter": str(datacenter),
            "availableMB": int() | float() as available,
            "percentUsed": int() | float() as used,
        }:
            return StorageNode(
                name,
                datacenter,
                available_mb=int(available),
                percent_used=math.ceil(used),
                timestamp_ms=int(entry.get("timestamp") or 0),
            )
    return None
