"""This module has what jobs of every action are assembled from: shared resources, and shards."""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from rebalancer.config import ManagerConfig, read_token
from rebalancer.errors import ConfigError, PeerUnreachable
from rebalancer.manager.fleet.ledger import FleetLedger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.peers import scan
from rebalancer.peers.agents import Agents
from rebalancer.peers.http import HttpClient
from rebalancer.peers.moray.client import MorayClient, open_moray
from rebalancer.peers.protocols import LiveShard
from rebalancer.retry import retry_while_transient
from rebalancer.threads import Work, run_sync
from rebalancer.tokens import Token
from rebalancer.waits import Waits

if TYPE_CHECKING:
    from rebalancer.peers.buckets.tier import BucketsClone, BucketsShard
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
    #: The shards of the buckets tier, if bucket objects are looked at.
    buckets: "Mapping[int, BucketsShard]" = attrs.field(factory=dict)
    bucket_clones: "Mapping[int, BucketsClone]" = attrs.field(factory=dict)

    @property
    def live(self) -> dict[int, LiveShard]:
        """Return the live shards of both tiers."""
        return {**self.moray, **self.buckets}

    @property
    def scanned(self) -> dict[int, scan.Scannable]:
        """Return the shards of both tiers in which discovery looks: clones, where there are any."""
        directory: Mapping[int, scan.Scannable] = self.clones or self.moray
        return {**directory, **self.buckets, **self.bucket_clones}


def check_discovery(config: ManagerConfig) -> None:
    """Check that PostgreSQL can be asked, if a configuration says that it is to be.

    Raises:
      ConfigError: libpq, by which they are, cannot be loaded.
    """
    wanted = {"discovery 'direct_db'": "'moray'"} if config.discovery == "direct_db" else {}
    if config.looks_at_buckets:
        wanted["buckets_primary"] = "an empty name"
    for what, otherwise in wanted.items():
        try:
            import_module("rebalancer.peers.postgres")
        except ImportError as exc:
            trouble = " ".join(str(exc).split())
            raise ConfigError(f"{what}: {trouble}; expected libpq, or {otherwise}") from exc


@asynccontextmanager
async def open_shards(config: ManagerConfig) -> AsyncIterator[Shards]:
    """Open clients of the configured shards, which connect when they are first used."""
    threads = config.options.max_metadata_update_threads
    names = {shard.number: shard.host for shard in config.shards}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        shards = Shards(await enter(open_moray(names, config.hosts, connections=threads)), {})
        if config.discovery == "direct_db":
            from rebalancer.peers.postgres import open_postgres

            clones = await enter(open_postgres(config.clones, config.hosts))
            shards = attrs.evolve(shards, clones=clones)
        if config.looks_at_buckets:
            from rebalancer.peers.buckets.tier import open_buckets

            tier = await enter(
                open_buckets(
                    config.bucket_primaries,
                    config.bucket_clones,
                    config.bucket_servers,
                    config.hosts,
                )
            )
            shards = attrs.evolve(shards, buckets=tier.shards, bucket_clones=tier.clones)
        yield shards
