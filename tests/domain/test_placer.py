"""The placer: each object comes to one thing, and no claim exceeds what a node may take."""

import random
from collections import Counter
from collections.abc import Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import placement, reasons
from rebalancer.domain.batches import Batch, BatchLimits
from rebalancer.domain.candidates import Candidates
from rebalancer.domain.objects import MantaObject, Shark, StorageNode
from rebalancer.domain.placement import MIB, Placement, Rules
from rebalancer.domain.placer import Conditions, Hold, Placer, Step
from rebalancer.domain.reasons import Reason

ORIGIN = Shark("dc1", "1.stor")
ID = "00000000-0000-4000-8000-000000000000"


@attrs.define
class Stand:
    """How one destination stands."""

    claimed: int = 0
    is_busy: bool = False
    is_avoided: bool = False
    is_away: bool = False
    is_heard: bool = True
    away_s: float = 0.0
    takes_v2: bool | None = True


@attrs.define
class Region:
    """Stands for the ledger: what the caller of the placer does with its answers."""

    stands: dict[str, Stand]
    changes: int = 0

    def look(self, shark: str) -> tuple[int, bool]:
        return self.stands[shark].claimed, self.stands[shark].is_busy

    def is_avoided(self, shark: str) -> bool:
        return self.stands[shark].is_avoided

    def is_away(self, shark: str) -> bool:
        return self.stands[shark].is_away

    def is_there(self, shark: str) -> bool:
        return self.stands[shark].is_heard and not self.stands[shark].is_away

    def away_s(self, shark: str) -> float:
        return self.stands[shark].away_s if self.stands[shark].is_away else 0.0

    def takes_v2(self, shark: str) -> bool | None:
        return self.stands[shark].takes_v2

    def claim(self, step: Step) -> None:
        for shark, size in step.claims.items():
            self.stands[shark].claimed += size


def node(number: int, available_mb: int = 1000) -> StorageNode:
    return StorageNode(f"{number}.stor", f"dc{number % 2 + 1}", available_mb, 10)


def an_object(
    number: int, size: int = 1, *copies: Shark, earlier: str | None = None
) -> MantaObject:
    return MantaObject(f"object {number}", ID, "x", size, (ORIGIN, *copies), earlier)


def of_bucket(obj: MantaObject) -> MantaObject:
    """The same as a bucket object."""
    return attrs.evolve(obj, object_id=f"{ID}/{obj.object_id}")


def choose(
    obj: MantaObject, among: Candidates, rules: Rules, look: object, rng: random.Random
) -> Placement | Reason | None:
    return placement.choose(obj, ORIGIN, among, rules, look, rng)  # type: ignore[arg-type]


def conditions(nodes: Sequence[StorageNode], **changes: object) -> Conditions:
    made = Conditions(
        tuple(nodes), Rules(min_avail_mb=0), BatchLimits(3, 60), frozenset({"1.stor"}), 600
    )
    return attrs.evolve(made, **changes)  # type: ignore[arg-type]


def a_placer(region: Region, under: Conditions, seed: int = 1) -> Placer:
    return Placer(choose, region, region, random.Random(seed), under, 0.0)


def ids_of(batches: Sequence[Batch]) -> list[str]:
    return [task.object_id for batch in batches for task in batch.tasks]


_SIZES = st.sampled_from([0, 1, 1000, MIB, 100 * MIB, 1000 * MIB])
_NODES = st.integers(2, 7).map(lambda number: Shark(f"dc{number % 2 + 1}", f"{number}.stor"))
_OBJECTS = st.lists(
    st.builds(
        lambda *parts: parts,
        _SIZES,
        st.lists(_NODES, max_size=2),
        st.none() | _NODES.map(lambda shark: shark.manta_storage_id),
        st.booleans(),
    ),
    max_size=40,
)
_STANDS = st.builds(
    Stand,
    st.sampled_from([0, 1, 100 * MIB, 400 * MIB, 2000 * MIB]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 10.0, 1000.0]),
    st.sampled_from([True, False, None]),
)


@given(
    _OBJECTS,
    st.lists(_STANDS, min_size=6, max_size=6),
    st.integers(0, 1 << 16),
    st.integers(1, 5),
    st.data(),
)
def test_each_object_comes_to_one_thing_and_no_claim_exceeds_its_limit(
    chosen: list[tuple[int, list[Shark], str | None, bool]],
    stands: list[Stand],
    seed: int,
    max_tasks: int,
    data: st.DataObject,
) -> None:
    """Whatever stands how, also when that changes between two calls."""
    nodes = [node(number, 500 * number) for number in range(2, 8)]
    names = [known.manta_storage_id for known in nodes]
    region = Region(dict(zip(names, stands, strict=True)))
    free = {
        known.manta_storage_id: placement.free_bytes(
            known, max_fill=100, claimed=region.stands[known.manta_storage_id].claimed
        )
        for known in nodes
    }
    under = conditions(nodes, limits=BatchLimits(max_tasks, 60))
    placer = a_placer(region, under, seed)
    objects: Sequence[MantaObject] = [
        (of_bucket if is_of_bucket else attrs.evolve)(
            an_object(number, size, *copies, earlier=earlier)
        )
        for number, (size, copies, earlier, is_of_bucket) in enumerate(chosen)
    ]
    able = Counter[str]()
    sent, refused, deferred = list[Batch](), list[str](), list[str]()
    left, now = objects, 0.0
    while left:
        now += data.draw(st.sampled_from([0.0, 1.5, 61.0]))
        able.update(name for name in names if region.stands[name].takes_v2)
        step = placer.place(left, under, now)
        region.claim(step)
        sent += step.full
        refused += [object_id for object_id, _ in step.refused]
        deferred += step.deferred
        assert step.full or step.hold or not step.rest  # a call comes to something
        left = step.rest
        if step.hold is not None:
            sent += placer.take_due(under.limits, now)
            changed = data.draw(st.sampled_from(names))
            region.stands[changed] = attrs.evolve(
                data.draw(_STANDS), claimed=region.stands[changed].claimed
            )
            region.changes += 1
            if data.draw(st.integers(0, 4)) == 0:
                break  # the job is cancelled
    sent += placer.take_all()
    assert Counter(ids_of(sent) + refused + deferred + [obj.object_id for obj in left]) == Counter(
        obj.object_id for obj in objects
    )
    taken = Counter[str]()
    for batch in sent:
        name = batch.destination.manta_storage_id
        assert 0 < len(batch.tasks) <= max_tasks
        assert batch.size <= batch.claim_limit
        assert batch.size == sum(obj.size for obj in objects if obj.object_id in ids_of([batch]))
        assert batch.claim_limit <= (free[name] - taken[name]) // 2
        taken[name] += batch.size
    for name, size in taken.items():
        assert size <= free[name]
    holders = {obj.object_id: {shark.manta_storage_id for shark in obj.sharks} for obj in objects}
    for batch in sent:
        for task in batch.tasks:
            assert batch.destination.manta_storage_id not in holders[task.object_id]
            assert "/" not in task.object_id or batch.destination.manta_storage_id in able


def test_a_full_batch_is_sent_before_the_next_object_is_placed() -> None:
    """What the caller waits for meanwhile may change how destinations stand."""
    region = Region({"2.stor": Stand()})
    under = conditions([node(2)])
    placer = a_placer(region, under)
    objects = [an_object(number) for number in range(7)]
    step = placer.place(objects, under, 0)
    assert ids_of(step.full) == ["object 0", "object 1", "object 2"]
    assert step.rest == objects[3:]
    assert step.claims == {"2.stor": 3}
    region.claim(step)
    region.stands["2.stor"].is_busy = True
    step = placer.place(step.rest, under, 0)
    assert (step.hold, step.rest, step.full) == (Hold.BUSY, objects[3:], [])


@pytest.mark.parametrize("is_ranked_anew", [False, True])
def test_what_was_claimed_in_a_step_counts_for_the_next_batch(is_ranked_anew: bool) -> None:
    """The caller claims it only after the step, and the ledger knows nothing of it before."""
    region = Region({"2.stor": Stand()})
    under = conditions([node(2)])
    placer = a_placer(region, under)
    objects = [an_object(1, 400 * MIB), an_object(2, 250 * MIB)]
    if is_ranked_anew:  # because there is no room for this one
        objects.insert(1, an_object(3, 600 * MIB))
    step = placer.place(objects, under, 10)
    assert [object_id for object_id, _ in step.refused] == ["object 3"] * is_ranked_anew
    (first,) = step.full
    (second,) = placer.take_all()
    assert (ids_of([first]), first.claim_limit) == (["object 1"], 500 * MIB)
    assert (ids_of([second]), second.claim_limit) == (["object 2"], 300 * MIB)


def test_a_batch_takes_no_room_that_another_job_was_promised_meanwhile() -> None:
    """Though it was opened when there was more: else two jobs fill a node past its limit."""
    region = Region({"2.stor": Stand()})
    under = conditions([node(2)])
    placer = a_placer(region, under)
    region.claim(placer.place([an_object(1, 100 * MIB)], under, 0))
    region.stands["2.stor"].claimed += 880 * MIB
    step = placer.place([an_object(2, 21 * MIB), an_object(3, 20 * MIB)], under, 0)
    assert step.refused == [("object 2", reasons.DESTINATION_INSUFFICIENT_SPACE)]
    assert ids_of(placer.take_all()) == ["object 1", "object 3"]


def test_batches_are_due_by_age_and_closed_once() -> None:
    """At `max_age_s` after the first of their tasks came, however small."""
    region = Region({"2.stor": Stand(), "3.stor": Stand(claimed=890 * MIB)})
    under = conditions([node(2), node(3)])
    placer = a_placer(region, under)
    assert placer.due_at(under.limits) == float("inf")
    placer.place([an_object(1, 100 * MIB)], under, 5)
    assert placer.due_at(under.limits) == 65
    assert placer.take_due(under.limits, 64.9) == []
    (batch,) = placer.take_due(under.limits, 65)
    assert ids_of([batch]) == ["object 1"]
    assert placer.take_due(under.limits, 65) == placer.take_all() == []


def test_one_that_is_away_is_waited_for_by_its_objects_only() -> None:
    """Others that answer have no room for it; once it was away for too long it is given up."""
    large = an_object(1, 300 * MIB)
    region = Region({"2.stor": Stand(is_away=True, away_s=5), "3.stor": Stand(800 * MIB)})
    under = conditions([node(2), node(3)])
    placer = a_placer(region, under)
    step = placer.place([large, an_object(2)], under, 0)
    assert (step.deferred, step.refused, step.hold) == (["object 1"], [], None)
    assert list(step.claims) == ["3.stor"]
    region.stands["2.stor"].away_s = 600
    step = placer.place([large], under, 700)
    assert step.refused == [("object 1", reasons.DESTINATION_UNREACHABLE)]


@pytest.mark.parametrize(
    ("stand", "hold"),
    [
        (Stand(is_away=True, away_s=9999), Hold.ALL_AWAY),
        (Stand(is_heard=False), Hold.UNHEARD),
    ],
)
def test_nothing_is_given_up_while_none_is_known_to_answer(stand: Stand, hold: Hold) -> None:
    """Then it is more likely that it is us who hear nothing."""
    region = Region({"2.stor": Stand(is_away=True, away_s=9999), "4.stor": stand})
    under = conditions([node(2), node(4, available_mb=0)])
    step = a_placer(region, under).place([an_object(1)], under, 0)
    assert step.hold is hold
    assert not step.refused


def test_bucket_objects_go_only_where_an_agent_takes_them() -> None:
    """The others go anywhere."""
    region = Region({"2.stor": Stand(takes_v2=False), "4.stor": Stand(), "6.stor": Stand()})
    region.stands["6.stor"].takes_v2 = None
    under = conditions([node(2), node(4), node(6)], limits=BatchLimits(1, 60))
    placer = a_placer(region, under)
    found = dict[bool, set[str]]({False: set(), True: set()})
    for number in range(60):
        obj = an_object(number)
        obj = of_bucket(obj) if number % 2 else obj
        (batch,) = placer.place([obj], under, 0).full
        found[bool(number % 2)].add(batch.destination.manta_storage_id)
    assert found == {False: {"2.stor", "4.stor", "6.stor"}, True: {"4.stor"}}


@pytest.mark.parametrize(
    ("stands", "expected"),
    [
        # They were asked, and answered.
        ([Stand(takes_v2=False), Stand(takes_v2=False)], reasons.AGENT_LACKS_V2),
        # One that does could not take it: so it may be able to later.
        ([Stand(takes_v2=False), Stand(claimed=1 << 60)], reasons.DESTINATION_INSUFFICIENT_SPACE),
        # One has been away for too long: nobody knows.
        (
            [Stand(takes_v2=False), Stand(takes_v2=None, is_away=True, away_s=9999)],
            reasons.DESTINATION_UNREACHABLE,
        ),
        # One is about to be asked.
        ([Stand(takes_v2=False), Stand(takes_v2=None)], Hold.UNHEARD),
        ([Stand(claimed=1 << 60), Stand(takes_v2=None)], Hold.UNHEARD),
    ],
)
def test_a_bucket_object_without_a_destination_says_why(
    stands: list[Stand], expected: Reason | Hold
) -> None:
    """As far as that is known; what is not is found out before the object is given up."""
    region = Region(dict(zip(["2.stor", "4.stor"], stands, strict=True)))
    under = conditions([node(2), node(4)])
    step = a_placer(region, under).place([of_bucket(an_object(1)), an_object(2)], under, 700)
    if isinstance(expected, Hold):
        assert (step.hold, step.refused) == (expected, [])
    else:
        assert step.refused == [(of_bucket(an_object(1)).object_id, expected)]
        assert list(step.claims)  # the other object has one


def test_a_bucket_object_is_not_sent_again_where_its_copy_cannot_be_found() -> None:
    """Though it was copied there before the agent was replaced by an older one."""
    region = Region({"2.stor": Stand(takes_v2=False), "4.stor": Stand()})
    under = conditions([node(2), node(4)], limits=BatchLimits(1, 60))
    obj = of_bucket(an_object(1, earlier="2.stor"))
    (batch,) = a_placer(region, under).place([obj], under, 0).full
    assert batch.destination.manta_storage_id == "4.stor"


def test_the_time_of_one_that_is_away_counts_from_when_all_were() -> None:
    """As long as nobody answered, its silence said nothing of it."""
    region = Region({"2.stor": Stand(is_away=True, away_s=9999), "3.stor": Stand(is_away=True)})
    under = conditions([node(2), node(3, available_mb=1)])
    placer = a_placer(region, under)
    objects = [an_object(1, 10 * MIB)]
    assert placer.place(objects, under, 1000).hold is Hold.ALL_AWAY
    region.stands["3.stor"].is_away = False
    assert placer.place(objects, under, 1001).deferred == ["object 1"]
    assert placer.place(objects, under, 1600).refused == [
        ("object 1", reasons.DESTINATION_UNREACHABLE)
    ]


def test_changed_conditions_hold_from_the_next_call_on() -> None:
    """Nodes, rules, limits and evacuations."""
    region = Region({"2.stor": Stand(), "4.stor": Stand(), "6.stor": Stand()})
    nodes = [node(2), node(4), node(6)]
    under = conditions(nodes, limits=BatchLimits(1, 60))
    placer = a_placer(region, under)

    def where(changed: Conditions) -> set[str]:
        found = set()
        for number in range(40):
            step = placer.place([an_object(number)], changed, 0)
            found |= {batch.destination.manta_storage_id for batch in step.full}
        return found

    assert where(under) == {"2.stor", "4.stor", "6.stor"}
    assert where(attrs.evolve(under, excluded=frozenset({"2.stor"}))) == {"4.stor", "6.stor"}
    assert where(attrs.evolve(under, nodes=(nodes[1],))) == {"4.stor"}
    closed = Rules(min_avail_mb=0, blacklist_datacenters=frozenset({"dc1"}))
    assert where(attrs.evolve(under, rules=closed)) == set()
