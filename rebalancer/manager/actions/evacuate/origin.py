"""This module finds out the datacenter of the evacuated node, and keeps it in the job's file."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TypeGuard

from rebalancer.domain.objects import Shark
from rebalancer.errors import JobFailed
from rebalancer.manager.actions.lookup import STORAGE_BUCKET, storage_records
from rebalancer.manager.store import job_info
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers.moray.client import MorayClient
from rebalancer.retry import retry_while_transient
from rebalancer.waits import Waits


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
      JobFailed: the shard does not have exactly one datacenter of the node.
      PeerError: the shard does not answer, or not what it should.
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
