"""The region's storinfo lists the storage nodes that accept writes.

As the real one answers, without its three bugs of the cursor search.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from rebalancer.serving.app import Answer, App, Request
from rebalancer_devregion.layout import Layout

DEFAULT_LIMIT, MAX_LIMIT = 100, 500

Listing = Callable[[], list[dict[str, Any]]]


def heartbeat(layout: Layout, name: str) -> dict[str, Any]:
    """Return what a node's heartbeat writes into bucket `manta_storage`.

    That of the evacuated node was stopped an hour ago.
    """
    age_ms = 3_600_000 if name == layout.evacuated else 0
    node = layout.node(name)
    return {
        "availableMB": node.available_mb,
        "percentUsed": node.percent_used,
        "filesystem": "/manta",
        "timestamp": time.time_ns() // 1_000_000 - age_ms,
        "hostname": f"zone-{name}",
        "datacenter": node.datacenter,
        "server_uuid": f"00000000-0000-4000-8000-{number(node.manta_storage_id):012d}",
        "zone_uuid": f"00000000-0000-4000-9000-{number(node.manta_storage_id):012d}",
        "manta_compute_id": f"{number(name)}.cn.{layout.domain}",
        "manta_storage_id": name,
    }


def number(name: str) -> int:
    """Return the number a node's name starts with."""
    return int(name.split(".")[0])


def listing(layout: Layout) -> list[dict[str, Any]]:
    """Return all nodes but the evacuated one, which takes no writes, so that it is not listed."""
    names = (node.manta_storage_id for node in layout.nodes)
    return [heartbeat(layout, name) for name in names if name != layout.evacuated]


def make_storinfo_app(nodes: Listing) -> App:
    """Return the application; `nodes` is asked for each request."""
    app = App("STORINFO/1.0.1", 1 << 10)

    @app.get("/storagenodes")
    async def list_nodes(request: Request) -> Answer:
        return _page(
            sorted(nodes(), key=lambda n: number(n["manta_storage_id"])), request.parameters
        )

    @app.get("/storagenodes/<name>")
    async def get_node(_request: Request, name: str) -> Answer:
        for node in nodes():
            if node["manta_storage_id"] == name:
                return _json(node)
        return _error(404, "NotFound", "")

    @app.post("/flush")
    async def flush(_request: Request) -> Answer:
        return Answer(content_type="text/html; charset=utf-8")

    return app


def _page(nodes: list[dict[str, Any]], args: Mapping[str, str]) -> Answer:
    for name in args:
        if name not in ("limit", "after_id"):
            return _error(400, "BadRequest", f"Invalid parameter: {name}")
    text = args.get("limit", str(DEFAULT_LIMIT))
    if not text.isdigit() or not 1 <= int(text) <= MAX_LIMIT:
        return _error(400, "BadRequest", f"Invalid value for limit parameter: {text}")
    limit, start = int(text), 0
    if after := args.get("after_id"):
        names = [node["manta_storage_id"] for node in nodes]
        if after not in names:
            return _error(404, "NotFound", "")
        start = names.index(after) + 1
    page = nodes[start : start + limit]
    link = {}
    if start + limit < len(nodes):
        last = page[-1]["manta_storage_id"]
        link["Link"] = f'</storagenodes?after_id={last}&limit={limit}>; rel="next"'
    return Answer(json.dumps(page).encode(), headers=link)


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode())


def _error(status: int, code: str, message: str) -> Answer:
    return Answer(json.dumps({"code": code, "message": message}).encode(), status)
