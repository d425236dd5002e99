"""This module has the body of a plan, what a job would do, and the lines that come before it."""

import attrs

from rebalancer.api.fields import Count, Positive, Share, about
from rebalancer.api.jobs import Finding, TierCounts
from rebalancer.api.objects import REASON


@attrs.frozen(kw_only=True)
class PlannedDestination:
    """A destination, and what it would be given."""

    datacenter: str
    manta_storage_id: str = about(examples=["2.stor.example.com"])
    objects: Positive
    bytes: Count


@attrs.frozen(kw_only=True)
class PlannedSkip:
    """The objects that would be skipped for one reason."""

    reason: str = about(REASON)
    objects: Positive
    bytes: Count


@attrs.frozen(kw_only=True)
class PlannedError:
    """The objects whose records have one error."""

    error: str
    objects: Positive


@attrs.frozen(kw_only=True)
class Plan:
    """A plan says what a job would do."""

    objects: Count = about("Objects that have a copy on the node.")
    bytes: Count = about("Bytes of these objects.")
    tiers: tuple[TierCounts, ...] = about(
        "The objects by metadata tier, none of them complete: the buckets tier is there if it has"
        " some.",
        if_missing=(),
    )
    fits: bool = about(
        "Whether everything was looked at, and each object has a destination or is left on purpose:"
        " it is excluded, a bucket object that is counted only, or a part of an open upload."
    )
    destinations: tuple[PlannedDestination, ...]
    skipped: tuple[PlannedSkip, ...]
    errors: tuple[PlannedError, ...]
    duplicates: Count = about("Objects with several records.")
    warnings: tuple[Finding, ...] = about("The warnings of the pre-flight.")
    failures: tuple[str, ...] = about("Why not everything was looked at.")


@attrs.frozen(kw_only=True)
class PlanProgress:
    """A line that comes every second while a plan is made."""

    type: str = about(const="progress")
    seconds: float = about("Since the request.")
    scanned: Share | None = about(
        "The share looked at so far of the shards' ids, or of the list of objects.  null: not known"
        " yet."
    )
    shards_done: Count = about("Shards that were scanned to their end, or given up.")
    shards: Count = about("0 where objects are listed: no shard is scanned.")
    objects: Count = about("Objects found so far.")
    bytes: Count = about("Bytes of these objects.")
    placed: Count = about("Objects that have a destination, so far.")
    without_place: Count = about("Objects for which there is no destination, so far.")


@attrs.frozen(kw_only=True)
class PlanError:
    """The last line where there is no plan: why."""

    type: str = about(const="error")
    status: Positive = about("The status that an answer without lines would have.")
    message: str
