"""This module has what crosses a process: models, the one converter, the agent API's dialects.

Deployed managers and agents speak the *legacy* dialect (serde's externally tagged enums); the
unfinished rewrite speaks *tagged*.  Both are read everywhere; the writer names one.
"""

import enum
import json
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, TypeVar, get_args, get_origin

import attrs
import cattrs
import cattrs.v
from cattrs import BaseConverter, IterableValidationError, IterableValidationNote
from cattrs.cols import list_structure_factory
from cattrs.gen import make_dict_structure_fn, override

from rebalancer import jsontext
from rebalancer.domain import reasons
from rebalancer.domain.objects import Shark, canonical_uuid, is_loose_uuid, is_md5, is_storage_id
from rebalancer.domain.reasons import Reason
from rebalancer.errors import BadRequest, TooLarge

T = TypeVar("T")

#: Tasks of one posted assignment.  A manager of ours can be configured to send as many; the
#: deployed one ends when it is configured to send more than 7,281, and the rewrite sends 200.
MAX_TASKS = 10_000
#: Values in one JSON text from outside: an assignment of as many tasks has a half of them.
#: What a text of given length needs in memory is anything up to forty times that length.
MAX_VALUES = 300_000
#: Faults that are looked for and told.  Who sent more of them has one at every turn.
MAX_FAULTS = 10


class Dialect(enum.StrEnum):
    """A dialect is one of the two spellings of enums that a peer may use."""

    LEGACY = "legacy"
    TAGGED = "tagged"


class PostForm(enum.StrEnum):
    """An assignment is posted as an object in either dialect, or as old documentation's array."""

    LEGACY = "legacy"
    TAGGED = "tagged"
    TAGGED_ARRAY = "tagged-array"


class FieldError(ValueError):
    """A field cannot hold a value; the text says what was expected."""


class TaskState(enum.StrEnum):
    """A state tells where a task stands."""

    PENDING = "Pending"
    COMPLETE = "Complete"
    FAILED = "Failed"


@attrs.frozen
class TaskStatus:
    """A status is the state of a task, with the reason if it failed."""

    state: TaskState
    reason: Reason | None = None


PENDING = TaskStatus(TaskState.PENDING)
COMPLETE = TaskStatus(TaskState.COMPLETE)


def failed(reason: Reason) -> TaskStatus:
    """Return the status of a task that failed for `reason`."""
    return TaskStatus(TaskState.FAILED, reason)


# Not frozen, which would take three times as long to make: there is one for each object.
@attrs.define
class Task:
    """A task is one object to copy: its owner, its digest (base64), and where to read it."""

    object_id: str
    owner: str
    md5sum: str
    source: Shark
    status: TaskStatus = PENDING


@attrs.frozen
class Assignment:
    """An assignment is a batch of tasks for one destination."""

    id: str
    tasks: tuple[Task, ...]

    @property
    def key(self) -> str:
        """Return the id in the one form under which the assignment is kept and asked for."""
        return canonical_uuid(self.id) or self.id.lower()


@attrs.frozen
class AssignmentStats:
    """These stats are what an agent tells of an assignment.

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
    """A report is the answer to GET /assignments/{uuid}."""

    uuid: str
    stats: AssignmentStats


def reason_to_wire(reason: Reason, dialect: Dialect) -> Any:
    """Return a reason as `dialect` spells it."""
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
    """Return a task's status as `dialect` spells it."""
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
    """Return a task as `dialect` spells it."""
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


def assignment_body(assignment: Assignment, form: PostForm) -> bytes:
    """Return the body of POST /assignments.

    A task that is posted is pending, which deployed agents and the rewrite's spell differently
    and both take for granted; so unless the operator says which of them is there, it is left out.
    """
    status = "" if form is PostForm.LEGACY else _TAGGED_PENDING
    # As `json.dumps` has it, in a third of the time: there is one for each object.
    tasks = ", ".join(
        [
            f'{{"object_id": {_quoted(task.object_id)}, "owner": {_quoted(task.owner)},'
            f' "md5sum": {_quoted(task.md5sum)}, "source": {_source_text(task.source)}{status}}}'
            for task in assignment.tasks
        ]
    )
    name = _quoted(assignment.id)
    if form is PostForm.TAGGED_ARRAY:
        return f"[{name}, [{tasks}]]".encode()
    return f'{{"id": {name}, "tasks": [{tasks}]}}'.encode()


_TAGGED_PENDING = f', "status": {json.dumps(status_to_wire(PENDING, Dialect.TAGGED))}'


@lru_cache(4096)
def _source_text(shark: Shark) -> str:
    return json.dumps({"datacenter": shark.datacenter, "manta_storage_id": shark.manta_storage_id})


def posted_tasks(body: Any) -> list[Any]:
    """Return what stands for the tasks in the body of POST /assignments, if it is a list."""
    match body:
        case {"tasks": list(tasks)} | [_, list(tasks)]:
            return tasks
    return []


def detect_dialect(body: Any) -> Dialect:
    """Detect the dialect of a posted assignment: tagged if any status in it is, else legacy."""
    for task in posted_tasks(body):
        match task:
            case {"status": dict(status)} | [_, _, _, _, dict(status)]:
                return Dialect.TAGGED if "state" in status else Dialect.LEGACY
    return Dialect.LEGACY


def read_assignment(body: Any) -> Assignment:
    """Read the body of POST /assignments; objects may be arrays of their values, as for serde.

    Every task is pending, whatever status it was posted with: nothing is copied on somebody's
    word that it was copied.

    Raises:
      BadRequest: names the tasks and the fields that cannot be used, up to `MAX_FAULTS`.
      TooLarge: it has more than `MAX_TASKS` tasks.
    """
    if (count := len(posted_tasks(body))) > MAX_TASKS:
        raise TooLarge(f"tasks: {count} are more than {MAX_TASKS}: post several assignments")
    assignment = structure(body, Assignment)
    seen: dict[str, int] = {}
    for index, task in enumerate(assignment.tasks):
        first = seen.setdefault(task.object_id.lower(), index)
        if first != index:
            raise BadRequest(
                f"tasks[{index}].object_id: {task.object_id} is the object of tasks[{first}] too"
            )
    tasks = (
        t if t.status == PENDING else attrs.evolve(t, status=PENDING) for t in assignment.tasks
    )
    return Assignment(assignment.id, tuple(tasks))


def report_to_wire(report: AssignmentReport, dialect: Dialect) -> dict[str, Any]:
    """Return the answer to GET /assignments/{uuid}."""
    return {"uuid": report.uuid, "stats": stats_to_wire(report.stats, dialect)}


def stats_to_wire(stats: AssignmentStats, dialect: Dialect) -> dict[str, Any]:
    """Return an assignment's counts; `{"Complete": null}` when it is done without failures."""
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
    """Structure JSON's own types without coercion: `"5"` is no number and `5` no text."""

    def hook(value: Any, _type: Any) -> T:
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FieldError(f"expected {_NAMES.get(kind, kind.__name__)}, got {_brief(value)}")
        if isinstance(value, str) and not is_text(value):
            raise FieldError(f"expected text, got half of a character in {_brief(value)}")
        return value

    return hook


def is_text(value: str) -> bool:
    """Tell whether UTF-8 can hold `value`: JSON can name halves of characters, disks cannot."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


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
    # Not the whole of what may be large, or deeper than any text can be written.
    text = f"{json.dumps(value[:60])}" if isinstance(value, str) else _brief_text(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _brief_text(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object of {len(value)}"
    return json.dumps(value, default=str)


def _structure_object(made: cattrs.Converter, kind: type[T], **fields: Any) -> Any:
    """Structure an attrs class from a JSON object, `fields` by hooks of their own."""
    hooks: dict[str, Any] = {name: override(struct_hook=hook) for name, hook in fields.items()}
    inner = make_dict_structure_fn(kind, made, **hooks)

    def hook(value: Any, _type: Any) -> T:
        if not isinstance(value, Mapping):
            raise FieldError(f"expected an object, got {_brief(value)}")
        return inner(value, kind)

    return hook


def _structure_positional(made: cattrs.Converter, kind: type[T], **fields: Any) -> Any:
    """Structure a JSON object, or an array of the fields' values in their order.

    Serde reads structs so, and old documentation of the deployed agent posts assignments so.
    """
    inner = _structure_object(made, kind, **fields)
    names = [field.name for field in attrs.fields(kind)]  # type: ignore[arg-type]
    needed = sum(field.default is attrs.NOTHING for field in attrs.fields(kind))  # type: ignore[arg-type]

    def hook(value: Any, _type: Any) -> T:
        if isinstance(value, list) and needed <= len(value) <= len(names):
            value = dict(zip(names, value, strict=False))
        made: T = inner(value, kind)
        return made

    return hook


def _is_array(kind: Any) -> bool:
    return get_origin(kind) in (tuple, list)


def _structure_array(kind: Any, made: BaseConverter) -> Any:
    """Structure `list[X]` and `tuple[X, ...]` from a JSON array: a text is none."""
    item: Any = get_args(kind)[0]
    items: Any = list_structure_factory(list[item], made)
    if made.detailed_validation:
        items = _structure_items(item, made)

    def hook(value: Any, _type: Any) -> Any:
        if not isinstance(value, list):
            raise FieldError(f"expected a list, got {_brief(value)}")
        return get_origin(kind)(items(value, kind))

    return hook


def _structure_items(kind: Any, made: BaseConverter) -> Any:
    """Structure the items of a list, up to as many faults as are told.

    What cattrs has for this keeps an exception for every item that does not fit: that took
    nineteen seconds and 0.9 GB for half a million of them in a text of 1 MiB.
    """
    structure_item = made.get_structure_hook(kind)

    def items(value: list[Any], _type: Any) -> list[Any]:
        found, faults = [], list[Exception]()
        for index, item in enumerate(value):
            try:
                found.append(structure_item(item, kind))
            except Exception as exc:
                exc.add_note(IterableValidationNote(f"item {index}", index, kind))
                faults.append(exc)
                if len(faults) == MAX_FAULTS:
                    break
        if faults:
            raise IterableValidationError("items", faults, list)
        return found

    return items


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
    name = _structure_checked(lambda text: canonical_uuid(text) is not None, "a UUID")
    source = _structure_positional(made, Shark, manta_storage_id=host)
    task = _structure_positional(made, Task, object_id=uuid, owner=uuid, md5sum=md5, source=source)
    made.register_structure_hook(Task, task)
    made.register_structure_hook(Assignment, _structure_positional(made, Assignment, id=name))
    return made


converter = _make_converter(is_detailed=True)
#: Says nothing of where a fault is, in half the time.
_fast = _make_converter(is_detailed=False)


def structure(value: Any, kind: type[T]) -> T:
    """Turn parsed JSON into `kind`.

    Raises:
      BadRequest: says of the fields that do not fit, up to `MAX_FAULTS` of them, where each is
        and what was expected.
    """
    with suppress(Exception):
        return _fast.structure(value, kind)
    try:
        return converter.structure(value, kind)
    except Exception as exc:
        # cattrs' own error is an exception group, which no `except ValueError` would meet.
        faults = cattrs.v.transform_error(exc, path="$", format_exception=_format_fault)
        told = [fault.replace(" @ ", " at ") for fault in faults[:MAX_FAULTS]]
        raise BadRequest("; ".join([*told, "..."] if len(faults) >= MAX_FAULTS else told)) from exc


def _format_fault(exc: BaseException, kind: type | None) -> str:
    match exc:
        case FieldError():
            return str(exc)
        case KeyError():
            return f"required field {exc.args[0]} is missing"
    name = getattr(kind, "__name__", "object")
    return f"expected {'an object' if name in ('dict', 'object') else name}"


def parse_json(text: bytes | str) -> Any:
    """Parse JSON that came from outside, in time and memory that its length bounds.

    Raises:
      BadRequest: it is none; says where.
      TooLarge: it may have more than `MAX_VALUES` values.
    """
    # Each value but the first is the first of its list or object, or has a comma before it.
    count = (
        text.count(b",") + text.count(b"[") + text.count(b"{")
        if isinstance(text, bytes)
        else text.count(",") + text.count("[") + text.count("{")
    )
    if count > MAX_VALUES:
        raise TooLarge(f"more than {MAX_VALUES} values in one JSON text")
    try:
        return jsontext.loads(text)
    except RecursionError as exc:
        raise BadRequest("not JSON that can be read: nested too deeply") from exc
    except ValueError as exc:
        raise BadRequest(f"not JSON: {exc}") from exc


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML that came from outside.

    Raises:
      BadRequest: it is none; says where.
    """
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise BadRequest("not TOML that can be read: nested too deeply") from exc
    except ValueError as exc:
        raise BadRequest(str(exc)) from exc
