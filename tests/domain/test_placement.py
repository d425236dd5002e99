"""Where an object may go."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import placement, reasons
from rebalancer.domain.objects import MantaObject, Shark, StorageNode
from rebalancer.domain.placement import MIB, Placement, Rules

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
ORIGIN = Shark("dc1", "1.stor")


def node(number: int, datacenter: str, available_mb: int = 10_000, used: int = 10) -> StorageNode:
    return StorageNode(f"{number}.stor", datacenter, available_mb, used)


def an_object(*sharks: Shark, size: int = 1) -> MantaObject:
    return MantaObject(ID, ID, "x", size, sharks)


@pytest.mark.parametrize(
    ("available", "used", "assigned", "max_fill", "left"),
    [
        (900, 10, 100, 80, 600),
        (100, 90, 0, 80, 0),
        (20, 80, 11, 90, 0),
        (20, 80, 9, 90, 1),
        (500, 100, 0, 100, 0),
        (500, 80, 0, 80, 0),
    ],
)
def test_worked_examples(
    available: int, used: int, assigned: int, max_fill: int, left: int
) -> None:
    """The specification's arithmetic, to the MiB."""
    shark = node(2, "dc1", available, used)
    free = placement.free_bytes(shark, max_fill=max_fill, claimed=assigned * MIB)
    assert left * MIB == free


@given(
    available=st.integers(0, 10**9),
    used=st.integers(0, 100),
    max_fill=st.integers(1, 100),
    claimed=st.integers(0, 10**15),
)
def test_a_node_is_never_filled_past_the_limit(
    available: int, used: int, max_fill: int, claimed: int
) -> None:
    """What is used, claimed and still allowed stays within the fill limit, in exact numbers."""
    shark = node(2, "dc1", available, used)
    free = placement.free_bytes(shark, max_fill=max_fill, claimed=claimed)
    assert free >= 0
    if free:
        total_times_left = available * 100 * MIB  # total * (100 - used)
        used_bytes = available * used // (100 - used) * MIB
        assert (used_bytes + claimed + free) * (100 - used) <= total_times_left * max_fill // 100


def test_a_copy_is_never_sent_where_one_is() -> None:
    """A shark that has a copy is refused, whatever its datacenter."""
    obj = an_object(ORIGIN, Shark("dc2", "2.stor"))
    no = placement.refusal(obj, ORIGIN, node(2, "dc2"), room=10)
    assert no == reasons.OBJECT_ALREADY_ON_DEST_SHARK


def test_the_own_datacenter_is_always_allowed() -> None:
    """The copy that leaves a datacenter may come back to it, even if another is there."""
    obj = an_object(ORIGIN, Shark("dc1", "2.stor"))
    assert placement.refusal(obj, ORIGIN, node(3, "dc1"), room=10) is None


def test_a_second_copy_in_a_datacenter_is_refused() -> None:
    """Fault domains never shrink."""
    obj = an_object(ORIGIN, Shark("dc2", "2.stor"))
    no = placement.refusal(obj, ORIGIN, node(4, "dc2"), room=10)
    assert no == reasons.OBJECT_ALREADY_IN_DATACENTER


def test_every_candidate_is_tried() -> None:
    """A full first choice does not skip an object that a node beyond `max_sharks` can take."""
    nodes = [node(2, "dc1"), node(3, "dc1"), node(4, "dc1")]
    room = {"2.stor": 0, "3.stor": 0, "4.stor": 100}
    plan = placement.choose(
        an_object(ORIGIN, Shark("dc2", "9.stor"), size=50),
        ORIGIN,
        nodes,
        Rules(max_sharks=2),
        lambda n: room[n.manta_storage_id],
        random.Random(1),
    )
    assert isinstance(plan, Placement)
    assert plan.destination.manta_storage_id == "4.stor"


def test_want_of_room_is_told() -> None:
    """No room anywhere is the reason when only room was wanting."""
    plan = placement.choose(
        an_object(ORIGIN, size=50), ORIGIN, [node(2, "dc1")], Rules(), lambda _: 49, random.Random()
    )
    assert plan == reasons.DESTINATION_INSUFFICIENT_SPACE


def test_no_destination_at_all_is_told() -> None:
    """Everything blacklisted: the object is skipped with a reason, not dropped."""
    assert (
        placement.choose(an_object(ORIGIN), ORIGIN, [], Rules(), lambda _: 9, random.Random())
        == reasons.DESTINATION_INSUFFICIENT_SPACE
    )


def test_a_single_copy_is_read_from_the_evacuated_shark() -> None:
    """Read-only is not dead; unless the operator forbids it."""
    rng = random.Random(1)
    assert placement.source(an_object(ORIGIN), ORIGIN, Rules(), rng) == ORIGIN
    forbidden = Rules(allow_source_evac_shark=False)
    assert placement.source(an_object(ORIGIN), ORIGIN, forbidden, rng) is None
    plan = placement.choose(
        an_object(ORIGIN), ORIGIN, [node(2, "dc1")], forbidden, lambda _: 9, rng
    )
    assert plan == reasons.SOURCE_IS_EVAC_SHARK


def test_who_may_be_a_destination() -> None:
    """Too full, blacklisted and excluded nodes are left out; the emptiest come first."""
    nodes = [
        node(1, "dc1"),
        node(2, "dc1", 999),
        node(3, "dc2"),
        node(4, "dc1", 5000),
        node(5, "dc1", 7000),
    ]
    rules = Rules(blacklist_datacenters=frozenset({"dc2"}))
    names = [n.manta_storage_id for n in placement.eligible(nodes, rules, {"1.stor"})]
    assert names == ["5.stor", "4.stor"]


SHARKS = st.builds(
    Shark, st.sampled_from(["dc1", "dc2", "dc3"]), st.sampled_from([f"{n}.stor" for n in range(9)])
)


@given(
    others=st.lists(SHARKS, max_size=3, unique_by=lambda s: s.manta_storage_id),
    nodes=st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from(["dc1", "dc2", "dc3"])),
        max_size=8,
        unique_by=lambda t: t[0],
    ),
    seed=st.integers(0, 5),
)
def test_invariants_2_and_3_hold_for_every_choice(
    others: list[Shark], nodes: list[tuple[int, str]], seed: int
) -> None:
    """No choice lets two copies meet on a shark or the datacenters of an object shrink."""
    origin = Shark("dc1", "evacuated.stor")
    obj = an_object(origin, *others)
    plan = placement.choose(
        obj,
        origin,
        [node(number, datacenter) for number, datacenter in nodes],
        Rules(),
        lambda _: 10,
        random.Random(seed),
    )
    if isinstance(plan, Placement):
        after = [*others, plan.destination.shark]
        names = {shark.manta_storage_id for shark in after}
        assert len(names) == len({s.manta_storage_id for s in obj.sharks})
        assert len({s.datacenter for s in after}) >= len({s.datacenter for s in obj.sharks})
        assert plan.source in obj.sharks
