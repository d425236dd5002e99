"""What is told of a change: better, worse, or no more than noise."""

from itertools import combinations
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import Verdict, chance, decide, doubled_ranks, least_chance

FIVE = [10.0, 11.0, 12.0, 13.0, 14.0]
ROUNDS = st.lists(st.integers(0, 9).map(float), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("before", "after", "better", "verdict"),
    [
        (FIVE, [value + 10 for value in FIVE], "more", Verdict.BETTER),
        (FIVE, [value + 10 for value in FIVE], "less", Verdict.WORSE),
        (FIVE, [value - 5 for value in FIVE], "less", Verdict.BETTER),
        (FIVE, [value - 5 for value in FIVE], "more", Verdict.WORSE),
        # The ranges overlap in one value: with five rounds of each that is noise at 1 %.
        (FIVE, [13.5, 15.0, 16.0, 17.0, 18.0], "more", Verdict.SAME),
        (FIVE, FIVE, "more", Verdict.SAME),
        # However sure, a thousandth is nothing that anybody cares about.
        ([1000.0] * 5, [1001.0] * 5, "less", Verdict.SAME),
        (FIVE[:4], [value + 10 for value in FIVE[:4]], "more", Verdict.FEW),
        ([0.0] * 5, [1.0] * 5, "less", Verdict.WORSE),
        ([1.0] * 5, [0.0] * 5, "less", Verdict.BETTER),
        # More rounds tell of changes whose ranges overlap.
        ([*FIVE, *FIVE], [value + 3 for value in [*FIVE, *FIVE]], "more", Verdict.BETTER),
    ],
)
def test_a_change_is_told_by_the_rule(
    before: list[float], after: list[float], better: Literal["more", "less"], verdict: Verdict
) -> None:
    """Beyond noise at 1 %, and more than 1 % of the median."""
    assert decide(before, after, better).verdict is verdict


def test_the_chance_of_five_rounds_apart_is_that_of_the_textbook() -> None:
    """2 of the 252 ways to deal ten values to two sides set all of one side below the other."""
    assert chance(FIVE, [value + 10 for value in FIVE]) == pytest.approx(2 / 252)
    assert least_chance(5, 5) == pytest.approx(2 / 252)
    assert least_chance(4, 4) == pytest.approx(2 / 70)


def dealt(one: list[float], other: list[float]) -> float:
    """The same chance, by dealing the values in all ways."""
    ranks = doubled_ranks([*one, *other])
    expected = len(one) * (len(ranks) + 1)
    apart = abs(sum(ranks[: len(one)]) - expected)
    ways = [abs(sum(dealt) - expected) for dealt in combinations(ranks, len(one))]
    return sum(way >= apart for way in ways) / len(ways)


@given(ROUNDS, ROUNDS)
def test_the_chance_is_exact(one: list[float], other: list[float]) -> None:
    """Also where values are equal; and it is a chance, and the same from the other side."""
    assert chance(one, other) == pytest.approx(dealt(one, other))
    assert 0 < chance(one, other) <= 1
    assert chance(one, other) == pytest.approx(chance(other, one))


@given(ROUNDS, ROUNDS)
def test_who_exchanges_the_sides_exchanges_better_and_worse(
    one: list[float], other: list[float]
) -> None:
    """A change that is better one way is worse, or too small to tell, the other way."""
    opposite = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}
    there = decide(one, other, "more", level=0.5, least=0).verdict
    back = decide(other, one, "more", level=0.5, least=0).verdict

    assert back is opposite.get(there, there)


@given(ROUNDS)
def test_what_has_not_changed_is_never_beyond_noise(rounds: list[float]) -> None:
    """Whatever the level."""
    assert decide(rounds, rounds, "less", level=0.99).verdict in {Verdict.SAME, Verdict.FEW}
