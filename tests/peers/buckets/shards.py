"""A real PostgreSQL with a shard of the buckets tier, and rows of every kind there."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg

from rebalancer.domain.bucket_objects import BucketKey
from rebalancer.peers.buckets.database import DATABASE
from rebalancer_devregion.postgres import Cluster

NODE, OTHER = "1.stor.lab", "2.stor.lab"
OWNER = "a0000000-0000-4000-8000-000000000001"
BUCKET = "b0000000-0000-4000-8000-000000000001"
SHARKS = (f"dc1:{NODE}", f"dc2:{OTHER}")


def object_id(number: int) -> str:
    return f"c0000000-0000-4000-8000-{number:012x}"


def key_of(name: str, vnode: int = 7) -> BucketKey:
    return BucketKey(vnode, OWNER, BUCKET, name)


@contextmanager
def connected(cluster: Cluster) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with closing(cluster.connect(DATABASE)) as db:
        yield db


VNODES = (0, 7, 12)


def clear(db: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Leave a shard as it was made, with the empty tables of `VNODES`."""
    found = db.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ 'manta_bucket'").fetchall()
    kept = {f"manta_bucket_{vnode}" for vnode in VNODES}
    for (schema,) in found:
        if schema not in kept:
            db.execute(f'DROP SCHEMA "{schema}" CASCADE'.encode())
    for schema in kept:
        for table in ("manta_bucket_object", "manta_bucket_deleted_object"):
            db.execute(f"DELETE FROM {schema}.{table}".encode())
    db.execute(f"ALTER DATABASE {DATABASE} RESET ALL".encode())


def insert(
    db: psycopg.Connection[tuple[Any, ...]],
    name: str,
    number: int = 1,
    *,
    vnode: int = 7,
    owner: str = OWNER,
    bucket_id: str = BUCKET,
    headers: str | None = '"m-a"=>"b"',
    sharks: Sequence[Any] | None = SHARKS,
    properties: str | None = '{"roles": ["r"]}',
    md5: bytes = b"0123456789abcdef",
    size: int = 5,
    table: str = "manta_bucket_object",
) -> None:
    """Add a row as a user's write makes it, over another of its name."""
    db.execute(
        f"DELETE FROM manta_bucket_{vnode}.{table}"
        " WHERE owner = %s AND bucket_id = %s AND name = %s AND id = %s".encode(),
        [owner, bucket_id, name, object_id(number)],
    )
    conflict = ""
    if table == "manta_bucket_object":
        conflict = (
            " ON CONFLICT (owner, bucket_id, name) DO UPDATE SET id = excluded.id,"
            " headers = excluded.headers, sharks = excluded.sharks, modified = now()"
        )
    db.execute(
        f"INSERT INTO manta_bucket_{vnode}.{table} (id, name, owner, bucket_id, content_length,"
        " content_md5, content_type, headers, sharks, properties)"
        f" VALUES (%s, %s, %s, %s, %s, %s, 'text/plain', %s, %s, %s){conflict}".encode(),
        [
            object_id(number),
            name,
            owner,
            bucket_id,
            size,
            md5,
            headers,
            None if sharks is None else list(sharks),
            properties,
        ],
    )


def row_of(
    db: psycopg.Connection[tuple[Any, ...]], name: str, vnode: int = 7
) -> tuple[Any, ...] | None:
    """Id, sharks, headers, properties, and whether it was ever modified, of one row."""
    return db.execute(
        "SELECT id::text, sharks, hstore_to_json(headers)::text, properties::text,"
        " modified = created"
        f" FROM manta_bucket_{vnode}.manta_bucket_object WHERE name = %s".encode(),
        [name],
    ).fetchone()


def deleted_rows(db: psycopg.Connection[tuple[Any, ...]], vnode: int = 7) -> int:
    """How many files garbage collection is to delete."""
    statement = f"SELECT count(*) FROM manta_bucket_{vnode}.manta_bucket_deleted_object"
    (count,) = db.execute(statement.encode()).fetchone() or (0,)
    return int(count)


def upload_headers(*nodes: str) -> str:
    """The headers of a record of an upload, as hstore reads them."""
    sharks = json.dumps([{"datacenter": "dc1", "manta_storage_id": node} for node in nodes])
    return f'"x-preallocated-sharks"=>{json.dumps(sharks)}, "x-upload-record"=>"{{}}"'
