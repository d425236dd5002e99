"""One number names a shard of either tier."""

from hypothesis import given
from hypothesis import strategies as st

from rebalancer.domain.tiers import Tier, number_of, shard_name, tier_of


@given(st.sampled_from(Tier), st.integers(1, 10_000))
def test_a_number_tells_the_tier_and_the_shard(tier: Tier, ordinal: int) -> None:
    """And two shards never have the same one."""
    number = number_of(tier, ordinal)

    assert tier_of(number) is tier
    assert abs(number) == ordinal


def test_a_person_reads_the_number_that_the_shard_has_in_its_tier() -> None:
    """It is in the shard's host name, too."""
    assert shard_name(3) == "shard 3"
    assert shard_name(-3) == "buckets shard 3"
