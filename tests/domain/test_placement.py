"""Where an object may go."""

import random
from collections.abc import Mapping, Sequence

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain import placement, reasons, sharks
from rebalancer.domain.candidates import Outlook, rank
from rebalancer.domain.objects import MantaObject, Shark, StorageNode
from rebalancer.domain.placement import MIB, Placement, Rules
from rebalancer.domain.reasons import Reason
from rebalancer.domain.records import read_sharks
from rebalancer.domain.retries import Tried

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
ORIGIN = Shark("dc1", "1.stor")
RULES, NOTHING = Rules(), Tried()


def node(number: int, datacenter: str, available_mb: int = 10_000, used: int = 10) -> StorageNode:
    return StorageNode(f"{number}.stor", datacenter, available_mb, used)


def an_object(*sharks: Shark, size: int = 1, tried: Tried = NOTHING) -> MantaObject:
    return MantaObject(ID, ID, "x", size, sharks, tried=tried)


def choose(
    obj: MantaObject,
    nodes: Sequence[StorageNode],
    outlooks: Mapping[str, Outlook] | None = None,
    rules: Rules = RULES,
    seed: int = 1,
    origin: Shark = ORIGIN,
) -> Placement | Reason | None:
    """The choice among `nodes`, which have room for 100 bytes where `outlooks` says nothing."""

    def look(node: StorageNode) -> Outlook:
        return (outlooks or {}).get(node.manta_storage_id, Outlook(100))

    return placement.choose(obj, origin, rank(nodes, look), rules, look, random.Random(seed))


def destinations(
    obj: MantaObject,
    nodes: Sequence[StorageNode],
    outlooks: Mapping[str, Outlook] | None = None,
    rules: Rules = RULES,
) -> set[str]:
    """Where `obj` may go, found by many choices."""
    plans = [choose(obj, nodes, outlooks, rules, seed) for seed in range(40)]
    return {plan.destination.manta_storage_id for plan in plans if isinstance(plan, Placement)}


@pytest.mark.row("IMP-1", "TEST-EVAC-1")
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


@pytest.mark.row("IMP-1", "TEST-EVAC-1", "L11", "L26")
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
        used_times_left = available * used * MIB
        taken = used_times_left + (claimed + free) * (100 - used)
        assert taken * 100 <= total_times_left * max_fill


@pytest.mark.row("TEST-EVAC-7")
def test_a_copy_is_never_sent_where_one_is() -> None:
    """A shark that has a copy is refused, whatever its datacenter."""
    obj = an_object(ORIGIN, Shark("dc2", "2.stor"))
    no = placement.refusal(obj, ORIGIN, node(2, "dc2"), room=10)
    assert no == reasons.OBJECT_ALREADY_ON_DEST_SHARK


@pytest.mark.row("TEST-EVAC-7", "N12")
def test_the_own_datacenter_is_always_allowed() -> None:
    """The copy that leaves a datacenter may come back to it, even if another is there."""
    obj = an_object(ORIGIN, Shark("dc1", "2.stor"))
    assert placement.refusal(obj, ORIGIN, node(3, "dc1"), room=10) is None


@pytest.mark.row("TEST-EVAC-7")
def test_a_second_copy_in_a_datacenter_is_refused() -> None:
    """Fault domains never shrink."""
    obj = an_object(ORIGIN, Shark("dc2", "2.stor"))
    no = placement.refusal(obj, ORIGIN, node(4, "dc2"), room=10)
    assert no == reasons.OBJECT_ALREADY_IN_DATACENTER


@pytest.mark.row("DEF-6", "L26")
def test_every_candidate_is_tried() -> None:
    """A full first choice does not skip an object that a node beyond `max_sharks` can take."""
    nodes = [node(number, "dc1") for number in range(2, 6)]
    obj = an_object(ORIGIN, *(Shark("dc2", f"{n}.stor") for n in (2, 3, 4)), size=50)
    assert destinations(obj, nodes, rules=Rules(max_sharks=2)) == {"5.stor"}


@pytest.mark.row("N13")
def test_the_roomiest_share_the_work_by_their_room() -> None:
    """Only `max_sharks` at a time, each as often as it has room; twice the room: twice."""
    nodes = [node(number, "dc1") for number in range(2, 8)]
    outlooks = {f"{n}.stor": Outlook(100 * n) for n in range(2, 8)}
    obj = an_object(ORIGIN)
    assert destinations(obj, nodes, outlooks, Rules(max_sharks=2)) == {"6.stor", "7.stor"}

    outlooks = {"2.stor": Outlook(1000), "3.stor": Outlook(2000)}
    plans = [choose(obj, nodes[:2], outlooks, seed=seed) for seed in range(3000)]
    share = sum(isinstance(p, Placement) and p.destination is nodes[1] for p in plans)
    assert 1850 < share < 2150


def test_want_of_room_is_told() -> None:
    """No room anywhere is the reason, also when other nodes are refused for good."""
    nodes = [node(2, "dc1"), node(3, "dc2"), node(4, "dc1")]
    obj = an_object(ORIGIN, Shark("dc2", "3.stor"), size=101)
    assert choose(obj, nodes) == reasons.DESTINATION_INSUFFICIENT_SPACE
    most = {"4.stor": Outlook(1000)}
    held = an_object(ORIGIN, Shark("dc1", "4.stor"), size=101)
    assert choose(held, nodes, most) == reasons.DESTINATION_INSUFFICIENT_SPACE


@pytest.mark.parametrize("size", [1, 101])
def test_the_last_candidates_refusal_is_told(size: int) -> None:
    """Where room is not what is wanting: the datacenter, or the copy that is there."""
    nodes = [node(2, "dc1"), node(3, "dc2")]
    full = {"3.stor": Outlook(50)}
    last_is_taken = an_object(ORIGIN, Shark("dc2", "9.stor"), Shark("dc1", "2.stor"), size=size)
    assert choose(last_is_taken, nodes, full) == reasons.OBJECT_ALREADY_IN_DATACENTER
    last_has_it = an_object(ORIGIN, Shark("dc2", "3.stor"), Shark("dc1", "2.stor"), size=size)
    assert choose(last_has_it, nodes, full) == reasons.OBJECT_ALREADY_ON_DEST_SHARK


@pytest.mark.row("MIN-4", "MIN-6")
def test_no_destination_at_all_is_told() -> None:
    """Everything blacklisted: the object is skipped with a reason, not dropped."""
    assert choose(an_object(ORIGIN), []) == reasons.DESTINATION_INSUFFICIENT_SPACE


@pytest.mark.row("L40")
def test_a_single_copy_is_read_from_the_evacuated_shark() -> None:
    """Read-only is not dead; unless the operator forbids it."""
    rng = random.Random(1)
    assert placement.source(an_object(ORIGIN), ORIGIN, Rules(), rng) == ORIGIN
    forbidden = Rules(allow_source_evac_shark=False)
    assert placement.source(an_object(ORIGIN), ORIGIN, forbidden, rng) is None
    plan = choose(an_object(ORIGIN), [node(2, "dc1")], rules=forbidden)
    assert plan == reasons.SOURCE_IS_EVAC_SHARK


@pytest.mark.row("A9")
def test_a_source_that_failed_is_avoided_while_there_is_another() -> None:
    """First the other copies, then the evacuated shark's own, then those that failed."""
    a, b = Shark("dc2", "2.stor"), Shark("dc3", "3.stor")

    def sources(*tried: str, rules: Rules = RULES) -> set[Shark | None]:
        obj = an_object(ORIGIN, a, b, tried=Tried(sources=frozenset(tried)))
        return {placement.source(obj, ORIGIN, rules, random.Random(n)) for n in range(20)}

    forbidden = Rules(allow_source_evac_shark=False)
    assert sources() == {a, b}
    assert sources("2.stor") == {b}
    assert sources("2.stor", "3.stor") == {ORIGIN}
    assert sources("2.stor", "3.stor", rules=forbidden) == {a, b}
    assert sources("1.stor", "2.stor", "3.stor") == {a, b}
    alone = an_object(ORIGIN, tried=Tried(sources=frozenset({"1.stor"})))
    assert placement.source(alone, ORIGIN, Rules(), random.Random(1)) == ORIGIN


@pytest.mark.parametrize(
    ("outlooks", "tried", "chosen"),
    [
        ({}, (), {"2.stor", "3.stor"}),
        ({"2.stor": Outlook(100, is_avoided=True)}, (), {"3.stor"}),
        ({"2.stor": Outlook(100, is_busy=True)}, (), {"3.stor"}),
        ({}, ("2.stor",), {"3.stor"}),
        # Sound but busy: worth waiting for rather than one that failed.
        ({"2.stor": Outlook(9, is_busy=True), "3.stor": Outlook(9, is_avoided=True)}, (), set()),
        ({"2.stor": Outlook(100, is_busy=True)}, ("3.stor",), set()),
        # One that failed is better than none.
        ({"2.stor": Outlook(0), "3.stor": Outlook(9, is_avoided=True)}, (), {"3.stor"}),
        ({"2.stor": Outlook(0)}, ("3.stor",), {"3.stor"}),
        ({"3.stor": Outlook(9, is_avoided=True)}, ("2.stor",), {"3.stor"}),
        ({}, ("2.stor", "3.stor"), {"2.stor", "3.stor"}),
        ({"2.stor": Outlook(9, True, True), "3.stor": Outlook(9, True)}, ("2.stor",), set()),
    ],
)
def test_what_failed_comes_last(
    outlooks: dict[str, Outlook], tried: tuple[str, ...], chosen: set[str]
) -> None:
    """What the object failed with, after what others failed with, after the sound ones."""
    nodes = [node(2, "dc1"), node(3, "dc1")]
    obj = an_object(ORIGIN, tried=Tried(destinations=frozenset(tried)))
    assert destinations(obj, nodes, outlooks) == chosen
    if not chosen:
        assert choose(obj, nodes, outlooks) is None


@pytest.mark.row("MIN-6", "L38")
def test_who_may_be_a_destination() -> None:
    """Too full, blacklisted and excluded nodes are left out."""
    nodes = [
        node(1, "dc1"),
        node(2, "dc1", 999),
        node(3, "dc2"),
        node(4, "dc1", 5000),
        node(5, "dc1", 7000),
    ]
    rules = Rules(blacklist_datacenters=frozenset({"dc2"}))
    names = [n.manta_storage_id for n in placement.eligible(nodes, rules, {"1.stor"})]
    assert names == ["4.stor", "5.stor"]


# --- every region -------------------------------------------------------------------------

DATACENTERS = st.sampled_from(["dc1", "dc2", "dc3", "dc4"])
SHARKS = st.builds(Shark, DATACENTERS, st.sampled_from([f"{n}.stor" for n in range(9)]))
OUTLOOKS = st.builds(Outlook, st.integers(0, 20), st.booleans(), st.booleans())


@st.composite
def regions(draw: st.DrawFn) -> dict[str, tuple[StorageNode, Outlook]]:
    """Nodes by name; some of the sharks of objects are not listed any more."""
    numbers = draw(st.lists(st.integers(0, 12), max_size=9, unique=True))
    return {f"{n}.stor": (node(n, draw(DATACENTERS)), draw(OUTLOOKS)) for n in numbers}


def fits(obj: MantaObject, origin: Shark, one: StorageNode, outlook: Outlook) -> bool:
    return placement.refusal(obj, origin, one, room=outlook.room) is None


@pytest.mark.row("TEST-EVAC-2", "TEST-EVAC-7")
@given(
    others=st.lists(SHARKS, max_size=4, unique_by=lambda s: s.manta_storage_id),
    origin_at=st.integers(0, 4),
    region=regions(),
    size=st.integers(0, 25),
    max_sharks=st.integers(1, 4),
    tried=st.builds(
        Tried,
        st.frozensets(st.sampled_from([f"{n}.stor" for n in range(13)]), max_size=4),
        st.frozensets(st.sampled_from(["evacuated.stor", "1.stor", "2.stor"])),
    ),
    seed=st.integers(0, 5),
)
def test_invariants_2_and_3_hold_for_every_choice(
    others: list[Shark],
    origin_at: int,
    region: dict[str, tuple[StorageNode, Outlook]],
    size: int,
    max_sharks: int,
    tried: Tried,
    seed: int,
) -> None:
    """What a choice makes of a record never has fewer sharks or datacenters, nor a shark twice.

    There is a choice whenever a node fits, and a reason, or a busy node, when there is none.
    """
    origin = Shark("dc1", "evacuated.stor")
    before = [*others[:origin_at], origin, *others[origin_at:]]
    obj = an_object(*before, size=size, tried=tried)
    outlooks = {name: outlook for name, (_, outlook) in region.items()}
    plan = choose(
        obj, [n for n, _ in region.values()], outlooks, Rules(max_sharks=max_sharks), seed, origin
    )

    able = {name for name, pair in region.items() if fits(obj, origin, *pair)}
    if isinstance(plan, Placement):
        record = {"objectId": ID, "sharks": [attrs.asdict(shark) for shark in before]}
        rewritten = sharks.rewrite(record, origin.manta_storage_id, plan.destination.shark)
        after = read_sharks(rewritten)
        names = [shark.manta_storage_id for shark in after]
        assert len(names) == len(set(names)) == len(before)
        assert origin.manta_storage_id not in names
        assert len({s.datacenter for s in after}) >= len({s.datacenter for s in before})
        assert plan.source in before
        assert plan.destination.manta_storage_id in able
        assert not outlooks[plan.destination.manta_storage_id].is_busy
        # Nothing that failed is taken while something else is to be had or to be waited for.
        sound = {n for n in able - tried.destinations if not outlooks[n].is_avoided}
        assert plan.destination.manta_storage_id in sound or not sound
    elif plan is None:
        assert any(outlooks[name].is_busy for name in able)
    else:
        assert not able
        lacking = {
            name
            for name, (one, _) in region.items()
            if placement.refusal(obj, origin, one, room=size) is None
        }
        is_space = plan == reasons.DESTINATION_INSUFFICIENT_SPACE
        assert is_space == bool(lacking or not region)
