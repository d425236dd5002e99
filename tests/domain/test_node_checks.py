"""Whether a storage node may be removed: "yes" needs a proof, and nothing that speaks against."""

from collections.abc import Mapping

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.node_checks import Answer, Kind, Seen, decide

NODE = "1.stor.lab"
NOTHING = Seen({})


@pytest.mark.parametrize(
    ("seen", "answer", "causes"),
    [
        (NOTHING, "yes", {}),
        (Seen({}, jobs=("0fd6",)), "yes", {}),
        (Seen({Kind.OBJECT: 5}), "no", {"object": 5}),
        (
            Seen({Kind.UNUSABLE: 1, Kind.UPLOAD: 2}),
            "no",
            {"unusable_record": 1, "upload_in_progress": 2},
        ),
        (Seen({}, takes_writes=True), "no", {"takes_new_objects": None}),
        (Seen({}, takes_writes=None), "unknown", {"storinfo_not_asked": None}),
        (Seen({}, pending=3), "no", {"copies_under_way": 3}),
        (Seen({}, is_promised=True), "no", {"copies_under_way": None}),
        (Seen({}, unread={"0fd6": "damaged"}), "unknown", {"job_0fd6_not_read": None}),
        (Seen({}, {2: "no answer"}), "unknown", {"shard_2_not_scanned": None}),
        (
            Seen({Kind.OBJECT: 5}, {2: "no answer"}),
            "no",
            {"object": 5, "shard_2_not_scanned": None},
        ),
        (Seen({}, not_looked_up="no answer"), "unknown", {"node_not_looked_up": None}),
        (Seen({}, is_cut=True), "unknown", {"stopped_early": None}),
        (Seen({}, bounds_shards=True), "unknown", {"shards_left_out": None}),
        (Seen({}, has_buckets=True), "unknown", {"bucket_objects_not_looked_at": None}),
    ],
)
def test_what_speaks_against_a_removal(
    seen: Seen, answer: str, causes: Mapping[str, int | None]
) -> None:
    """Each alone, and that what was found outweighs what was not looked at."""
    decision = decide(NODE, seen)

    assert decision.answer == answer
    assert {cause.word: cause.count for cause in decision.causes} == causes
    assert decision.line.startswith(f"safe to remove: {answer}, because ")


SEEN = st.builds(
    Seen,
    st.dictionaries(st.sampled_from(Kind), st.integers(0, 3)).map(
        lambda counts: {kind: n for kind, n in counts.items() if kind is not Kind.DELETED}
    ),
    st.dictionaries(st.integers(1, 3), st.just("no answer"), max_size=2),
    is_cut=st.booleans(),
    not_looked_up=st.none() | st.just("no answer"),
    takes_writes=st.sampled_from([True, False, None]),
    pending=st.integers(0, 2),
    is_promised=st.booleans(),
    unread=st.dictionaries(st.just("0fd6"), st.just("damaged")),
    bounds_shards=st.booleans(),
    has_buckets=st.booleans(),
    jobs=st.sampled_from([(), ("0fd6",)]),
)


@given(SEEN)
def test_yes_is_said_only_of_what_was_looked_at_whole(seen: Seen) -> None:
    """Nothing that was seen, or could not be, is left out; what is found makes it a no."""
    decision = decide(NODE, seen)
    is_clear = attrs.evolve(seen, counts={k: n for k, n in seen.counts.items() if n}, jobs=())

    assert (decision.answer is Answer.YES) == (is_clear == NOTHING)
    if sum(seen.counts.values()):
        assert decision.answer is Answer.NO
    if seen.failures:
        assert decision.answer is not Answer.YES


def test_the_command_is_that_of_the_job_which_empties_the_node() -> None:
    """A second evacuation would be refused."""
    alone, beside = (decide(NODE, Seen({Kind.OBJECT: 1}, jobs=jobs)) for jobs in ((), ("0fd6",)))

    assert alone.causes[0].command == f"rebalancer adm job create evacuate --shark {NODE}"
    assert beside.causes[0].command == "rebalancer adm job watch 0fd6"


def test_what_the_last_job_has_left_is_no_case_for_another_like_it() -> None:
    """Its verdict has the causes; a job that is at it already comes first."""
    seen = Seen({Kind.OBJECT: 1}, left_by="0fd6")

    assert decide(NODE, seen).causes[0].command == "rebalancer adm job get 0fd6"
    beside = decide(NODE, attrs.evolve(seen, jobs=("b27d",)))
    assert beside.causes[0].command == "rebalancer adm job watch b27d"
    assert decide(NODE, attrs.evolve(seen, counts={})) == decide(NODE, NOTHING)


def test_a_line_counts_in_words() -> None:
    seen = Seen({Kind.OBJECT: 1, Kind.UNUSABLE: 1_200}, {2: "no answer"}, pending=3)
    expected = "of: 1 object, 1,200 unusable records, 3 copies under way, shard 2 not scanned"
    assert decide(NODE, seen).line.endswith(expected)
