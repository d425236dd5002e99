"""The description of the manager's API that `GET /openapi.json` serves: OpenAPI 3.1.  Pure.

What bodies hold is in `schemas`; here are the calls, and what each answers in which case.
"""

from collections.abc import Mapping
from typing import Any

from rebalancer import __version__
from rebalancer.actions import DECLARED
from rebalancer.domain.states import ObjectStatus
from rebalancer.manager.http.requests import DEFAULT_PAGE, MAX_PAGE, MAX_WHOLE
from rebalancer.manager.http.schemas import SCHEMAS, Schema, array, ref, text, whole

_ABOUT = """\
Jobs that empty storage nodes ("sharks") of a Manta object store.  One manager serves a region.

A job is made with `POST /jobs`, waits in `Setup` until it is its turn, is `Running`, and ends as
`Complete`, `Failed` or, cancelled, `Stopped`; one that is paused is `Stopped` too, until it is
resumed.  `GET /jobs/{job_id}/summary` is for watching it, `GET /jobs/{job_id}/objects` for looking
into it, `GET /jobs/{job_id}/report` for keeping.

**Errors** are plain text, as they always were.  A client whose `Accept` begins with
`application/json` gets `{"message": ..., "request_id": ...}` instead.  A job that does not exist
is a 400 here, not a 404; a 404 means that the path is none of this API's.  A method that a path
does not have is a 405 whose `Allow` names those it has.  `HEAD` and `OPTIONS` work wherever they
make sense.

**Whole numbers** are written without a fraction in requests: 22, not 22.0.

**Clients should ignore fields that they do not know.**  This document tells what this version
shows; later ones may show more.
"""

_ERROR_TEXTS: Mapping[int, str] = {
    401: "The manager wants a token, and the request bears none, or another.",
    404: "The id holds a slash, so that the path is none of this API's.",
    408: "The body did not come within a minute.",
    413: "The body is longer than a mebibyte.",
    500: "Something is broken: the manager's log tells what.",
}
_ERROR_HEADERS: Mapping[int, tuple[str, ...]] = {
    401: ("WWW-Authenticate",),
    503: ("Retry-After",),
}
_HEADERS: Mapping[str, Any] = {
    "Server": {
        "description": "The program and its version.",
        "required": True,
        "schema": text(pattern="^rebalancer-manager "),
    },
    "Retry-After": {
        "description": "Seconds after which it may be worth another try.",
        "required": True,
        "schema": whole(),
    },
    "WWW-Authenticate": {
        "description": "How to show that one may ask.",
        "required": True,
        "schema": {"const": "Bearer"},
    },
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
_NO_JOB = "The id is no UUID, or no job has it."


def _answer(about: str, content: Mapping[str, Schema], *headers: str) -> dict[str, Any]:
    named = ("Server", *headers)
    return {
        "description": about,
        "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in named},
        "content": {kind: {"schema": schema} for kind, schema in content.items()},
    }


def _leading(answer: dict[str, Any], job_id: str) -> dict[str, Any]:
    """`answer`, with what can be asked next of the job whose id is at `job_id` in it."""
    parameters = {"job_id": job_id}
    links = {name: {"operationId": name, "parameters": parameters} for name in _OF_A_JOB}
    return {**answer, "links": links}


def _json(schema: Schema) -> dict[str, Schema]:
    return {"application/json": schema}


def _error(status: int, about: str) -> dict[str, Any]:
    content = {"text/plain": text(), **_json(ref("Message"))}
    return _answer(about, content, *_ERROR_HEADERS.get(status, ()))


def _operation(
    name: str,
    summary: str,
    about: str,
    answer: dict[str, Any],
    errors: Mapping[int, str] | None = None,
    *,
    body: dict[str, Any] | None = None,
    query: tuple[dict[str, Any], ...] = (),
    is_open: bool = False,
) -> dict[str, Any]:
    """Return the description of one call.  `errors` tells of those that are its own."""
    general = [500] if is_open else [401, 500]
    if body is not None:
        general += [408, 413]
    told = {status: _ERROR_TEXTS[status] for status in general} | dict(errors or {})
    made: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "description": about,
        "responses": {
            "200": answer,
            **{str(status): _error(status, told[status]) for status in sorted(told)},
        },
    }
    if query:
        made["parameters"] = list(query)
    if body is not None:
        made["requestBody"] = body
    if is_open:
        made["security"] = []
    return made


def _of_job(
    name: str,
    summary: str,
    about: str,
    answer: dict[str, Any],
    errors: Mapping[int, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return the description of a call whose path names a job."""
    own = {400: _NO_JOB, 404: _ERROR_TEXTS[404], **(errors or {})}
    return _operation(name, summary, about, answer, own, **more)


def _body(schema: Schema, examples: Mapping[str, Any]) -> dict[str, Any]:
    shown = {name: {"value": value} for name, value in examples.items()}
    return {
        "required": True,
        "description": "JSON, whatever the request's Content-Type.",
        "content": {"application/json": {"schema": schema, "examples": shown}},
    }


def _query(name: str, schema: Schema, about: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": about, "schema": schema}


_BAD_BODY = "The body is no JSON, or the field that the message names is missing, wrong or unknown."
_NEW_ID = "The new job's id: bare text and a newline, which is no JSON, as it always was."
_NEW_ID_AS_JSON = " A JSON string if the request's Accept begins with `application/json`."

_CREATE = _operation(
    "create_job",
    "Make a job, or tell what it would do",
    "\n\n".join(declared.about for declared in DECLARED.values()),
    # No links lead on from here: nothing is at the id of a plan.
    _answer(
        f"{_NEW_ID}{_NEW_ID_AS_JSON}  Of a dry run: the plan.",
        _json({"oneOf": [ref("JobId"), ref("Plan")]}),
    ),
    {
        400: "The shark's name cannot be one, no storage node has it, or the file of objects"
        " cannot be read; of a dry run: the job would fail at once, and why.",
        409: "Another job empties this node, or will: the message names it.  Of a dry run: another"
        " one is under way.",
        422: _BAD_BODY,
        500: "`Snaplink Cleanup Required`: the configuration forbids evacuations.  Any other text:"
        " something is broken, and the manager's log tells what.",
        503: "A dry run: a shard or storinfo does not answer.",
    },
    body=_body(
        ref("NewJob"),
        {name: body for declared in DECLARED.values() for name, body in declared.examples.items()},
    ),
)
_LIST = _operation(
    "list_jobs",
    "List all jobs",
    "Oldest first, also those that have ended and were not removed.",
    _leading(_answer("All jobs.", _json(array(ref("JobListed")))), "$response.body#/0/id"),
)
_GET = _of_job(
    "get_job",
    "Show a job and its counts",
    "Its counts cost the same at ten objects and at fifty million.",
    _answer("The job.", _json(ref("Job"))),
)
_CHANGE = _of_job(
    "change_job",
    "Pause, resume or cancel a job, or change a setting of it",
    "`pause` stops a job as it is, `resume` lets it go on, `cancel` begins nothing more, waits for"
    " what agents are doing and ends the job.  The settings are those of a running job, change at"
    " once, and outlive a restart of the manager.",
    _answer("Done; the body is empty.", {}),
    {
        400: f"{_NO_JOB}  Of a setting: the job does not run, the configuration has fixed it, or"
        " the number is out of range.",
        409: "The job is in no state for this.",
        422: _BAD_BODY,
    },
    body=_body(
        ref("Change"),
        {
            "pause": {"action": "pause"},
            "resume": {"action": "resume"},
            "cancel": {"action": "cancel"},
            "more updates at a time": {"action": "set_metadata_threads", "params": 30},
            "fewer destinations": {"action": "set_max_sharks", "params": 3},
            "larger assignments": {"action": "set_max_tasks_per_assignment", "params": 200},
            "no limit": {"action": "set_bandwidth", "params": None},
        },
    ),
)
_DELETE = _of_job(
    "delete_job",
    "Remove a job that has ended",
    "Its file, which tells what became of each object, is gone with it: keep the report first.",
    _answer("It is gone.", _json(ref("Deleted"))),
    {409: "It has not ended, or a job that has not ended retries it."},
)
_RETRY = _of_job(
    "retry_job",
    "Make a job of what an earlier one could not do",
    "It takes up what the earlier job skipped or had an error with, and reads each record anew."
    "  If that one failed or was cancelled, it also goes on where that one stopped looking.",
    _leading(_answer(f"{_NEW_ID}{_NEW_ID_AS_JSON}", _json(ref("JobId"))), "$response.body"),
    {
        409: "The earlier job has not ended.",
        500: "`Snaplink Cleanup Required`: the configuration forbids evacuations.  Any other text:"
        " something is broken, and the manager's log tells what.",
    },
)
_LIST_OBJECTS = _of_job(
    "list_objects",
    "Page through a job's objects",
    "Ask again with the answer's `after` until that is null.  A page may hold fewer objects than"
    " `limit`, even none, and not be the last: a filter looks at so many rows at a time only.",
    _answer("A page.", _json(ref("Objects"))),
    {400: f"{_NO_JOB}  Or the parameter that the message names is unknown or wrong."},
    query=(
        _query("status", text(enum=list(ObjectStatus)), "Only objects of this status."),
        _query("reason", text(), "Only objects with this reason, such as `md5_mismatch`."),
        _query(
            "after",
            whole(maximum=MAX_WHOLE, default=0),
            "Only objects behind this row; from an earlier answer.",
        ),
        _query(
            "limit",
            whole(minimum=1, maximum=MAX_PAGE, default=DEFAULT_PAGE),
            "How many at most.",
        ),
    ),
)
_SUMMARY = _of_job(
    "summarize_job",
    "Tell how a job is going",
    "Counts by reason, rates, the time left, each destination and each shard's scan, at a cost that"
    " does not depend on the job's size: fit to be asked every second.",
    _answer("How it is going.", _json(ref("Summary"))),
)
_REPORT = _of_job(
    "report_job",
    "Take all that is known of a job",
    "Its audit record: one JSON object a line, each as the schema `ReportLine` tells, read while it"
    " is sent.  The first line is the job, the last has type `end` and the number of those"
    " between; a report without it was cut short.",
    _answer("The lines.", {"application/x-ndjson": text("Each line: schema `ReportLine`.")}),
)
_PING = _operation(
    "ping",
    "Tell that the manager is alive",
    "It looks at nothing, and needs no token.",
    _answer("It is.", _json(ref("Ping"))),
    is_open=True,
)
_STATUS = _operation(
    "status",
    "Tell how the manager is",
    "Its jobs by state, how old its list of storage nodes is, and how destinations stand.",
    _answer("How it is.", _json(ref("Status"))),
)
_DESCRIBE = _operation(
    "describe",
    "Describe this API",
    "This document.",
    _answer("OpenAPI 3.1.", _json({"type": "object", "required": ["openapi", "info", "paths"]})),
)
_JOB_ID = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "description": "The job's id; upper and lower case are one.",
    "schema": ref("JobId"),
}
_PATHS: Mapping[str, Mapping[str, Any]] = {
    "/jobs": {"get": _LIST, "post": _CREATE},
    "/jobs/{job_id}": {"get": _GET, "put": _CHANGE, "delete": _DELETE},
    "/jobs/{job_id}/retry": {"post": _RETRY},
    "/jobs/{job_id}/objects": {"get": _LIST_OBJECTS},
    "/jobs/{job_id}/summary": {"get": _SUMMARY},
    "/jobs/{job_id}/report": {"get": _REPORT},
    "/ping": {"get": _PING},
    "/status": {"get": _STATUS},
    "/openapi.json": {"get": _DESCRIBE},
}

#: The description, as JSON has it.
DOCUMENT: Mapping[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "Manta rebalancer: manager",
        "version": __version__,
        "summary": "Empties storage nodes of a Manta object store without losing an object.",
        "description": _ABOUT,
        "license": {"name": "MPL-2.0", "identifier": "MPL-2.0"},
    },
    # Without a token file in its configuration, a manager answers everybody.
    "security": [{}, {"token": []}],
    "paths": {
        path: {**calls, **({"parameters": [_JOB_ID]} if "{job_id}" in path else {})}
        for path, calls in _PATHS.items()
    },
    "components": {
        "schemas": dict(SCHEMAS),
        "headers": dict(_HEADERS),
        "securitySchemes": {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "What is in the file `api.token_file` of the configuration.",
            }
        },
    },
}
