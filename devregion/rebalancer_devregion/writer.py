"""The region's users change objects while a job moves them, and keep a journal of it.

Each change is conditional on the record as it was read, as the real front end's are.
"""

import json
import random
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.errors import PeerRefused
from rebalancer.peers.metadata import Record
from rebalancer.peers.moray.client import MorayClient, open_moray
from rebalancer.peers.moray.errors import MorayError
from rebalancer.sqlite import closed_on_failure
from rebalancer_devregion.contents import md5, object_bytes, write_file
from rebalancer_devregion.expectations import Kind
from rebalancer_devregion.layout import Layout

BUCKET = "manta"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS changes (
    shard INTEGER NOT NULL, key TEXT NOT NULL, kind TEXT NOT NULL, object_id TEXT NOT NULL,
    replaced TEXT NOT NULL, value TEXT, etag TEXT, at REAL NOT NULL, PRIMARY KEY (shard, key)
);
CREATE TABLE IF NOT EXISTS files (
    node TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER NOT NULL, md5 TEXT NOT NULL
);
"""


class Change(StrEnum):
    """A change is what a user does to an object, or the front end behind the job's back."""

    TOUCH = "touch"
    OVERWRITE = "overwrite"
    DELETE = "delete"
    RECREATE = "recreate"
    STALE = "stale"  # an old record was put back, with other headers
    LATE = "late"  # an object of an upload that began long ago
    OPEN = "open"  # the directory of an upload that goes on


#: What users do, in equal parts.
BY_USERS = (Change.TOUCH, Change.OVERWRITE, Change.DELETE, Change.RECREATE)
#: After these the object that a record named is not the job's business any more.
REPLACING = (Change.OVERWRITE, Change.DELETE, Change.RECREATE)
#: Records that users leave to the front end.
STALE_RECORDS = 8


@attrs.frozen
class Changed:
    """An entry of the journal has the record that was replaced, if any, and what replaced it."""

    shard: int
    key: str
    kind: Change
    object_id: str
    replaced: dict[str, Any]
    #: None after a delete.
    value: dict[str, Any] | None
    etag: str | None
    #: In seconds of the epoch: it was done by then.
    at: float = attrs.field(factory=time.time)


@attrs.frozen
class Victim:
    """A victim is a record as it was before the job."""

    shard: int
    key: str
    value: dict[str, Any]


class Journal:
    """A journal has what users did to a region.  Blocking."""

    def __init__(self, path: Path) -> None:
        with closed_on_failure(sqlite3.connect(path, isolation_level=None)) as self._db:
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def add(self, change: Changed) -> None:
        """Note what was done."""
        values = attrs.asdict(change)
        values["replaced"] = json.dumps(change.replaced)
        values["value"] = None if change.value is None else json.dumps(change.value)
        self._db.execute("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [*values.values()])

    def add_file(self, node: str, path: str, content: bytes) -> None:
        """Note a file that a user made."""
        self._db.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?)", (node, path, len(content), md5(content))
        )


def read_journal(
    path: Path,
) -> tuple[dict[tuple[int, str], Changed], list[tuple[str, str, int, str]]]:
    """Return the changes by shard and key, and the files of users; nothing without a journal."""
    if not path.exists():
        return {}, []
    with closing(sqlite3.connect(path)) as db:
        changes = {}
        for shard, key, kind, object_id, replaced, value, etag, at in db.execute(
            "SELECT * FROM changes"
        ):
            now = None if value is None else json.loads(value)
            changes[shard, key] = Changed(
                shard, key, Change(kind), object_id, json.loads(replaced), now, etag, at
            )
        return changes, db.execute("SELECT * FROM files").fetchall()


async def change_objects(layout: Layout, share: float, pause_s: float) -> None:
    """Change `share` of the ordinary objects on the evacuated node, one every `pause_s`.

    Not to be cancelled: a change that was made and is not in the journal breaks the audit.

    Raises:
      PeerError: a shard did not answer.
    """
    rng = random.Random(layout.seed)
    victims = _victims(layout)
    chosen = rng.sample(victims[STALE_RECORDS:], round(len(victims) * share))
    names = {number: layout.moray_host(number) for number in layout.shards}
    with closing(Journal(layout.journal_file)) as journal:
        async with open_moray(names, layout.hosts, connections=2) as shards:
            for turn, victim in enumerate(chosen):
                user = _User(layout, shards[victim.shard], victim.shard, journal, rng)
                await user.insist(victim.key, BY_USERS[turn % len(BY_USERS)])
                await trio.sleep(pause_s)


def stale_victims(layout: Layout) -> list[Victim]:
    """Return the records that the front end puts back: the first that a job moves.  Blocking."""
    return _victims(layout)[:STALE_RECORDS]


def _victims(layout: Layout) -> list[Victim]:
    """Return the ordinary objects on the evacuated node, in the order in which they were made."""
    with closing(sqlite3.connect(layout.before_file)) as db:
        rows = db.execute(
            "SELECT shard, key, value FROM records WHERE kind = ? AND on_evacuated",
            (Kind.ORDINARY,),
        )
        victims = [Victim(shard, key, json.loads(value)) for shard, key, value in rows]
    # Names begin with a number that counts.
    return sorted(victims, key=lambda victim: str(victim.value["name"]))


@attrs.frozen
class _User:
    """A user changes objects of one shard."""

    layout: Layout
    moray: MorayClient
    shard: int
    journal: Journal
    rng: random.Random

    async def insist(self, key: str, kind: Change) -> None:
        """Change one object, reading it again whenever somebody was quicker."""
        changed = False
        while not changed:
            changed = await self._change(key, kind)

    async def _change(self, key: str, kind: Change) -> bool:
        """Change an object; return False if somebody was quicker."""
        known = await self.moray.get_object(BUCKET, key)
        if known is None:
            raise PeerRefused(f"{key} is gone, and no user deleted it")
        try:
            value, etag = await self._apply(known, kind)
        except MorayError as exc:
            if exc.is_conflict:
                return False
            raise
        object_id = known.value["objectId"]
        self.journal.add(Changed(self.shard, key, kind, object_id, known.value, value, etag))
        return True

    async def _apply(self, known: Record, kind: Change) -> tuple[dict[str, Any] | None, str | None]:
        key = known.key
        match kind:
            case Change.TOUCH:
                value = {**known.value, "headers": {"m-touched": str(self.rng.random())}}
                return value, await self.moray.put_object(BUCKET, key, value, known.etag)
            case Change.OVERWRITE:
                value = self._new_version(known.value)
                return value, await self.moray.put_object(BUCKET, key, value, known.etag)
            case Change.DELETE:
                await self.moray.delete_object(BUCKET, key, known.etag)
                return None, None
            case Change.RECREATE:
                value = self._new_version(known.value)
                await self.moray.delete_object(BUCKET, key, known.etag)
                return value, await self.moray.put_object(BUCKET, key, value, None)
        raise ValueError(f"users do not {kind}")

    def _new_version(self, old: Mapping[str, Any]) -> dict[str, Any]:
        """Return a new upload, which the front end puts on nodes that are not read-only."""
        object_id = f"{self.rng.getrandbits(32):08x}-0000-4000-8000-{self.rng.getrandbits(48):012x}"
        content = object_bytes(object_id, self.rng.randrange(1, 5000))
        open_nodes = [n for n in self.layout.nodes if n.manta_storage_id != self.layout.evacuated]
        nodes = self.rng.sample(open_nodes, 2)
        path = f"{old['creator']}/{object_id}"
        for node in nodes:
            write_file(self.layout.manta_root(node.manta_storage_id) / path, content)
            self.journal.add_file(node.manta_storage_id, path, content)
        sharks = [
            {"datacenter": node.datacenter, "manta_storage_id": node.manta_storage_id}
            for node in nodes
        ]
        return {
            **old,
            "objectId": object_id,
            "etag": object_id,
            "contentLength": len(content),
            "contentMD5": md5(content),
            "sharks": sharks,
        }
