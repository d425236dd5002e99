"""This module decides whether a storage node may be removed, by what a scan of all shards found.

"Yes" needs a proof: every shard was scanned to its end, and nothing names the node or will.
"""

import enum
from collections.abc import Mapping, Sequence

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.tiers import shard_name
from rebalancer.domain.verdicts import BUCKET_OBJECTS, Cause, Scope


class Kind(enum.StrEnum):
    """A kind of what can name a storage node."""

    OBJECT = "object"
    UNUSABLE = "unusable_record"  # of an object: it holds the name, and nobody can say what for
    UPLOAD = reasons.UPLOAD_IN_PROGRESS.word
    BUCKET_OBJECT = "bucket_object"
    DELETED = "deleted_bucket_object"  # which garbage collection has yet to remove from the node


#: How one and several of what is counted are called in a line for a person.
_COUNTED: Mapping[str, tuple[str, str]] = {
    Kind.OBJECT: ("object", "objects"),
    Kind.BUCKET_OBJECT: ("bucket object", "bucket objects"),
    Kind.UNUSABLE: ("unusable record", "unusable records"),
    Kind.UPLOAD: ("open upload", "open uploads"),
}


class Answer(enum.StrEnum):
    """An answer to whether a node may be removed."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"  # nothing was found, but not all was looked at


@attrs.frozen
class Seen:
    """A sight of a node: all that a check has found out about it."""

    counts: Mapping[Kind, int]
    #: Why a shard was not scanned to its end, by the shard's number.
    failures: Mapping[int, str] = attrs.field(factory=dict)
    #: Whether the check stopped early, because it had found as much as was asked for.
    is_cut: bool = False
    #: Why the node could not be looked up, so that its name may be misspelt.
    not_looked_up: str | None = None
    #: Whether storinfo lists the node, so that front ends choose it; None: it does not answer.
    takes_writes: bool | None = False
    #: Assignments to the node, as a destination, and links that unfinished jobs have yet to update.
    pending: int = 0
    #: Whether a running job has promised room of the node to objects.
    is_promised: bool = False
    #: Why the file of an unfinished job was not read, by the job's id.
    unread: Mapping[str, str] = attrs.field(factory=dict)
    #: Whether the configuration leaves shards alone because of their numbers.
    bounds_shards: bool = False
    #: Whether the region has bucket objects, at which nobody looks.
    has_buckets: bool = False
    #: Whether bucket objects were looked at.
    looks_at_buckets: bool = False
    #: Unfinished jobs that empty the node.
    jobs: Sequence[str] = ()
    #: The job that was the last to empty the node, if it left what another would leave, too.
    left_by: str | None = None


@attrs.frozen
class Decision:
    """A decision has the answer, a line for a person, and what stands against the removal."""

    answer: Answer
    line: str
    causes: tuple[Cause, ...]


def decide(node: str, seen: Seen) -> Decision:
    """Decide whether `node` may be removed."""
    against = _against(node, seen)
    unknown = _unknown(node, seen)
    causes = (*against, *unknown)
    answer = Answer.NO if against else Answer.UNKNOWN if unknown else Answer.YES
    line = f"safe to remove: {answer}, because "
    if causes:
        line += f"of: {', '.join(map(_in_words, causes))}"
    else:
        line += f"no record names {node}"
        line += "" if seen.looks_at_buckets else "; bucket objects were not looked at"
    return Decision(answer, line, causes)


def _in_words(cause: Cause) -> str:
    """Return a cause as a person reads it, with its number in front where it is counted."""
    if cause.count is None:
        return cause.word.replace("_", " ")
    one, many = _COUNTED.get(cause.word, (cause.word.replace("_", " "),) * 2)
    return f"{cause.count:,} {one if cause.count == 1 else many}"


def _against(node: str, seen: Seen) -> list[Cause]:
    """Return what speaks against the removal."""
    move = ("move their objects", f"rebalancer adm job create evacuate --shark {node}")
    if seen.jobs:
        move = ("a job moves their objects", f"rebalancer adm job watch {seen.jobs[0]}")
    elif seen.left_by is not None:
        why = "the last job has left some: its verdict says why, and what comes before another job"
        move = (why, f"rebalancer adm job get {seen.left_by}")
    look = f"rebalancer adm node check {node}"
    advice = {
        Kind.OBJECT: (f"records name the node; {move[0]}", move[1]),
        Kind.BUCKET_OBJECT: (f"records name the node; {move[0]}", move[1]),
        Kind.UNUSABLE: ("a person must mend these records: an evacuation cannot", None),
        Kind.UPLOAD: ("these uploads still go to the node; wait for their ends", look),
    }
    found = [
        Cause(kind, count, *advised)
        for kind, advised in advice.items()
        if (count := seen.counts.get(kind, 0))
    ]
    if seen.takes_writes:
        why = "storinfo lists the node, so front ends choose it for new objects; stop its heartbeat"
        found.append(Cause("takes_new_objects", None, why, look))
    if seen.pending or seen.is_promised:
        why = "another job makes copies on the node; wait for its end, or let it go on"
        known = seen.pending or None
        found.append(Cause("copies_under_way", known, why, "rebalancer adm job list"))
    return found


def _unknown(node: str, seen: Seen) -> list[Cause]:
    """Return what nobody has looked at."""
    look = f"rebalancer adm node check {node}"
    missing = [
        Cause(f"{shard_name(number).replace(' ', '_')}_not_scanned", None, why, look)
        for number, why in sorted(seen.failures.items())
    ]
    for job_id, why in sorted(seen.unread.items()):
        missing.append(Cause(f"job_{job_id}_not_read", None, why, look))
    if seen.not_looked_up is not None:
        missing.append(Cause("node_not_looked_up", None, seen.not_looked_up, look))
    if seen.takes_writes is None:
        why = "storinfo does not answer: front ends may choose the node for new objects"
        missing.append(Cause("storinfo_not_asked", None, why, look))
    if seen.is_cut:
        why = "the check stopped early, as was asked; count all"
        missing.append(Cause("stopped_early", None, why, look))
    if seen.bounds_shards:
        why = "min_shard or max_shard leave shards out; take all of them"
        missing.append(Cause(Scope.SOME_SHARDS, None, why, None))
    if seen.has_buckets:
        why = "nobody looks at them, for want of buckets_primary: the node may have some"
        missing.append(Cause(BUCKET_OBJECTS, None, why, None))
    return missing
