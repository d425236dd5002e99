"""An embedded region that runs has its servers, an agent on each node, and the manager.

The servers (Moray shards, storinfo, the nodes' HTTP servers) are one process; each agent and
the manager are processes of their own, configured and started as a service manager would.
"""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer_devregion.layout import (
    AGENT_PORT,
    MANAGER_PORT,
    METRICS_PORT,
    SOURCE_PORT,
    Layout,
    Node,
)
from rebalancer_devregion.processes import Process
from rebalancer_devregion.servers import parts


@attrs.frozen
class Region:
    """A region has the processes of its programs."""

    layout: Layout
    servers: Process
    agents: Mapping[str, Process]
    manager: Process

    @property
    def url(self) -> str:
        """Return where the manager's API is."""
        return self.layout.manager_url

    @property
    def processes(self) -> list[Process]:
        """Return all processes, first those that others need."""
        return [self.servers, *self.agents.values(), self.manager]

    def job_file(self, job_id: str) -> Path:
        """Return the file of one job."""
        return self.layout.folder / "manager" / f"{job_id}.sqlite"

    async def start(self) -> None:
        """Start all; return when all answer.

        Raises:
          ProcessError: one did not start.
        """
        await self.servers.start()
        async with trio.open_nursery() as nursery:
            for process in self.processes[1:]:
                nursery.start_soon(process.start)

    async def stop(self) -> None:
        """End whatever still runs, first what needs others."""
        for together in ([self.manager], self.agents.values(), [self.servers]):
            async with trio.open_nursery() as nursery:
                for process in together:
                    if process.is_running:
                        nursery.start_soon(process.stop)


def make_region(
    layout: Layout,
    *,
    manager_options: Mapping[str, Any] | None = None,
    agent_server: Mapping[str, int] | None = None,
    agent_hosts: Mapping[str, str] | None = None,
    agent_storage: Mapping[str, int] | None = None,
) -> Region:
    """Write the configurations of all programs; nothing is started.

    `manager_options` are keys of the manager's file, `agent_server` of the agents' `[server]`,
    `agent_storage` of their `[storage]`; `agent_hosts` is their `hosts` table instead of the
    region's.
    """
    (layout.folder / "etc").mkdir(parents=True, exist_ok=True)
    manager_file = layout.folder / "etc" / "manager.json"
    manager_file.write_text(json.dumps(_manager_config(layout, manager_options or {}), indent=2))
    tables: dict[str, Mapping[str, Any]] = {
        "server": agent_server or {},
        "storage": agent_storage or {},
        "hosts": layout.hosts if agent_hosts is None else agent_hosts,
    }
    agents = {}
    for node in layout.nodes:
        name = node.manta_storage_id
        file = layout.folder / "etc" / f"agent-{name}.toml"
        file.write_text(_agent_config(layout, node, tables))
        agents[name] = _process(layout, f"agent-{name}", "agent", "-c", str(file))
    return Region(
        layout,
        _process(layout, "servers", "region", "serve", str(layout.folder), *_each(parts(layout))),
        agents,
        _process(layout, "manager", "manager", "-c", str(manager_file)),
    )


def server_parts(layout: Layout) -> dict[str, Process]:
    """Make a process for each server, by the names of `servers.parts`; nothing is started."""
    folder = str(layout.folder)
    return {
        part: _process(layout, part, "region", "serve", folder, "--part", part)
        for part in parts(layout)
    }


def _each(names: Iterable[str]) -> list[str]:
    return [word for name in names for word in ("--part", name)]


def _process(layout: Layout, name: str, *args: str) -> Process:
    return Process(name, args, layout.folder / "log" / f"{name}.log")


def _manager_config(layout: Layout, options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "domain_name": layout.domain,
        "shards": [{"host": layout.moray_host(number)} for number in layout.shards],
        "listen_host": layout.manager_address,
        "listen_port": MANAGER_PORT,
        "metrics_host": layout.manager_address,
        "metrics_port": METRICS_PORT,
        "log_level": "info",
        "data_dir": str(layout.folder / "manager"),
        "agent_port": AGENT_PORT,
        "storage_port": SOURCE_PORT,
        "discovery": "direct_db" if layout.clones else "moray",
        "hosts": layout.hosts,
        **_buckets_config(layout),
        **options,
    }


def _buckets_config(layout: Layout) -> dict[str, Any]:
    if not layout.buckets:
        return {}
    return {
        "buckets_shards": [{"host": layout.buckets_server(number)} for number in layout.buckets],
        "buckets_primary": f"{{shard}}.buckets-postgres.{layout.domain}",
    }


def _agent_config(layout: Layout, node: Node, changes: Mapping[str, Mapping[str, Any]]) -> str:
    tables: dict[str, Mapping[str, Any]] = {
        "server": {
            "host": node.address,
            "port": AGENT_PORT,
            "workers": 2,
            "workers_per_assignment": 4,
            **changes["server"],
        },
        "metrics": {
            "host": node.address,
            "port": METRICS_PORT,
            "datacenter": node.datacenter,
            "server": node.manta_storage_id,
        },
        "storage": {
            "manta_root": str(layout.manta_root(node.manta_storage_id)),
            "state_dir": str(layout.agent_state(node.manta_storage_id)),
            "reserve_mb": 64,
            **changes["storage"],
        },
        "source": {"port": SOURCE_PORT, "connect_timeout": 2, "retries": 1},
        "hosts": changes["hosts"],
    }
    return to_toml(tables)


def to_toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a TOML document of tables of plain values."""
    lines = []
    for table, values in tables.items():
        lines.append(f"[{table}]")
        # A TOML basic string is written as a JSON one.
        lines += [f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


@asynccontextmanager
async def running(region: Region) -> AsyncIterator[Region]:
    """Start the region; when the block ends, nothing of it runs any more.

    Raises:
      ProcessError: a program did not start.
    """
    try:
        await region.start()
        yield region
    finally:
        # The servers end last and by themselves, because some of them are processes too.
        for process in reversed(region.processes[1:]):
            if process.is_running:
                process.kill()
        if region.servers.is_running:
            with trio.CancelScope(shield=True):
                await region.servers.stop()
