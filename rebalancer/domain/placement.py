"""This module decides where an object goes: space, refusals, and the choice among the rest."""

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.candidates import Candidates, Outlook
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


# Not frozen, because that takes three times as long to make, and there is one for each object.
@attrs.define
class Placement:
    """A placement is the destination of an object, and the shark to read it from."""

    destination: StorageNode
    source: Shark


def capacity_bytes(node: StorageNode, max_fill: int) -> int:
    """Return bytes that `node` may take up to the fill limit, by what storinfo says.

    In MiB: total * max_fill / 100 - used, where total = available / (1 - percent_used / 100) and
    used = total - available; nothing at or above the fill limit.  Rounded down once, because
    the difference of two numbers rounded down may be a MiB too much; and in whole numbers, because
    in floating point `used` came out above the fill at 29, 35 and 47 %.  That storinfo rounds the
    percentage up only makes it less.

    Example: available 900, used 10 %: total is 1000, used 100; a fill of 80 % is 800, so 700 may
    come.
    """
    if node.percent_used >= 100 or node.percent_used >= max_fill:
        return 0
    part = max_fill - node.percent_used
    return node.available_mb * part // (100 - node.percent_used) * MIB


def free_bytes(node: StorageNode, *, max_fill: int, claimed: int) -> int:
    """Return bytes that `node` may still take, `claimed` being those promised to it already."""
    return max(0, capacity_bytes(node, max_fill) - claimed)


def eligible(
    nodes: Iterable[StorageNode], rules: Rules, excluded: Collection[str]
) -> list[StorageNode]:
    """Return the nodes that may be destinations at all.

    `excluded` has the names of the evacuated nodes.
    """
    return [node for node in nodes if exclusion(node, rules, excluded) is None]


def exclusion(node: StorageNode, rules: Rules, excluded: Collection[str]) -> str | None:
    """Return why `node` may be no destination at all, for a person; None if it may."""
    if node.manta_storage_id in excluded:
        return "a job empties it"
    if node.datacenter in rules.blacklist_datacenters:
        return "its datacenter is in blacklist_datacenters"
    if node.available_mb < rules.min_avail_mb:
        return f"less than min_avail_mb ({rules.min_avail_mb:,}) is free"
    return None


def why_unused(
    node: StorageNode, rules: Rules, excluded: Collection[str], *, claimed: int
) -> str | None:
    """Return why nothing more is placed on `node`, for a person; None if something may be."""
    if (why := exclusion(node, rules, excluded)) is not None:
        return why
    if not capacity_bytes(node, rules.max_fill_percentage):
        return f"full: max_fill_percentage is {rules.max_fill_percentage}"
    is_claimed = not free_bytes(node, max_fill=rules.max_fill_percentage, claimed=claimed)
    return "all its room is promised to objects" if is_claimed else None


def refusal(obj: MantaObject, origin: Shark, node: StorageNode, *, room: int) -> Reason | None:
    """Return why `obj`, leaving `origin`, may not go to `node`, which can take `room` more bytes.

    The datacenter of `origin` is always allowed: the copy that leaves it comes back to it.
    Any other datacenter must not hold a copy yet, or the object's fault domains would shrink.
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
    """Return the shark to read from: another copy, else `origin` itself (read-only, not dead).

    A copy that was no good is read again only when there is no other; a copy whose node did not
    answer is preferred to it.
    """
    others = [s for s in obj.sharks if s.manta_storage_id != origin.manta_storage_id]
    own = [origin] if rules.allow_source_evac_shark else []
    bad, away = obj.tried.sources, obj.tried.away
    if bad or away:
        for avoided in (bad | away, bad):
            for known in (others, own):
                fit = [s for s in known if s.manta_storage_id not in avoided]
                if fit:
                    return rng.choice(fit)
    known = others or own
    if len(known) > 1:
        return rng.choice(known)
    return known[0] if known else None


def choose(
    obj: MantaObject,
    origin: Shark,
    candidates: Candidates,
    rules: Rules,
    look: Callable[[StorageNode], Outlook],
    rng: random.Random,
) -> Placement | Reason | None:
    """Return a destination for `obj`, or why there is none; None: all that fit are busy.

    One of the first `max_sharks` that fit is drawn, with its room as weight.  If there is none, a
    node that failed lately is taken, and at last a node with which this object failed.  A node that
    does not answer is never taken.  The reason is such nodes, if there are any; else want of room,
    because that passes with time; else the refusal of the last candidate.
    """
    read_from = source(obj, origin, rules, rng)
    if read_from is None:
        return reasons.SOURCE_IS_EVAC_SHARK
    fits = _sort_out(obj, origin, candidates, rules.max_sharks, look)
    if fits.sound:
        return Placement(_draw(fits.sound, rng), read_from)
    if fits.others:
        best = min(tier for tier, _, _ in fits.others)
        fit = [(n, o) for tier, n, o in fits.others if tier == best and not o.is_busy]
        return Placement(_draw(fit, rng), read_from) if fit else None
    if fits.some_away:
        return reasons.DESTINATION_UNREACHABLE
    if fits.lacks_room or not candidates.nodes:
        return reasons.DESTINATION_INSUFFICIENT_SPACE
    last = candidates.nodes[-1]
    return refusal(obj, origin, last, room=obj.size) or reasons.DESTINATION_INSUFFICIENT_SPACE


@attrs.define
class _Fits:
    """The candidates that an object fits on, and what keeps it from others."""

    sound: list[tuple[StorageNode, Outlook]] = attrs.field(factory=list)
    #: By tier: 0 is sound but busy, 1 avoided; 2 and 3 are the same of nodes tried before.
    others: list[tuple[int, StorageNode, Outlook]] = attrs.field(factory=list)
    lacks_room: bool = False
    some_away: bool = False


def _sort_out(
    obj: MantaObject,
    origin: Shark,
    candidates: Candidates,
    most: int,
    look: Callable[[StorageNode], Outlook],
) -> _Fits:
    """Sort the candidates by what they can do for `obj`, until `most` sound ones are found."""
    fits = _Fits()
    holders = {s.manta_storage_id for s in obj.sharks}
    for node in _in_view(obj, origin, candidates):
        # As `refusal` would say, but for closed datacenters, which are out of view.
        name = node.manta_storage_id
        if name in holders:
            continue
        outlook = look(node)
        if obj.size > outlook.room:
            fits.lacks_room = True
            continue
        if outlook.is_away:
            fits.some_away = True
            continue
        tier = 2 * (name in obj.tried.destinations) + outlook.is_avoided
        if tier or outlook.is_busy:
            fits.others.append((tier, node, outlook))
            continue
        fits.sound.append((node, outlook))
        if len(fits.sound) == most:
            break
    return fits


def _in_view(obj: MantaObject, origin: Shark, candidates: Candidates) -> Iterable[StorageNode]:
    """Return the candidates outside of the datacenters that have another copy of `obj`."""
    closed = {s.datacenter for s in obj.sharks if s.datacenter != origin.datacenter}
    view = candidates.outside(closed)
    if obj.size <= candidates.most_room:
        return view
    # In a full region this is so for every object, so one node that lacks room must do.
    wanted = (n for n in view if refusal(obj, origin, n, room=obj.size) is None)
    return islice(wanted, 1)


def _draw(fit: Sequence[tuple[StorageNode, Outlook]], rng: random.Random) -> StorageNode:
    # An empty object may go where nothing is left.
    left = rng.random() * sum([outlook.room + 1 for _, outlook in fit])
    for node, outlook in fit:
        left -= outlook.room + 1
        if left < 0:
            return node
    return fit[-1][0]  # by rounding
