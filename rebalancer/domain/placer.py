"""This module places objects: it gathers tasks in a batch for each destination.

A placer neither waits nor sends nor claims: it returns what is to be sent, what to be claimed and
whether to wait, and its caller does that before it calls the placer again.
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
from rebalancer.domain.copies import is_of_bucket
from rebalancer.domain.objects import MantaObject, StorageNode
from rebalancer.domain.placement import Placement, Rules
from rebalancer.domain.reasons import Reason, Remedy

#: After so many seconds, destinations without room are looked at again: claims may have ended.
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
        """Return how many times a destination may have got room, or ceased to be busy or away."""

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

    def takes_v2(self, shark: str, /) -> bool | None:
        """Tell whether the agent of `shark` takes bucket objects; None if that is not known yet."""


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
    """A hold is why no object can be placed before something changes."""

    BUSY = enum.auto()  # every destination that fits has all the assignments that it may have
    ALL_AWAY = enum.auto()  # no destination answers
    UNHEARD = enum.auto()  # none has answered lately, but some may not be away


@attrs.define
class Step:
    """A step is the result of one call of `Placer.place`.

    Each object of the call is in a batch, in `refused`, in `deferred` or in `rest`.
    """

    #: Full batches, to be sent before `rest` is placed.
    full: list[Batch] = attrs.field(factory=list)
    #: Bytes to be claimed, by destination, for all objects that this call has put in batches.
    claims: dict[str, int] = attrs.field(factory=dict)
    #: Ids of objects for which there is no destination, each with the reason.
    refused: list[tuple[str, Reason]] = attrs.field(factory=list)
    #: Ids of objects whose destinations are all away, to be placed when nothing else is under way.
    deferred: list[str] = attrs.field(factory=list)
    #: Objects to be placed by the next call.
    rest: Sequence[MantaObject] = ()
    #: Why the objects of `rest` have to wait.
    hold: Hold | None = None


class Placer:
    """A placer gathers tasks in batches, one batch a destination.

    Mutable state: the batches; the destinations in the order in which they are tried, since when
    and for how many objects that order was used, and how many bytes each may take in all; the
    outlook of each node that was looked at since this step or order began, with the claims at it;
    the destinations that take bucket objects, if one was placed since; and when all destinations
    were last away.
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
        self._all_away_at = -math.inf
        self._of_v2: Candidates | None = None
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

        `now` is in seconds, on a clock that never goes back.  Destinations change
        only between two calls.
        """
        self._begin(conditions, now)
        step = self._step
        for index, obj in enumerate(objects):
            choice = self._choose(obj)
            if isinstance(choice, Placement):
                self._add(obj, choice)
                if step.full:
                    step.rest = objects[index + 1 :]
                    break
                continue
            step.hold = self._hold(obj, choice)
            if step.hold is not None:
                step.rest = objects[index:]
                break
            if choice == reasons.DESTINATION_UNREACHABLE and not self._are_given_up():
                step.deferred.append(obj.object_id)
            elif choice is not None:
                step.refused.append((obj.object_id, choice))
        return step

    def _begin(self, conditions: Conditions, now: float) -> None:
        was_held = self._step.hold is not None
        self._step, self._now = Step(), now
        is_unchanged = conditions.is_as(self._conditions)
        self._conditions = conditions
        if was_held or not is_unchanged:
            self._rank()
        else:
            self._outlooks.clear()
            self._of_v2 = None

    # --- choosing ------------------------------------------------------------------------

    def _choose(self, obj: MantaObject) -> Placement | Reason | None:
        # Each placed object takes room, so after some of them the order is wrong.
        if self._placed_in_order >= self._order_lasts:
            self._rank()
        if obj.earlier is not None:
            choice = self._choose_from(obj, self._only(obj.earlier, self._among(obj)))
            if not isinstance(choice, Reason):
                return choice
        choice = self._choose_from(obj, self._among(obj))
        may_get_room = isinstance(choice, Reason) and choice.remedy is Remedy.LATER
        if may_get_room and self._may_have_more_room():
            self._rank()
            choice = self._choose_from(obj, self._among(obj))
        self._placed_in_order += 1
        if is_of_bucket(obj.object_id) and isinstance(choice, Reason):
            return self._judge_of_bucket(choice)
        return choice

    def _among(self, obj: MantaObject) -> Candidates:
        """Return the destinations whose agents take objects of the tier of `obj`."""
        if not is_of_bucket(obj.object_id):
            return self._candidates
        if self._of_v2 is None:
            takes = self._answers.takes_v2
            self._of_v2 = self._candidates.only(lambda node: bool(takes(node.manta_storage_id)))
        return self._of_v2

    def _judge_of_bucket(self, refusal: Reason) -> Reason:
        """Return why a bucket object has no destination, as far as that is known."""
        takes = set(map(self._answers.takes_v2, self._names()))
        if None in takes:
            return reasons.DESTINATION_UNREACHABLE
        return reasons.AGENT_LACKS_V2 if takes == {False} else refusal

    def _choose_from(self, obj: MantaObject, among: Candidates) -> Placement | Reason | None:
        return self._choose_among(obj, among, self._conditions.rules, self._look, self._rng)

    def _only(self, name: str, among: Candidates) -> Candidates:
        """Return only the node of this name, whose agent may have made a copy already."""
        known = among.nodes
        return candidates.rank((n for n in known if n.manta_storage_id == name), self._look)

    def _hold(self, obj: MantaObject, refusal: Reason | None) -> Hold | None:
        """Return why an object that was not placed has to wait, None if it need not."""
        if refusal is None:
            return Hold.BUSY
        if refusal != reasons.DESTINATION_UNREACHABLE:
            return None
        if is_of_bucket(obj.object_id) and any(map(self._is_unasked, self._names())):
            return Hold.UNHEARD
        # A list, so that `is_there` is called for all: the call has an unheard destination asked.
        if any([self._answers.is_there(name) for name in self._names()]):
            return None  # this object has no destination; others may
        if not all(self._answers.is_away(name) for name in self._names()):
            return Hold.UNHEARD
        self._all_away_at = self._now
        return Hold.ALL_AWAY

    def _are_given_up(self) -> bool:
        """Tell whether every destination that is away has been so for longer than the patience.

        While all destinations are away, the cause is likely here and in none of them, so the time
        is counted from when that ended.
        """
        away = [self._answers.away_s(name) for name in self._names() if self._answers.is_away(name)]
        return min([*away, self._now - self._all_away_at]) >= self._conditions.patience_s

    def _is_unasked(self, name: str) -> bool:
        """Tell whether a destination is about to say whether its agent takes bucket objects."""
        return self._answers.takes_v2(name) is None and not self._answers.is_away(name)

    def _names(self) -> Iterable[str]:
        return (node.manta_storage_id for node in self._candidates.nodes)

    def _may_have_more_room(self) -> bool:
        """Tell whether destinations may have more room now than when they were ranked."""
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
        self._of_v2 = None
        self._placed_in_order, self._order_lasts = 0, rules.max_sharks * conditions.limits.max_tasks
        self._ranked_at, self._changes = self._now, self._claims.changes

    def _look(self, node: StorageNode) -> Outlook:
        """Return the outlook of `node`, from memory if this step has looked at it already."""
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
        # Half of the free bytes, because others write there too.
        return self._free(name) // 2

    def _free(self, name: str) -> int:
        return max(0, self._capacities[name] - self._claimed[name])

    # --- batches -------------------------------------------------------------------------

    def _add(self, obj: MantaObject, choice: Placement) -> None:
        """Add an object to the batch of its destination; move a batch that is full to the step."""
        step, name = self._step, choice.destination.manta_storage_id
        batch = self._batches.get(name)
        if batch is not None and not batch.fits(obj.size):
            step.full.append(self._batches.pop(name))
            batch = None
        if batch is None:
            batch = Batch(choice.destination.shark, self._now, self._claim_limit(name))
            self._batches[name] = batch
        batch.add(obj, choice.source)
        self._claimed[name] += obj.size
        step.claims[name] = step.claims.get(name, 0) + obj.size
        if batch.is_full(self._conditions.limits):
            step.full.append(self._batches.pop(name))
        else:
            old = self._outlooks[name]
            self._outlooks[name] = Outlook(
                self._room(name), old.is_busy, old.is_avoided, old.is_away
            )
