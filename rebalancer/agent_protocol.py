"""This module has the agent's protocol: assignments, their reports, and both dialects of them.

Deployed managers and agents speak the *legacy* dialect (serde's externally tagged enums); the
unfinished rewrite speaks *tagged*.  Both are read everywhere; the writer names one.  Pure.
"""

import enum
import json
import re
from collections.abc import Callable
from functools import lru_cache, partial
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

import attrs

from rebalancer.converter import (
    CattrsConverter,
    FieldError,
    StrictConverter,
    checked,
    register_positional,
)
from rebalancer.domain import copies, reasons
from rebalancer.domain.objects import Shark, canonical_uuid, is_loose_uuid, is_md5, is_storage_id
from rebalancer.domain.reasons import Reason
from rebalancer.errors import BadRequest, TooLarge

#: Tasks of one posted assignment.  A manager of ours can be configured to send as many; the
#: deployed one ends when it is configured to send more than 7,281, and the rewrite sends 200.
MAX_TASKS = 10_000


#: The feature of an agent that takes tasks of bucket objects.  One that does not announce it
#: ignores what such tasks say of buckets, and looks for their objects where none of them are.
V2 = "v2"
#: The features that an agent of this version announces.
FEATURES = (V2,)
_SERVER = re.compile(r"rebalancer-agent \S{1,100} \(([^()]{0,200})\)")


def server_header(version: str) -> str:
    """Return the header `Server` of an agent, which announces its features in each answer."""
    return f"rebalancer-agent {version} ({' '.join(FEATURES)})"


def read_features(server: str) -> frozenset[str]:
    """Return the features that the header `Server` of an answer announces.

    An older agent, and a deployed one, announces none.
    """
    found = _SERVER.fullmatch(server)
    return frozenset(found[1].split() if found else ())


class Dialect(enum.StrEnum):
    """A dialect is one of the two spellings of enums that a peer may use."""

    LEGACY = "legacy"
    TAGGED = "tagged"


class PostForm(enum.StrEnum):
    """An assignment is posted as an object in either dialect, or as old documentation's array."""

    LEGACY = "legacy"
    TAGGED = "tagged"
    TAGGED_ARRAY = "tagged-array"


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


# Not frozen, because that takes three times as long to make, and there is one for each object.
@attrs.define
class Task:
    """A task is one object to copy: its owner, its digest (base64), and where to read it."""

    object_id: str
    owner: str
    md5sum: str
    source: Shark
    status: TaskStatus = PENDING
    #: Of a bucket object: its bucket, and the MD5 of its name in hexadecimal.
    bucket_id: str | None = None
    object_name_hash: str | None = None

    @property
    def copy_name(self) -> str:
        """Return the name of the copy that is to be made, which tells this task from others."""
        return copies.name_of(self.object_id, self.bucket_id, self.object_name_hash)


@attrs.frozen
class Assignment:
    """An assignment is a batch of tasks for one destination."""

    id: str
    tasks: tuple[Task, ...]

    @property
    def key(self) -> str:
        """Return the id in the one form under which the assignment is kept and asked for."""
        return canonical_uuid(self.id) or self.id.lower()


class ReportedState(enum.StrEnum):
    """A reported state tells how far the work on an assignment has come."""

    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    COMPLETE = "Complete"


@attrs.frozen
class AssignmentStats:
    """The counts and the state that an agent reports of an assignment.

    `complete` counts processed tasks, failed ones included.  `failures` is None while the
    assignment is not complete, then the tasks that failed.
    """

    state: ReportedState
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
    wire = {
        "object_id": task.object_id,
        "owner": task.owner,
        "md5sum": task.md5sum,
        "source": {
            "datacenter": task.source.datacenter,
            "manta_storage_id": task.source.manta_storage_id,
        },
        "status": status_to_wire(task.status, dialect),
    }
    if task.bucket_id is not None:  # deployed programs know neither field
        wire |= {"bucket_id": task.bucket_id, "object_name_hash": task.object_name_hash}
    return wire


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
            f' "md5sum": {_quoted(task.md5sum)}, "source": {_source_text(task.source)}'
            f"{'' if task.bucket_id is None else _bucket_text(task)}{status}}}"
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


def _bucket_text(task: Task) -> str:
    hashed = json.dumps(task.object_name_hash)
    return f', "bucket_id": {json.dumps(task.bucket_id)}, "object_name_hash": {hashed}'


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
            case {"status": dict(status)} | [_, _, _, _, dict(status), *_]:
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
    assignment = _converter.structure(body, Assignment)
    seen: dict[str, int] = {}
    for index, task in enumerate(assignment.tasks):
        first = seen.setdefault(task.copy_name.lower(), index)
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
    return _converter.structure(body, AssignmentReport)


def _structure_stats(made: CattrsConverter, value: Any, _type: type) -> AssignmentStats:
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
            return AssignmentStats(ReportedState(state), n_failed, n_complete, n_total)
        case {"Complete": None}:
            return AssignmentStats(ReportedState.COMPLETE, n_failed, n_complete, n_total, ())
        case {"Complete": list(tasks)}:
            failures = tuple(made.structure(tasks, list[Task]))
            return AssignmentStats(ReportedState.COMPLETE, n_failed, n_complete, n_total, failures)
    raise FieldError('expected "Scheduled", "Running" or {"Complete": ...}')


def read_task(value: Any) -> Task:
    """Read one task, with its status, in either dialect.

    Raises:
      BadRequest: it is no task.
    """
    return _converter.structure(value, Task)


def _or_none(hook: Callable[[Any, Any], str]) -> Callable[[Any, Any], str | None]:
    return lambda value, kind: None if value is None else hook(value, kind)


def _checked_task(structure: Callable[[Any, Any], Task], value: Any, kind: Any) -> Task:
    """Read a task, and check that what it says of buckets is whole.

    One field alone would make the object one of the directory tier, and its copy a file that no
    record names.
    """
    task = structure(value, kind)
    if (task.bucket_id is None) != (task.object_name_hash is None):
        raise FieldError("expected both bucket_id and object_name_hash, or neither")
    if task.bucket_id is not None and not copies.is_copy(task.owner, task.copy_name):
        raise FieldError("expected owner and object_id of a bucket object in lower case")
    return task


def _register_fields(made: CattrsConverter) -> None:
    """Have `made` check the fields of assignments and reports, and read them in every form."""
    made.register_structure_hook(TaskStatus, lambda value, _type: status_from_wire(value))
    made.register_structure_hook(AssignmentStats, partial(_structure_stats, made))
    uuid = checked(is_loose_uuid, "a UUID")
    md5 = checked(is_md5, "base64 of 16 bytes")
    host = checked(is_storage_id, "a host name")
    name = checked(lambda text: canonical_uuid(text) is not None, "a UUID")
    register_positional(made, Shark, manta_storage_id=host)
    hashed = checked(copies.is_name_hash, "32 hexadecimal digits in lower case")
    bucket = _or_none(checked(copies.is_lower_uuid, "a UUID in lower case"))
    of_objects = {"bucket_id": bucket, "object_name_hash": _or_none(hashed)}
    register_positional(made, Task, object_id=uuid, owner=uuid, md5sum=md5, **of_objects)
    made.register_structure_hook(Task, partial(_checked_task, made.get_structure_hook(Task)))
    register_positional(made, Assignment, id=name)


_converter = StrictConverter(_register_fields)
