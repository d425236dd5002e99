"""This module has the body of a plan: what a job would do."""

import attrs

from rebalancer.api.fields import Count, Positive, about
from rebalancer.api.jobs import Finding
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
    fits: bool = about(
        "Whether everything was looked at, and each object has a destination or was excluded."
    )
    destinations: tuple[PlannedDestination, ...]
    skipped: tuple[PlannedSkip, ...]
    errors: tuple[PlannedError, ...]
    duplicates: Count = about("Objects with several records.")
    warnings: tuple[Finding, ...] = about("The warnings of the pre-flight.")
    failures: tuple[str, ...] = about("Why not everything was looked at.")
