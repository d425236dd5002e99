"""This module has the bodies of the agent's API.

The agent writes its answers without these classes, in the dialect of the request; its tests hold
every answer to the schemas that are generated from them.
"""

from typing import Any, Literal

import attrs

from rebalancer.api.fields import Amount, Count, Positive, Time, Uuid, about
from rebalancer.api.schemas import closed, text

_CODE = {"type": "integer", "description": "The status that the source answered."}
#: The reason why a task failed, in the dialect of deployed programs, and in that of the rewrite.
_REASONS = (
    {
        "description": "The reason, a word such as `MD5Mismatch`, or an object with a code.",
        "anyOf": [text(), closed({"HTTPStatusCode": _CODE}, ["HTTPStatusCode"])],
    },
    closed({"type": text("A word such as `MD5Mismatch`."), "status_code": _CODE}, ["type"]),
)
#: A task's status in both dialects.
_STATUS = [
    {"enum": ["Pending", "Running", "Complete", None]},
    closed({"Failed": _REASONS[0]}, ["Failed"]),
    closed({"state": {"enum": ["Pending", "Running", "Complete"]}}, ["state"]),
    closed({"state": {"const": "Failed"}, "reason": _REASONS[1]}, ["state", "reason"]),
]


@attrs.frozen(kw_only=True)
class TaskSource:
    """The storage node that an object is pulled from."""

    datacenter: str
    manta_storage_id: str = about(
        "The host name of the node, perhaps with a port.",
        pattern="^[A-Za-z0-9]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?$",
        examples=["1.stor.example.com"],
    )


@attrs.frozen(kw_only=True)
class AgentTask:
    """An object to pull."""

    object_id: Uuid
    owner: Uuid = about("The account under whose id the object lies.")
    md5sum: str = about(
        "The MD5 of the object, in base64.",
        pattern="^[A-Za-z0-9+/]{22}==$",
        examples=["L9NrIZXTY37AYVZN9+gZ7w=="],
    )
    source: TaskSource
    status: Any = about(
        "The status of the task, in the dialect of deployed programs or of the rewrite.  In a"
        " posted assignment it is ignored: every task is pending.",
        default=None,
        anyOf=_STATUS,
    )
    bucket_id: str | None = about(
        "The bucket of a bucket object, with `object_name_hash`: its copy lies below `/manta/v2`.",
        default=None,
        pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
        examples=["3c4d30f1-f29d-4da9-953f-48f1a09f76b5"],
    )
    object_name_hash: str | None = about(
        "The MD5 of the name of a bucket object, in hexadecimal.",
        default=None,
        pattern="^[0-9a-f]{32}$",
        examples=["d41d8cd98f00b204e9800998ecf8427e"],
    )


#: What the fields of a task must be together: both of a bucket object's or neither, and its ids as
#: its path has them.
TASK_RULES = {
    "anyOf": [
        {"properties": {"bucket_id": {"type": "null"}, "object_name_hash": {"type": "null"}}},
        {
            "required": ["bucket_id", "object_name_hash"],
            "properties": {
                "bucket_id": text(),
                "object_name_hash": text(),
                "object_id": text(pattern="^[0-9a-f-]+$"),
                "owner": text(pattern="^[0-9a-f-]+$"),
            },
        },
    ]
}


@attrs.frozen(kw_only=True)
class PostedAssignment:
    """A batch of tasks for this agent."""

    id: str = about("The assignment's id: a UUID, with hyphens or without.")
    tasks: tuple[AgentTask, ...] = about("Up to 10,000 tasks, each of another object.")


@attrs.frozen(kw_only=True)
class CompleteState:
    """The state of an assignment that has no task left to do."""

    Complete: tuple[AgentTask, ...] | None = about("The tasks that failed; null: none.")


@attrs.frozen(kw_only=True)
class AgentStats:
    """The counts of an assignment."""

    state: Literal["Scheduled", "Running"] | CompleteState
    failed: Count = about("Tasks that failed.")
    complete: Count = about("Tasks that have ended, failed tasks included.")
    total: Count = about("All tasks.")


@attrs.frozen(kw_only=True)
class AgentReport:
    """An assignment as the agent stands with it."""

    uuid: Uuid
    stats: AgentStats


@attrs.frozen(kw_only=True)
class AgentAssignment:
    """An entry of the list of assignments."""

    uuid: Uuid
    state: Literal["Scheduled", "Running", "Complete"]
    failed: Count = about("Tasks that failed.")
    complete: Count = about("Tasks that have ended, failed tasks included.")
    total: Count = about("All tasks.")


@attrs.frozen(kw_only=True)
class AgentLimits:
    """The limits in force."""

    bandwidth_bytes_per_s: Positive | None = about(
        "Bytes a second of all transfers; null: no limit."
    )
    workers_per_assignment: Positive = about("Objects of one assignment at a time.", maximum=256)


@attrs.frozen(kw_only=True)
class AgentLimitsChange:
    """A change of limits: a limit that is left out stays as it is."""

    bandwidth_bytes_per_s: Positive | None = about(
        "Bytes a second of all transfers; null: no limit.", default=None
    )
    workers_per_assignment: Positive | None = about(
        "Objects of one assignment at a time.", default=None, is_never_null=True, maximum=256
    )


@attrs.frozen(kw_only=True)
class AgentWait:
    """Something that the agent waits for."""

    subject: str = about("What is waited for.")
    detail: str = about("The last error, for a person.")
    since: Time


@attrs.frozen(kw_only=True)
class AgentStatus:
    """The agent itself."""

    version: str
    features: tuple[str, ...] = about(
        "What this agent can do beyond what every agent can, also in the header `Server` of each"
        " answer, in parentheses.  `v2`: it takes tasks of bucket objects.",
        examples=[["v2"]],
    )
    uptime_s: Amount
    waiting: Count = about("Assignments that are stored and not begun.")
    running: tuple[Uuid, ...] = about("Assignments that are worked on.")
    running_tasks: Count = about("Objects that are being pulled.")
    limits: AgentLimits
    bytes_received: Count = about("Bytes pulled since the agent started.")
    bytes_per_s: Amount = about("Bytes pulled a second, of late.")
    disk_free_bytes: Count | None = about("null: the disk does not answer.")
    resume_failures: Count = about("Failures to take up stored assignments after a start.")
    state_write_retries: Count = about("Writes of state files that were tried again.")
    waiting_for: tuple[AgentWait, ...] = about("What the agent waits for.")
    last_errors: tuple[str, ...] = about("The latest errors, for a person.")
    engine: str | None = about(
        "The engine that pulls objects; null until a fetcher has said which it uses.",
        examples=["libcurl"],
    )
