"""This module checks, before an evacuation begins, for faults that have spoilt others.

Operators evacuate nodes in odd states, so what it finds are warnings; a job that was asked to
be strict is refused for any.
"""

import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from heapq import nlargest
from typing import Any, Protocol

import attrs
import trio

from rebalancer.agent_protocol import V2
from rebalancer.config import ManagerConfig
from rebalancer.domain import placement
from rebalancer.domain.objects import StorageNode
from rebalancer.domain.placement import Rules
from rebalancer.domain.tiers import Tier, shard_name
from rebalancer.errors import PeerError, PeerMalformed
from rebalancer.manager.jobs.assembly import Shards
from rebalancer.manager.pipeline.job import Job, rules_of
from rebalancer.manager.store.records import Finding
from rebalancer.peers import scan
from rebalancer.peers.addresses import resolve
from rebalancer.peers.names import Endpoint
from rebalancer.peers.protocols import AgentPing
from rebalancer.retry import retry

#: A heartbeat comes every 5 s; storinfo takes one this old, in seconds, for a node that is away.
QUIET_S = 60.0
#: Each question may take this many seconds.
DEADLINE_S = 20.0
#: Questions under way at a time.
AT_ONCE = 10
#: Agents that a finding names one by one; of more it gives the number.
NAMED = 3
#: JavaScript's numbers are exact up to so many milliseconds.
LAST_MS = 2**53

Check = Callable[[], Awaitable[list[Finding]]]


class Clone(scan.Shard, Protocol):
    """A clone is a PostgreSQL restored from a shard's snapshot."""

    @property
    def name(self) -> str:
        """Return the host name of the clone."""


@attrs.frozen
class Heartbeat:
    """A heartbeat is the record that a storage node writes every few seconds, if it takes writes.

    `timestamp_ms` is the node's own time, `written_ms` the shard's.  Whoever makes a node
    read-only by hand writes a `timestamp_ms` of long ago.
    """

    timestamp_ms: int
    written_ms: int


async def preflight(
    config: ManagerConfig,
    origin: str,
    nodes: Sequence[StorageNode],
    agents: AgentPing,
    shards: Mapping[int, scan.Shard],
    clones: Mapping[int, Clone],
    buckets: Mapping[str, Callable[[], Awaitable[None]]] | None = None,
) -> list[Finding]:
    """Return all findings about an evacuation of `origin`, in the order of the checks.

    `nodes` are those that storinfo lists, `shards` the live metadata; `clones` is empty for a
    job that does not look there; `buckets` asks the peers of the buckets tier, by their names, of a
    job that takes bucket objects.  It takes a bounded time, whatever does not answer, and
    raises nothing: what cannot be asked is a finding.
    """
    rules = rules_of(config)
    now_ms = time.time_ns() // 1_000_000
    findings = list[Finding]()
    beats = list[Heartbeat]()

    async def look_up() -> list[Finding]:
        beats.extend(await heartbeats(shards[min(shards)], origin))
        return judge_heartbeats(origin, beats, now_ms)

    findings += await _within("heartbeat", "the first shard", look_up)
    findings += judge_listing(origin, nodes)
    findings += judge_room(rules, origin, nodes)
    last_beat_ms = max((beat.written_ms for beat in beats), default=0)
    checks: list[Check] = []
    for shard in config.shards:
        if (clone := clones.get(shard.number)) is not None:
            ask = partial(_check_clone, config, clone, shard.host, last_beat_ms)
            checks.append(partial(_within, "clone", clone.name, ask))
    eligible = placement.eligible(nodes, rules, {origin})
    features = {V2} if buckets and config.buckets_update != "off" else set[str]()
    lacking = list[str]()
    likeliest = nlargest(2 * rules.max_sharks, eligible, key=lambda node: node.available_mb)
    for node in likeliest:
        name = node.manta_storage_id
        ask_agent = partial(_check_agent, agents, name, features, lacking)
        checks.append(partial(_within, "agent", name, ask_agent))
    for peer, ask_peer in (buckets or {}).items():
        checks.append(partial(_within, "buckets", peer, partial(_check_peer, peer, ask_peer)))
    findings += await _all(checks)
    findings += judge_agents(sorted(lacking), len(likeliest))
    if buckets is not None:
        findings += judge_buckets(config)
    if not config.final_scans:
        detail = "final_scans is 0: nothing will look for what comes back to the shark"
        findings.append(Finding("final_scans", detail))
    return findings


async def preflight_of(job: Job, shards: Shards) -> list[Finding]:
    """Return all findings about `job`, as `preflight` does; `shards` are those of the job."""
    origin = job.decisions.origin.manta_storage_id
    nodes, config, moray = job.node_list.nodes, job.config, shards.moray
    clones = shards.clones if job.scans_shards and Tier.DIRECTORY in job.tiers else {}
    buckets = _buckets(job, shards) if Tier.BUCKETS in job.tiers else None
    return await preflight(config, origin, nodes, job.agents, moray, clones, buckets)


def _buckets(job: Job, shards: Shards) -> dict[str, Callable[[], Awaitable[None]]]:
    """Return what asks the peers of the buckets tier whether they can do what a job needs."""
    updates = job.config.buckets_update != "off"
    asks: dict[str, Callable[[], Awaitable[None]]] = {
        shard_name(number): partial(shard.check, updates=updates)
        for number, shard in shards.buckets.items()
    }
    for number, clone in shards.bucket_clones.items() if job.scans_shards else ():
        asks[f"the clone of {shard_name(number)}"] = clone.check
    return asks


# --- judging -----------------------------------------------------------------------------


def judge_heartbeats(origin: str, beats: Sequence[Heartbeat], now_ms: int) -> list[Finding]:
    """Find fault with a node that is not known exactly once, or has taken writes lately."""
    found = []
    if len(beats) != 1:
        detail = f"{origin} is in manta_storage {len(beats)} times, expected once"
        found.append(Finding("storage_record", detail))
    for beat in beats:
        age_s = (now_ms - beat.timestamp_ms) / 1000
        if age_s < QUIET_S:
            detail = f"{origin} sent a heartbeat {age_s:.0f} s ago: it takes new objects"
            found.append(Finding("heartbeat", detail))
    return found


def judge_listing(origin: str, nodes: Iterable[StorageNode]) -> list[Finding]:
    """Find fault with a listed node: front ends choose it for new objects."""
    if any(node.manta_storage_id == origin for node in nodes):
        return [Finding("storinfo", f"storinfo lists {origin}: it is chosen for new objects")]
    return []


def judge_room(rules: Rules, origin: str, nodes: Sequence[StorageNode]) -> list[Finding]:
    """Find fault unless there is room, in two datacenters where there are several."""
    fill = rules.max_fill_percentage
    usable = {
        node.datacenter
        for node in placement.eligible(nodes, rules, {origin})
        if placement.free_bytes(node, max_fill=fill, claimed=0)
    }
    if not usable:
        return [
            Finding("room", f"no storage node can take objects: {_why_none(rules, origin, nodes)}")
        ]
    if len(usable) == 1 and len({node.datacenter for node in nodes}) > 1:
        return [Finding("room", f"only {usable.pop()} has storage nodes with room")]
    return []


def _why_none(rules: Rules, origin: str, nodes: Iterable[StorageNode]) -> str:
    """Return why none of `nodes` is a destination: each cause with the number of its nodes."""
    causes = Counter(
        placement.why_unused(node, rules, {origin}, claimed=0)
        for node in nodes
        if node.manta_storage_id != origin
    )
    counted = [f"{why} ({count:,})" for why, count in causes.most_common()]
    return "; ".join(counted) or "storinfo lists no other"


def judge_clone(
    name: str, *, newest_ms: int, last_beat_ms: int, is_standby: bool, followers: int
) -> list[Finding]:
    """Find fault with a clone that is part of the live database, or older than the node's end.

    When a clone was made is recorded nowhere, but one with a record that is newer than the node's
    last heartbeat is new enough.  In a shard that is hardly ever written to there may be no such
    record, although the clone is good.
    """
    found = []
    if is_standby or followers:
        what = "is a standby" if is_standby else f"has {followers} standbys"
        found.append(Finding("clone", f"{name} {what}: it is part of the live database"))
    if newest_ms < last_beat_ms:
        lag_s = (last_beat_ms - newest_ms) / 1000
        detail = (
            f"the newest record of {name} is {lag_s:,.0f} s older than the shark's last heartbeat:"
            " objects may be missing from it"
        )
        found.append(Finding("clone", detail))
    return found


def judge_agents(lacking: Sequence[str], asked: int) -> list[Finding]:
    """Find fault with agents that take no bucket objects, in one line for all of them."""
    if not lacking:
        return []
    more = ", ..." if len(lacking) > NAMED else ""
    named = ", ".join(lacking[:NAMED]) + more
    detail = f"too old for bucket objects, of which they get none: {len(lacking)} of {asked} agents"
    return [Finding("agent", f"{detail} ({named})")]


def judge_buckets(config: ManagerConfig) -> list[Finding]:
    """Find fault with a configuration by which bucket objects stay on the node."""
    if config.has_unseen_buckets:
        detail = "nobody looks at the region's bucket objects, for want of buckets_primary"
        return [Finding("buckets", detail)]
    if config.looks_at_buckets and config.buckets_update == "off":
        return [Finding("buckets", "buckets_update is off: bucket objects are counted, and stay")]
    return []


# --- asking ------------------------------------------------------------------------------


async def heartbeats(shard: scan.Shard, origin: str) -> list[Heartbeat]:
    """Return all records of `origin` in `manta_storage`: more than one if its zone was replaced.

    Raises:
      PeerError: the shard does not answer, or a record has no usable time.
    """
    rows = await shard.sql(
        "SELECT _mtime, _value FROM manta_storage WHERE manta_storage_id = $1", [origin]
    )
    return [_read_heartbeat(row) for row in rows]


def _read_heartbeat(row: Mapping[str, Any]) -> Heartbeat:
    try:
        beat = Heartbeat(int(json.loads(row["_value"])["timestamp"]), int(row["_mtime"] or 0))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as exc:
        raise PeerMalformed("a record of manta_storage without a timestamp") from exc
    if not all(0 <= time_ms <= LAST_MS for time_ms in attrs.astuple(beat)):
        raise PeerMalformed("a record of manta_storage whose timestamp is no time")
    return beat


async def _check_clone(
    config: ManagerConfig, clone: Clone, live: str, last_beat_ms: int
) -> list[Finding]:
    found = []
    here, there = await resolve(clone.name, config.hosts), await resolve(live, config.hosts)
    if any(_may_be_one(one, other) for one in here for other in there):
        found.append(Finding("clone", f"{clone.name} is at the address of {live}"))
    (state,) = await clone.sql(
        "SELECT pg_is_in_recovery() AS is_standby,"
        " (SELECT count(*) FROM pg_stat_replication) AS followers"
    )
    (newest,) = await clone.sql("SELECT max(_mtime) AS newest FROM manta")
    return found + judge_clone(
        clone.name,
        newest_ms=int(newest["newest"] or 0),
        last_beat_ms=last_beat_ms,
        is_standby=bool(state["is_standby"]),
        followers=int(state["followers"]),
    )


def _may_be_one(one: Endpoint, other: Endpoint) -> bool:
    """Tell whether two places can be the same machine; two known ports of one address are two."""
    is_apart = one.port and other.port and one.port != other.port
    return one.host == other.host and not is_apart


async def _check_peer(peer: str, ask: Callable[[], Awaitable[None]]) -> list[Finding]:
    try:
        await ask()
    except PeerError as exc:
        return [Finding("buckets", f"{peer}: {exc}")]
    return []


async def _check_agent(
    agents: AgentPing, name: str, wanted: Collection[str], lacking: list[str]
) -> list[Finding]:
    """Note in `lacking` an agent that has not all features that are wanted."""
    ping = partial(agents.ping, name)
    # Once more, for a connection that the agent had closed.
    known = await retry(ping, tries=2, first_s=0.2, longest_s=0.2)
    if not known.issuperset(wanted):
        lacking.append(name)
    return []


async def _within(check: str, subject: str, ask: Check) -> list[Finding]:
    """Return the findings of `ask`; a peer that does not answer is a finding too."""
    try:
        with trio.fail_after(DEADLINE_S):
            return await ask()
    except trio.TooSlowError:
        return [Finding(check, f"{subject}: no answer within {DEADLINE_S:.0f} s")]
    except PeerError as exc:
        return [Finding(check, str(exc))]


async def _all(checks: Sequence[Check]) -> list[Finding]:
    """Return the findings of all checks in their order, some of them asked at a time."""
    results: list[list[Finding]] = [[] for _ in checks]
    places = trio.CapacityLimiter(AT_ONCE)

    async def run(index: int, check: Check) -> None:
        async with places:
            results[index] = await check()

    async with trio.open_nursery() as nursery:
        for index, check in enumerate(checks):
            nursery.start_soon(run, index, check)
    return [finding for result in results for finding in result]
