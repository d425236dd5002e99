"""This module has the bodies about jobs: as the list and a single job show them, and their summary.

Field order is the order of keys in the answers.  Fields with `if_missing` are not shown by the
predecessor, whose answers `adm` reads too.
"""

from typing import Any

import attrs

from rebalancer.api.fields import Amount, Count, Positive, Share, Time, Uuid, about
from rebalancer.domain.states import STATE_WORDS, WISH_WORDS, ObjectStatus
from rebalancer.domain.tiers import Tier
from rebalancer.domain.verdicts import Word

_STATE = (
    "The state of the job: "
    + ", ".join(word.capitalize() for word in STATE_WORDS)
    + ".  A state that this version does not know, left by another one, is shown as it was found."
)
_WAITING = "What the job waits for now, the oldest first."
_DEFERRED = "Unprocessed objects that have no destination now, and are tried again later."
_WISH = "What an operator has asked for, whether it is carried out or not."
_ERROR = "Why the job failed; missing unless it did."
_TIERS = "The objects by metadata tier: the buckets tier is there once it has some."
_SHARK = "1.stor.example.com"
TIER = "The metadata tier of the shard, in which the shard's number counts."


@attrs.frozen(kw_only=True)
class VerdictCause:
    """A cause of a verdict: something that is left, or that nobody has looked at."""

    cause: str = about(
        "The reason of the objects, or another word, such as `max_objects`, for why the job did"
        " not see all of its node."
    )
    count: Count | None = about("Objects or records; null: they are not counted.")
    advice: str = about("What can be done, for a person.")
    command: str | None = about("The operator's command that acts on it; null: there is none.")


@attrs.frozen(kw_only=True)
class Verdict:
    """A verdict says what an ended job has come to: of an evacuation, whether its node is empty."""

    verdict: str = about(
        "`empty`: a scan of the live metadata has shown that no record names the node."
        " `not_empty`: some do.  `partial`: nothing is left of what the job took, but it took a"
        " part of the node, or did not look again.  `not_done`: the job failed or was cancelled."
        "  Of a verification: `right` or `faults`.",
        enum=list(Word),
    )
    line: str = about("All of it in one line, for a person.")
    causes: tuple[VerdictCause, ...] = about("What is left, and why.")


@attrs.frozen(kw_only=True)
class Results:
    """The number of a job's objects in each status."""

    total: Count = about("The sum of the others.", key="Total")
    unprocessed: Count = about("Objects found, without a destination yet.", key="Unprocessed")
    assigned: Count = about(
        "Objects in an assignment, which an agent may be working on.", key="Assigned"
    )
    skipped: Count = about(
        "Objects left where they are, for a reason that may pass: a retry job takes them up.",
        key="Skipped",
    )
    error: Count = about(
        "Objects left where they are, for a reason that a person should look at.", key="Error"
    )
    post_processing: Count = about(
        "Objects copied and verified, whose records do not say so yet.", key="Post Processing"
    )
    complete: Count = about("Objects copied, whose records name the copy.", key="Complete")
    duplicates: Count = about(
        "Objects with several records, which are in one of the other counts as well.",
        key="Duplicates",
    )


@attrs.frozen(kw_only=True)
class JobBytes:
    """The bytes of the objects that are known so far."""

    complete: Count = about("Bytes of the objects that are complete.")
    total: Count = about("Bytes of all objects.")


@attrs.frozen(kw_only=True)
class TierCounts:
    """The objects of one metadata tier, which are in the other counts as well."""

    tier: str = about(enum=list(Tier))
    objects: Count = about("Objects found so far.")
    bytes: Count = about("Bytes of these objects.")
    complete: Count = about("Objects that are complete.")
    bytes_complete: Count = about("Bytes of the objects that are complete.")


@attrs.frozen(kw_only=True)
class Scan:
    """A scan says how far a job has looked through a shard's ids, or through a listing."""

    tier: str | None = about(f"{TIER}  null: a listing.", enum=list(Tier), if_missing=None)
    shard: Count = about("The shard's number; 0 for a listing.")
    column: str = about(
        "The ids that are looked through: `_id`, `_idx`, the vnode of a buckets shard, or the part"
        " of a listing."
    )
    position: Count = about(
        "The last id that was looked at, of a vnode the number of rows; what was found is in the"
        " job's file."
    )
    until: Count = about("The last id that there is, of a vnode about the number of rows.")
    round: Count = about("0 for discovery, from 1 on for final scans.", if_missing=0)


@attrs.frozen(kw_only=True)
class Round:
    """A final scan: a search of the live metadata for records that still name the node."""

    round: Positive
    started: Time
    found: Count = about("Records that were found and moved too.")
    remaining: Count = about("Records that still name the node; the report lists them.")


@attrs.frozen(kw_only=True)
class Finding:
    """A warning of the pre-flight."""

    check: str = about("The name of the check.", examples=["heartbeat", "clone", "room"])
    detail: str = about("The finding, for a person.")


@attrs.frozen(kw_only=True)
class Wait:
    """Something that a job waits for; the job goes on by itself when it is there."""

    subject: str = about("What is waited for.", key="for", examples=["storinfo", "its turn"])
    since: Time | None = about("null: since when is not known.")
    detail: str = about("The last error, or the jobs that come first, for a person.")


@attrs.frozen(kw_only=True)
class Rate:
    """A rate at which objects come to their end."""

    objects_per_s: Amount = about("Objects that came to their end, a second.")
    bytes_per_s: Amount = about("Bytes of these objects, a second.")


@attrs.frozen(kw_only=True)
class JobShown:
    """A job and its counts."""

    config: dict[str, Any] = about("What the job was made for.")
    results: Results
    bytes: JobBytes = about(if_missing=JobBytes(complete=0, total=0))
    tiers: tuple[TierCounts, ...] = about(_TIERS, if_missing=())
    scans: tuple[Scan, ...] | None = about(
        "How far the job has looked.", if_missing=None, is_never_null=True
    )
    rounds: tuple[Round, ...] = about("The final scans, the latest last.", if_missing=())
    warnings: tuple[Finding, ...] = about("The warnings of the pre-flight.", if_missing=())
    waiting: tuple[Wait, ...] = about(_WAITING, if_missing=())
    deferred: Count = about(_DEFERRED, if_missing=0)
    created: Time = about(if_missing="")
    started: Time | None = about("null: it has not started.", if_missing=None)
    finished: Time | None = about("null: it has not ended.", if_missing=None)
    state: str = about(_STATE, examples=["Running"])
    wish: str | None = about(_WISH, default=None, enum=list(WISH_WORDS))
    error: str | None = about(_ERROR, default=None)
    verdict: Verdict | None = about(
        "What the job has come to; missing until it has ended, and if nobody can know it, because"
        " the job's file is damaged.",
        default=None,
    )


@attrs.frozen(kw_only=True)
class JobListed:
    """An entry of the list of jobs: what the job is about, and how far it is."""

    id: Uuid
    action: str = about(examples=["Evacuate"])
    state: str = about(_STATE, examples=["Running"])
    subject: str = about(
        "The node that the job empties, or what else it is about.",
        if_missing="",
        examples=[_SHARK],
    )
    created: Time = about(if_missing="")
    started: Time | None = about("null: it has not started.", if_missing=None)
    finished: Time | None = about("null: it has not ended.", if_missing=None)
    results: Results | None = about(
        "The numbers of its objects; zeros if the job's file cannot be read.",
        if_missing=None,
        is_never_null=True,
    )
    bytes: JobBytes = about(if_missing=JobBytes(complete=0, total=0))
    tiers: tuple[TierCounts, ...] = about(_TIERS, if_missing=())
    deferred: Count = about(_DEFERRED, if_missing=0)
    scanned: Share = about("The share of the shards' ids looked at by discovery.", if_missing=0.0)
    rate: Rate | None = about(
        "The rate over the last minute; null unless the job runs.", if_missing=None
    )
    eta_s: Amount | None = about(
        "Seconds until the job ends; null if there is no telling.", if_missing=None
    )
    waiting: tuple[Wait, ...] = about(_WAITING, if_missing=())
    behind: tuple[Uuid, ...] = about("The jobs that run and keep this one queued.", if_missing=())
    wish: str | None = about(_WISH, default=None, enum=list(WISH_WORDS))
    error: str | None = about(_ERROR, default=None)
    verdict: str | None = about(
        "The word of the job's verdict; missing until it has ended.", default=None, enum=list(Word)
    )


@attrs.frozen(kw_only=True)
class ReasonCount:
    """The objects of a job that have one status for one reason."""

    status: str = about(enum=[*ObjectStatus, "duplicates"])
    reason: str = about("Empty where the status says it all.")
    objects: Positive
    bytes: Count


@attrs.frozen(kw_only=True)
class SummaryRates:
    """Rates over the last minute and the last hour; neither is there unless the job runs."""

    minute: Rate | None = about(default=None)
    hour: Rate | None = about(default=None)


@attrs.frozen(kw_only=True)
class Standing:
    """A destination as all running jobs see it now."""

    shark: str = about(examples=[_SHARK])
    claimed: Count = about(
        "Bytes promised to objects, or copied so lately that storinfo may not know of them."
    )
    assignments: Count = about("Assignments under way.")
    failures: Count = about("Failures in a row.")
    avoided_for_s: Amount = about("Seconds for which other destinations are preferred to this one.")
    datacenter: str | None = about("null: storinfo does not list the node.", if_missing=None)
    percent_used: Count | None = about("How full the node is, by storinfo.", if_missing=None)
    available: Count | None = about("Bytes that are free, by storinfo.", if_missing=None)
    unused: str | None = about(
        "Why jobs give it nothing now, for a person; null: they may.", if_missing=None
    )


@attrs.frozen(kw_only=True)
class Destination:
    """A destination of a job: what it was given, and what became of that."""

    shark: str = about(examples=[_SHARK])
    datacenter: str
    assignments: Count = about("Assignments that it was given.")
    tasks: Count = about("Objects in these assignments.")
    bytes: Count = about("Bytes of these objects.")
    copied: Count = about("Objects of which it has a verified copy.")
    failed: Count = about("Objects that it did not copy, or of which that is not known.")
    now: Standing | None = about("null: nothing is under way there.")


@attrs.frozen(kw_only=True)
class Summary:
    """A summary of how a job is going."""

    id: Uuid
    state: str = about(_STATE, examples=["Running"])
    counts: tuple[ReasonCount, ...]
    tiers: tuple[TierCounts, ...] = about(_TIERS, if_missing=())
    rates: SummaryRates
    eta_s: Amount | None = about("Seconds until the job ends; null if there is no telling.")
    scans: tuple[Scan, ...] = about("How far the job has looked.")
    rounds: tuple[Round, ...] = about("The final scans, the latest last.")
    warnings: tuple[Finding, ...] = about("The warnings of the pre-flight.")
    waiting: tuple[Wait, ...] = about(_WAITING, if_missing=())
    destinations: tuple[Destination, ...]
    tuning: dict[str, Positive | None] = about(
        "The settings that an operator has changed for this job; null: as configured."
    )
    wish: str | None = about(_WISH, default=None, enum=list(WISH_WORDS))
    error: str | None = about(_ERROR, default=None)


@attrs.frozen(kw_only=True)
class Deleted:
    """The answer to the removal of a job."""

    deleted: Uuid = about("The id of the job that was removed.")
