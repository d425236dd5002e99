"""This module reads a posted assignment, from the bytes of a request to the rows of its file.

What managers send is decoded straight into its fields and checked as a whole.  Whatever is odd in
any way is read by `wire`, which takes every form that may be taken and says what is wrong with the
others: so no body is taken here that would be refused there.
"""

import re
from collections.abc import Sequence

import attrs

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
from rebalancer.domain.copies import is_copy, is_lower_uuid, is_name_hash, name_of, parts_of
from rebalancer.domain.objects import Shark, canonical_uuid, is_loose_uuid, is_storage_id
from rebalancer.jsontext import is_text

#: A task: the name of its copy as by `domain.copies`, owner, md5sum, datacenter, manta_storage_id.
#: An agent handles fifty of them in a few milliseconds, so they are plain tuples: in messages, in
#: statements, in memory.
Row = tuple[str, str, str, str, str]
#: The bucket and the hash of the name of each of some rows; empty if all are of the directory tier.
Buckets = list[tuple[str | None, str | None]]

try:
    from rebalancer.agent.state.quick import decode
except ImportError:  # msgspec is not installed

    def decode(body: bytes) -> tuple[str, tuple[Row, ...], Buckets, Dialect] | None:
        """Leave every body to `wire`, which takes three times as long."""
        return None


#: Base64 of 16 bytes.
_MD5 = re.compile(r"[A-Za-z0-9+/]{22}==")


def row_of(task: Task) -> Row:
    """Return the row of a task."""
    source = task.source
    return task.copy_name, task.owner, task.md5sum, source.datacenter, source.manta_storage_id


def task_of(row: Row, status: TaskStatus = PENDING) -> Task:
    """Return the task of a row."""
    copy, owner, md5sum, datacenter, name = row
    object_id, *of_bucket = parts_of(copy)
    return Task(object_id, owner, md5sum, Shark(datacenter, name), status, *of_bucket)


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


def _usual(body: bytes) -> Posted | None:
    """Read a body that is as managers send it; None if there is anything odd about it."""
    if (decoded := decode(body)) is None:
        return None
    name, rows, buckets, dialect = decoded
    key = canonical_uuid(name)
    if key is None or len(rows) > MAX_TASKS or not are_sound(rows):
        return None
    if buckets:
        if (named := in_buckets(rows, buckets)) is None:
            return None
        rows = named
    is_sound = len({row[0].lower() for row in rows}) == len(rows)
    return Posted(name, key, rows, dialect) if is_sound else None


def in_buckets(rows: Sequence[Row], buckets: Buckets) -> tuple[Row, ...] | None:
    """Return sound rows as those of bucket objects where `buckets` has bucket and hash of names.

    None if these are not what they should be; both are None for an object of the directory tier.
    """
    named = list[Row]()
    for row, of_bucket in zip(rows, buckets, strict=True):
        if of_bucket != (None, None):
            bucket_id, name_hash = of_bucket
            if not (is_lower_uuid(bucket_id) and is_name_hash(name_hash)):
                return None
            row = name_of(row[0], bucket_id, name_hash), *row[1:]
            if not is_copy(row[1], row[0]):
                return None
        named.append(row)
    return tuple(named)


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
