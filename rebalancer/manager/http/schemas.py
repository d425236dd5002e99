"""JSON Schemas of what the manager's API takes and shows; `openapi` puts them together.  Pure.

Answers are closed (`additionalProperties: false`), so that a field which is shown and not told of
here fails a test.  Requests are closed too: a key that nobody knows is refused.
"""

from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import attrs

from rebalancer.actions import DECLARED
from rebalancer.actions.declaration import Declaration, parameters_of
from rebalancer.domain.states import STATE_WORDS, WISH_WORDS, AssignmentState, ObjectStatus
from rebalancer.manager.http.requests import SETTINGS, Control, Range

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """Return a reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def text(about: str = "", **more: Any) -> Schema:
    """Return the schema of a string."""
    return _about(about, {"type": "string", **more})


def array(items: Schema, about: str = "") -> Schema:
    """Return the schema of a list of `items`."""
    return _about(about, {"type": "array", "items": items})


def whole(about: str = "", *, minimum: int = 0, **more: Any) -> Schema:
    """Return a whole number; a count, unless told otherwise."""
    return _about(about, {"type": "integer", "minimum": minimum, **more})


def flag(about: str, **more: Any) -> Schema:
    """True or false."""
    return _about(about, {"type": "boolean", **more})


def _about(about: str, schema: Schema) -> Schema:
    return {**schema, "description": about} if about else schema


def _number(about: str) -> Schema:
    return {"type": "number", "minimum": 0, "description": about}


def _or_null(schema: Schema) -> Schema:
    if "type" in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def _shown(
    properties: Mapping[str, Schema], about: str = "", *, perhaps: tuple[str, ...] = ()
) -> Schema:
    """Return the schema of an object, which has all `properties` but those in `perhaps`."""
    required = [name for name in properties if name not in perhaps]
    shape = {"type": "object", "properties": dict(properties), "required": required}
    return _about(about, {**shape, "additionalProperties": False})


def _asked(properties: Mapping[str, Schema], required: list[str], about: str = "") -> Schema:
    shape = {"type": "object", "properties": dict(properties), "required": required}
    return _about(about, {**shape, "additionalProperties": False})


_TIME = text(format="date-time")
_STATE = text(
    "As an operator knows it: " + ", ".join(word.capitalize() for word in STATE_WORDS) + "."
    " A state that this version does not know, left by another one, is shown as it was found.",
    examples=["Running"],
)
_REASON = text(
    "Why: a reason of the agent or of placement (`md5_mismatch`, `destination_insufficient_space`),"
    " an error of the record (`missing_sharks`), or what else came of it (`deleted`, `excluded`,"
    " `cancelled`)."
)
_SHARK_NAME = text(examples=["1.stor.example.com"])

# --- what is asked -------------------------------------------------------------------------

_KINDS: Mapping[type, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


def _params(declared: Declaration) -> Schema:
    """Return the schema of an action's parameters, from the fields that it declares."""
    kinds = get_type_hints(declared.params)
    properties, required = dict[str, Schema](), list[str]()
    for name, (field, known) in parameters_of(declared.params).items():
        members = get_args(kinds[name]) or (kinds[name],)
        (kind,) = (member for member in members if member is not type(None))
        shape = _about(known.about, {"type": _KINDS[kind], **known.schema})
        if field.default is attrs.NOTHING:
            required.append(name)
        elif field.default is not None:
            shape["default"] = field.default
        properties[name] = _or_null(shape) if type(None) in members else shape
    return _asked(properties, required)


def _new_job(declared: Declaration) -> Schema:
    properties = {
        "action": text("The kind of job.", enum=[declared.name]),
        "params": _params(declared),
    }
    if declared.has_plan:
        properties["dry_run"] = flag("Only tell what the job would do.", default=False)
    return _asked(properties, ["action", "params"])


_NEW_JOBS = [_new_job(declared) for declared in DECLARED.values()]
_NEW_JOB = _NEW_JOBS[0] if len(_NEW_JOBS) == 1 else {"oneOf": _NEW_JOBS}
_SETTING_TEXTS = {
    "set_metadata_threads": "Metadata updates at a time, over all shards.",
    "set_max_sharks": "Destinations in use at a time.",
    "set_max_tasks_per_assignment": "Objects that an agent is given at once, from the next on.",
    "set_bandwidth": "Bytes a second that each destination takes in; null for no limit.",
}


def _setting(action: str, allowed: Range) -> Schema:
    value = whole(_SETTING_TEXTS[action], minimum=allowed.minimum, maximum=allowed.maximum)
    params = _or_null(value) if allowed.or_null else value
    return _asked({"action": {"const": action}, "params": params}, ["action", "params"])


_CHANGE = {
    "oneOf": [
        _asked(
            {"action": text(enum=list(Control)), "params": {"description": "Ignored."}},
            ["action"],
            "Of a job that has not ended.",
        ),
        *(_setting(action, allowed) for action, allowed in SETTINGS.items()),
    ]
}

# --- what is shown of jobs -----------------------------------------------------------------

_RESULTS = _shown(
    {
        "Total": whole("Of all below."),
        "Unprocessed": whole("Found; no destination yet."),
        "Assigned": whole("In an assignment, which an agent may be working on."),
        "Skipped": whole("Left where they are for a reason that may pass: a retry takes them up."),
        "Error": whole("Left where they are for a reason that a person should look at."),
        "Post Processing": whole("Copied and verified; their records do not say so yet."),
        "Complete": whole("Copied, and their records name the copy."),
        "Duplicates": whole("Objects with several records; counted above as well, once each."),
    },
    "Objects by what has become of them.",
)
_JOB = {
    "config": _shown(
        {
            "action": text(examples=["Evacuate"]),
            "from_shark": _shown(
                {
                    "datacenter": text("Empty until the job has looked its node up."),
                    "manta_storage_id": _SHARK_NAME,
                }
            ),
            "max_objects": _or_null(whole("null: all.")),
        }
    ),
    "results": _RESULTS,
    "bytes": _shown({"complete": whole(), "total": whole()}, "Of the objects known so far."),
    "scans": array(ref("Scan"), "How far the job has looked."),
    "rounds": array(ref("Round"), "The scans that it ended with."),
    "warnings": array(ref("Finding"), "What the pre-flight found."),
    "waiting": array(ref("Wait"), "What it waits for now, and goes on by itself when it is there."),
    "created": _TIME,
    "started": _or_null(_TIME),
    "finished": _or_null(_TIME),
    "state": _STATE,
    "wish": text("What an operator has asked for, carried out or not.", enum=list(WISH_WORDS)),
    "error": text("Why it failed.  Only then."),
}
_PERHAPS = ("wish", "error")
_SCAN = _shown(
    {
        "shard": whole("0 for a list of objects."),
        "column": text("Of what the position is: `_id`, `_idx`, or the part of a list."),
        "position": whole("Everything up to here is in the job's file."),
        "until": whole("The last position there is."),
        "round": whole("0: discovery; others: final scans."),
    }
)
_ROUND = _shown(
    {
        "round": whole(minimum=1),
        "started": _TIME,
        "found": whole("Records that went through the pipeline again."),
        "remaining": whole("Records that stay, and are listed in the report."),
    }
)
_FOUND = {"check": text(examples=["heartbeat", "clone", "room"]), "detail": text("For a person.")}
_WAIT = _shown(
    {
        "for": text("What is waited for.", examples=["storinfo", "shard 2"]),
        "since": _TIME,
        "detail": text("Its last error, for a person."),
    }
)
_STANDING = _shown(
    {
        "shark": text(),
        "claimed": whole("Bytes promised to objects, or copied so lately that nobody has told."),
        "assignments": whole("Under way."),
        "failures": whole("In a row."),
        "avoided_for_s": _number("Seconds for which others are preferred to it."),
    },
    "A destination as all jobs see it now.",
)
_RATE = _shown({"objects_per_s": _number("Settled."), "bytes_per_s": _number("Of these.")})
_SUMMARY = _shown(
    {
        "id": ref("JobId"),
        "state": _STATE,
        "counts": array(
            _shown(
                {
                    "status": text(enum=[*ObjectStatus, "duplicates"]),
                    "reason": text("Empty where the status says it all."),
                    "objects": whole(minimum=1),
                    "bytes": whole(),
                }
            )
        ),
        "rates": _shown(
            {"minute": _RATE, "hour": _RATE},
            "Over the last minute and the last hour; empty unless the job runs.",
            perhaps=("minute", "hour"),
        ),
        "eta_s": _or_null(_number("Seconds to the end; null if there is no telling.")),
        "scans": array(ref("Scan")),
        "rounds": array(ref("Round")),
        "warnings": array(ref("Finding")),
        "waiting": array(ref("Wait")),
        "destinations": array(
            _shown(
                {
                    "shark": text(),
                    "datacenter": text(),
                    "assignments": whole(),
                    "tasks": whole("Objects it was given."),
                    "bytes": whole("Of these."),
                    "copied": whole("Of the tasks: verified copies."),
                    "failed": whole("Of the tasks: not copied, or nobody knows."),
                    "now": _or_null(ref("Standing")),
                }
            )
        ),
        "tuning": _shown(
            tuning := {allowed.name: _or_null(whole(minimum=1)) for allowed in SETTINGS.values()},
            "What an operator has changed; null: as configured.",
            perhaps=tuple(tuning),
        ),
        "error": text("Why the job failed; missing unless it did."),
    },
    perhaps=("error",),
)

# --- what is shown of objects ---------------------------------------------------------------

_OBJECT = {
    "id": text("The object's; `<shard>:<key>` for a record that names none."),
    "key": _or_null(text()),
    "shard": _or_null(whole()),
    "status": text(enum=list(ObjectStatus)),
    "reason": _or_null(_REASON),
    "detail": _or_null(text("For a person.")),
    "bytes": whole(),
    "dest_shark": _or_null(text("Where it goes, or has gone.")),
    "assignment_id": _or_null(text()),
    "attempts": whole("That came to nothing."),
    "etag": _or_null(text("Of the record as it was found.")),
}
_OBJECTS = _shown(
    {
        "objects": array(_shown(_OBJECT), "In the order in which they were found."),
        "after": _or_null(whole("To ask for the next page with; null: this is the last one.")),
    }
)
_KEYED: dict[str, Schema] = {"shard": whole(), "key": text()}


def _line(
    kind: str, about: str, properties: Mapping[str, Schema], *, perhaps: tuple[str, ...] = ()
) -> Schema:
    return _shown({"type": {"const": kind}, **properties}, about, perhaps=perhaps)


_LINES = [
    _line("job", "The first line.", {"id": ref("JobId"), **_JOB}, perhaps=_PERHAPS),
    _line("warning", "What the pre-flight found.", _FOUND),
    _line("object", "An object of the job.", _OBJECT),
    _line(
        "duplicate",
        "An object with several records.",
        {
            "id": text(),
            "key": _or_null(text()),
            "shards": _or_null(text("The shards of all of them: JSON, in a string.")),
        },
    ),
    _line(
        "link",
        "A further record of such an object.",
        {
            "id": text(),
            **_KEYED,
            "status": text(enum=["waiting", "complete", "skipped", "error"]),
            "detail": _or_null(text()),
        },
    ),
    _line(
        "dropped",
        "A record that was listed and is no business of the job.",
        {**_KEYED, "reason": text()},
    ),
    _line(
        "orphan",
        "A file on a destination that no record names, or may not name.",
        {"object_id": text(), "shark": text(), "path": text(), "reason": text()},
    ),
    _line(
        "remaining",
        "A record that still names the node when the job ends.",
        {**_KEYED, "object_id": text(), "why": text()},
    ),
    _line(
        "assignment",
        "A batch of objects, as its agent was given it.",
        {
            "id": text(),
            "dest_shark": text(),
            "dest_datacenter": text(),
            "state": text(enum=list(AssignmentState)),
            "tasks": whole(),
            "bytes": whole(),
            "created": _TIME,
            "detail": _or_null(text()),
        },
    ),
    _line(
        "end",
        "The last line: without it, the report was cut short.",
        {"lines": whole("Between the first and this one.")},
    ),
]
_COUNTED = {"objects": whole(minimum=1), "bytes": whole()}
_PLAN = _shown(
    {
        "objects": whole("That have a copy on the node."),
        "bytes": whole("Of these."),
        "fits": flag("Whether all was looked at, and each has a destination or was excluded."),
        "destinations": array(
            _shown({"datacenter": text(), "manta_storage_id": _SHARK_NAME, **_COUNTED})
        ),
        "skipped": array(_shown({"reason": _REASON, **_COUNTED})),
        "errors": array(_shown({"error": text(), "objects": whole(minimum=1)})),
        "duplicates": whole("Objects with several records."),
        "warnings": array(ref("Finding"), "What the pre-flight finds."),
        "failures": array(text(), "Why not all has been looked at."),
    },
    "What a job would do.",
)

# --- what is shown of the manager ------------------------------------------------------------

_STATUS = _shown(
    {
        "version": text(),
        "jobs": {
            "type": "object",
            "additionalProperties": whole(minimum=1),
            "description": "Their number by state.",
        },
        "running": array(ref("JobId")),
        "max_concurrent_jobs": whole(minimum=1),
        "storinfo": _shown(
            {
                "nodes": whole("Storage nodes that can take objects, as storinfo lists them."),
                "age_s": _or_null(_number("Seconds since it told; null: it never did.")),
            }
        ),
        "destinations": array(ref("Standing")),
    }
)

#: By name.
SCHEMAS: Mapping[str, Schema] = {
    "NewJob": _NEW_JOB,
    "Change": _CHANGE,
    "JobId": text(format="uuid"),
    "JobListed": _shown(
        {"id": ref("JobId"), "action": text(examples=["Evacuate"]), "state": _STATE}
    ),
    "Job": _shown(_JOB, perhaps=_PERHAPS),
    "Summary": _SUMMARY,
    "Objects": _OBJECTS,
    "ReportLine": {"oneOf": _LINES},
    "Plan": _PLAN,
    "Scan": _SCAN,
    "Round": _ROUND,
    "Finding": _shown(_FOUND),
    "Wait": _WAIT,
    "Standing": _STANDING,
    "Deleted": _shown({"deleted": ref("JobId")}),
    "Ping": _shown({"ping": {"const": "pong"}, "version": text()}),
    "Status": _STATUS,
    "Message": _shown(
        {"message": text("For a person."), "request_id": text("As in the head.", format="uuid")}
    ),
}
