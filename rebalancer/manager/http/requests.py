"""This module reads and checks the bodies and queries of the manager's API.  Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar, cast

import attrs

from rebalancer import keys
from rebalancer.actions import DECLARED
from rebalancer.actions.declaration import MAX_WHOLE, Declaration
from rebalancer.api import requests as api
from rebalancer.api.fields import facts_of
from rebalancer.api.requests import Control
from rebalancer.bodies import whole_number
from rebalancer.converter import structure
from rebalancer.domain.objects import is_loose_uuid
from rebalancer.domain.states import JobState, ObjectStatus
from rebalancer.errors import BadRequest, Unprocessable
from rebalancer.manager.jobs.rows import JobRow

T = TypeVar("T")
#: Errors of one request that its answer has.
MOST_ERRORS = 10
#: Objects of one page of a listing.
DEFAULT_PAGE, MAX_PAGE = 100, 1000


@attrs.frozen
class NewJob:
    """The body of POST /jobs."""

    action: str
    #: Of the class that the action declares.
    params: Any
    #: Only tell what the job would do.
    dry_run: bool = False


@attrs.frozen
class Setting:
    """A new value for one of the settings of a running job; `name` is a field of `Tuning`."""

    name: str
    value: int | None


@attrs.frozen
class ObjectsQuery:
    """A query selects objects of a job: up to `limit` with rows behind `after`."""

    status: ObjectStatus | None
    reason: str | None
    after: int
    limit: int


@attrs.frozen
class JobsQuery:
    """A query selects jobs of the list; None selects all."""

    state: JobState | None = None
    #: The whole name of a node, or what stands before a dot of it.
    shark: str | None = None
    #: The id of the job behind which the answer begins.
    after: str | None = None
    limit: int | None = None

    def select(self, rows: Sequence[JobRow]) -> list[JobRow]:
        """Return the jobs of all `rows`, which are oldest first, that are asked for.

        Raises:
          BadRequest: there is no job to begin behind.
        """
        if self.after is not None:
            ids = [row.id for row in rows]
            if self.after not in ids:
                raise BadRequest(f"after: there is no job {self.after}")
            rows = rows[ids.index(self.after) + 1 :]
        return [row for row in rows if self._takes(row)][: self.limit]

    def _takes(self, row: JobRow) -> bool:
        is_state = self.state is None or row.state is self.state
        node = row.node or ""
        is_node = self.shark is None or f"{node}.".startswith(f"{self.shark}.")
        return is_state and is_node


@attrs.frozen
class Range:
    """A range bounds a setting; `name` is a field of `Tuning`."""

    name: str
    minimum: int
    maximum: int
    or_null: bool

    @classmethod
    def of(cls, name: str, change: type[attrs.AttrsInstance]) -> "Range":
        """Return the range that the body of a change allows."""
        field = attrs.fields_dict(change)["params"]
        bounds = facts_of(field).schema
        return cls(name, bounds["minimum"], bounds["maximum"], or_null=field.type is not int)


#: By the action that changes them.
SETTINGS: Mapping[str, Range] = {
    facts_of(attrs.fields_dict(change)["action"]).schema["const"]: Range.of(name, change)
    for name, change in api.SETTINGS.items()
}
ACTIONS_ON_JOBS = (*SETTINGS, *Control)


def checked_id(job_id: str) -> str:
    """Return `job_id` in lower case.

    Raises:
      BadRequest: it is no UUID.
    """
    if not is_loose_uuid(job_id):
        raise BadRequest(f"Invalid UUID: {job_id}")
    return job_id.lower()


def read_new_job(body: Any) -> NewJob:
    """Return the body of POST /jobs.

    Raises:
      Unprocessable: names the field that cannot be used.
      BadRequest: the name of a storage node cannot be one.
    """
    if not isinstance(body, dict) or not isinstance(body.get("action"), str):
        raise Unprocessable("action: expected the name of one as a string")
    if (declared := DECLARED.get(body["action"])) is None:
        raise Unprocessable(f"action: expected one of {', '.join(DECLARED)}, got {body['action']}")
    _check_keys(body, ("action", "params", "dry_run"))
    if isinstance(body.get("params"), dict):
        _check_keys(body["params"], tuple(attrs.fields_dict(declared.params)), "params.")
    if type(dry_run := body.get("dry_run", False)) is not bool:
        raise Unprocessable("dry_run: expected true or false")
    if dry_run and not declared.has_plan:
        raise Unprocessable(f"dry_run: {declared.name} has none")
    try:
        params = structure(_named(body.get("params"), declared), declared.params)
    except BadRequest as exc:
        raise Unprocessable(f"params: {exc}") from exc
    declared.check(params)
    return NewJob(body["action"], params, dry_run)


def _named(params: Any, declared: Declaration) -> Any:
    """Return the parameters by name: the deployed manager takes them as an array of values too."""
    names = declared.positional
    if names and isinstance(params, list) and len(params) == len(names):
        return dict(zip(names, params, strict=True))
    return params


def _check_keys(given: Mapping[str, Any], known: tuple[str, ...], where: str = "") -> None:
    if errors := keys.unknown(given, known, where):
        raise Unprocessable("; ".join(errors[:MOST_ERRORS]))


def read_import(body: Any, kind: type[T]) -> T:
    """Return the body of a call about jobs of a Rust manager.

    Raises:
      Unprocessable: names the field that cannot be used; it quotes no connection string.
    """
    if not isinstance(body, dict):
        raise Unprocessable("expected an object")
    _check_keys(body, tuple(attrs.fields_dict(cast(Any, kind))))
    try:
        return structure(body, kind)
    except BadRequest as exc:
        raise Unprocessable(str(exc)) from exc


def read_change(body: Any) -> Control | Setting:
    """Return the body of PUT /jobs/{id}.  Whether the value is in range is left to `check_range`.

    Raises:
      Unprocessable: names the field that cannot be used.
    """
    action = body.get("action") if isinstance(body, dict) else None
    if isinstance(action, str) and action in ACTIONS_ON_JOBS:
        _check_keys(body, ("action", "params"))
    if action in list(Control):
        return Control(action)
    if not isinstance(action, str) or (wanted := SETTINGS.get(action)) is None:
        raise Unprocessable(f"action: expected one of {', '.join(ACTIONS_ON_JOBS)}")
    value = body.get("params")
    if type(value) is int or (value is None and wanted.or_null and "params" in body):
        return Setting(wanted.name, value)
    or_null = ", or null for what is configured" if wanted.or_null else ""
    raise Unprocessable(f"params: expected a whole number{or_null}")


def check_range(setting: Setting) -> None:
    """Check that a setting can have this value.

    Raises:
      BadRequest: it cannot.
    """
    (wanted,) = (one for one in SETTINGS.values() if one.name == setting.name)
    if setting.value is None or wanted.minimum <= setting.value <= wanted.maximum:
        return
    below = setting.value < wanted.minimum
    bound = f"below {wanted.minimum}" if below else f"above {wanted.maximum}"
    # The predecessor's words for its one setting.
    is_threads = setting.name == "max_metadata_update_threads"
    what = "metadata update threads" if is_threads else setting.name
    raise BadRequest(f"Cannot set {what} {bound}")


def check_no_query(given: Iterable[str]) -> None:
    """Check that a request has nothing in its query, where nothing belongs.

    Raises:
      BadRequest: names what there is.
    """
    if names := list(given):
        raise BadRequest(f"{names[0]}: this call takes nothing in its query")


def read_objects_query(given: Iterable[tuple[str, str]]) -> ObjectsQuery:
    """Return the query of GET /jobs/{id}/objects, a name and a value at a time.

    Raises:
      BadRequest: names the parameter that cannot be used.
    """
    args = _args(given, "status", "reason", "after", "limit")
    status = args.get("status")
    if status is not None and status not in list(ObjectStatus):
        raise BadRequest(f"status: expected one of {', '.join(ObjectStatus)}, got {status}")
    return ObjectsQuery(
        None if status is None else ObjectStatus(status),
        args.get("reason"),
        _whole(args, "after", 0, 0, MAX_WHOLE),
        _whole(args, "limit", DEFAULT_PAGE, 1, MAX_PAGE),
    )


def read_jobs_query(given: Iterable[tuple[str, str]]) -> JobsQuery:
    """Return the query of GET /jobs, a name and a value at a time.

    Raises:
      BadRequest: names the parameter that cannot be used.
    """
    args = _args(given, "state", "shark", "after", "limit")
    state, after = args.get("state"), args.get("after")
    if state is not None and state not in list(JobState):
        raise BadRequest(f"state: expected one of {', '.join(JobState)}, got {state}")
    if after is not None and not is_loose_uuid(after):
        raise BadRequest(f"after: expected a job's id, got {after}")
    return JobsQuery(
        None if state is None else JobState(state),
        args.get("shark"),
        None if after is None else after.lower(),
        _whole(args, "limit", 0, 1, MAX_WHOLE) or None,
    )


def _args(given: Iterable[tuple[str, str]], *known: str) -> dict[str, str]:
    """Return the values of a query by their names.

    Raises:
      BadRequest: a name is not `known`, or is there twice.
    """
    args = dict[str, str]()
    for name, value in given:
        if name not in known:
            raise BadRequest(f"{name}: expected one of {', '.join(known)}")
        if name in args:
            raise BadRequest(f"{name}: expected once")
        args[name] = value
    return args


def read_first(given: Iterable[tuple[str, str]]) -> int | None:
    """Return the query of GET /nodes/{shark}/check: how many findings are enough; None: all.

    Raises:
      BadRequest: names the parameter that cannot be used.
    """
    args = dict[str, str]()
    for name, value in given:
        if name != "first" or name in args:
            raise BadRequest(f"{name}: expected first, once")
        args[name] = value
    return _whole(args, "first", 0, 1, MAX_WHOLE) or None


def _whole(args: Mapping[str, str], name: str, default: int, minimum: int, maximum: int) -> int:
    text = args.get(name)
    if text is None:
        return default
    return whole_number(name, text, minimum, maximum)
