"""This module has the two metadata tiers, and names shards of either by one number.

Stages, files and counters name a shard by a number alone, so that they need not know of tiers: 1
and on are shards of the directory tier, -1 and on are shards of the buckets tier.  People see
`shard_name`.
"""

import enum
from collections.abc import Iterable


class Tier(enum.StrEnum):
    """A metadata tier keeps the records of one kind of objects, in shards of its own."""

    DIRECTORY = "directory"  # the objects of Manta's first API, in Moray
    BUCKETS = "buckets"  # the objects of Manta's second API, in buckets-mdapi


def read_tiers(names: Iterable[str] | None) -> frozenset[Tier]:
    """Return the tiers with these names; where none are named, both."""
    return frozenset(Tier) if names is None else frozenset(map(Tier, names))


def tier_of(shard: int) -> Tier:
    """Return the tier of the shard with this number; without a shard, the first."""
    return Tier.BUCKETS if shard < 0 else Tier.DIRECTORY


def tier_of_key(key: str) -> Tier:
    """Return the tier that has the record with this key: the other one's begin with an account."""
    return Tier.BUCKETS if key.startswith("/v2/") else Tier.DIRECTORY


def number_of(tier: str | None, ordinal: int) -> int:
    """Return the number of the shard that is called `ordinal`, counted from 1, in its tier."""
    return -ordinal if tier == Tier.BUCKETS else ordinal


def shard_name(shard: int) -> str:
    """Return what a person calls a shard."""
    return f"buckets shard {-shard}" if shard < 0 else f"shard {shard}"
