"""This module makes the bucket objects of a region, rows and files, all decided by its seed."""

import hashlib
import json
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import attrs

from rebalancer.peers.buckets.database import DATABASE
from rebalancer_devregion.buckets.kinds import BucketKind
from rebalancer_devregion.buckets.tables import (
    REGION,
    VNODES,
    begin,
    name_hash,
    path_of,
    running,
    schema_of,
)
from rebalancer_devregion.contents import object_bytes, write_file
from rebalancer_devregion.evidence import open_to_read
from rebalancer_devregion.expectations import Kind
from rebalancer_devregion.layout import Layout, Node
from rebalancer_devregion.postgres import BUCKET_COLUMNS, Connection

#: Bucket objects of each odd kind, rows that were deleted before, and buckets.
EACH_ODD, DELETED, BUCKETS = 2, 4, 4
MAX_BYTES = 64 << 10
_HEADERS = '"m-color"=>"blue", "m-note"=>"a \\"quoted\\" one"'
_ROLES = '{"roles": ["f0000000-0000-4000-8000-00000000000f"]}'


@attrs.frozen
class Row:
    """A row is one of a vnode's objects, with what its files are."""

    kind: BucketKind
    shard: int
    vnode: int
    values: Mapping[str, Any]
    #: The nodes on which its file lies, and the bytes of that.
    nodes: tuple[str, ...]
    content: bytes

    @property
    def path(self) -> str:
        """Return the path of its file."""
        values = self.values
        return path_of(values["owner"], values["bucket_id"], values["id"], values["name"])


class BucketGenerator:
    """A generator makes rows.  Mutable state: the chance."""

    def __init__(self, layout: Layout, known: Sequence[tuple[str, str]]) -> None:
        """Begin; `known` are accounts and ids of objects of the directory tier."""
        self._layout, self._known = layout, known
        self._rng = random.Random(layout.seed + 2)
        self._origin = layout.node(layout.evacuated)
        self._others = [node for node in layout.nodes if node != self._origin]
        self._places = [(n, vnode) for n in layout.buckets for vnode in VNODES[n]]
        self.buckets = [(self._owner(), self._uuid(), f"bucket-{n}") for n in range(BUCKETS)]
        self._serial = 0

    def all(self, ordinary: int) -> Iterator[Row]:
        """Yield `ordinary` ordinary objects of the evacuated node, odd ones, and more."""
        for number in range(ordinary):
            yield from self._make(BucketKind.ORDINARY)
            if number % 2:
                yield from self._make(BucketKind.ELSEWHERE)
        for kind in BucketKind:
            for _ in range(EACH_ODD if kind is not BucketKind.ORDINARY else 0):
                yield from self._make(kind)

    def deleted(self) -> Iterator[Row]:
        """Yield objects that users had deleted before, whose files lie there still."""
        for _ in range(DELETED):
            yield from self._make(BucketKind.ORDINARY)

    def place_of(self, *words: str) -> tuple[int, int]:
        """Return the shard and the vnode of a name, which a digest decides as in the real tier."""
        digest = hashlib.md5(":".join(words).encode(), usedforsecurity=False).digest()
        return self._places[digest[0] % len(self._places)]

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _owner(self) -> str:
        return self._rng.choice(self._known)[0]

    def _nodes(self, kind: BucketKind) -> list[Node]:
        away = [node for node in self._others if node.datacenter != self._origin.datacenter]
        near = [node for node in self._others if node.datacenter == self._origin.datacenter]
        if kind is BucketKind.ELSEWHERE:
            return [self._rng.choice(near), self._rng.choice(away)]
        if kind is BucketKind.SINGLE_COPY:
            return [self._origin]
        nodes = [self._origin, self._rng.choice(away)]
        self._rng.shuffle(nodes)
        return nodes

    def _make(self, kind: BucketKind) -> Iterator[Row]:
        self._serial += 1
        owner, bucket_id, _ = self._rng.choice(self.buckets)
        object_id = self._uuid()
        if kind is BucketKind.SAME_ID:
            owner, object_id = self._rng.choice(self._known)
        elif kind is BucketKind.NO_BUCKET_ROW:
            bucket_id = self._uuid()
        nodes = self._nodes(kind)
        size = min(MAX_BYTES, max(1, int(self._rng.lognormvariate(8, 1.6))))
        if kind in (BucketKind.ZERO_BYTE, BucketKind.ZERO_BYTE_WITH_SHARKS, BucketKind.CORS):
            size = 0
        upload = self._uuid()
        if kind is BucketKind.PART:
            yield self._upload(owner, bucket_id, upload, nodes)
        elif kind is BucketKind.UPLOAD:
            yield self._upload(owner, bucket_id, upload, nodes)
            return
        name = self._name(kind, upload)
        content = object_bytes(object_id, size)
        values: dict[str, Any] = {
            "id": object_id,
            "name": name,
            "owner": owner,
            "bucket_id": bucket_id,
            "content_length": size,
            "content_md5": hashlib.md5(content, usedforsecurity=False).digest(),
            "content_type": "application/octet-stream",
            "headers": _HEADERS,
            "sharks": [f"{node.datacenter}:{node.manta_storage_id}" for node in nodes],
            "properties": _ROLES,
        } | self._oddity(kind, nodes)
        lie_on = tuple(node.manta_storage_id for node in nodes) if values["sharks"] else ()
        if kind is BucketKind.OLD_PART_WITHOUT_FILES:
            lie_on = ()
        yield Row(kind, *self.place_of(owner, bucket_id, name_hash(name)), values, lie_on, content)

    def _name(self, kind: BucketKind, upload: str) -> str:
        name = f"{self._serial:05d}.{kind}"
        return {
            BucketKind.SLASHES: f"/a//b/../{name}/ c/",
            BucketKind.UNICODE: f"d\u00f6c \u2603 \U0001f600 {name}",
            BucketKind.LONG_NAME: f"\u00e9{name}".ljust(1023, "x"),
            BucketKind.PART: f".mpu-parts/{upload}/1",
            BucketKind.OLD_PART: f".mpu-parts/{upload}/1",
            BucketKind.OLD_PART_WITHOUT_FILES: f".mpu-parts/{upload}/1",
            BucketKind.CORS: f".cors-configuration{self._serial}",
        }.get(kind, name)

    def _oddity(self, kind: BucketKind, nodes: Sequence[Node]) -> dict[str, Any]:
        """Return what is odd about a row's columns."""
        evacuated, datacenter = self._layout.evacuated, self._origin.datacenter
        whole = [f"{node.datacenter}:{node.manta_storage_id}" for node in nodes]
        numbers = '{"n": 12345678901234567890, "one": 1.0, "roles": []}'
        odd: Mapping[BucketKind, dict[str, Any]] = {
            BucketKind.EXACT_NUMBERS: {"properties": numbers},
            BucketKind.NULL_HEADER: {"headers": '"m-null"=>NULL'},
            BucketKind.NULL_HEADERS: {"headers": None},
            BucketKind.NULL_PROPERTIES: {"properties": None},
            BucketKind.SECOND_COLON: {"sharks": [f"{shark}:8080" for shark in whole]},
            BucketKind.OTHER_DIGEST: {"content_md5": bytes(16)},
            BucketKind.ODD_DIGEST: {"content_md5": bytes(24)},
            BucketKind.TWICE_ON_EVACUATED: {"sharks": [f"{datacenter}:{evacuated}"] * 2},
            BucketKind.NO_COLON: {"sharks": [evacuated, *whole[1:]]},
            BucketKind.NULL_SHARKS: {"sharks": None},
            BucketKind.ZERO_BYTE: {"sharks": []},
            BucketKind.CORS: {"sharks": [], "content_md5": bytes(24)},
        }
        return odd.get(kind, {})

    def _upload(self, owner: str, bucket_id: str, upload: str, nodes: Sequence[Node]) -> Row:
        """Return the record of an upload that goes on, and was given `nodes`."""
        sharks = json.dumps(
            [{"datacenter": n.datacenter, "manta_storage_id": n.manta_storage_id} for n in nodes]
        )
        name = f".mpu-uploads/{upload}"
        values = {
            "id": self._uuid(),
            "name": name,
            "owner": owner,
            "bucket_id": bucket_id,
            "content_length": 0,
            "content_md5": b"",
            "content_type": "application/json",
            "headers": f'"x-preallocated-sharks"=>{json.dumps(sharks)}, "x-upload-record"=>"{{}}"',
            "sharks": [],
            "properties": None,
        }
        place = self.place_of(owner, bucket_id, name_hash(name))
        return Row(BucketKind.UPLOAD, *place, values, (), b"")


@attrs.frozen
class BucketSummary:
    """A summary says how many bucket objects were made."""

    rows: int
    shards: int
    vnodes: int

    def __str__(self) -> str:
        return (
            f"{self.rows:,} bucket objects in {self.vnodes} vnodes of {self.shards} buckets shards"
        )


def write_buckets(layout: Layout, ordinary: int) -> BucketSummary:
    """Make the buckets tier of a region, whose directory tier there is.  Blocking.

    Raises:
      ProcessError: a PostgreSQL does not start.
    """
    generator = BucketGenerator(layout, _known(layout))
    rows = list(generator.all(ordinary))
    deleted = list(generator.deleted())
    for row in [*rows, *deleted]:
        for node in row.nodes:
            write_file(layout.manta_root(node) / row.path, row.content)
    vnodes = 0
    for number in layout.buckets:
        mine = VNODES[number]
        vnodes += len(mine)
        with running(layout, number) as cluster:
            cluster.create_buckets(mine)
            with closing(cluster.connect(DATABASE)) as db:
                db.execute(REGION.encode())
                for table, made in (("object", rows), ("deleted_object", deleted)):
                    _insert(db, table, [row for row in made if row.shard == number])
                for owner, bucket_id, name in generator.buckets:
                    shard, vnode = generator.place_of(owner, name)
                    if shard == number:
                        statement = f"INSERT INTO {schema_of(vnode)}.manta_bucket VALUES (%s,%s,%s)"
                        db.execute(statement.encode(), [bucket_id, name, owner])
                begin(db, mine)
    return BucketSummary(len(rows), len(layout.buckets), vnodes)


def _known(layout: Layout) -> list[tuple[str, str]]:
    """Return accounts and ids of objects of the directory tier that lie on the evacuated node."""
    with closing(open_to_read(layout.before_file)) as before:
        rows = before.execute(
            "SELECT value ->> 'owner', object_id FROM records WHERE kind = ? AND on_evacuated"
            " ORDER BY object_id LIMIT 100",
            (Kind.ORDINARY,),
        )
        return [(owner, object_id) for owner, object_id in rows]


def _insert(db: Connection, table: str, rows: Sequence[Row]) -> None:
    columns = [name for name in BUCKET_COLUMNS if name not in ("created", "modified")]
    marks = ", ".join(["%s"] * len(columns))
    with db.transaction(), db.cursor() as cursor:
        for row in rows:
            name = f"{schema_of(row.vnode)}.manta_bucket_{table}"
            statement = f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({marks})"
            cursor.execute(statement.encode(), [row.values[column] for column in columns])
        cursor.executemany(
            "INSERT INTO region.files VALUES (%s, %s, %s, %s)",
            [
                (node, row.path, len(row.content), _digest(row.content))
                for row in rows
                for node in row.nodes
            ],
        )
        if table == "object":
            cursor.executemany(
                "INSERT INTO region.kinds VALUES (%s, %s, %s, %s, %s)",
                [
                    (r.vnode, r.kind, r.values["owner"], r.values["bucket_id"], r.values["name"])
                    for r in rows
                ],
            )


def _digest(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
