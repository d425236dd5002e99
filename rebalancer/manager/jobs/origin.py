"""This module looks up the records of storage nodes, which the first shard has.

storinfo cannot say: it does not list a node that takes no writes.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import TypeGuard

import trio

from rebalancer.config import ManagerConfig
from rebalancer.domain.objects import Shark
from rebalancer.errors import BadRequest, JobFailed, PeerError
from rebalancer.log import get_logger
from rebalancer.manager.store import job_info
from rebalancer.manager.store.job_store import JobStore
from rebalancer.manager.store.records import Finding
from rebalancer.peers.moray.client import MorayClient, Record, open_moray
from rebalancer.retry import retry_while_transient
from rebalancer.waits import Waits

STORAGE_BUCKET = "manta_storage"
#: A storage node is looked up within this many seconds, or the job is made unchecked.
LOOK_UP_S = 5.0

log = get_logger()


async def storage_records(first: MorayClient, name: str) -> list[Record]:
    """Return the records of a storage node on the first shard, two at most.

    Raises:
      PeerError: it does not answer.
    """
    return await first.find_objects(STORAGE_BUCKET, f"(manta_storage_id={name})", 2)


async def is_known(config: ManagerConfig, name: str) -> bool:
    """Ask whether the first shard knows a storage node called `name`.

    Raises:
      PeerError: it does not answer.
    """
    first = min(config.shards, key=lambda shard: shard.number)
    names = {first.number: first.host}
    async with open_moray(names, config.hosts, connections=1) as moray:
        try:
            return bool(await storage_records(moray[first.number], name))
        except PeerError as exc:
            failure = exc  # outside of the nursery, which would make a group of it
    raise failure


def is_whole(origin: Shark | None) -> TypeGuard[Shark]:
    """Tell whether the evacuated node is known with its datacenter, not by its name alone."""
    return origin is not None and bool(origin.datacenter)


async def validated_origin(
    job_store: JobStore,
    shards: Mapping[int, MorayClient],
    name: str,
    waits: Waits,
    patience_s: float = math.inf,
) -> Shark:
    """Return the evacuated node with its datacenter, from its record on the first shard.

    Raises:
      JobFailed: SharkNotFound; PeerError: the shard does not answer, or not what it should.
    """
    known = await job_store.read(job_info.read_origin)
    if is_whole(known):
        return known
    number = min(shards)
    find = partial(storage_records, shards[number], name)
    records = await retry_while_transient(
        find, waits=waits, subject=f"shard {number}", bound_s=patience_s
    )
    datacenters = {record.value.get("datacenter") for record in records}
    if len(datacenters) != 1 or not isinstance(datacenter := datacenters.pop(), str):
        raise JobFailed(f"SharkNotFound: {name} is not in {STORAGE_BUCKET} exactly once")
    origin = Shark(datacenter, name)
    await job_store.write(job_info.write_origin, origin)
    return origin


def full_name(name: str, domain: str) -> str:
    """Return the name of a storage node with the region's domain."""
    return name if name.endswith(f".{domain}") else f"{name}.{domain}"


async def look_up_node(node: str, config: ManagerConfig) -> list[Finding]:
    """Look a job's node up; if that cannot be done now, the finding says so.

    Raises:
      BadRequest: there is no such node.
    """
    try:
        with trio.fail_after(LOOK_UP_S):
            found = await is_known(config, node)
    except (trio.TooSlowError, PeerError) as exc:
        why = str(exc) or f"no answer within {LOOK_UP_S:.0f} s"
        log.warning("storage node not looked up", shark=node, error=why)
        return [Finding("storage_record", f"{node} was not looked up when the job was made: {why}")]
    if not found:
        raise BadRequest(f"SharkNotFound: {node} is not in {STORAGE_BUCKET}")
    return []
