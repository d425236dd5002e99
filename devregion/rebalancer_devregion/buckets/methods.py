"""This module has the methods of buckets-mdapi, over a real PostgreSQL.  Blocking.

What the recordings show is as they show it.  Nobody recorded the answers to `deletegcbatch` and to
a `deleteobject` that works; they are guesses, on which nothing of ours depends.
"""

import base64
import binascii
import datetime
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import psycopg
from psycopg.types.json import Jsonb

from rebalancer import jsontext
from rebalancer.peers.buckets import statements
from rebalancer_devregion.buckets import arguments
from rebalancer_devregion.buckets.arguments import Field

Database = psycopg.Connection[tuple[Any, ...]]
Arguments = dict[str, Any]
Row = dict[str, Any]

#: Objects in a batch, and in an answer to one listing.
BATCH, LIST = 1000, 1024
_COLUMNS = """
    id, name, owner, bucket_id, created, modified, content_length, content_md5, content_type,
    headers, sharks, properties
"""
_SHOWN = _COLUMNS.replace("headers", "hstore_to_json(headers)")
_NAMES = _COLUMNS.replace(",", "").split()
_KEY = "owner = %(owner)s AND bucket_id = %(bucket_id)s AND name = %(name)s"
_NO_BASE64 = re.compile(rb"[^A-Za-z0-9+/=]")


class Failure(Exception):
    """A failure goes out as DATA, for the request as such was understood."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.row: Row = {"error": {"name": name, "message": message}}


class LimitFailure(Failure):
    """A listing was asked for too many rows, or none: its failure has a form of its own."""

    def __init__(self, method: str, limit: int) -> None:
        text = (
            f"the {method} limit option must be a value between 1 and {LIST}."
            f" the requested limit was {limit}"
        )
        super().__init__("LimitConstraintError", text)
        self.row = {"LimitConstraintError": text}


class Panic(Exception):
    """A row made the handler die: its client's connection is closed."""


def _nothing(_args: Arguments) -> None:
    return


@attrs.define
class Behaviour:
    """A behaviour is what a version does otherwise, and where a test may step in.

    Mutable state: the garbage that was given out, by batch.
    """

    #: It ignores `id` and `sharks` of an update, and knows no batches.
    is_old: bool = False
    #: `deleteobject` is a statement that no PostgreSQL from 15 on can parse.
    cannot_delete: bool = False
    #: Runs between the condition of an update and the update.
    in_the_gap: Callable[[Arguments], None] = _nothing
    garbage: dict[str, list[tuple[int, Row]]] = attrs.field(factory=dict)


@attrs.frozen
class Method:
    """A method of the server."""

    fields: Mapping[str, Field]
    run: Callable[[Database, Behaviour, Arguments], list[Any]]
    #: It changes something, in a transaction that it commits at its end.
    writes: bool = False
    is_new: bool = False


def failure_of(error: psycopg.Error) -> Failure:
    """Return the failure that an error of the database is."""
    text = f"{error.diag.severity}: {error.diag.message_primary}"
    if error.diag.severity is None:
        is_nul = isinstance(error, psycopg.DataError)
        nul = 'ERROR: invalid byte sequence for encoding "UTF8": 0x00'
        text = nul if is_nul else str(error).strip()
    return Failure("PostgresError", f"db error: {text}")


def _execute(db: Database, statement: str, args: Any = None) -> psycopg.Cursor[tuple[Any, ...]]:
    return db.execute(statement.encode(), args)


def _table(args: Arguments, name: str = statements.OBJECTS) -> str:
    return statements.table(args["vnode"], name)


# --- rows --------------------------------------------------------------------------------


def _stamp(time: datetime.datetime) -> str:
    time = time.astimezone(datetime.UTC)
    if not time.microsecond:
        return time.isoformat()
    return time.isoformat(timespec="microseconds" if time.microsecond % 1000 else "milliseconds")


def _shown_time(time: datetime.datetime) -> str:
    return _stamp(time).replace("+00:00", "Z")


def _object(row: tuple[Any, ...]) -> Row:
    """Return a row as answers show it.

    Raises:
      Panic: it has no headers or no sharks, or a shark without a colon.
    """
    found = dict(zip(_NAMES, row, strict=True))
    if found["headers"] is None or found["sharks"] is None:
        raise Panic(f"{found['name']!r} has no headers, or no sharks")
    sharks = [(shark or "").split(":") for shark in found["sharks"]]
    if not all(len(shark) > 1 for shark in sharks):
        raise Panic(f"{found['name']!r} has a shark without a colon")
    return found | {
        **{name: str(found[name]) for name in ("id", "owner", "bucket_id")},
        **{name: _shown_time(found[name]) for name in ("created", "modified")},
        "content_md5": base64.b64encode(found["content_md5"]).decode(),
        "sharks": [{"datacenter": one[0], "manta_storage_id": one[1]} for one in sharks],
    }


def _values(args: Arguments) -> Arguments:
    """Return arguments with what goes into the columns of an object."""
    sharks = args["sharks"]
    return args | {
        "header_names": list(args["headers"]),
        "header_values": list(args["headers"].values()),
        "shark_texts": None
        if sharks is None
        else [f"{one['datacenter']}:{one['manta_storage_id']}" for one in sharks],
        "properties": None
        if args["properties"] is None
        else Jsonb(args["properties"], dumps=jsontext.dumps),
    }


_HEADERS = "hstore(%(header_names)s::text[], %(header_values)s::text[])"

# --- conditions --------------------------------------------------------------------------


def _found(db: Database, args: Arguments) -> Row | None:
    statement = f"SELECT {_SHOWN} FROM {_table(args)} WHERE {_KEY}"
    row = _execute(db, statement, args).fetchone()
    return None if row is None else _object(row)


def _missing() -> Failure:
    return Failure("ObjectNotFound", "requested object not found")


def _existing(db: Database, args: Arguments) -> Row:
    """Return the object if it fulfils the conditions.

    Raises:
      Failure: it is missing, or does not.
      Panic: its row.
    """
    if (row := _found(db, args)) is None:
        raise _missing()
    _check(args["conditions"] or {}, row)
    return row


def _check(conditions: Mapping[str, Any], row: Row) -> None:
    etag, modified = row["id"], datetime.datetime.fromisoformat(row["modified"])
    wanted, unwanted = conditions.get("if_match"), conditions.get("if_none_match")
    if wanted is not None and etag not in wanted:
        raise _unfulfilled(f"if-match '{_spelt(wanted)}' didn't match etag '{etag}'")
    if unwanted is not None and etag in unwanted:
        raise _unfulfilled(f"if-none-match '{_spelt(unwanted)}' matched etag '{etag}'")
    for name in ("if_modified_since", "if_unmodified_since"):
        since = conditions.get(name)
        if since is not None and (modified > since) == (name == "if_unmodified_since"):
            raise _unfulfilled(
                f"object was modified at '{_stamp(modified)}';"
                f" {name.replace('_', '-')} '{_stamp(since)}'"
            )


def _unfulfilled(text: str) -> Failure:
    return Failure("PreconditionFailedError", text)


def _spelt(etags: list[str]) -> str:
    return ", ".join(f'"{etag}"' for etag in etags)


# --- objects -----------------------------------------------------------------------------


def _get_object(db: Database, _how: Behaviour, args: Arguments) -> list[Any]:
    return [_existing(db, args)]


def _update_object(db: Database, how: Behaviour, args: Arguments) -> list[Any]:
    # Two statements at READ COMMITTED: what is committed in between goes unnoticed.
    if any(condition is not None for condition in (args["conditions"] or {}).values()):
        _existing(db, args)
    how.in_the_gap(args)
    sharks, same_id = "", ""
    if not how.is_old:
        sharks, same_id = ", sharks = COALESCE(%(shark_texts)s::text[], sharks)", "AND id = %(id)s"
    row = _execute(
        db,
        f"UPDATE {_table(args)} SET content_type = %(content_type)s, headers = {_HEADERS},"
        f" properties = %(properties)s, modified = current_timestamp {sharks}"
        f" WHERE {_KEY} {same_id} RETURNING {_SHOWN}",
        _values(args),
    ).fetchone()
    if row is None:
        raise _missing()
    return [_object(row)]


def _update_objects(db: Database, how: Behaviour, args: Arguments) -> list[Any]:
    """Update by vnodes, a transaction each; one that fails stays open, with its locks."""
    if len(args["objects"]) > BATCH:
        raise Failure("LimitConstraintError", f"a batch has at most {BATCH} objects")
    vnodes: dict[int, list[Arguments]] = {}
    for one in args["objects"]:
        vnodes.setdefault(one["vnode"], []).append(one)
    failed = []
    for vnode, objects in vnodes.items():
        if db.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            db.rollback()
        try:
            db.execute("BEGIN")
            for one in objects:
                _update_object(db, how, one)
            db.execute("COMMIT")
        except psycopg.Error as exc:
            failed.append(_failed(vnode, objects, failure_of(exc)))
        except Failure as exc:
            failed.append(_failed(vnode, objects, exc))
    return [{"failed_vnodes": failed}]


def _failed(vnode: int, objects: list[Arguments], failure: Failure) -> Row:
    none = dict.fromkeys(("if_match", "if_modified_since", "if_none_match", "if_unmodified_since"))
    shown = [one | {"conditions": _shown_conditions(one["conditions"] or none)} for one in objects]
    return {"vnode": vnode, "error": failure.row, "objects": shown}


def _shown_conditions(conditions: Mapping[str, Any]) -> Row:
    return {
        name: _shown_time(value) if isinstance(value, datetime.datetime) else value
        for name, value in conditions.items()
    }


def _create_object(db: Database, _how: Behaviour, args: Arguments) -> list[Any]:
    values = {**_values(args), "md5": _md5(args["content_md5"])}
    if (old := _found(db, args)) is not None:
        _check(args["conditions"] or {}, old)
    _keep_deleted(db, args)
    row = _execute(
        db,
        f"INSERT INTO {_table(args)} AS old ({_COLUMNS}) VALUES (%(id)s, %(name)s, %(owner)s,"
        " %(bucket_id)s, current_timestamp, current_timestamp, %(content_length)s, %(md5)s,"
        f" %(content_type)s, {_HEADERS}, %(shark_texts)s::text[], %(properties)s)"
        " ON CONFLICT (owner, bucket_id, name) DO UPDATE SET id = excluded.id,"
        " created = excluded.created, modified = excluded.modified,"
        " content_length = excluded.content_length, content_md5 = excluded.content_md5,"
        " content_type = excluded.content_type, headers = excluded.headers,"
        f" sharks = excluded.sharks, properties = excluded.properties RETURNING {_SHOWN}",
        values,
    ).fetchone()
    assert row is not None
    return [_object(row)]


def _keep_deleted(db: Database, args: Arguments) -> None:
    """Hand the row that is there to garbage collection, sharks and all, if it has a file."""
    _execute(
        db,
        f"INSERT INTO {_table(args, statements.DELETED)} ({_COLUMNS})"
        f" SELECT {_COLUMNS} FROM {_table(args)} WHERE {_KEY} AND content_length > 0",
        args,
    )


def _md5(text: str) -> bytes:
    data = text.encode()
    wrong = _NO_BASE64.search(data)
    what = "Invalid length"
    if wrong is not None:
        what = f"Invalid byte {data[wrong.start()]}, offset {wrong.start()}"
    with suppress(binascii.Error):
        if wrong is None:
            return base64.b64decode(data, validate=True)
    raise Failure("ContentMd5Error", f"content_md5 is not valid base64 encoded data: {what}.")


def _delete_object(db: Database, how: Behaviour, args: Arguments) -> list[Any]:
    if how.cannot_delete:
        what = 'trailing junk after parameter at or near "$3RETURNING"'
        raise Failure("PostgresError", f"db error: ERROR: {what}")
    _keep_deleted(db, args)
    row = _execute(
        db, f"DELETE FROM {_table(args)} WHERE {_KEY} RETURNING {_SHOWN}", args
    ).fetchone()
    if row is None:
        raise _missing()
    return [_object(row)]


def _list_objects(db: Database, _how: Behaviour, args: Arguments) -> list[Any]:
    return [
        _object(row)
        for row in _listed(
            db,
            "listobjects",
            f"SELECT {_SHOWN} FROM {_table(args)}"
            " WHERE owner = %(owner)s AND bucket_id = %(bucket_id)s",
            args,
        )
    ]


def _listed(db: Database, method: str, select: str, args: Arguments) -> list[tuple[Any, ...]]:
    if not 1 <= args["limit"] <= LIST:
        raise LimitFailure(method, args["limit"])
    if args["prefix"] is not None:  # as it is, wildcards and all
        select += " AND name LIKE %(prefix)s::text || '%%'"
    if args["marker"] is not None:
        select += " AND name > %(marker)s::text"
    return _execute(db, f"{select} ORDER BY name LIMIT %(limit)s", args).fetchall()


# --- buckets -----------------------------------------------------------------------------

_BUCKET = "id, name, owner, created"


def _bucket(row: tuple[Any, ...]) -> Row:
    bucket_id, name, owner, created = row
    return {
        "id": str(bucket_id),
        "name": name,
        "owner": str(owner),
        "created": _shown_time(created),
    }


def _create_bucket(db: Database, _how: Behaviour, args: Arguments) -> list[Any]:
    row = _execute(
        db,
        f"INSERT INTO {_table(args, 'manta_bucket')} (id, name, owner)"
        " VALUES (%(new_id)s, %(name)s, %(owner)s)"
        f" ON CONFLICT DO NOTHING RETURNING {_BUCKET}",
        args | {"new_id": uuid.uuid4()},
    ).fetchone()
    if row is None:
        raise Failure("BucketAlreadyExists", "requested bucket already exists")
    return [_bucket(row)]


def _get_bucket(db: Database, _how: Behaviour, args: Arguments) -> list[Any]:
    row = _execute(
        db,
        f"SELECT {_BUCKET} FROM {_table(args, 'manta_bucket')}"
        " WHERE owner = %(owner)s AND name = %(name)s",
        args,
    ).fetchone()
    if row is None:
        raise Failure("BucketNotFound", "requested bucket not found")
    return [_bucket(row)]


def _list_buckets(db: Database, _how: Behaviour, args: Arguments) -> list[Any]:
    select = f"SELECT {_BUCKET} FROM {_table(args, 'manta_bucket')} WHERE owner = %(owner)s"
    return [_bucket(row) for row in _listed(db, "listbuckets", select, args)]


# --- vnodes and garbage ------------------------------------------------------------------


def _vnodes(db: Database) -> list[int]:
    return sorted(int(vnode) for (vnode,) in _execute(db, statements.VNODES))


def _list_vnodes(db: Database, _how: Behaviour, _args: Arguments) -> list[Any]:
    return [{"vnodes": _vnodes(db)}]


def _list_owners(db: Database, _how: Behaviour, args: Arguments) -> list[Any]:
    if args["vnode"] not in _vnodes(db):
        text = f"vnode {args['vnode']} does not exist on this mdapi instance"
        raise Failure("PostgresError", text)
    statement = f"SELECT DISTINCT owner FROM {_table(args, 'manta_bucket')} ORDER BY owner"
    return [{"owners": [str(owner) for (owner,) in _execute(db, statement)]}]


def _get_gc_batch(db: Database, how: Behaviour, _args: Arguments) -> list[Any]:
    found = list[tuple[int, Row]]()
    for vnode in _vnodes(db):
        table = statements.table(vnode, statements.DELETED)
        limit = BATCH - len(found)
        rows = _execute(db, f"SELECT {_SHOWN} FROM {table} ORDER BY deleted_at LIMIT {limit}")
        found += [(vnode, _object(row)) for row in rows]
    batch_id = str(uuid.uuid4())
    how.garbage[batch_id] = found
    return [{"batch_id": batch_id, "garbage": [row for _, row in found]}]


def _delete_gc_batch(db: Database, how: Behaviour, args: Arguments) -> list[Any]:
    for vnode, row in how.garbage.pop(args["batch_id"], []):
        table = statements.table(vnode, statements.DELETED)
        _execute(db, f"DELETE FROM {table} WHERE {_KEY} AND id = %(id)s", row)
    return ["ok"]


METHODS: Mapping[str, Method] = {
    "createbucket": Method(arguments.BUCKET, _create_bucket, writes=True),
    "getbucket": Method(arguments.BUCKET, _get_bucket),
    "listbuckets": Method(arguments.LIST_BUCKETS, _list_buckets),
    "createobject": Method(arguments.CREATE_OBJECT, _create_object, writes=True),
    "getobject": Method(arguments.OBJECT, _get_object),
    "listobjects": Method(arguments.LIST_OBJECTS, _list_objects),
    "updateobject": Method(arguments.UPDATE_OBJECT, _update_object, writes=True),
    "deleteobject": Method(arguments.OBJECT, _delete_object, writes=True),
    # Its transactions are its own.
    "batchupdateobjects": Method(arguments.BATCH, _update_objects, is_new=True),
    "listvnodes": Method(arguments.REQUEST_ID, _list_vnodes, is_new=True),
    "listowners": Method(arguments.VNODE, _list_owners, is_new=True),
    "getgcbatch": Method(arguments.REQUEST_ID, _get_gc_batch),
    "deletegcbatch": Method(arguments.GC_BATCH, _delete_gc_batch, writes=True),
}
