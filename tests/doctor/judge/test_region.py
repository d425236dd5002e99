"""Findings about peers: those that are away may come back, so none stops a program."""

from hypothesis import given
from hypothesis import strategies as st

from rebalancer.doctor.findings import Level
from rebalancer.doctor.judge.region import NAMED, Answer, peers

answers = st.builds(
    Answer,
    st.text(min_size=1),
    st.none() | st.floats(0, 10),
    st.text(),
    st.none() | st.floats(-1e6, 1e6),
)


def test_clocks_may_be_as_far_apart_as_an_answer_takes() -> None:
    """A slow answer tells little about the clock that sent it."""
    fine = [Answer("1", 0.1, ahead_s=4.0), Answer("2", 4.0, ahead_s=8.0)]
    assert [one.level for one in peers(fine, "shard", "do")] == [Level.OK, Level.OK]

    *_, found = peers([*fine, Answer("3", 0.1, ahead_s=-42.0)], "shard", "do")
    assert found.level is Level.WARNING
    assert "the clock of 3 is 42 s behind this machine's" in found.found


def test_none_configured_is_not_looked_at() -> None:
    """As are the clones of a region whose objects are found through Moray."""
    assert [one.level for one in peers([], "clone", "do")] == [Level.SKIPPED]


@given(st.lists(answers, min_size=1, max_size=300))
def test_a_region_of_any_size_makes_few_findings(seen: list[Answer]) -> None:
    """Some are named, the others counted, and none is a reason not to start."""
    found = list(peers(seen, "shard", "do"))

    assert 1 <= len(found) <= 2 * NAMED + 3
    assert {one.level for one in found} <= {Level.OK, Level.WARNING}
    away = sum(one.took_s is None for one in seen)
    assert any("more of" in one.found for one in found) or away <= NAMED
