"""This module decides whether an ended job has emptied its node, and which command does the rest.

Only a final scan of the live metadata proves that no record names a node any more: how many objects
a job has moved proves nothing.  A verification has verdicts of its own kind.
"""

import enum
import shlex
from collections import Counter
from collections.abc import Collection, Mapping

import attrs

from rebalancer.domain import reasons
from rebalancer.domain.reasons import read_word
from rebalancer.domain.states import JobState, ObjectStatus


class Word(enum.StrEnum):
    """The word of a verdict, on the wire too."""

    EMPTY = "empty"  # no record names the node
    NOT_EMPTY = "not_empty"  # some do, or may
    PARTIAL = "partial"  # nothing is left of what the job took, which was a part of the node
    NOT_DONE = "not_done"  # the job failed, or was cancelled
    RIGHT = "right"  # of a verification: all copies are as their records say
    FAULTS = "faults"  # of a verification: some are not


#: After a job with one of these verdicts nothing is left to do.
NOTHING_LEFT = frozenset({Word.EMPTY, Word.RIGHT})


class Scope(enum.StrEnum):
    """A reason why a job does not see all of its node, or not what comes back to it."""

    MAX_OBJECTS = "max_objects"
    OBJECTS_FILE = "objects_file"
    RETRIED = "retried_objects_only"
    NO_FINAL_SCAN = "no_final_scan"
    SOME_SHARDS = "shards_left_out"
    TIERS_LEFT_OUT = "tiers_left_out"
    IMPORTED = "imported"


#: Stands for the bucket objects of a region where the manager cannot look at them.
BUCKET_OBJECTS = "bucket_objects_not_looked_at"
#: Stands for records that a file names and that are gone, or not on the node.
DROPPED = "dropped"
#: Stands for records whose reason is a text in place of a word.
OTHER = "other"


@attrs.frozen
class End:
    """An end is what the file of an ended job says: numbers of objects or records by their word."""

    #: Objects by status and reason; the reason is empty where the status says it all.
    objects: Mapping[tuple[str, str], int]
    #: Records that the last final scan has listed, by why; None: there was no final scan.
    remaining: Mapping[str, int] | None = None
    #: Further records of objects that name the node still, by why, as far as the job knows.
    links: Mapping[str, int] = attrs.field(factory=dict)
    #: Records that a listing names and that are not the job's business.
    dropped: int = 0
    #: Shards that the last final scan has looked at.
    shards: Collection[int] = ()

    def count(self, status: str) -> int:
        """Return how many objects have a status, whatever the reason."""
        return sum(count for (name, _), count in self.objects.items() if name == status)

    @property
    def total(self) -> int:
        """Return how many objects the job had."""
        return sum(map(self.count, ObjectStatus))


@attrs.frozen
class Cause:
    """A cause of a verdict: what is left for one reason, and the command that acts on it."""

    word: str
    #: Objects or records; None where they are not counted.
    count: int | None
    advice: str
    command: str | None

    def __str__(self) -> str:
        return self.word if self.count is None else f"{self.word} {self.count:,}"


@attrs.frozen
class Verdict:
    """A verdict says in a word and in a line how a job has ended, and what is left to do."""

    word: Word
    line: str
    causes: tuple[Cause, ...] = ()

    @property
    def recurs(self) -> bool:
        """Tell whether another evacuation would leave objects for the same causes."""
        others = {*Scope, BUCKET_OBJECTS, DROPPED, reasons.UPLOAD_IN_PROGRESS.word}
        return any(cause.word not in others for cause in self.causes)


#: Errors that a person must mend in the records before another try can help.
_OF_RECORDS = frozenset(
    reason.word
    for reason in (
        reasons.BAD_CONTENT_LENGTH,
        reasons.BAD_MANTA_OBJECT,
        reasons.BAD_MORAY_OBJECT,
        reasons.DUPLICATE_SHARK,
        reasons.MISSING_SHARKS,
    )
)
#: Reasons why no copy of an object could be read: another try alone hardly helps.
_OF_COPIES = frozenset(
    reason.word
    for reason in (
        reasons.MD5_MISMATCH,
        reasons.SOURCE_IS_EVAC_SHARK,
        reasons.SOURCE_OTHER_ERROR,
    )
)
_NO_PLACE = "no other node may have them: add nodes to the datacenters"
_OF_AGENT = "an agent refused or failed: see the report and the agent's log"
#: What stands in the way of another try, where that is known; by word.
_FIRST: Mapping[str, str] = {
    reason.word: text
    for reason, text in {
        reasons.DESTINATION_INSUFFICIENT_SPACE: "no node that may have them has room: make room",
        reasons.DESTINATION_UNREACHABLE: "destinations do not answer: start their agents",
        reasons.OBJECT_ALREADY_ON_DEST_SHARK: _NO_PLACE,
        reasons.OBJECT_ALREADY_IN_DATACENTER: _NO_PLACE,
        reasons.AGENT_FS_ERROR: "a destination's disk refused them: see the agent's log",
        reasons.AGENT_BUSY: _OF_AGENT,
        reasons.AGENT_ASSIGNMENT_NO_ENT: _OF_AGENT,
        reasons.ASSIGNMENT_ERROR: _OF_AGENT,
        reasons.ASSIGNMENT_MISMATCH: _OF_AGENT,
        reasons.ASSIGNMENT_REJECTED: _OF_AGENT,
        reasons.NETWORK_ERROR: "sources broke off: see to their web servers and the network",
        reasons.METADATA_UPDATE_FAILED: "the shard refused the update: the report says why",
        reasons.BAD_SHARD_NUMBER: "their shard is configured no more: put it back into shards",
        reasons.BUCKETS_UPDATE_OFF: "buckets_update is off, which counts only: set it",
        reasons.ACTIVE_UPLOAD: "their uploads go on: wait for the ends",
        reasons.UNKNOWN: "an agent's reason is of a newer version: upgrade the manager",
    }.items()
}
_SCOPES = {
    Scope.MAX_OBJECTS: "the job took a limited number of objects; take the others too",
    Scope.OBJECTS_FILE: "the job took what a file lists; take the others too",
    Scope.RETRIED: "the job took what an earlier job had left; see whether the node is empty",
    Scope.NO_FINAL_SCAN: "final_scans is 0, so nobody has looked; see whether the node is empty",
    Scope.IMPORTED: "a Rust manager did the job, and did not look again; see whether it is empty",
    Scope.SOME_SHARDS: "shards of the region were left out; take all of them",
    Scope.TIERS_LEFT_OUT: "the job took one metadata tier; take the other too",
}


@attrs.frozen
class _Commands:
    """This object names the command that acts on a cause."""

    job: str
    node: str

    @property
    def check(self) -> str:
        return f"rebalancer adm node check {self.node}"

    @property
    def evacuate(self) -> str:
        return f"rebalancer adm job create evacuate --shark {self.node}"

    @property
    def verify(self) -> str:
        return f"rebalancer adm job create verify --shark {self.node}"

    @property
    def retry(self) -> str:
        return f"rebalancer adm job retry {self.job}"

    def objects(self, word: str) -> str:
        return f"rebalancer adm job objects {self.job} --reason {shlex.quote(word)}"

    @property
    def report(self) -> str:
        return f"rebalancer adm job report {self.job}"


def of_evacuation(
    job: str,
    node: str,
    state: JobState | None,
    scope: Collection[Scope],
    end: End,
    *,
    has_buckets: bool = False,
) -> Verdict:
    """Decide whether an ended evacuation has emptied its node.

    `scope` has the reasons why it may not have looked at all of the node; `has_buckets`: the region
    has bucket objects, at which nobody looks.
    """
    commands = _Commands(job, node)
    is_complete = state is JobState.COMPLETE
    is_scanned = is_complete and end.remaining is not None
    counted = (end.remaining or {}) if is_scanned else _unmoved(end)
    left = [_left(word, count, commands) for word, count in sorted(counted.items()) if count]
    moved = f"{end.count(ObjectStatus.COMPLETE):,} of {end.total:,} objects moved"
    if Scope.IMPORTED in scope:
        moved = f"by a Rust manager, {moved}"
    if not is_complete:
        why = "the job was cancelled" if state is JobState.CANCELLED else "the job failed"
        if not left:
            advice = "the job did not come to its end"
            left = [Cause(str(state or JobState.FAILED), None, advice, commands.retry)]
        return _verdict(Word.NOT_DONE, f"{why}, {moved}", left)
    parts = [_part(one, commands) for one in Scope if one in scope]
    if Scope.OBJECTS_FILE in scope and end.dropped:
        advice = "listed records that are gone, or not on the node"
        parts.append(Cause(DROPPED, end.dropped, advice, commands.report))
    wanted = [cause for cause in left if cause.word == reasons.EXCLUDED.word]
    if has_buckets:
        advice = "nobody looks at them, for want of buckets_primary: the node may have some"
        left.append(Cause(BUCKET_OBJECTS, None, advice, None))
    if len(left) > len(wanted):
        count = sum(cause.count or 0 for cause in left)
        kind = "records still name" if is_scanned else "objects were left on"
        text = f"{count:,} {kind} {node}" if count else f"{node} may not be empty"
        return _verdict(Word.NOT_EMPTY, f"{moved}, {text}", [*left, *parts])
    if left or parts:
        text = f"{moved}, but the job took only a part of {node}"
        return _verdict(Word.PARTIAL, text, [*left, *parts])
    return _verdict(Word.EMPTY, f"{moved}, no record names {node} any more", [])


def of_verification(
    job: str, node: str, state: JobState | None, scope: Collection[Scope], end: End
) -> Verdict:
    """Decide how the copies stand that an ended verification has compared with their records.

    `scope` has the reasons why it may not have seen all of the node, if it was about a node.
    """
    commands = _Commands(job, node)
    faults = [
        Cause(word or status, count, "the report has each with its node and path", commands.report)
        for (status, word), count in sorted(end.objects.items())
        if status == ObjectStatus.ERROR and count
    ]
    right, total = end.count(ObjectStatus.COMPLETE), end.total
    told = f"{right:,} of {total:,} objects are as their records say"
    word = reasons.CHANGING.word
    parts = [Cause(one, None, _SCOPES[one], commands.verify) for one in Scope if one in scope]
    left = list(parts)
    if count := end.objects.get((ObjectStatus.SKIPPED, word)):
        advice = "their records changed each time; look again"
        left.insert(0, Cause(word, count, advice, commands.retry))
    if state is JobState.COMPLETE and left:
        return _verdict(Word.PARTIAL, told, left)
    if state is JobState.COMPLETE and not faults:
        return _verdict(Word.RIGHT, told, [])
    is_whole = not any(map(end.count, (ObjectStatus.UNPROCESSED, ObjectStatus.ASSIGNED)))
    if state is JobState.FAILED and faults and is_whole:
        count = sum(cause.count or 0 for cause in faults)
        return _verdict(
            Word.FAULTS, f"{count:,} of {total:,} objects have faults", [*faults, *parts]
        )
    why = "the job was cancelled" if state is JobState.CANCELLED else "the job failed"
    again = Cause(str(state or JobState.FAILED), None, "look at the rest", commands.retry)
    return _verdict(Word.NOT_DONE, f"{why}, {told}", [*faults, again])


def _verdict(word: Word, text: str, causes: Collection[Cause]) -> Verdict:
    listed = f": {', '.join(map(str, causes))}" if causes else ""
    return Verdict(word, f"{word.replace('_', ' ')}: {text}{listed}", tuple(causes))


def _unmoved(end: End) -> Mapping[str, int]:
    """Return the objects and links that were left on the node, as far as a job's rows say."""
    left = Counter(end.links)
    for (status, word), count in end.objects.items():
        reason = read_word(word or None)
        is_gone = reason is not None and reason.is_gone
        if status in list(ObjectStatus) and status != ObjectStatus.COMPLETE and not is_gone:
            left[word or status] += count
    return left


def _left(word: str, count: int, commands: _Commands) -> Cause:
    if word == reasons.UPLOAD_IN_PROGRESS.word:
        advice = "these uploads still go to the node; wait for their ends, and look again"
        return Cause(word, count, advice, commands.check)
    if word == reasons.EXCLUDED.word:
        advice = "take their prefixes out of exclude_key_prefixes, then move them too"
        return Cause(word, count, advice, commands.evacuate)
    if word in _OF_RECORDS:
        advice = "a person must mend these records; job retry takes them up then"
        return Cause(word, count, advice, commands.objects(word))
    if word in _OF_COPIES or word.startswith("{"):  # the status that a source has answered
        advice = "no good copy could be read; see to the copies, job retry takes them up then"
        return Cause(word, count, advice, commands.objects(word))
    if word == OTHER:
        return Cause(word, count, "the report says why, and job retry tries again", commands.report)
    advice = f"{_FIRST[word]}, then try once more" if word in _FIRST else "try once more"
    return Cause(word, count, advice, commands.retry)


def _part(scope: Scope, commands: _Commands) -> Cause:
    takes_more = scope in (
        Scope.MAX_OBJECTS,
        Scope.OBJECTS_FILE,
        Scope.SOME_SHARDS,
        Scope.TIERS_LEFT_OUT,
    )
    command = commands.evacuate if takes_more else commands.check
    return Cause(scope, None, _SCOPES[scope], command)
