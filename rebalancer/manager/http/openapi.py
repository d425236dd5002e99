"""This module describes the manager's API for `GET /openapi.json`: OpenAPI 3.1.  Pure.

The bodies are the classes of `rebalancer.api`; here are the calls, and the answers of each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rebalancer.actions import DECLARED
from rebalancer.actions.declaration import MAX_WHOLE, STORAGE_NODE_PATTERN, Declaration
from rebalancer.api import document as part
from rebalancer.api.imports import Importable, Imported, ImportJob, ListImports
from rebalancer.api.jobs import Deleted, JobListed, JobShown, Summary
from rebalancer.api.nodes import NODE_CHECK_LINES
from rebalancer.api.objects import REPORT_LINES, Objects
from rebalancer.api.plan import Plan, PlanError, PlanProgress
from rebalancer.api.requests import SETTINGS, ControlJob
from rebalancer.api.schemas import Schema, closed, one_of, ref, schemas_of, text
from rebalancer.api.status import Message, Ping, Status
from rebalancer.domain.states import JobState, ObjectStatus
from rebalancer.manager.http.lines import NDJSON
from rebalancer.manager.http.requests import DEFAULT_PAGE, MAX_PAGE

_ABOUT = """\
Jobs that empty storage nodes ("sharks") of a Manta object store.  One manager serves a region.

A job is made with `POST /jobs`, waits in `Setup` until it is its turn, is `Running`, and ends as
`Complete`, `Failed` or, cancelled, `Stopped`; a paused job is `Stopped` too, until it is resumed.
Use `GET /jobs/{job_id}/summary` to watch a job, `GET /jobs/{job_id}/objects` to look into it, and
`GET /jobs/{job_id}/report` to keep everything that is known of it.

**Errors** are plain text, as they always were.  A client whose `Accept` begins with
`application/json` gets `{"message": ..., "request_id": ...}` instead.  A job that does not exist
is a 400 here, not a 404; a 404 means that this API has no such path.  A method that a path does
not have is a 405, whose `Allow` names the methods that the path has.  `HEAD` and `OPTIONS` work
wherever they make sense.

**Whole numbers** are written without a fraction in requests: 22, not 22.0.

**Clients should ignore fields that they do not know.**  This document describes the answers of
this version; later versions may show more.
"""
_ERRORS = part.Errors(
    texts={
        401: "The manager wants a token, and the request bears none, or a wrong one.",
        404: "The id holds a slash, so this API has no such path.",
        408: "The body did not arrive within a minute.",
        413: "The body is longer than a mebibyte.",
        500: "The manager has a fault: its log has the cause.",
    },
    content={"text/plain": text(), part.JSON: ref("Message")},
    headers={401: ("WWW-Authenticate",), 503: ("Retry-After",)},
)
_HEADERS: Mapping[str, Any] = {
    "Retry-After": part.header(
        "Seconds after which another try may succeed.", {"type": "integer", "minimum": 0}
    ),
    "WWW-Authenticate": part.header(
        "The kind of credentials that the manager wants.", {"const": "Bearer"}
    ),
}
#: The calls whose path names a job.
_OF_A_JOB = (
    "get_job",
    "change_job",
    "delete_job",
    "retry_job",
    "list_objects",
    "summarize_job",
    "report_job",
)
_NO_JOB = "The id is no UUID, or no job has this id."


def _leading(answer: dict[str, Any], job_id: str) -> dict[str, Any]:
    """Return `answer` with links to the calls about the job whose id is at `job_id` in it."""
    parameters = {"job_id": job_id}
    links = {name: {"operationId": name, "parameters": parameters} for name in _OF_A_JOB}
    return {**answer, "links": links}


def _of_job(
    name: str,
    summary: str,
    about: str,
    answer: dict[str, Any],
    errors: Mapping[int, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the description of a call whose path names a job."""
    own = {400: _NO_JOB, 404: _ERRORS.texts[404], **(errors or {})}
    return _ERRORS.operation(name, summary, about, answer, own, **more)


_BAD_BODY = (
    "The body is not JSON, or the field that the message names is missing, wrong or unknown."
)
_NEW_ID = (
    "The id of the new job: bare text and a newline, which is not JSON, as it always was.  A JSON"
    " string if the request's Accept begins with `application/json`."
)
_FORBIDDEN = (
    "`Snaplink Cleanup Required`: the configuration forbids evacuations.  Any other text: the"
    " manager has a fault, and its log has the cause."
)
_CREATE = _ERRORS.operation(
    "create_job",
    "Make a job, or show what it would do",
    "\n\n".join(declared.about for declared in DECLARED.values()),
    # No links lead on from here: a plan has no id.
    part.answer(
        f"{_NEW_ID}  For a dry run: the plan.  If the request's Accept begins with"
        f" `{NDJSON}`, a dry run is answered line by line, each as the schema `PlanLine` says:"
        " progress every second, and last the plan, or an error.  It ends with its client.",
        {
            part.JSON: {"oneOf": [ref("JobId"), ref("Plan")]},
            NDJSON: text("Each line: `PlanLine`."),
        },
    ),
    {
        400: "The shark's name cannot be one, no storage node has it, or the file of objects"
        " cannot be read.  For a dry run: the job would fail at once, and the cause.",
        409: "Another job empties this node, or will: the message names it; or bucket objects are"
        " to be taken, and the manager does not look at them.  For a dry run: another dry run is"
        " under way.",
        422: _BAD_BODY,
        500: _FORBIDDEN,
        503: "For a dry run: a shard or storinfo does not answer.",
    },
    body=part.takes(
        ref("NewJob"),
        {name: body for declared in DECLARED.values() for name, body in declared.examples.items()},
    ),
)
_LIST = _ERRORS.operation(
    "list_jobs",
    "List all jobs",
    "The oldest job comes first.  Jobs that have ended are listed until they are removed.",
    _leading(
        part.shows("The jobs.", {"type": "array", "items": ref("JobListed")}),
        "$response.body#/0/id",
    ),
    {400: "The parameter that the message names is unknown or wrong."},
    query=(
        part.parameter("state", text(enum=list(JobState)), "Only jobs in this state."),
        part.parameter(
            "shark", text(), "Only jobs for this node; the region's domain may be left out."
        ),
        part.parameter(
            "after",
            text(format="uuid"),
            "Only jobs behind this one on the list, from which it may have been removed since the"
            " manager started; the id of any other job is refused.",
        ),
        part.parameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": MAX_WHOLE},
            "The most jobs in the answer; without it all.",
        ),
    ),
)
_GET = _of_job(
    "get_job",
    "Show a job and its counts",
    "The counts cost the same at ten objects and at fifty million.",
    part.shows("The job.", JobShown),
)
_CHANGE = _of_job(
    "change_job",
    "Pause, resume or cancel a job, or change a setting of it",
    "`pause` stops a job as it is, and `resume` lets it go on.  `cancel` begins nothing more, waits"
    " for what agents are doing and ends the job.  A setting can be changed until the job ends, is"
    " in force at once or as soon as the job runs, and outlives a restart of the manager.",
    part.answer("The change is made; the body is empty.", {}),
    {
        400: f"{_NO_JOB}  For a setting: the job has ended, has no settings, or is about to begin"
        " or end, the configuration fixes the setting, or the number is out of range.",
        409: "The state of the job does not allow this change.",
        422: _BAD_BODY,
    },
    body=part.takes(
        ref("Change"),
        {
            "pause": {"action": "pause"},
            "resume": {"action": "resume"},
            "cancel": {"action": "cancel"},
            "more updates at a time": {"action": "set_metadata_threads", "params": 30},
            "fewer destinations": {"action": "set_max_sharks", "params": 3},
            "larger assignments": {"action": "set_max_tasks_per_assignment", "params": 200},
            "bandwidth as configured": {"action": "set_bandwidth", "params": None},
        },
    ),
)
_DELETE = _of_job(
    "delete_job",
    "Remove a job that has ended",
    "The job's file, which says what became of each object, is removed too: keep the report first.",
    part.shows("The job is removed.", Deleted),
    {409: "The job has not ended, or a job that has not ended retries it."},
)
_RETRY = _of_job(
    "retry_job",
    "Make a job of what an earlier job could not do",
    "The new job takes the objects that the earlier job skipped or had an error with, and reads"
    " each record anew.  After a job that failed or was cancelled, it also goes on where that job"
    " stopped looking for objects.",
    _leading(part.shows(_NEW_ID, ref("JobId")), "$response.body"),
    {
        409: "The earlier job has not ended, or took bucket objects, at which the manager does not"
        " look any more.",
        500: _FORBIDDEN,
    },
)
_IMPORT_ERRORS = {
    400: "The connection string or the id cannot be used, there is no such job, or the database"
    " cannot be read: the message says why.",
    422: _BAD_BODY,
    503: "The Rust manager's PostgreSQL does not answer now.",
}
_DSN_EXAMPLE = {"dsn": "postgres://postgres@/rebalancer"}
_LIST_IMPORTS = _ERRORS.operation(
    "list_imports",
    "List the jobs of a Rust manager",
    "The manager connects to the PostgreSQL in which a Rust manager keeps its jobs, reads only, and"
    " changes nothing.  It counts all objects, which takes some seconds for each million.  A"
    " password in the connection string is kept nowhere, and no message shows it.",
    part.shows("The jobs, by id.", {"type": "array", "items": ref("Importable")}),
    _IMPORT_ERRORS,
    body=part.takes(ref("ListImports"), {"the socket of its machine": _DSN_EXAMPLE}),
)
_IMPORT = _ERRORS.operation(
    "import_job",
    "Import a job of a Rust manager, as one that has ended",
    "The job has the objects of the Rust manager's job, as they stood there.  Where that one had"
    " not ended, it has failed.  A retry of it reads the record of each object that is left anew."
    "  The Rust manager's database is only read; if the import fails or its client goes, nothing is"
    " changed.",
    _leading(part.shows("The new job.", Imported), "$response.body#/id"),
    {
        **_IMPORT_ERRORS,
        409: "The job was imported already, its database is in use, or another import is under"
        " way.",
    },
    body=part.takes(
        ref("ImportJob"),
        {"a job": {**_DSN_EXAMPLE, "job_id": "0fd630f1-f29d-4da9-953f-48f1a09f76b5"}},
    ),
)
_LIST_OBJECTS = _of_job(
    "list_objects",
    "Page through a job's objects",
    "Ask again with the `after` of the answer until it is null.  A page that is not the last may"
    " hold fewer objects than `limit`, or none: a filter looks at a bounded number of rows at a"
    " time.",
    part.shows("A page of objects.", Objects),
    {400: f"{_NO_JOB}  Or the parameter that the message names is unknown or wrong."},
    query=(
        part.parameter("status", text(enum=list(ObjectStatus)), "Only objects in this status."),
        part.parameter("reason", text(), "Only objects with this reason, such as `md5_mismatch`."),
        part.parameter(
            "after",
            {"type": "integer", "minimum": 0, "maximum": MAX_WHOLE, "default": 0},
            "Only objects behind this row; from an earlier answer.",
        ),
        part.parameter(
            "limit",
            {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
            "The most objects in the answer.",
        ),
    ),
)
_SUMMARY = _of_job(
    "summarize_job",
    "Show how a job is going",
    "The summary has counts by reason, rates, the time left, each destination and each shard's"
    " scan.  Its cost does not depend on the job's size, so it can be asked for every second.",
    part.shows("The summary.", Summary),
)
_REPORT = _of_job(
    "report_job",
    "Take all that is known of a job",
    "The report is the audit record of a job: one JSON object a line, each as the schema"
    " `ReportLine` says, read while it is sent.  The first line is the job.  The last line has type"
    " `end` and the number of lines between; a report without it was cut short.",
    part.answer("The lines.", {NDJSON: text("Each line: schema `ReportLine`.")}),
)
_CHECK_NODE = _ERRORS.operation(
    "check_node",
    "See what names a storage node now, and whether it may be removed",
    "All shards are scanned, live and without a job.  The answer comes line by line, each as the"
    " schema `NodeCheckLine` says: progress every few seconds, and last the result.  Without a"
    " result the check was cut short, and shows nothing.  It ends with its client, and takes as"
    " long as the search of a job.  Objects of the API's second version are not looked at.",
    part.answer("The lines.", {NDJSON: text("Each line: `NodeCheckLine`.")}),
    {
        400: "The name cannot be one, no storage node has it, or the parameter that the message"
        " names is unknown or wrong.",
        404: "The name holds a slash, so this API has no such path.",
        409: "Another check of this node is under way.",
        503: "The manager is about to stop.",
    },
    query=(
        part.parameter(
            "first",
            {"type": "integer", "minimum": 1, "maximum": MAX_WHOLE},
            "Stop when so many were found; without it all are counted.",
        ),
    ),
)
_PING = _ERRORS.operation(
    "ping",
    "Show that the manager is alive",
    "This call looks at nothing, and needs no token.",
    part.shows("The manager is alive.", Ping),
    is_open=True,
)
_STATUS = _ERRORS.operation(
    "status",
    "Show how the manager is",
    "The status has the number of jobs by state, the age of the list of storage nodes, and of each"
    " node how full it is, what is under way there, and why jobs give it nothing, if so.",
    part.shows("The status.", Status),
)
_DESCRIBE = _ERRORS.operation(
    "describe",
    "Describe this API",
    "The answer is this document.",
    part.shows(
        "An OpenAPI 3.1 document.", {"type": "object", "required": ["openapi", "info", "paths"]}
    ),
)
_JOB_ID = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "description": "The job's id; upper and lower case are the same.",
    "schema": ref("JobId"),
}
_SHARK = {
    "name": "shark",
    "in": "path",
    "required": True,
    "description": "The node's name; the region's domain is appended to a short one.",
    "schema": text(pattern=STORAGE_NODE_PATTERN, examples=["1.stor"]),
}
_PATHS: Mapping[str, Mapping[str, Any]] = {
    "/jobs": {"get": _LIST, "post": _CREATE},
    "/jobs/{job_id}": {"get": _GET, "put": _CHANGE, "delete": _DELETE},
    "/jobs/{job_id}/retry": {"post": _RETRY},
    "/jobs/{job_id}/objects": {"get": _LIST_OBJECTS},
    "/jobs/{job_id}/summary": {"get": _SUMMARY},
    "/jobs/{job_id}/report": {"get": _REPORT},
    "/imports": {"post": _IMPORT},
    "/imports/list": {"post": _LIST_IMPORTS},
    "/nodes/{shark}/check": {"get": _CHECK_NODE},
    "/ping": {"get": _PING},
    "/status": {"get": _STATUS},
    "/openapi.json": {"get": _DESCRIBE},
}


def _named(path: str) -> list[Mapping[str, Any]]:
    """Return the descriptions of the parameters in a path."""
    return [one for one in (_JOB_ID, _SHARK) if f"{{{one['name']}}}" in path]


def _new_job(declared: Declaration) -> Schema:
    """Return the schema of the body that makes a job of an action."""
    properties = {
        "action": text("The kind of job.", enum=[declared.name]),
        "params": ref(declared.params.__name__),
    }
    if declared.has_plan:
        properties["dry_run"] = {
            "type": "boolean",
            "default": False,
            "description": "Only show what the job would do.",
        }
    return closed(properties, ["action", "params"])


def _config(declared: Declaration) -> Schema:
    """Return the schema of `config` of a job of an action."""
    shown = declared.config_schema
    if shown is None:
        shown = _SCHEMAS[declared.params.__name__]["properties"]
    properties = {"action": text(enum=[declared.name.capitalize()]), **shown}
    return closed(properties, properties)


def _alternatives(names: Sequence[str]) -> Schema:
    """Return what a schema says beside if exactly one of the properties `names` is given."""
    none = {name: {"type": "null"} for name in names}
    given = [
        {"properties": {**none, name: {"type": "string"}}, "required": [name]} for name in names
    ]
    return {"oneOf": given} if given else {}


_CHANGES: tuple[type[Any], ...] = (ControlJob, *SETTINGS.values())
_SCHEMAS: dict[str, Schema] = {
    **schemas_of(
        *(JobShown, JobListed, Summary, Deleted, Objects, Plan, Ping, Status, Message),
        *REPORT_LINES.values(),
        *NODE_CHECK_LINES.values(),
        PlanProgress,
        PlanError,
        *_CHANGES,
        *(ListImports, ImportJob, Importable, Imported),
        *(declared.params for declared in DECLARED.values()),
    ),
    "JobId": text(format="uuid"),
    "ReportLine": one_of(*REPORT_LINES.values()),
    "NodeCheckLine": one_of(*NODE_CHECK_LINES.values()),
    "PlanLine": one_of(PlanProgress, PlanError, Plan),
    "Change": one_of(*_CHANGES),
    "NewJob": {"oneOf": [_new_job(declared) for declared in DECLARED.values()]},
}
for _declared in DECLARED.values():
    _SCHEMAS[_declared.params.__name__].update(_alternatives(_declared.alternatives))
_SCHEMAS["JobShown"]["properties"]["config"] = {
    "oneOf": [_config(declared) for declared in DECLARED.values()]
}

#: The description, as JSON has it.
DOCUMENT: Mapping[str, Any] = part.document(
    "manager",
    "Manta rebalancer: manager",
    "Empties storage nodes of a Manta object store without losing an object.",
    _ABOUT,
    {
        path: {**calls, **({"parameters": named} if (named := _named(path)) else {})}
        for path, calls in _PATHS.items()
    },
    _SCHEMAS,
    _HEADERS,
)
