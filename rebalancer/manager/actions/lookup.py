"""This module looks storage nodes up for actions, by their records on the first shard.

storinfo cannot say: it does not list a node that takes no writes.
"""

import trio

from rebalancer.config import ManagerConfig
from rebalancer.errors import BadRequest, PeerError
from rebalancer.log import get_logger
from rebalancer.manager.store.records import Finding
from rebalancer.peers.metadata import Record
from rebalancer.peers.moray.client import MorayClient, open_moray

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
