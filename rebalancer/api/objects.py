"""This module has the bodies about a job's objects: pages of them, and the lines of a report.

The manager writes rows of a job's file into these bodies as they are, for there may be millions; a
test holds the columns to the fields here.
"""

from typing import Any

import attrs

from rebalancer.api.fields import Count, Time, Uuid, about
from rebalancer.api.jobs import TIER, JobShown
from rebalancer.domain.states import AssignmentState, LinkStatus, ObjectStatus
from rebalancer.domain.tiers import Tier

REASON = (
    "The reason: one of the agent or of placement (`md5_mismatch`,"
    " `destination_insufficient_space`), an error of the record (`missing_sharks`), or another end"
    " (`deleted`, `excluded`, `cancelled`)."
)


def _tier(of_none: str) -> Any:
    return about(f"{TIER}  {of_none}", enum=list(Tier))


@attrs.frozen(kw_only=True)
class Object:
    """An object of a job, and what became of it."""

    id: str = about("The object's id; `<shard>:<key>` for a record that names none.")
    key: str | None
    tier: str | None = _tier("null: the shard is not known.")
    shard: Count | None
    status: str = about(enum=list(ObjectStatus))
    reason: str | None = about(REASON)
    detail: str | None = about("Details of the reason, for a person.")
    bytes: Count | None
    dest_shark: str | None = about("The destination that the object goes to, or has gone to.")
    assignment_id: str | None
    attempts: Count = about("Tries to copy the object that came to nothing.")
    etag: str | None = about("The etag of the record as it was found.")


@attrs.frozen(kw_only=True)
class Objects:
    """A page of a job's objects."""

    objects: tuple[Object, ...] = about("Objects in the order in which they were found.")
    after: Count | None = about(
        "The parameter `after` of the request for the next page; null: this page is the last."
    )


@attrs.frozen(kw_only=True)
class ReportJob(JobShown):
    """The first line: the job itself."""

    type: str = about(const="job")
    id: Uuid


@attrs.frozen(kw_only=True)
class ReportWarning:
    """A warning of the pre-flight."""

    type: str = about(const="warning")
    check: str
    detail: str


@attrs.frozen(kw_only=True)
class ReportObject(Object):
    """An object of the job."""

    type: str = about(const="object")


@attrs.frozen(kw_only=True)
class ReportDuplicate:
    """An object with several records."""

    type: str = about(const="duplicate")
    id: str
    key: str | None
    tier: str | None = about(TIER, enum=list(Tier))
    shards: str | None = about("The numbers of the records' shards: JSON, in a string.")


@attrs.frozen(kw_only=True)
class ReportLink:
    """A further record of an object that has several."""

    type: str = about(const="link")
    id: str
    key: str
    tier: str = about(TIER, enum=list(Tier))
    shard: Count
    status: str = about(enum=list(LinkStatus))
    detail: str | None


@attrs.frozen(kw_only=True)
class ReportDropped:
    """A record that a listing names and that is not the job's business any more."""

    type: str = about(const="dropped")
    tier: str | None = _tier("null: no shard has the record.")
    shard: Count = about("0: no shard has the record.")
    key: str
    reason: str


@attrs.frozen(kw_only=True)
class ReportOrphan:
    """A copy on a destination that no record names, or may not name."""

    type: str = about(const="orphan")
    object_id: str
    shark: str
    path: str
    reason: str


@attrs.frozen(kw_only=True)
class ReportRemaining:
    """A record that still names the node when the job ends."""

    type: str = about(const="remaining")
    tier: str = about(TIER, enum=list(Tier))
    shard: Count
    key: str
    object_id: str
    why: str


@attrs.frozen(kw_only=True)
class ReportAssignment:
    """An assignment: a batch of objects that an agent was given."""

    type: str = about(const="assignment")
    id: str
    dest_shark: str
    dest_datacenter: str
    state: str = about(enum=list(AssignmentState))
    tasks: Count
    bytes: Count
    created: Time
    detail: str | None


@attrs.frozen(kw_only=True)
class ReportEnd:
    """The last line; a report without it was cut short."""

    type: str = about(const="end")
    lines: Count = about("The number of lines between the first and this one.")


#: The classes of a report's lines, by the `type` that a line has.
REPORT_LINES: dict[str, type[Any]] = {
    "job": ReportJob,
    "warning": ReportWarning,
    "object": ReportObject,
    "duplicate": ReportDuplicate,
    "link": ReportLink,
    "dropped": ReportDropped,
    "orphan": ReportOrphan,
    "remaining": ReportRemaining,
    "assignment": ReportAssignment,
    "end": ReportEnd,
}
