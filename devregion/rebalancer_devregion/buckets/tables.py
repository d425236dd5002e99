"""This module has the tables of a shard of the buckets tier: those of Manta, and the region's own.

The region's are a schema beside the vnodes, so that what a user did and its note are one
transaction: the rows as they were made, the changes of users, each row that ever came to be
deleted, the files of users, and what the garbage collector removed.  Blocking.
"""

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext

from rebalancer.peers.buckets.database import DATABASE
from rebalancer_devregion.layout import POSTGRES_PORT, Layout
from rebalancer_devregion.postgres import Cluster, Connection
from rebalancer_devregion.processes import find_program

#: The shards of a buckets tier, and the vnodes of each.
SHARDS = (1, 2)
VNODES = {1: (0, 7, 12), 2: (3, 40, 1041)}
#: Without these programs there is no buckets tier.
PROGRAMS = ("initdb", "postgres")

REGION = """
CREATE SCHEMA region;
CREATE TABLE region.kinds (
    vnode bigint, kind text, owner uuid, bucket_id uuid, name text,
    PRIMARY KEY (vnode, owner, bucket_id, name)
);
CREATE TABLE region.before (vnode bigint, kind text, row jsonb);
CREATE TABLE region.changes (
    number bigserial, vnode bigint, kind text, owner uuid, bucket_id uuid, name text,
    replaced jsonb, now jsonb
);
CREATE TABLE region.deletions (vnode bigint, row jsonb);
CREATE TABLE region.files (
    node text, path text, bytes bigint, md5 text, PRIMARY KEY (node, path)
);
CREATE TABLE region.collected (node text, path text);
CREATE FUNCTION region.note_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO region.deletions VALUES (substr(TG_TABLE_SCHEMA, 14)::bigint, to_jsonb(new));
    RETURN NULL;
END $$;
"""
_TRIGGER = """
CREATE TRIGGER region AFTER INSERT ON {schema}.manta_bucket_deleted_object
    FOR EACH ROW EXECUTE FUNCTION region.note_deletion()
"""
_BEFORE = """
INSERT INTO region.before
    SELECT vnode, kind, to_jsonb(o) FROM {schema}.manta_bucket_object o
    JOIN region.kinds k USING (owner, bucket_id, name) WHERE k.vnode = {vnode}
"""


def shortage() -> str | None:
    """Return why this machine can have no buckets tier, or None if it can."""
    absent = [name for name in PROGRAMS if find_program(name) is None]
    return f"PostgreSQL's {' and '.join(absent)} are not installed" if absent else None


def cluster_of(layout: Layout, number: int) -> Cluster:
    """Return the PostgreSQL of a buckets shard, which may run or not."""
    folder, address = layout.buckets_folder(number), layout.buckets_address(number)
    return Cluster(folder, address, POSTGRES_PORT)


@contextmanager
def running(layout: Layout, number: int) -> Iterator[Cluster]:
    """Run the PostgreSQL of a buckets shard.

    Raises:
      ProcessError: it does not start.
    """
    cluster = cluster_of(layout, number)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def connected(layout: Layout, number: int) -> Iterator[Connection]:
    """Connect to the database of a buckets shard, each statement a transaction.

    One that does not run is started meanwhile, so that a region can be looked at afterwards.
    """
    cluster = cluster_of(layout, number)
    with (
        nullcontext() if cluster.is_running else running(layout, number),
        closing(cluster.connect(DATABASE)) as db,
    ):
        yield db


def schema_of(vnode: int) -> str:
    """Return the schema of a vnode."""
    return f"manta_bucket_{vnode:d}"


def begin(db: Connection, vnodes: tuple[int, ...]) -> None:
    """Take the rows of a shard for those of before, and watch from now on what is deleted."""
    for vnode in vnodes:
        db.execute(_BEFORE.format(schema=schema_of(vnode), vnode=vnode).encode())
        db.execute(_TRIGGER.format(schema=schema_of(vnode)).encode())
    db.execute("ANALYZE")


def path_of(owner: str, bucket_id: str, object_id: str, name: str) -> str:
    """Return the path of a copy of a bucket object below the root of its storage node."""
    return f"v2/{owner}/{bucket_id}/{object_id[:2]}/{object_id},{name_hash(name)}"


def name_hash(name: str) -> str:
    """Return the digest of an object's name as paths have it."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
