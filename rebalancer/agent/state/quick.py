"""This module decodes a posted assignment by msgspec, straight into the fields of its tasks."""

import msgspec

from rebalancer.agent_protocol import MAX_TASKS, Dialect

_Row = tuple[str, str, str, str, str]
_Buckets = list[tuple[str | None, str | None]]


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
    bucket_id: str | None = None
    object_name_hash: str | None = None
    status: str | _Tagged | None = None


class _Assignment(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    tasks: list[_Task]


_DECODER = msgspec.json.Decoder(_Assignment)
#: Braces in a body of as many tasks as may be, each with its source and its status.
_MOST_BRACES = 1 + 3 * MAX_TASKS


def decode(body: bytes) -> tuple[str, tuple[_Row, ...], _Buckets, Dialect] | None:
    """Return id, rows, buckets and dialect of a body as managers send it; None if its form is odd.

    The rows have object ids; the buckets are empty if all of them are of the directory tier.
    What its texts say is for the caller to check.
    """
    if body.count(b"{") > _MOST_BRACES or b"\\u0000" in body:
        return None
    try:
        made = _DECODER.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    dialect, has_buckets = Dialect.LEGACY, False
    for task in made.tasks:
        has_buckets |= task.bucket_id is not None or task.object_name_hash is not None
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
    buckets = [(t.bucket_id, t.object_name_hash) for t in made.tasks] if has_buckets else []
    return made.id, rows, buckets, dialect
