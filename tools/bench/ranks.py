"""This module decides whether two lists of measurements differ by more than noise.

The rule is the exact rank test of Mann, Whitney and Wilcoxon: of all ways to deal the measured
values to two sides, how many set the sides apart at least as far as they are?  It supposes nothing
of how noise is distributed, and is exact for few rounds and for equal values.  With five rounds of
each, a difference is beyond noise at the level of 1 % if the two ranges do not overlap; with four
or fewer nothing is.
"""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from math import comb
from statistics import median
from typing import Literal

import attrs

#: The share of comparisons in which noise alone is taken for a difference.
LEVEL = 0.01
#: A smaller change of the median, as a share of it, is none that anybody cares about.
LEAST = 0.01


class Verdict(StrEnum):
    """A verdict is what is known of a change."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "within noise"
    FEW = "too few rounds"


@attrs.frozen
class Change:
    """A change tells how a list differs from another, and by what chance if by noise alone."""

    before: float
    after: float
    chance: float
    verdict: Verdict

    @property
    def share(self) -> float | None:
        """Return the change of the median as a share of what it was, if that was not zero."""
        return None if self.before == 0 else self.after / self.before - 1


def decide(
    before: Sequence[float],
    after: Sequence[float],
    better: Literal["more", "less"],
    *,
    level: float = LEVEL,
    least: float = LEAST,
) -> Change:
    """Return what is known of the change between two lists, neither of which is empty."""
    old, new, by_noise = median(before), median(after), chance(before, after)
    if least_chance(len(before), len(after)) > level:
        verdict = Verdict.FEW
    elif by_noise > level or abs(new - old) <= least * abs(old):
        verdict = Verdict.SAME
    else:
        verdict = Verdict.BETTER if (new > old) == (better == "more") else Verdict.WORSE
    return Change(old, new, by_noise, verdict)


def least_chance(one: int, other: int) -> float:
    """Return the chance of two sides of so many values that do not overlap at all."""
    return min(1.0, 2 / comb(one + other, one))


def chance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the chance that noise alone sets two sides apart as far as they are, or further."""
    ranks = doubled_ranks([*one, *other])
    expected = len(one) * (len(ranks) + 1)
    apart = abs(sum(ranks[: len(one)]) - expected)
    sums = sums_of_subsets(ranks, len(one))
    far = sum(ways for total, ways in sums.items() if abs(total - expected) >= apart)
    return far / sums.total()


def doubled_ranks(values: Sequence[float]) -> list[int]:
    """Return twice the rank of each value; equal ones share the middle of their ranks."""
    count, below, ranks = Counter(values), 0, dict[float, int]()
    for value in sorted(count):
        ranks[value] = 2 * below + count[value] + 1
        below += count[value]
    return [ranks[value] for value in values]


def sums_of_subsets(numbers: Sequence[int], size: int) -> Counter[int]:
    """Return how many subsets of `size` numbers have each sum."""
    sums: list[Counter[int]] = [Counter({0: 1}), *(Counter[int]() for _ in range(size))]
    for number in numbers:
        for taken in range(size, 0, -1):
            for total, ways in sums[taken - 1].items():
                sums[taken][total + number] += ways
    return sums[size]
