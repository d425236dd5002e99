"""This module builds the pipeline of an evacuation, from the resources of all jobs and its row."""

import math
from collections.abc import Collection, Mapping
from typing import TypeVar

import attrs
import trio

from rebalancer.config import ManagerConfig
from rebalancer.domain.tiers import Tier, read_tiers, tier_of
from rebalancer.errors import JobFailed
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.actions.evacuate.origin import validated_origin
from rebalancer.manager.actions.evacuate.retries import listing_of, scans_shards
from rebalancer.manager.fleet.bandwidth import BandwidthLimit
from rebalancer.manager.fleet.ledger import JobLedger
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.jobs.assembly import Resources, Shards
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.tuning import read_tuning
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.store.job_store import JobStore
from rebalancer.waits import Waits

T = TypeVar("T")


@attrs.frozen
class Opened:
    """The clients and files here stay open for as long as a job runs."""

    shards: Shards
    store: JobStore
    ledger: JobLedger


def _of_tiers(by_shard: Mapping[int, T], tiers: Collection[Tier]) -> dict[int, T]:
    """Return what is of shards of these tiers."""
    return {number: one for number, one in by_shard.items() if tier_of(number) in tiers}


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
      JobFailed: the evacuated node is unknown, or a tier that the job takes has no shards now.
      PeerError: the first shard does not answer, or the agents' token cannot be read.
    """
    shards, store = opened.shards, opened.store
    await resources.read_agent_token(config, waits, patience_s)
    node = row.params["from_shark"]
    origin = await validated_origin(store, shards.moray, node, waits, patience_s)
    agents, threads = resources.agents(config), config.options.max_metadata_update_threads
    tiers = read_tiers(row.params.get("tiers"))
    if missing := set(row.params.get("tiers") or ()) - set(map(tier_of, shards.live)):
        raise JobFailed(f"no shards are configured of tier {', '.join(missing)}")
    return Job(
        id=row.id,
        decisions=Evacuate(
            origin, config.exclude_key_prefixes, leaves_buckets=config.buckets_update == "off"
        ),
        config=config,
        store=store,
        node_list=resources.node_list,
        agents=agents,
        bandwidth=BandwidthLimit(
            agents, resources.fleet_ledger.throttle, read_tuning(row).bandwidth_bytes_per_s
        ),
        scanned=_of_tiers(shards.scanned, tiers),
        shards=_of_tiers(shards.live, tiers),
        tiers=tiers,
        listing=listing_of(row.params, resources.file),
        scans_shards=scans_shards(row.params),
        metrics=metrics,
        ledger=opened.ledger,
        update_limiter=UpdateLimiter(threads, config.metadata_timeout, waits),
        waits=waits,
        cancelled=cancelled,
        patience_s=patience_s,
        max_objects=row.params.get("max_objects"),
    )
