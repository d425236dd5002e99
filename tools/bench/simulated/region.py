"""This module is a simulated region: its agents, storinfo and shards, in this process.

The agents are on one port, each at an address of its own, and are told apart by the Host of a
request; so is storinfo, and what tells how far all is.
"""

import json
import resource
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import msgspec
import trio
from agents import Agents, Answer, Request, listen, serve_http

from simulated.objects import DOMAIN, Objects, Shape
from simulated.shards import Shards, address_of

STORINFO = f"storinfo.{DOMAIN}"
#: Who asks this host is told of the simulation itself.
CONTROL = f"control.{DOMAIN}"


class _Source(msgspec.Struct):
    manta_storage_id: str


class _Task(msgspec.Struct):
    object_id: str
    owner: str
    md5sum: str
    source: _Source


class _Assignment(msgspec.Struct):
    tasks: list[_Task]


_assignments = msgspec.json.Decoder(_Assignment)


def node_address(index: int) -> str:
    """Return the address of a storage node."""
    return f"127.2.{(index + 1) >> 8}.{(index + 1) & 255}"


@attrs.define
class Region:
    """This answers for all servers of a region.

    Mutable state: the objects, the agents' assignments, and when the first object was asked for.
    """

    objects: Objects
    agents: Agents = attrs.field(factory=Agents)

    async def serve(self, told: Callable[[dict[str, int]], None]) -> None:
        """Serve for ever; the ports are told first."""
        # All of 127.0.0.0/8, so that each node and each shard has an address of its own.
        nodes, shards = listen("0.0.0.0"), listen("0.0.0.0")
        told({"nodes": _port(nodes), "shards": _port(shards)})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_http, nodes, self._answer)
            nursery.start_soon(Shards(self.objects).serve, shards)

    async def _answer(self, request: Request) -> Answer:
        if request.host == CONTROL:
            return _json(self._told(request.path))
        if request.host == STORINFO:
            return _json(self._listed(request.path.decode()))
        if (index := self.objects.index_of.get(request.host)) is None:
            self.objects.offend("asked an agent that there is not")
            return Answer(status=404)
        if pause_s := self.objects.nodes[index].answer_s:
            await trio.sleep(pause_s)
        if request.method == b"POST":
            for task in _assignments.decode(request.body).tasks:
                source = task.source.manta_storage_id
                self.objects.give(index, task.object_id, task.owner, task.md5sum, source)
        return await self.agents.answer(request)

    def _listed(self, url: str) -> list[dict[str, Any]]:
        """List storage nodes as storinfo does: a page, in the order of their names."""
        query = parse_qs(urlsplit(url).query)
        limit, after = int(query.get("limit", ["100"])[0]), query.get("after_id", [""])[0]
        nodes = sorted(self.objects.nodes, key=lambda node: node.name)
        return [
            {
                "manta_storage_id": node.name,
                "datacenter": node.datacenter,
                "availableMB": 100_000_000,
                "percentUsed": 10,
                "timestamp": time.time_ns() // 1_000_000,
            }
            for node in nodes
            if node.name > after
        ][:limit]

    def _told(self, path: bytes) -> dict[str, Any]:
        if path == b"/audit":
            return self.objects.audit()
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "moved": self.objects.moved,
            "moved_to_slow": self.objects.moved_to_slow,
            "assignments": len(self.agents.tasks),
            "cpu_s": used.ru_utime + used.ru_stime,
            "rss": used.ru_maxrss << 10,
        }


def _port(listener: trio.SocketListener) -> int:
    return int(listener.socket.getsockname()[1])


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode())


def hosts_of(shape: Shape, ports: dict[str, int]) -> dict[str, str]:
    """Return where each name of a region is, for a manager's configuration."""
    nodes = Objects(attrs.evolve(shape, objects=0)).nodes
    hosts = {
        node.name: f"{node_address(index)}:{ports['nodes']}" for index, node in enumerate(nodes)
    }
    hosts[STORINFO] = f"127.0.0.1:{ports['nodes']}"
    for shard in range(1, shape.shards + 1):
        hosts[moray_name(shard)] = f"{address_of(shard)}:{ports['shards']}"
    return hosts


def moray_name(shard: int) -> str:
    """Return the name of a shard's Moray."""
    return f"{shard}.moray.{DOMAIN}"


async def serve(shape: Shape) -> None:
    """Serve a region of this shape for ever; its ports are printed as JSON."""
    region = Region(Objects(shape))
    await region.serve(lambda ports: print(json.dumps(ports), flush=True))
