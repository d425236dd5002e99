"""This module has the lines of a check of a storage node: what names it now, and if it may go."""

from typing import Any

import attrs

from rebalancer.api.fields import Count, Positive, Share, Uuid, about
from rebalancer.api.jobs import TIER, VerdictCause
from rebalancer.domain.node_checks import Answer, Kind
from rebalancer.domain.tiers import Tier

_KIND = (
    "`object`: a record that names the node.  `unusable_record`: one that holds its name and cannot"
    " be used.  `upload_in_progress`: an upload that will end on the node.  `bucket_object`: the"
    " record of one that names the node.  `deleted_bucket_object`: that of one that its user has"
    " deleted, whose file garbage collection has yet to remove from the node."
)
_NODE = "1.stor.example.com"


@attrs.frozen(kw_only=True)
class NodeCheckProgress:
    """A line that comes every few seconds while the shards are scanned."""

    type: str = about(const="progress")
    node: str = about(examples=[_NODE])
    scanned: Share = about("The share of the ids looked at so far.")
    shards_done: Count = about("Shards that were scanned to their end, or given up.")
    shards: Positive
    found: Count = about("Records and uploads that name the node, so far.")


@attrs.frozen(kw_only=True)
class NodeCheckShard:
    """A shard, and its count of one kind."""

    tier: str = about(TIER, enum=list(Tier))
    shard: Count
    count: Positive


@attrs.frozen(kw_only=True)
class NodeCheckKind:
    """A count of what names the node, of one kind."""

    kind: str = about(_KIND, enum=list(Kind))
    count: Count | None = about("null: nobody has looked at this kind.")
    shards: tuple[NodeCheckShard, ...] = about("The counts by shard, without zeros.")


@attrs.frozen(kw_only=True)
class NodeCheckSample:
    """A record or upload that was among the first found of its kind."""

    kind: str = about(_KIND, enum=list(Kind))
    tier: str = about(TIER, enum=list(Tier))
    shard: Count
    key: str
    id: str = about("The id of the object or upload; `<shard>:<key>` for a record that names none.")


@attrs.frozen(kw_only=True)
class NodeCheckResult:
    """The last line: the answer.  A check without it was cut short, and has shown nothing."""

    type: str = about(const="result")
    node: str = about(examples=[_NODE])
    safe_to_remove: str = about(
        "`yes` only if every shard was scanned to its end, and nothing names the node.  `unknown`:"
        " nothing was found, but not all was looked at.",
        enum=list(Answer),
    )
    line: str = about("The answer in a line, for a person.")
    causes: tuple[VerdictCause, ...] = about("Why the answer is not `yes`.")
    kinds: tuple[NodeCheckKind, ...]
    sample: tuple[NodeCheckSample, ...] = about("The first few of each kind.")
    jobs: tuple[Uuid, ...] = about("Jobs for this node that have not ended.")


#: The classes of the lines, by the `type` that a line has.
NODE_CHECK_LINES: dict[str, type[Any]] = {
    "progress": NodeCheckProgress,
    "result": NodeCheckResult,
}
