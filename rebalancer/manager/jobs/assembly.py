"""This module assembles a job from the resources of all jobs and from the row of this one."""

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.config import ManagerConfig, read_token
from rebalancer.converter import structure
from rebalancer.errors import ConfigError, PeerUnreachable
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.fleet.bandwidth import BandwidthLimit
from rebalancer.manager.fleet.ledger import FleetLedger, JobLedger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.jobs.origin import validated_origin
from rebalancer.manager.jobs.retries import listing_of, scans_shards
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.tuning import Tuning
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.pipeline.listings import Listing
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers.agents import Agents
from rebalancer.peers.http import HttpClient
from rebalancer.peers.moray.client import MorayClient, open_moray
from rebalancer.peers.postgres import PostgresShard, open_postgres
from rebalancer.retry import retry_while_transient
from rebalancer.threads import Work, run_sync
from rebalancer.tokens import Token
from rebalancer.waits import Waits

#: What operators read that a job waits for while the file of the token cannot be read.
TOKEN = "the agents' token"


@attrs.define(eq=False)
class Resources:
    """All jobs of a manager share these resources.

    Mutable state: the configuration of the next job; the token for agents; and the names of the
    nodes that unfinished jobs evacuate.
    """

    config: ManagerConfig
    node_list: NodeList
    http: HttpClient
    metrics: ManagerMetrics
    #: The token that agents demand.  It is read again whenever a job begins.
    agent_token: Token = attrs.field(factory=Token)
    fleet_ledger: FleetLedger = attrs.field(factory=FleetLedger)
    evacuating: frozenset[str] = frozenset()

    def file(self, job_id: str) -> Path:
        """Return the path of a job's file."""
        return Path(self.config.data_dir) / f"{job_id}.sqlite"

    def listing(self, params: Mapping[str, Any]) -> Listing | None:
        """Return the listing of a job, which it reads before its scans or in place of them."""
        return listing_of(params, self.file)

    def agents(self, config: ManagerConfig) -> Agents:
        """Return the client of all agents as `config` says to ask them."""
        http = self.http.over("https" if config.agent_tls else "http")
        return Agents(http, config.agent_port, self.agent_token, config.agent_dialects)


@attrs.frozen
class Opened:
    """The clients and files here stay open for as long as a job runs."""

    shards: "Shards"
    store: JobStore
    ledger: JobLedger


def read_tuning(row: JobRow) -> Tuning:
    """Return the limits that an operator has changed for a job."""
    return structure(row.params.get("tuning", {}), Tuning)


async def make_job(
    resources: Resources,
    row: JobRow,
    config: ManagerConfig,
    opened: Opened,
    *,
    metrics: ManagerMetrics,
    waits: Waits,
    cancelled: trio.Event,
    patience_s: float = math.inf,
) -> Job:
    """Build an evacuation; wait up to `patience_s` seconds for a peer that does not answer.

    Raises:
      JobFailed: the evacuated node is unknown.
      PeerError: the first shard does not answer, or the agents' token cannot be read.
    """
    shards, store = opened.shards, opened.store
    resources.agent_token.value = await _read_token(config.agent_token_file, waits, patience_s)
    node = row.params["from_shark"]
    origin = await validated_origin(store, shards.moray, node, waits, patience_s)
    agents, threads = resources.agents(config), config.options.max_metadata_update_threads
    show_limit, patience = metrics.show_update_limit, config.metadata_timeout
    return Job(
        id=row.id,
        decisions=Evacuate(origin, config.exclude_key_prefixes),
        config=config,
        store=store,
        node_list=resources.node_list,
        agents=agents,
        bandwidth=BandwidthLimit(agents, read_tuning(row).bandwidth_bytes_per_s),
        scanned=shards.clones or shards.moray,
        moray=shards.moray,
        listing=resources.listing(row.params),
        scans=scans_shards(row.params),
        metrics=metrics,
        ledger=opened.ledger,
        update_limiter=UpdateLimiter(threads, patience, show_limit, waits),
        waits=waits,
        cancelled=cancelled,
        patience_s=patience_s,
        max_objects=row.params.get("max_objects"),
        evacuating=lambda: resources.evacuating,
    )


async def _read_token(path: str, waits: Waits, patience_s: float) -> str | None:
    """Read the agents' token; wait for its file, which may be put there only later.

    Raises:
      PeerUnreachable: the file cannot be read for `patience_s` seconds.
    """

    async def ask() -> str | None:
        try:
            return await run_sync(Work.OTHER, read_token, path)
        except ConfigError as exc:
            raise PeerUnreachable(str(exc)) from exc

    return await retry_while_transient(ask, waits=waits, subject=TOKEN, bound_s=patience_s)


@attrs.frozen
class Shards:
    """The shards of a region, and their clones, which are scanned instead if there are any."""

    moray: Mapping[int, MorayClient]
    clones: Mapping[int, PostgresShard]


@asynccontextmanager
async def open_shards(config: ManagerConfig) -> AsyncIterator[Shards]:
    """Open clients of the configured shards, which connect when they are first used."""
    threads = config.options.max_metadata_update_threads
    names = {shard.number: shard.host for shard in config.shards}
    async with open_moray(names, config.hosts, connections=threads) as moray:
        if config.discovery != "direct_db":
            yield Shards(moray, {})
            return
        async with open_postgres(_clones(config), config.hosts) as clones:
            yield Shards(moray, clones)


def _clones(config: ManagerConfig) -> dict[int, str]:
    domain = config.domain_name
    return {shard.number: f"{shard.number}.rebalancer-postgres.{domain}" for shard in config.shards}
