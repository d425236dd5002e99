"""This module places objects: it gathers tasks in one batch a destination, and closes those due.

A placer neither waits nor sends nor claims: it says which of these is to be done, and its caller
does it before the placer is called again.
"""

import enum
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import attrs

from rebalancer.domain import candidates, placement, reasons
from rebalancer.domain.batches import Batch, BatchLimits
from rebalancer.domain.candidates import Candidates, Outlook
from rebalancer.domain.objects import MantaObject, StorageNode
from rebalancer.domain.placement import Placement, Rules
from rebalancer.domain.reasons import Reason, Remedy

#: Seconds for which it holds that there is no room for an object: copies settle meanwhile.
FULL_S = 1.0

#: Chooses the destination and source of an object, as `placement.choose` does.
Choose = Callable[
    [MantaObject, Candidates, Rules, Callable[[StorageNode], Outlook], random.Random],
    Placement | Reason | None,
]


class Claims(Protocol):
    """The placer asks here what is under way at destinations, by their names."""

    @property
    def changes(self) -> int:
        """Return how many times a destination may have become a better one."""

    def look(self, shark: str, /) -> tuple[int, bool]:
        """Return the bytes claimed at `shark`, and whether it is busy."""


class Answers(Protocol):
    """The placer asks here how destinations answer, by their names."""

    def is_avoided(self, shark: str, /) -> bool:
        """Tell whether `shark` failed lately."""

    def is_away(self, shark: str, /) -> bool:
        """Tell whether `shark` did not answer lately."""

    def is_there(self, shark: str, /) -> bool:
        """Tell whether `shark` has answered lately."""

    def away_s(self, shark: str, /) -> float:
        """Return for how many seconds `shark` has been away; 0 if it is not."""


@attrs.frozen
class Conditions:
    """The conditions under which objects are placed; they may change between two calls."""

    nodes: tuple[StorageNode, ...]
    rules: Rules
    limits: BatchLimits
    #: Names of the nodes that are evacuated.
    excluded: frozenset[str]
    #: Seconds for which a destination that is away may come back.
    patience_s: float

    def is_as(self, other: "Conditions") -> bool:
        """Tell whether the same destinations may be chosen under `other`."""
        # A region has a thousand nodes, which are the same tuple until storinfo is read again.
        same_nodes = self.nodes is other.nodes and self.excluded == other.excluded
        return same_nodes and self.rules == other.rules and self.limits == other.limits


class Hold(enum.Enum):
    """The cause for which no object can be placed now."""

    BUSY = enum.auto()  # every destination that fits has all the assignments that it may have
    ALL_AWAY = enum.auto()  # no destination answers
    UNHEARD = enum.auto()  # none has answered lately, though some are not known to be away


@attrs.define
class Step:
    """A step has what came of the objects of one call.

    Each object is in a batch, in `refused`, in `deferred` or in `rest`.
    """

    #: Full batches, to be sent before `rest` is placed.
    full: list[Batch] = attrs.field(factory=list)
    #: Bytes to be claimed, by destination: of the full batches and of those that still fill.
    claims: dict[str, int] = attrs.field(factory=dict)
    #: Objects that have no destination, with the reason.
    refused: list[tuple[str, Reason]] = attrs.field(factory=list)
    #: Objects whose destinations are away, to be placed when nothing else is under way.
    deferred: list[str] = attrs.field(factory=list)
    #: Objects to be placed by the next call.
    rest: Sequence[MantaObject] = ()
    #: Why the first of `rest` has to wait for a change.
    hold: Hold | None = None


class Placer:
    """A placer gathers tasks in batches, one batch a destination.

    Mutable state: the batches; the destinations in the order in which they are tried, since when
    and for how many objects that order was used, and what each node may take in all; the outlook
    of the nodes that were looked at in this step, with the claims at them; and when all
    destinations were away last.
    """

    def __init__(
        self,
        choose: Choose,
        claims: Claims,
        answers: Answers,
        rng: random.Random,
        conditions: Conditions,
        now: float,
    ) -> None:
        self._choose_among = choose
        self._claims = claims
        self._answers = answers
        self._rng = rng
        self._conditions = conditions
        self._batches: dict[str, Batch] = {}
        self._step = Step()
        self._now = now
        self._held_at = -math.inf
        self._rank()

    @property
    def destinations(self) -> int:
        """Return how many nodes may be destinations at all."""
        return len(self._candidates.nodes)

    def due_at(self, limits: BatchLimits) -> float:
        """Return the time at which the oldest batch is due however small."""
        return min((batch.due_at(limits) for batch in self._batches.values()), default=math.inf)

    def take_due(self, limits: BatchLimits, now: float) -> list[Batch]:
        """Close the batches that are due by `now`, on the clock of `place`, and return them."""
        due = [name for name, batch in self._batches.items() if batch.due_at(limits) <= now]
        return [self._batches.pop(name) for name in due]

    def take_all(self) -> list[Batch]:
        """Close every batch, and return them."""
        batches, self._batches = list(self._batches.values()), {}
        return batches

    def place(self, objects: Sequence[MantaObject], conditions: Conditions, now: float) -> Step:
        """Place objects, up to the first that fills a batch or has to wait.

        `now` is in seconds, on a clock that never goes back.  Whatever changes how destinations
        stand happens between two calls.
        """
        self._begin(conditions, now)
        step = self._step
        for index, obj in enumerate(objects):
            plan = self._choose(obj)
            if isinstance(plan, Placement):
                self._add(obj, plan)
                if step.full:
                    step.rest = objects[index + 1 :]
                    break
                continue
            step.hold = self._hold(plan)
            if step.hold is not None:
                step.rest = objects[index:]
                break
            if plan == reasons.DESTINATION_UNREACHABLE and not self._is_given_up():
                step.deferred.append(obj.object_id)
            elif plan is not None:
                step.refused.append((obj.object_id, plan))
        return step

    def _begin(self, conditions: Conditions, now: float) -> None:
        was_held = self._step.hold is not None
        self._step, self._now = Step(), now
        is_as_before = conditions.is_as(self._conditions)
        self._conditions = conditions
        if was_held or not is_as_before:
            self._rank()
        else:
            self._outlooks.clear()

    # --- choosing ------------------------------------------------------------------------

    def _choose(self, obj: MantaObject) -> Placement | Reason | None:
        # Claims change with every object, so the roomiest are not the roomiest for ever.
        if self._served >= self._most:
            self._rank()
        if obj.earlier is not None:
            plan = self._ask(obj, self._only(obj.earlier))
            if not isinstance(plan, Reason):
                return plan
        plan = self._ask(obj, self._candidates)
        may_pass = isinstance(plan, Reason) and plan.remedy is Remedy.LATER
        if may_pass and self._is_old():
            self._rank()
            plan = self._ask(obj, self._candidates)
        self._served += 1
        return plan

    def _ask(self, obj: MantaObject, among: Candidates) -> Placement | Reason | None:
        return self._choose_among(obj, among, self._conditions.rules, self._look, self._rng)

    def _only(self, name: str) -> Candidates:
        """Return the node that has a copy from before, which need only be found there."""
        known = self._candidates.nodes
        return candidates.rank((n for n in known if n.manta_storage_id == name), self._look)

    def _hold(self, plan: Reason | None) -> Hold | None:
        """Return why an object without a destination has to wait, if it has to."""
        if plan is None:
            return Hold.BUSY
        if plan != reasons.DESTINATION_UNREACHABLE:
            return None
        # All of them are looked at, so that those of which nobody knows are asked at once.
        if any([self._answers.is_there(name) for name in self._names()]):
            return None  # this object has no destination; others may
        if not all(self._answers.is_away(name) for name in self._names()):
            return Hold.UNHEARD
        self._held_at = self._now
        return Hold.ALL_AWAY

    def _is_given_up(self) -> bool:
        """Tell whether every destination that is away has been so for longer than is waited for it.

        While all are away that tells nothing of each, so the time counts from the end of that.
        """
        away = [self._answers.away_s(name) for name in self._names() if self._answers.is_away(name)]
        return min([*away, self._now - self._held_at]) >= self._conditions.patience_s

    def _names(self) -> Iterable[str]:
        return (node.manta_storage_id for node in self._candidates.nodes)

    def _is_old(self) -> bool:
        """Tell whether there may be more room by now than when destinations were ranked."""
        return self._now - self._ranked_at > FULL_S or self._changes != self._claims.changes

    def _rank(self) -> None:
        """Put the destinations into the order in which they are tried, as they stand now."""
        conditions = self._conditions
        rules = conditions.rules
        eligible = placement.eligible(conditions.nodes, rules, conditions.excluded)
        self._capacities = {
            node.manta_storage_id: placement.capacity_bytes(node, rules.max_fill_percentage)
            for node in eligible
        }
        self._outlooks: dict[str, Outlook] = {}
        self._claimed: dict[str, int] = {}
        self._candidates = candidates.rank(eligible, self._look)
        self._served, self._most = 0, rules.max_sharks * conditions.limits.max_tasks
        self._ranked_at, self._changes = self._now, self._claims.changes

    def _look(self, node: StorageNode) -> Outlook:
        """Return how `node` stands, and the bytes that the next object for it may have."""
        name = node.manta_storage_id
        outlook = self._outlooks.get(name)
        if outlook is None:
            claimed, is_busy = self._claims.look(name)
            is_avoided = self._answers.is_avoided(name)
            self._claimed[name] = claimed + self._step.claims.get(name, 0)
            room, is_away = self._room(name), self._answers.is_away(name)
            outlook = self._outlooks[name] = Outlook(room, is_busy, is_avoided, is_away)
        return outlook

    def _room(self, name: str) -> int:
        batch = self._batches.get(name)
        # Other jobs may have claimed room since the batch was opened.
        left = 0 if batch is None else min(batch.left, self._free(name))
        return max(left, self._claim_limit(name))

    def _claim_limit(self, name: str) -> int:
        # Half, because others write there too.
        return self._free(name) // 2

    def _free(self, name: str) -> int:
        return max(0, self._capacities[name] - self._claimed[name])

    # --- batches -------------------------------------------------------------------------

    def _add(self, obj: MantaObject, plan: Placement) -> None:
        """Claim the place of an object in a batch; a full one is in the step then."""
        step, name = self._step, plan.destination.manta_storage_id
        batch = self._batches.get(name)
        if batch is not None and not batch.fits(obj.size):
            step.full.append(self._batches.pop(name))
            batch = None
        if batch is None:
            batch = Batch(plan.destination.shark, self._now, self._claim_limit(name))
            self._batches[name] = batch
        batch.add(obj, plan.source)
        self._claimed[name] += obj.size
        step.claims[name] = step.claims.get(name, 0) + obj.size
        if batch.is_full(self._conditions.limits):
            step.full.append(self._batches.pop(name))
        else:
            old = self._outlooks[name]
            self._outlooks[name] = Outlook(
                self._room(name), old.is_busy, old.is_avoided, old.is_away
            )
