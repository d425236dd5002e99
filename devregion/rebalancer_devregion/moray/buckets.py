"""This module reads what a bucket is configured as: indexes, their types, version, reindexing."""

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import attrs

from rebalancer_devregion.moray.columns import TYPES
from rebalancer_devregion.moray.errors import MorayError
from rebalancer_devregion.moray.javascript import stringify

_NAME = re.compile(r"[A-Za-z]\w{0,62}", re.ASCII)
_INDEX_NAME = re.compile(r"_[A-Za-z0-9]+|[A-Za-z][_A-Za-z0-9]*[A-Za-z0-9]|[A-Za-z]")
_RESERVED_BUCKETS = frozenset({"buckets_config", "moray", "search"})
#: Columns that every bucket has, with the types that their values have in PostgreSQL.
INTERNAL: Mapping[str, str] = {
    "_id": "bigint",
    "_txn_snap": "integer",
    "_key": "text",
    "_value": "text",
    "_etag": "text",
    "_mtime": "bigint",
    "_vnode": "bigint",
}
_RESERVED_INDEXES = frozenset({*INTERNAL, "_atime", "_ctime", "_rver", "_idx"})


@attrs.frozen(slots=False)
class Bucket:
    """A bucket is its configuration.

    `index` has the type of each index, `reindexing` the fields whose columns are not complete
    yet, by the version that brought them.
    """

    name: str
    index: Mapping[str, str]
    unique: frozenset[str] = frozenset()
    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    options: Mapping[str, Any] = {}
    reindexing: Mapping[str, list[str]] = {}

    @property
    def version(self) -> int:
        """Return the configured version; 0 for a bucket without versions."""
        return int(self.options.get("version") or 0)

    @cached_property
    def incomplete(self) -> frozenset[str]:
        """Return the fields that count as unindexed until every row is reindexed."""
        return frozenset(name for names in self.reindexing.values() for name in names)

    @cached_property
    def usable(self) -> Mapping[str, str]:
        """Return the indexes that can be relied on."""
        return {name: kind for name, kind in self.index.items() if name not in self.incomplete}

    @property
    def index_text(self) -> str:
        """Return the configuration of the indexes, as `buckets_config` has it."""
        return stringify(
            {
                name: {"type": kind, **({"unique": True} if name in self.unique else {})}
                for name, kind in self.index.items()
            }
        )

    @cached_property
    def put_sql(self) -> str:
        """Return the statement that writes key, value, etag, mtime, vnode and the columns."""
        extra = [*self.index, *(["_rver"] if self.reindexing else [])]
        names = "".join(f", {name.lower()}" for name in extra)
        updates = "".join(f", {name.lower()} = excluded.{name.lower()}" for name in extra)
        # The id is given at the first put and kept; none is ever given twice.
        return (
            f"INSERT INTO {self.name} (_id, _key, _value, _etag, _mtime, _vnode{names}) VALUES"
            f" (1 + max((SELECT ifnull(max(_id), 0) FROM {self.name}),"
            f" ifnull((SELECT last FROM serials WHERE bucket = '{self.name}'), 0)),"
            f" ?, ?, ?, ?, ?{', ?' * len(extra)}) ON CONFLICT (_key) DO UPDATE SET"
            " _value = excluded._value, _etag = excluded._etag, _mtime = excluded._mtime,"
            f" _vnode = excluded._vnode{updates}"
        )


def read_config(name: str, config: Mapping[str, Any]) -> Bucket:
    """Return the bucket that a client asks for.

    Raises:
      MorayError: InvalidBucketConfigError, InvalidBucketNameError, NotFunctionError.
    """
    index = config.get("index") or {}
    options = config.get("options") or {}
    if not isinstance(index, dict) or not isinstance(options, dict):
        raise _bad_config("bucket.index should be object")
    for field, definition in index.items():
        _check_type(field, definition)
    version = options.get("version", 0)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise _bad_config("bucket.options.version should be integer")
    if not _NAME.fullmatch(name) or name in _RESERVED_BUCKETS:
        raise MorayError("InvalidBucketNameError", f"{name} is not a valid bucket name")
    for when in ("pre", "post"):
        triggers = config.get(when) or []
        if not all(isinstance(text, str) and "function" in text for text in triggers):
            raise MorayError("NotFunctionError", "trigger not function must be [Function]")
    for field in index:
        _check_name(field)
    return Bucket(
        name,
        {field: definition["type"] for field, definition in index.items()},
        frozenset(field for field, definition in index.items() if definition.get("unique")),
        tuple(config.get("pre") or ()),
        tuple(config.get("post") or ()),
        {**options, "version": version},
    )


def _check_type(field: str, definition: Any) -> None:
    where = f"bucket.index['{field}']"
    if not isinstance(definition, dict):
        raise _bad_config(f"{where} should be object")
    if "type" not in definition:
        raise _bad_config(f"{where} should have required property 'type'")
    if definition["type"] not in TYPES:
        allowed = ", ".join(f'"{name}"' for name in TYPES)
        raise _bad_config(f"{where}.type should be equal to one of the allowed values ({allowed})")


def _check_name(field: str) -> None:
    if not _INDEX_NAME.fullmatch(field):
        raise _bad_config(f'invalid index name "{field}"')
    if field.lower() in _RESERVED_INDEXES:
        raise _bad_config(f'index name "{field}" is reserved for use by Moray')
    if field.lower().lstrip("_").startswith("moray"):
        raise _bad_config(f'index names cannot start with "moray": "{field}"')


def _bad_config(message: str) -> MorayError:
    return MorayError("InvalidBucketConfigError", message)


def from_row(row: Mapping[str, Any]) -> Bucket:
    """Return the bucket of a row of `buckets_config`."""
    index = json.loads(row["index"])
    return Bucket(
        row["name"],
        {field: definition["type"] for field, definition in index.items()},
        frozenset(field for field, definition in index.items() if definition.get("unique")),
        tuple(json.loads(row["pre"])),
        tuple(json.loads(row["post"])),
        json.loads(row["options"]),
        json.loads(row.get("reindex_active") or "{}"),
    )


def _strings(*names: str) -> Mapping[str, str]:
    return dict.fromkeys(names, "string")


#: Stands for Manta's trigger.  What it does is not imitated: a write that would make the real one
#: queue data for deletion ends the region.
_POST = "function recordDeleteLog(req, cb) { cb(); }"

#: The buckets of a shard of Manta.
MANTA = (
    Bucket(
        "manta",
        _strings("dirname", "name", "owner", "objectId", "type"),
        post=(_POST,),
        options={"version": 2},
    ),
    Bucket("manta_delete_log", _strings("objectId"), options={"version": 1}),
    Bucket("manta_fastdelete_queue", {}, options={"version": 1}),
    Bucket("manta_uploads", _strings("finalizingType", "uploadId"), options={"version": 1}),
    Bucket("manta_directory_counts", {"entries": "number"}, options={"version": 1}),
    Bucket(
        "manta_storage",
        {
            "hostname": "string",
            "availableMB": "number",
            "percentUsed": "number",
            "server_uuid": "string",
            "timestamp": "number",
            "zone_uuid": "string",
            "manta_compute_id": "string",
            "manta_storage_id": "string",
        },
        options={"version": 0},
    ),
)
