"""This module describes the agent's API for `GET /openapi.json`: OpenAPI 3.1.  Pure."""

from functools import cache
from typing import Any

from rebalancer.agent.api import MAX_PAGE, PAGE
from rebalancer.api import document as part
from rebalancer.api.agent import (
    TASK_RULES,
    AgentAssignment,
    AgentLimits,
    AgentLimitsChange,
    AgentReport,
    AgentStatus,
    AgentTask,
    PostedAssignment,
    TaskSource,
)
from rebalancer.api.schemas import ref, schemas_of, text
from rebalancer.api.status import Message, Ping

_ABOUT = """\
The agent of a storage node: it pulls the objects of assignments from other storage nodes.

A manager posts an assignment, asks how it stands until its state is `Complete`, and deletes it.
An agent answers in the dialect of whoever posted the assignment: that of the deployed programs, in
which a status is a word or `{"Failed": reason}`, or that of the rewrite, in which it is an object
with a `state`.

**Errors** are JSON: `{"message": ..., "request_id": ...}`.  `HEAD` and `OPTIONS` work wherever they
make sense, and a slash may follow a path.
"""
_ERRORS = part.Errors(
    texts={
        401: "The agent wants a token, and the request bears none, or a wrong one.",
        408: "The body did not arrive within a minute.",
        413: "The body is larger than `max_body_bytes`, or has too many tasks or values.",
        500: "The agent has a fault: its log has the cause.",
    },
    content={part.JSON: ref("Message")},
    headers={401: ("WWW-Authenticate",), 503: ("Retry-After",)},
)
_NO_UUID = "The id is no UUID."
_UNKNOWN = "The agent does not know this assignment."
_UNREADABLE = "The state of the agent cannot be read or written now."
_TASK: dict[str, Any] = {
    "object_id": "1a2b30f1-f29d-4da9-953f-48f1a09f76b5",
    "owner": "2b3c30f1-f29d-4da9-953f-48f1a09f76b5",
    "md5sum": "L9NrIZXTY37AYVZN9+gZ7w==",
    "source": {"datacenter": "dc1", "manta_storage_id": "1.stor.example.com"},
}
_EXAMPLE = {"id": "0fd630f1-f29d-4da9-953f-48f1a09f76b5", "tasks": [_TASK]}
_OF_BUCKET = {
    "bucket_id": "3c4d30f1-f29d-4da9-953f-48f1a09f76b5",
    "object_name_hash": "d41d8cd98f00b204e9800998ecf8427e",
}
_NANOSECONDS = "([0-9]{1,18}|[1-8][0-9]{18})"
_UUID = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_ASSIGNMENT_ID = {
    "name": "assignment_id",
    "in": "path",
    "required": True,
    "description": "The assignment's id; upper and lower case are the same.",
    "schema": text(format="uuid"),
}


def _of_assignments() -> dict[str, Any]:
    """Return the calls that managers use, by path and method."""
    post = _ERRORS.operation(
        "post_assignment",
        "Give the agent an assignment",
        "The answer comes when the assignment is on stable storage; its tasks are done later.  Old"
        " documentation has an array in place of the object: the id, and the list of tasks.",
        part.shows("The assignment is stored; the body is its id, as it was posted.", text()),
        {
            400: "The body is not JSON, a text has NUL, or the fields that the message names cannot"
            " be used.",
            409: "The agent knows an assignment of this id already.",
            503: f"{_UNREADABLE}  Or the agent is stopping.",
        },
        body=part.takes(
            ref("PostedAssignment"),
            {
                "one object": _EXAMPLE,
                "a bucket object": {**_EXAMPLE, "tasks": [_TASK | _OF_BUCKET]},
            },
        ),
    )
    get = _ERRORS.operation(
        "get_assignment",
        "Show how an assignment stands",
        "The tasks that failed are listed when all tasks have ended.",
        part.shows("The counts of the assignment.", AgentReport),
        {400: _NO_UUID, 404: _UNKNOWN, 503: _UNREADABLE},
    )
    delete = _ERRORS.operation(
        "delete_assignment",
        "Forget a completed assignment",
        "The pulled objects stay.",
        part.answer("The assignment is forgotten; the body is empty.", {}),
        {
            400: _NO_UUID,
            403: "The assignment is not completed.",
            404: _UNKNOWN,
            503: _UNREADABLE,
        },
    )
    listing = _ERRORS.operation(
        "list_assignments",
        "List assignments",
        "The newest assignment comes first.  The header `Link` names the next page.",
        part.shows("A page.", {"type": "array", "items": ref("AgentAssignment")}),
        {400: "The parameter that the message names cannot be used.", 503: _UNREADABLE},
        query=(
            part.parameter(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": PAGE},
                "The most assignments in the answer.",
            ),
            part.parameter(
                "before",
                text(pattern=f"^{_NANOSECONDS}[.]{_UUID}$"),
                "Only older assignments; from an earlier answer.",
            ),
        ),
    )
    one = {"get": get, "delete": delete, "parameters": [_ASSIGNMENT_ID]}
    return {
        "/assignments": {"get": listing, "post": post},
        "/assignments/{assignment_id}": one,
    }


def _of_operators() -> dict[str, Any]:
    """Return the calls that operators use, by path and method."""
    ping = _ERRORS.operation(
        "ping",
        "Show that the agent is alive",
        "This call looks at nothing, and needs no token.",
        part.shows("The agent is alive.", Ping),
        is_open=True,
    )
    status = _ERRORS.operation(
        "status",
        "Show how the agent is",
        "The status has what the agent works on, what it waits for, and its latest errors.",
        part.shows("The status.", AgentStatus),
    )
    limits = _ERRORS.operation(
        "get_limits",
        "Show the limits",
        "These limits are in force, until they are changed or the agent is started again.",
        part.shows("The limits.", AgentLimits),
    )
    change = _ERRORS.operation(
        "put_limits",
        "Change the limits",
        "A change is in force at once, also for transfers that are under way.",
        part.shows("The limits, as they are now.", AgentLimits),
        {400: "The body is not JSON, or the field that the message names is wrong or unknown."},
        body=part.takes(
            {**ref("AgentLimitsChange"), "minProperties": 1},
            {"20 MB a second": {"bandwidth_bytes_per_s": 20_000_000}},
        ),
    )
    reset = _ERRORS.operation(
        "reset_bandwidth",
        "Put the configured bandwidth in force",
        "A limit that was put in its place is over, also for transfers that are under way.",
        part.shows("The limits, as they are now.", AgentLimits),
    )
    describe = _ERRORS.operation(
        "describe",
        "Describe this API",
        "The answer is this document.",
        part.shows(
            "An OpenAPI 3.1 document.",
            {"type": "object", "required": ["openapi", "info", "paths"]},
        ),
    )
    return {
        "/ping": {"get": ping},
        "/status": {"get": status},
        "/limits": {"get": limits, "put": change},
        "/limits/bandwidth_bytes_per_s": {"delete": reset},
        "/openapi.json": {"get": describe},
    }


def _schemas() -> dict[str, Any]:
    """Return the schemas of all bodies; an assignment may have keys that this agent ignores."""
    made = schemas_of(
        *(AgentAssignment, AgentLimits, AgentLimitsChange, AgentReport, AgentStatus),
        *(PostedAssignment, Message, Ping),
    )
    for kind in (PostedAssignment, AgentTask, TaskSource):
        made[kind.__name__] = _opened(made[kind.__name__])
    made["AgentTask"] |= TASK_RULES
    return made


def _opened(schema: Any) -> Any:
    """Return a schema that allows other keys in each of its objects."""
    if isinstance(schema, dict):
        return {key: _opened(one) for key, one in schema.items() if key != "additionalProperties"}
    return [_opened(one) for one in schema] if isinstance(schema, list) else schema


@cache
def description() -> dict[str, Any]:
    """Return the description of the agent's API; it is made when somebody asks for it first."""
    return part.document(
        "agent",
        "Manta rebalancer: agent",
        "Pulls objects onto the storage node that it runs on.",
        _ABOUT,
        {**_of_assignments(), **_of_operators()},
        _schemas(),
        {
            "Retry-After": part.header(
                "Seconds after which another try may succeed.", {"type": "integer", "minimum": 0}
            ),
            "WWW-Authenticate": part.header(
                "The kind of credentials that the agent wants.", {"const": "Bearer"}
            ),
        },
    )
