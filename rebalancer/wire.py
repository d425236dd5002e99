"""What crosses a process: models, the one converter, and the two dialects of the agent's API.

Deployed managers and agents speak the *legacy* dialect (serde's externally tagged enums); the
unfinished rewrite speaks *tagged*.  Both are read everywhere; the writer names one.
"""

import enum
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar, get_args, get_origin

import attrs
import cattrs
import cattrs.v
from cattrs import BaseConverter
from cattrs.cols import list_structure_factory
from cattrs.gen import make_dict_structure_fn, override

from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark, is_loose_uuid, is_md5, is_storage_id
from rebalancer.domain.reasons import Reason
from rebalancer.errors import BadRequest

T = TypeVar("T")


class Dialect(enum.StrEnum):
    """Which of the two spellings of enums a peer uses."""

    LEGACY = "legacy"
    TAGGED = "tagged"


class PostForm(enum.StrEnum):
    """How an assignment is posted: an object in either dialect, or old documentation's array."""

    LEGACY = "legacy"
    TAGGED = "tagged"
    TAGGED_ARRAY = "tagged-array"


class FieldError(ValueError):
    """A value that its field cannot hold; the text says what was expected."""


class TaskState(enum.StrEnum):
    """Where a task stands."""

    PENDING = "Pending"
    COMPLETE = "Complete"
    FAILED = "Failed"


@attrs.frozen
class TaskStatus:
    """The state of a task, with the reason if it failed."""

    state: TaskState
    reason: Reason | None = None


PENDING = TaskStatus(TaskState.PENDING)
COMPLETE = TaskStatus(TaskState.COMPLETE)


def failed(reason: Reason) -> TaskStatus:
    """The status of a task that failed for `reason`."""
    return TaskStatus(TaskState.FAILED, reason)


@attrs.frozen
class Task:
    """One object to copy: who owns it, what its digest is (base64), where to read it."""

    object_id: str
    owner: str
    md5sum: str
    source: Shark
    status: TaskStatus = PENDING


@attrs.frozen
class Assignment:
    """A batch of tasks for one destination."""

    id: str
    tasks: tuple[Task, ...]


@attrs.frozen
class AssignmentStats:
    """What an agent tells of an assignment.

    `complete` counts processed tasks, failed ones included.  `failures` is None while the
    assignment is not complete, then the tasks that failed.
    """

    state: str  # Scheduled, Running or Complete
    failed: int
    complete: int
    total: int
    failures: tuple[Task, ...] | None = None


@attrs.frozen
class AssignmentReport:
    """The answer to GET /assignments/{uuid}."""

    uuid: str
    stats: AssignmentStats


def reason_to_wire(reason: Reason, dialect: Dialect) -> Any:
    """A reason as `dialect` spells it."""
    if dialect is Dialect.LEGACY:
        return reason.name if reason.code is None else {reason.name: reason.code}
    if reason.code is None:
        return {"type": reason.name}
    return {"type": reason.name, "status_code": reason.code}


def reason_from_wire(value: Any) -> Reason:
    """Read a reason in either dialect; a name we do not know is kept.

    Raises:
      FieldError: neither dialect has such a shape.
    """
    match value:
        case str(name):
            return Reason(name)
        case {"type": str(name), "status_code": int(code)}:
            return Reason(name, code)
        case {"type": str(name)}:
            return Reason(name)
        case {reasons.HTTP_STATUS_CODE: int(code)}:
            return reasons.http_status_code(code)
    raise FieldError("expected a reason of either dialect")


def status_to_wire(status: TaskStatus, dialect: Dialect) -> Any:
    """A task's status as `dialect` spells it."""
    if dialect is Dialect.LEGACY:
        if status.reason is None:
            return status.state.value
        return {status.state.value: reason_to_wire(status.reason, dialect)}
    if status.reason is None:
        return {"state": status.state.value}
    return {"state": status.state.value, "reason": reason_to_wire(status.reason, dialect)}


def status_from_wire(value: Any) -> TaskStatus:
    """Read a task's status in either dialect.

    Raises:
      FieldError: neither dialect has such a value.
    """
    match value:
        # Running appears in old documentation only, for a task that is not done.
        case None | "Pending" | "Running" | {"state": "Pending" | "Running"}:
            return PENDING
        case "Complete" | {"state": "Complete"}:
            return COMPLETE
        case {"Failed": reason} | {"state": "Failed", "reason": reason}:
            return failed(reason_from_wire(reason))
    raise FieldError('expected "Pending", "Complete" or a failure with its reason')


def task_to_wire(task: Task, dialect: Dialect) -> dict[str, Any]:
    """A task as `dialect` spells it."""
    return {
        "object_id": task.object_id,
        "owner": task.owner,
        "md5sum": task.md5sum,
        "source": {
            "datacenter": task.source.datacenter,
            "manta_storage_id": task.source.manta_storage_id,
        },
        "status": status_to_wire(task.status, dialect),
    }


def assignment_to_wire(assignment: Assignment, form: PostForm) -> Any:
    """The body of POST /assignments.

    A task that is posted is pending, which deployed agents and the rewrite's spell differently
    and both take for granted; so unless the operator says which of them is there, it is left out.
    """
    dialect = Dialect.LEGACY if form is PostForm.LEGACY else Dialect.TAGGED
    tasks = [task_to_wire(task, dialect) for task in assignment.tasks]
    if form is PostForm.LEGACY:
        for task in tasks:
            del task["status"]
    if form is PostForm.TAGGED_ARRAY:
        return [assignment.id, tasks]
    return {"id": assignment.id, "tasks": tasks}


def detect_dialect(body: Any) -> Dialect:
    """The dialect of a posted assignment: tagged if any status in it is, else legacy."""
    if isinstance(body, list) and len(body) == 2:
        body = {"tasks": body[1]}
    tasks = body.get("tasks") if isinstance(body, dict) else None
    for task in tasks if isinstance(tasks, list) else ():
        if isinstance(task, dict) and isinstance(task.get("status"), dict):
            return Dialect.TAGGED if "state" in task["status"] else Dialect.LEGACY
    return Dialect.LEGACY


def read_assignment(body: Any) -> Assignment:
    """Read the body of POST /assignments: the object, or the array `[id, tasks]` of old prose.

    Raises:
      BadRequest: names the task and the field that cannot be used.
    """
    if isinstance(body, list) and len(body) == 2:
        body = {"id": body[0], "tasks": body[1]}
    assignment = structure(body, Assignment)
    seen: dict[str, int] = {}
    for index, task in enumerate(assignment.tasks):
        first = seen.setdefault(task.object_id.lower(), index)
        if first != index:
            raise BadRequest(
                f"tasks[{index}].object_id: {task.object_id} is the object of tasks[{first}] too"
            )
    return assignment


def report_to_wire(report: AssignmentReport, dialect: Dialect) -> dict[str, Any]:
    """The answer to GET /assignments/{uuid}."""
    return {"uuid": report.uuid, "stats": stats_to_wire(report.stats, dialect)}


def stats_to_wire(stats: AssignmentStats, dialect: Dialect) -> dict[str, Any]:
    """The counts of an assignment; `{"Complete": null}` when it is done without failures."""
    state: Any = stats.state
    if stats.failures is not None:
        state = {"Complete": [task_to_wire(task, dialect) for task in stats.failures] or None}
    return {
        "state": state,
        "failed": stats.failed,
        "complete": stats.complete,
        "total": stats.total,
    }


def read_report(body: Any) -> AssignmentReport:
    """Read an agent's answer to GET /assignments/{uuid}, in either dialect.

    Raises:
      BadRequest: it is no such answer.
    """
    return structure(body, AssignmentReport)


def _structure_stats(value: Any, _type: type) -> AssignmentStats:
    match value:
        case {
            "state": state,
            "failed": int(n_failed),
            "complete": int(n_complete),
            "total": int(n_total),
        }:
            pass
        case _:
            raise FieldError("expected state, failed, complete and total")
    match state:
        case "Scheduled" | "Running":
            return AssignmentStats(state, n_failed, n_complete, n_total)
        case {"Complete": None}:
            return AssignmentStats("Complete", n_failed, n_complete, n_total, ())
        case {"Complete": list(tasks)}:
            failures = tuple(converter.structure(tasks, list[Task]))
            return AssignmentStats("Complete", n_failed, n_complete, n_total, failures)
    raise FieldError('expected "Scheduled", "Running" or {"Complete": ...}')


def _structure_strictly(kind: type[T]) -> Callable[[Any, Any], T]:
    """JSON's own types are not coerced: `"5"` is no number and `5` no text."""

    def hook(value: Any, _type: Any) -> T:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FieldError(f"expected {_NAMES.get(kind, kind.__name__)}, got {_brief(value)}")
        return value

    return hook


_NAMES: Mapping[type, str] = {str: "a string", int: "a whole number", bool: "true or false"}


def _structure_checked(test: Callable[[object], bool], expected: str) -> Callable[[Any, Any], str]:
    def hook(value: Any, _type: Any) -> str:
        if not test(value):
            raise FieldError(f"expected {expected}, got {_brief(value)}")
        return str(value)

    return hook


def _structure_float(value: Any, _type: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(f"expected a number, got {_brief(value)}")
    return float(value)


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _structure_object(made: cattrs.Converter, kind: type[T], **fields: Any) -> Any:
    """Structure an attrs class from a JSON object, `fields` by hooks of their own."""
    hooks: dict[str, Any] = {name: override(struct_hook=hook) for name, hook in fields.items()}
    inner = make_dict_structure_fn(kind, made, **hooks)

    def hook(value: Any, _type: Any) -> T:
        if not isinstance(value, Mapping):
            raise FieldError(f"expected an object, got {_brief(value)}")
        return inner(value, kind)

    return hook


def _is_array(kind: Any) -> bool:
    return get_origin(kind) in (tuple, list)


def _structure_array(kind: Any, made: BaseConverter) -> Any:
    """Structure `list[X]` and `tuple[X, ...]` from a JSON array: a text is none."""
    as_list: Any = list[get_args(kind)[0]]  # type: ignore[misc]
    items = list_structure_factory(as_list, made)

    def hook(value: Any, _type: Any) -> Any:
        if not isinstance(value, list):
            raise FieldError(f"expected a list, got {_brief(value)}")
        return get_origin(kind)(items(value, kind))

    return hook


def _make_converter(*, is_detailed: bool) -> cattrs.Converter:
    made = cattrs.Converter(detailed_validation=is_detailed)
    for kind in (str, int, bool):
        made.register_structure_hook(kind, _structure_strictly(kind))
    made.register_structure_hook(float, _structure_float)
    made.register_structure_hook_factory(_is_array, _structure_array)
    made.register_structure_hook_factory(attrs.has, lambda kind: _structure_object(made, kind))
    made.register_structure_hook(TaskStatus, lambda value, _type: status_from_wire(value))
    made.register_structure_hook(AssignmentStats, _structure_stats)
    uuid = _structure_checked(is_loose_uuid, "a UUID")
    md5 = _structure_checked(is_md5, "base64 of 16 bytes")
    host = _structure_checked(is_storage_id, "a host name")
    source = _structure_object(made, Shark, manta_storage_id=host)
    task = _structure_object(made, Task, object_id=uuid, owner=uuid, md5sum=md5, source=source)
    made.register_structure_hook(Task, task)
    made.register_structure_hook(Assignment, _structure_object(made, Assignment, id=uuid))
    return made


converter = _make_converter(is_detailed=True)
#: Says nothing of where a fault is, in half the time.
_fast = _make_converter(is_detailed=False)


def structure(value: Any, kind: type[T]) -> T:
    """Turn parsed JSON into `kind`.

    Raises:
      BadRequest: says of every field that does not fit where it is and what was expected.
    """
    with suppress(Exception):
        return _fast.structure(value, kind)
    try:
        return converter.structure(value, kind)
    except Exception as exc:
        # cattrs' own error is an exception group, which no `except ValueError` would meet.
        faults = cattrs.v.transform_error(exc, path="$", format_exception=_format_fault)
        raise BadRequest("; ".join(fault.replace(" @ ", " at ") for fault in faults)) from exc


def _format_fault(exc: BaseException, kind: type | None) -> str:
    match exc:
        case FieldError():
            return str(exc)
        case KeyError():
            return f"required field {exc.args[0]} is missing"
    name = getattr(kind, "__name__", "object")
    return f"expected {'an object' if name in ('dict', 'object') else name}"


def parse_json(text: bytes | str) -> Any:
    """Parse JSON that came from outside.

    Raises:
      BadRequest: it is none; says where.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise BadRequest(f"not JSON: {exc}") from exc
