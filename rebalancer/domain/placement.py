"""Where an object may go: space arithmetic, refusals, and the choice among what is left."""

import random
from collections.abc import Callable, Collection, Iterable, Sequence

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.objects import MantaObject, Shark, StorageNode
from rebalancer.domain.reasons import Reason

MIB = 1 << 20


@attrs.frozen
class Rules:
    """The operator's limits on destinations."""

    max_fill_percentage: int = 100
    min_avail_mb: int = 1000
    max_sharks: int = 5
    blacklist_datacenters: frozenset[str] = frozenset()
    allow_source_evac_shark: bool = True


@attrs.frozen
class Placement:
    """An object has a destination and a shark to be read from."""

    destination: StorageNode
    source: Shark


def free_bytes(node: StorageNode, *, max_fill: int, claimed: int) -> int:
    """Bytes that `node` may still take, `claimed` being those promised to it already.

    In MiB: floor(total * max_fill / 100) - floor(used) - assigned, never below 0, where
    total = available / (1 - percent_used / 100) and used = total - available; nothing at or
    above the fill limit.  Computed in whole numbers: in floating point `used` came out above
    the fill by one MiB at 29, 35 and 47 %.

    Worked: available 900, used 10 %: total is 1000, used 100; a fill of 80 % is 800, so with
    100 assigned 600 are left.
    """
    if node.percent_used >= 100 or node.percent_used >= max_fill:
        return 0
    left = 100 - node.percent_used
    fill_mb = node.available_mb * max_fill // left
    used_mb = node.available_mb * node.percent_used // left
    return max(0, (fill_mb - used_mb) * MIB - claimed)


def eligible(
    nodes: Iterable[StorageNode], rules: Rules, excluded: Collection[str]
) -> list[StorageNode]:
    """The nodes that may be destinations at all, the one with most space first.

    `excluded` are shark names: those being evacuated, and those that failed lately.
    """
    fit = (
        node
        for node in nodes
        if node.available_mb >= rules.min_avail_mb
        and node.datacenter not in rules.blacklist_datacenters
        and node.manta_storage_id not in excluded
    )
    return sorted(fit, key=lambda node: (-node.available_mb, node.manta_storage_id))


def refusal(obj: MantaObject, origin: Shark, node: StorageNode, *, room: int) -> Reason | None:
    """Why `obj`, leaving `origin`, may not go to `node`, which can take `room` more bytes.

    The datacenter of `origin` is always allowed: the copy that leaves it comes back to it.
    Any other one must not hold a copy yet, or the object's fault domains would shrink.
    """
    if any(shark.manta_storage_id == node.manta_storage_id for shark in obj.sharks):
        return reasons.OBJECT_ALREADY_ON_DEST_SHARK
    if node.datacenter != origin.datacenter and any(
        shark.datacenter == node.datacenter for shark in obj.sharks
    ):
        return reasons.OBJECT_ALREADY_IN_DATACENTER
    if obj.size > room:
        return reasons.DESTINATION_INSUFFICIENT_SPACE
    return None


def source(obj: MantaObject, origin: Shark, rules: Rules, rng: random.Random) -> Shark | None:
    """The shark to read from: another copy, else `origin` itself (read-only, not dead)."""
    others = [s for s in obj.sharks if s.manta_storage_id != origin.manta_storage_id]
    if others:
        return rng.choice(others)
    return origin if rules.allow_source_evac_shark else None


def choose(
    obj: MantaObject,
    origin: Shark,
    nodes: Sequence[StorageNode],
    rules: Rules,
    room: Callable[[StorageNode], int],
    rng: random.Random,
) -> Placement | Reason:
    """A destination for `obj` among `nodes` (as `eligible` orders them), or why there is none.

    The first `max_sharks` nodes share the work, drawn with their room as weight; the rest are
    tried only when none of those will do.  Want of room is reported before the other refusals,
    because it alone passes with time; else the refusal of the last candidate is.
    """
    read_from = source(obj, origin, rules, rng)
    if read_from is None:
        return reasons.SOURCE_IS_EVAC_SHARK
    refused: Reason = reasons.DESTINATION_INSUFFICIENT_SPACE
    lacks_room = not nodes
    for group in (nodes[: rules.max_sharks], nodes[rules.max_sharks :]):
        allowed: list[StorageNode] = []
        weights: list[int] = []
        for node in group:
            left = room(node)
            no = refusal(obj, origin, node, room=left)
            if no is None:
                allowed.append(node)
                weights.append(left + 1)  # an empty object may go where nothing is left
            else:
                refused = no
                lacks_room = lacks_room or no == reasons.DESTINATION_INSUFFICIENT_SPACE
        if allowed:
            return Placement(rng.choices(allowed, weights)[0], read_from)
    return reasons.DESTINATION_INSUFFICIENT_SPACE if lacks_room else refused
