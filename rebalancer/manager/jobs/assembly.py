"""This module has what jobs of every action are assembled from: shared resources, and shards."""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from rebalancer.config import ManagerConfig, read_token
from rebalancer.errors import ConfigError, PeerUnreachable
from rebalancer.manager.fleet.ledger import FleetLedger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.peers.agents import Agents
from rebalancer.peers.http import HttpClient
from rebalancer.peers.moray.client import MorayClient, open_moray
from rebalancer.retry import retry_while_transient
from rebalancer.threads import Work, run_sync
from rebalancer.tokens import Token
from rebalancer.waits import Waits

if TYPE_CHECKING:
    from rebalancer.peers.postgres import PostgresShard

#: What operators read that a job waits for while the file of the token cannot be read.
TOKEN = "the agents' token"


@attrs.define(eq=False)
class Resources:
    """All jobs of a manager share these resources.

    Mutable state: the configuration of the next job, and the token for agents.
    """

    config: ManagerConfig
    node_list: NodeList
    http: HttpClient
    metrics: ManagerMetrics
    #: The token that agents demand.  It is read again whenever a job begins.
    agent_token: Token = attrs.field(factory=Token)
    fleet_ledger: FleetLedger = attrs.field(factory=FleetLedger)

    def file(self, job_id: str) -> Path:
        """Return the path of a job's file."""
        return Path(self.config.data_dir) / f"{job_id}.sqlite"

    def agents(self, config: ManagerConfig) -> Agents:
        """Return a client of all agents, with the port, TLS and dialects that `config` has."""
        http = self.http.over("https" if config.agent_tls else "http")
        return Agents(http, config.agent_port, self.agent_token, config.agent_dialects)

    async def read_agent_token(
        self, config: ManagerConfig, waits: Waits, patience_s: float = math.inf
    ) -> None:
        """Read the agents' token; wait for its file, which may be put there only later.

        Raises:
          PeerUnreachable: the file cannot be read for `patience_s` seconds.
        """

        async def ask() -> str | None:
            try:
                return await run_sync(
                    Work.OTHER, read_token, config.agent_token_file, "agent_token_file"
                )
            except ConfigError as exc:
                raise PeerUnreachable(str(exc)) from exc

        self.agent_token.value = await retry_while_transient(
            ask, waits=waits, subject=TOKEN, bound_s=patience_s
        )


@attrs.frozen
class Shards:
    """The shards of a region, and their clones, which are scanned instead if there are any."""

    moray: Mapping[int, MorayClient]
    clones: "Mapping[int, PostgresShard]"


def check_discovery(config: ManagerConfig) -> None:
    """Check that clones can be asked, if a configuration says that they are to be scanned.

    Raises:
      ConfigError: libpq, by which they are, cannot be loaded.
    """
    if config.discovery == "direct_db":
        try:
            import_module("rebalancer.peers.postgres")
        except ImportError as exc:
            trouble = " ".join(str(exc).split())
            expected = "expected libpq, or 'moray'"
            raise ConfigError(f"discovery 'direct_db': {trouble}; {expected}") from exc


@asynccontextmanager
async def open_shards(config: ManagerConfig) -> AsyncIterator[Shards]:
    """Open clients of the configured shards, which connect when they are first used."""
    threads = config.options.max_metadata_update_threads
    names = {shard.number: shard.host for shard in config.shards}
    async with open_moray(names, config.hosts, connections=threads) as moray:
        if config.discovery != "direct_db":
            yield Shards(moray, {})
            return
        from rebalancer.peers.postgres import open_postgres

        async with open_postgres(config.clones, config.hosts) as clones:
            yield Shards(moray, clones)
