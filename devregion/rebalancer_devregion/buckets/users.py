"""The region's users change bucket objects while a job moves them, as buckets-mdapi does it.

Each change and its note in the shard's journal are one transaction.  Blocking.
"""

import hashlib
import json
import random
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from enum import StrEnum
from typing import Any

import attrs

from rebalancer_devregion.buckets.kinds import BucketKind
from rebalancer_devregion.buckets.tables import connected, path_of, schema_of
from rebalancer_devregion.contents import object_bytes, write_file
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.postgres import BUCKET_COLUMNS, Connection


class Change(StrEnum):
    """A change is what a user does to a bucket object."""

    TOUCH = "touch"  # new headers and properties
    OVERWRITE = "overwrite"
    DELETE = "delete"
    RECREATE = "recreate"


@attrs.frozen
class Victim:
    """A victim is a row that a user changes, by its primary key."""

    shard: int
    vnode: int
    owner: str
    bucket_id: str
    name: str

    @property
    def key(self) -> list[str]:
        """Return the values of the primary key."""
        return [self.owner, self.bucket_id, self.name]


_KEY = "owner = %s AND bucket_id = %s AND name = %s"
_COLUMNS = ", ".join(BUCKET_COLUMNS)


def change_rows(layout: Layout, share: float, pause_s: float) -> dict[str, int]:
    """Change `share` of the ordinary rows on the evacuated node, one every `pause_s`.

    Returns how many changes of each kind there were.
    """
    rng = random.Random(layout.seed + 3)
    counts = dict.fromkeys(map(str, Change), 0)
    with ExitStack() as stack:
        shards = {n: stack.enter_context(connected(layout, n)) for n in layout.buckets}
        victims = [victim for n, db in shards.items() for victim in _victims(n, db)]
        chosen = rng.sample(victims, max(len(Change), round(len(victims) * share)))
        for turn, victim in enumerate(chosen):
            kind = tuple(Change)[turn % len(Change)]
            _User(layout, shards[victim.shard], rng).change(victim, kind)
            counts[kind] += 1
            time.sleep(pause_s)
    return counts


def _victims(number: int, db: Connection) -> list[Victim]:
    rows = db.execute(
        "SELECT vnode, owner::text, bucket_id::text, name FROM region.kinds WHERE kind = %s"
        " ORDER BY name",
        [BucketKind.ORDINARY],
    )
    return [Victim(number, *row) for row in rows]


@attrs.frozen
class _User:
    """A user changes objects of one shard."""

    layout: Layout
    db: Connection
    rng: random.Random

    def change(self, victim: Victim, kind: Change) -> None:
        """Change one object, and note what it was and is."""
        table = f"{schema_of(victim.vnode)}.manta_bucket_object"
        with self.db.transaction():
            replaced = self._row(
                f"SELECT to_jsonb(o) FROM {table} o WHERE {_KEY} FOR UPDATE", victim
            )
            if kind in (Change.OVERWRITE, Change.DELETE, Change.RECREATE):
                self._to_deleted(victim)
            if kind in (Change.DELETE, Change.RECREATE):
                self.db.execute(f"DELETE FROM {table} WHERE {_KEY}".encode(), victim.key)
            if kind in (Change.OVERWRITE, Change.RECREATE):
                self._create(table, victim)
            if kind is Change.TOUCH:
                self._touch(table, victim)
            now = self._row(f"SELECT to_jsonb(o) FROM {table} o WHERE {_KEY}", victim)
            self.db.execute(
                "INSERT INTO region.changes (vnode, kind, owner, bucket_id, name, replaced, now)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s)",
                [victim.vnode, kind, *victim.key, replaced, now],
            )

    def _row(self, statement: str, victim: Victim) -> str | None:
        # As a text: a number keeps its digits.
        text = statement.replace("to_jsonb(o)", "to_jsonb(o)::text")
        row = self.db.execute(text.encode(), victim.key).fetchone()
        return None if row is None else str(row[0])

    def _to_deleted(self, victim: Victim) -> None:
        schema = schema_of(victim.vnode)
        self.db.execute(
            f"INSERT INTO {schema}.manta_bucket_deleted_object ({_COLUMNS})"
            f" SELECT {_COLUMNS} FROM {schema}.manta_bucket_object WHERE {_KEY}".encode(),
            victim.key,
        )

    def _touch(self, table: str, victim: Victim) -> None:
        """Give an object other headers and properties, as `updateobject` does."""
        self.db.execute(
            f"UPDATE {table} SET content_type = %s, headers = hstore('m-touched', %s),"
            f" properties = %s, modified = clock_timestamp() WHERE {_KEY}".encode(),
            [
                "text/touched",
                str(self.rng.random()),
                self._roles(),
                *victim.key,
            ],
        )

    def _create(self, table: str, victim: Victim) -> None:
        """Write a new object over an old one or none, on nodes that take writes."""
        object_id = self._uuid()
        content = object_bytes(object_id, self.rng.randrange(1, 5000))
        digest = hashlib.md5(content, usedforsecurity=False)
        path = path_of(victim.owner, victim.bucket_id, object_id, victim.name)
        sharks = []
        for node in self._nodes():
            write_file(self.layout.manta_root(node.manta_storage_id) / path, content)
            sharks.append(f"{node.datacenter}:{node.manta_storage_id}")
            self.db.execute(
                "INSERT INTO region.files VALUES (%s, %s, %s, %s)",
                [node.manta_storage_id, path, len(content), digest.hexdigest()],
            )
        values: Sequence[Any] = [
            *(object_id, victim.name, victim.owner, victim.bucket_id),
            *(len(content), digest.digest(), "text/new", sharks, self._roles()),
        ]
        self.db.execute(
            f"INSERT INTO {table} (id, name, owner, bucket_id, content_length, content_md5,"
            " content_type, sharks, properties, headers)"
            ' VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, \'"m-new"=>"1"\')'
            " ON CONFLICT (owner, bucket_id, name) DO UPDATE SET (id, created, modified,"
            " content_length, content_md5, content_type, sharks, properties, headers)"
            " = (excluded.id, clock_timestamp(), clock_timestamp(), excluded.content_length,"
            " excluded.content_md5, excluded.content_type, excluded.sharks, excluded.properties,"
            " excluded.headers)".encode(),
            values,
        )

    def _nodes(self) -> list[Any]:
        taking = [n for n in self.layout.nodes if n.manta_storage_id != self.layout.evacuated]
        return self.rng.sample(taking, 2)

    def _roles(self) -> str:
        return json.dumps({"roles": [self._uuid()]})

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
