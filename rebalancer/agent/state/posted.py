"""This module reads a posted assignment, from the bytes of a request to the rows of its file.

What managers send is decoded straight into its fields and checked as a whole.  Whatever is odd in
any way is read by `wire`, which takes every form that may be taken and says what is wrong with the
others: so no body is taken here that would be refused there.
"""

import re
from collections.abc import Sequence

import attrs
import msgspec

from rebalancer.agent_protocol import (
    MAX_TASKS,
    PENDING,
    Assignment,
    Dialect,
    Task,
    TaskStatus,
    detect_dialect,
    read_assignment,
)
from rebalancer.bodies import read_body
from rebalancer.domain.objects import Shark, canonical_uuid, is_loose_uuid, is_storage_id
from rebalancer.jsontext import is_text

#: A task: object_id, owner, md5sum, datacenter, manta_storage_id.  An agent handles fifty of them
#: in a few milliseconds, so they are plain tuples: in messages, in statements, in memory.
Row = tuple[str, str, str, str, str]

#: Base64 of 16 bytes.
_MD5 = re.compile(r"[A-Za-z0-9+/]{22}==")


def row_of(task: Task) -> Row:
    """Return the row of a task."""
    source = task.source
    return task.object_id, task.owner, task.md5sum, source.datacenter, source.manta_storage_id


def task_of(row: Row, status: TaskStatus = PENDING) -> Task:
    """Return the task of a row."""
    object_id, owner, md5sum, datacenter, name = row
    return Task(object_id, owner, md5sum, Shark(datacenter, name), status)


@attrs.frozen
class Posted:
    """A posted assignment is the body of a request: all of its tasks are pending."""

    #: As it was posted, and the form under which it is kept.
    id: str
    key: str
    rows: tuple[Row, ...]
    dialect: Dialect

    @classmethod
    def of(cls, assignment: Assignment, dialect: Dialect) -> "Posted":
        """Return what `assignment`, posted in `dialect`, is."""
        return cls(assignment.id, assignment.key, tuple(map(row_of, assignment.tasks)), dialect)


def read_posted(body: bytes) -> Posted:
    """Read the body of POST /assignments.

    Raises:
      BadRequest, TooLarge: it cannot be used; says why.
    """
    if (posted := _usual(body)) is not None:
        return posted
    value = read_body(body)
    return Posted.of(read_assignment(value), detect_dialect(value))


class _Source(msgspec.Struct, forbid_unknown_fields=True):
    datacenter: str
    manta_storage_id: str


class _Tagged(msgspec.Struct, forbid_unknown_fields=True):
    state: str


class _Task(msgspec.Struct, forbid_unknown_fields=True):
    object_id: str
    owner: str
    md5sum: str
    source: _Source
    status: str | _Tagged | None = None


class _Assignment(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    tasks: list[_Task]


_DECODER = msgspec.json.Decoder(_Assignment)
#: Braces in a body of as many tasks as may be, each with its source and its status.
_MOST_BRACES = 1 + 3 * MAX_TASKS


def _usual(body: bytes) -> Posted | None:
    """Read a body that is as managers send it; None if there is anything odd about it."""
    if body.count(b"{") > _MOST_BRACES or b"\\u0000" in body:
        return None
    try:
        made = _DECODER.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    dialect = Dialect.LEGACY
    for task in made.tasks:
        if isinstance(task.status, _Tagged):
            dialect = Dialect.TAGGED
            if task.status.state != "Pending":
                return None
        elif task.status not in (None, "Pending"):
            return None
    # The same few texts are in most tasks; kept once, they need a third of the memory.
    once = dict[str, str]().setdefault
    rows = tuple(
        [
            (
                task.object_id,
                once(task.owner, task.owner),
                task.md5sum,
                once(task.source.datacenter, task.source.datacenter),
                once(task.source.manta_storage_id, task.source.manta_storage_id),
            )
            for task in made.tasks
        ]
    )
    key = canonical_uuid(made.id)
    is_sound = len({row[0].lower() for row in rows}) == len(rows) <= MAX_TASKS and are_sound(rows)
    return Posted(made.id, key, rows, dialect) if is_sound and key is not None else None


def are_sound(rows: Sequence[Sequence[object]]) -> bool:
    """Return whether the first five values of each row can be those of a task.

    True only where `wire` would take them; it may take more.
    """
    if not rows:
        return True
    objects, owners, digests, places, names, *_ = zip(*rows, strict=True)
    return (
        all(map(is_loose_uuid, objects))
        and all(map(is_loose_uuid, set(owners)))
        and all(isinstance(digest, str) and _MD5.fullmatch(digest) for digest in digests)
        and all(isinstance(place, str) and is_text(place) for place in set(places))
        and all(map(is_storage_id, set(names)))
    )
