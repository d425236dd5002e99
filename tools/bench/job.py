"""This module makes what the manager's benchmarks share: records to be rewritten, and a job."""

import uuid
from collections.abc import Mapping
from typing import Any, cast

import attrs
from objects import OWNER

from rebalancer.config import ManagerConfig
from rebalancer.domain.objects import Shark
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.fleet.bandwidth import BandwidthLimit, Throttle
from rebalancer.manager.fleet.ledger import JobLedger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers import scan
from rebalancer.peers.agents import Agents
from rebalancer.peers.moray.client import MorayClient

#: The evacuated shark, and one that copies go to.
ORIGIN = Shark("dc1", "1.stor.lab")
DESTINATION = Shark("dc1", "9.stor.lab")
#: The only shard.
MORAY = "1.moray.lab"


def record(number: int) -> dict[str, Any]:
    """Return a record of about the length of a real one: 860 bytes."""
    name = str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
    key = f"/{OWNER}/stor/logs/muskie/2026/{number % 28 + 1:02}/{number:07}.log"
    sharks = [
        attrs.asdict(ORIGIN),
        {"datacenter": "dc2", "manta_storage_id": f"{number % 7 + 2}.stor.lab"},
    ]
    return {
        "dirname": key.rpartition("/")[0],
        "key": key,
        "headers": {"m-note": "x" * 200},
        "mtime": 1700000000000 + number,
        "name": key.rpartition("/")[2],
        "creator": OWNER,
        "owner": OWNER,
        "roles": [],
        "type": "object",
        "contentLength": 1000 + number,
        "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==",
        "contentType": "text/plain",
        "etag": name,
        "objectId": name,
        "sharks": sharks,
        "vnode": number % 4096,
    }


def make_job(
    config: ManagerConfig,
    store: JobStore,
    ledger: JobLedger,
    *,
    node_list: NodeList | None = None,
    agents: Agents | None = None,
    scanned: Mapping[int, scan.Scannable] | None = None,
    moray: Mapping[int, MorayClient] | None = None,
) -> Job:
    """Return a job as the manager makes it, but for what the measured stages do not use."""
    metrics, known = ManagerMetrics(config), cast(Agents, agents)
    threads = config.options.max_metadata_update_threads
    return Job(
        id="bench",
        decisions=Evacuate(ORIGIN),
        config=config,
        store=store,
        node_list=cast(NodeList, node_list),
        agents=known,
        scanned=scanned or {},
        shards=moray or {},
        listing=None,
        metrics=metrics,
        ledger=ledger,
        bandwidth=BandwidthLimit(known, Throttle(), None),
        update_limiter=UpdateLimiter(threads, config.metadata_timeout),
    )
