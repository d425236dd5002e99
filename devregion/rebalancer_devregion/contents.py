"""This module makes what lies in a region, records and files, all decided by its seed.

Most objects on the evacuated node are ordinary; of each odd kind there are a few, because an
evacuation that has met only ordinary objects has been tested on nothing.
"""

import base64
import hashlib
import itertools
import math
import random
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from rebalancer_devregion.before import Before
from rebalancer_devregion.expectations import Kind
from rebalancer_devregion.layout import Layout, Node
from rebalancer_devregion.moray.store import ShardStore
from rebalancer_devregion.storinfo import heartbeat

#: Objects of each odd kind.
EACH_ODD = 6
#: Sizes are log-normal: median in bytes, width, and the largest.
MEDIAN_BYTES, SIGMA, MAX_BYTES = 4096, 1.6, 1 << 20
ACCOUNTS, FOLDERS = 8, 40
_BLOCK = 64 << 10

KINDS_ON_EVACUATED = tuple(
    kind for kind in Kind if kind not in (Kind.ORDINARY, Kind.DIRECTORY, Kind.ELSEWHERE)
)


@attrs.frozen
class File:
    """A file lies on a node; `content` is what its bytes are."""

    node: str
    path: str  # <account>/<object id>
    content: bytes


@attrs.frozen
class Seeded:
    """A seeded record has the files of its object."""

    kind: Kind
    shard: int
    key: str
    record: dict[str, Any]
    files: tuple[File, ...] = ()

    @property
    def object_id(self) -> str:
        """Return the object's id; empty for a directory."""
        return str(self.record.get("objectId", ""))


@attrs.frozen
class Summary:
    """A summary says how much was made."""

    records: int
    files: int
    size: int
    on_evacuated: int

    def __str__(self) -> str:
        return (
            f"{self.records:,} records, {self.files:,} files of {self.size / 1e6:,.1f} MB;"
            f" {self.on_evacuated:,} records mention the node to evacuate"
        )


@cache
def _block() -> bytes:
    return random.Random(0).randbytes(_BLOCK)


def object_bytes(object_id: str, size: int) -> bytes:
    """Return an object's bytes: its id, then a block that all share, from a place of its own."""
    start = int(object_id[:4], 16) % _BLOCK
    block = _block()[start:] + _block()[:start]
    return (object_id.encode() + block * (size // _BLOCK + 1))[:size]


def md5(content: bytes) -> str:
    """Return a digest as records spell it."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


class Generator:
    """A generator makes records, in the order of their ids.  Mutable state: the chance."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rng = random.Random(layout.seed)
        self._accounts = [self._uuid() for _ in range(ACCOUNTS)]
        self._origin = layout.node(layout.evacuated)
        self._others = [n for n in layout.nodes if n != self._origin]
        self._serial = itertools.count(1)

    def all(self, ordinary: int) -> Iterator[Seeded]:
        """Yield `ordinary` ordinary objects of the evacuated node, odd ones, directories, more."""
        yield from self._directories()
        for number in range(ordinary):
            yield from self._make(Kind.ORDINARY)
            if number % 2:
                yield from self._make(Kind.ELSEWHERE)
        for kind in KINDS_ON_EVACUATED:
            for _ in range(EACH_ODD):
                yield from self._make(kind)

    # --- pieces --------------------------------------------------------------------------

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _size(self) -> int:
        return min(MAX_BYTES, max(1, int(self._rng.lognormvariate(math.log(MEDIAN_BYTES), SIGMA))))

    def _shard(self, dirname: str) -> int:
        digest = hashlib.sha256(dirname.encode()).digest()
        return self._layout.shards[digest[0] % len(self._layout.shards)]

    def _in_other_datacenter(self) -> Node:
        return self._rng.choice(
            [n for n in self._others if n.datacenter != self._origin.datacenter]
        )

    def _in_own_datacenter(self) -> Node:
        return self._rng.choice(
            [n for n in self._others if n.datacenter == self._origin.datacenter]
        )

    def _directories(self) -> Iterator[Seeded]:
        for account in self._accounts:
            for number in range(FOLDERS):
                key = f"/{account}/stor/{number:03d}"
                record: dict[str, Any] = {
                    "dirname": f"/{account}/stor",
                    "key": key,
                    "headers": {},
                    "mtime": 1_600_000_000_000,
                    "name": f"{number:03d}",
                    "creator": account,
                    "owner": account,
                    "type": "directory",
                    "vnode": 17,
                }
                yield Seeded(Kind.DIRECTORY, self._shard(record["dirname"]), key, record)

    def _record(self, name: str, nodes: list[Node], size: int) -> dict[str, Any]:
        account = self._rng.choice(self._accounts)
        dirname = f"/{account}/stor/{self._rng.randrange(FOLDERS):03d}"
        object_id = self._uuid()
        return {
            "dirname": dirname,
            "key": f"{dirname}/{name}",
            "headers": {},
            "mtime": 1_600_000_000_000 + self._rng.randrange(10**9),
            "name": name,
            "creator": account,
            "owner": account,
            "roles": [],
            "type": "object",
            "contentLength": size,
            "contentMD5": md5(object_bytes(object_id, size)),
            "contentType": "application/octet-stream",
            "etag": object_id,
            "objectId": object_id,
            "sharks": [_shark(node) for node in nodes],
            "vnode": self._rng.randrange(100_000),
        }

    def _files(self, record: Mapping[str, Any], nodes: list[Node]) -> tuple[File, ...]:
        account = record.get("creator") or record["owner"]
        path = f"{account}/{record['objectId']}"
        content = object_bytes(record["objectId"], int(record["contentLength"]))
        names = dict.fromkeys(node.manta_storage_id for node in nodes)
        return tuple(File(name, path, content) for name in names)

    # --- kinds ---------------------------------------------------------------------------

    def _make(self, kind: Kind) -> Iterator[Seeded]:
        name = f"{next(self._serial):07d}.{kind}"
        nodes = [self._origin, self._in_other_datacenter()]
        self._rng.shuffle(nodes)
        size = self._size()
        special = self._SPECIAL.get(kind)
        if special is not None:
            yield from special(self, kind, name, nodes, size)
            return
        record = self._record(name, nodes, size)
        yield self._seeded(kind, record, self._files(record, nodes))

    def _seeded(self, kind: Kind, record: dict[str, Any], files: tuple[File, ...]) -> Seeded:
        return Seeded(kind, self._shard(record["dirname"]), record["key"], record, files)

    def _elsewhere(self, kind: Kind, name: str, _nodes: list[Node], size: int) -> Iterator[Seeded]:
        nodes = [self._in_own_datacenter(), self._in_other_datacenter()]
        record = self._record(name, nodes, size)
        yield self._seeded(kind, record, self._files(record, nodes))

    def _other_record(
        self, kind: Kind, name: str, nodes: list[Node], size: int
    ) -> Iterator[Seeded]:
        """Return a good object, of which only the record is unusual."""
        if kind is Kind.NON_ASCII_KEY:
            name = f"d\u00f6c \u2603 \U0001f600 {name}"
        elif kind is Kind.QUOTED_KEY:
            name = f'"quoted" \\back\\ {name}'
        record = self._record(name, nodes, size)
        if kind is Kind.EXTRA_FIELDS:
            record |= {"x-unknown": {"deep": [1, 2.5, None, "\u00e9"]}, "upload": None}
            record["sharks"][0]["note"] = "kept"
        elif kind is Kind.NO_CREATOR:
            del record["creator"]
        elif kind is Kind.CREATOR_DIFFERS:
            others = [a for a in self._accounts if a != record["owner"]]
            record["creator"] = self._rng.choice(others)
        yield self._seeded(kind, record, self._files(record, nodes))

    def _other_copies(
        self, kind: Kind, name: str, nodes: list[Node], size: int
    ) -> Iterator[Seeded]:
        """Yield an object that lies at other places than two nodes in two datacenters."""
        if kind in (Kind.SINGLE_COPY, Kind.SINGLE_COPY_MISSING):
            nodes = [self._origin]
        elif kind is Kind.THREE_COPIES:
            nodes = [*nodes, self._in_own_datacenter()]
        elif kind is Kind.SAME_DATACENTER:
            nodes = [self._origin, self._in_own_datacenter()]
        elif kind is Kind.TWICE_ON_EVACUATED:
            nodes = [self._origin, self._origin]
        record = self._record(name, nodes, size)
        missing = kind is Kind.SINGLE_COPY_MISSING
        yield self._seeded(kind, record, () if missing else self._files(record, nodes))

    def _bad_source(self, kind: Kind, name: str, nodes: list[Node], size: int) -> Iterator[Seeded]:
        """Yield an object whose other copy is not what its record says."""
        record = self._record(name, nodes, size + 64)
        files = self._files(record, nodes)
        bad = []
        for file in files:
            if file.node == self._origin.manta_storage_id:
                bad.append(file)
            elif kind is Kind.CORRUPT_ON_SOURCE:
                bad.append(attrs.evolve(file, content=bytes(b ^ 1 for b in file.content)))
            elif kind is Kind.SHORT_ON_SOURCE:
                bad.append(attrs.evolve(file, content=file.content[:-32]))
        if kind is Kind.GONE_SHARK:
            for shark in record["sharks"]:
                if shark["manta_storage_id"] != self._origin.manta_storage_id:
                    shark["manta_storage_id"] = f"999.stor.{self._layout.domain}"
        yield self._seeded(kind, record, tuple(bad))

    def _bad_record(self, kind: Kind, name: str, nodes: list[Node], size: int) -> Iterator[Seeded]:
        """Yield a record that cannot be used, or that the job has no business with."""
        if kind is Kind.NAMED_LIKE_SHARK:
            nodes = [self._in_own_datacenter(), self._in_other_datacenter()]
            record = self._record(self._origin.manta_storage_id, nodes, size)
            record["dirname"] += f"/{name}"
            record["key"] = f"{record['dirname']}/{record['name']}"
            yield self._seeded(kind, record, self._files(record, nodes))
            return
        if kind in (Kind.ZERO_BYTE, Kind.ZERO_BYTE_WITH_SHARKS):
            record = self._record(name, nodes if kind is not Kind.ZERO_BYTE else [], 0)
            yield self._seeded(kind, record, ())
            return
        record = self._record(name, nodes, size)
        files = self._files(record, nodes)
        if kind is Kind.MISSING_SHARKS:
            record["was"] = self._origin.manta_storage_id
            del record["sharks"]
        elif kind is Kind.NO_SHARKS_FIELD:
            del record["sharks"]
        elif kind is Kind.MALFORMED_SHARKS:
            record["sharks"] = {str(i): shark for i, shark in enumerate(record["sharks"])}
        elif kind is Kind.MISSING_MD5:
            del record["contentMD5"]
        elif kind is Kind.CONTENT_LENGTH_STRING:
            record["contentLength"] = str(record["contentLength"])
        yield self._seeded(kind, record, files)

    def _at_destination(
        self, kind: Kind, name: str, nodes: list[Node], size: int
    ) -> Iterator[Seeded]:
        """Return an object of whose name a file lies wherever the copy may go."""
        record = self._record(name, nodes, size)
        files = list(self._files(record, nodes))
        for node in self._others:
            if node not in nodes:
                file = attrs.evolve(files[0], node=node.manta_storage_id)
                if kind is Kind.WRONG_AT_DESTINATION:
                    file = attrs.evolve(file, content=b"left by something else")
                files.append(file)
        yield self._seeded(kind, record, tuple(files))

    def _twice_recorded(
        self, kind: Kind, name: str, nodes: list[Node], size: int
    ) -> Iterator[Seeded]:
        """Yield an object that two records name."""
        record = self._record(name, nodes, size)
        first = self._seeded(kind, record, self._files(record, nodes))
        yield first
        again = dict(record)
        if kind is Kind.SNAPLINK:
            again["name"] = f"link-{name}"
            again["key"] = f"{record['dirname']}/link-{name}"
            yield self._seeded(kind, again, ())
        else:
            others = [n for n in self._layout.shards if n != first.shard]
            yield Seeded(kind, self._rng.choice(others or [first.shard]), first.key, again)

    _SPECIAL: Mapping[
        Kind, Callable[["Generator", Kind, str, list[Node], int], Iterator[Seeded]]
    ] = {
        Kind.ELSEWHERE: _elsewhere,
        **dict.fromkeys((Kind.NON_ASCII_KEY, Kind.QUOTED_KEY, Kind.EXTRA_FIELDS), _other_record),
        **dict.fromkeys((Kind.NO_CREATOR, Kind.CREATOR_DIFFERS), _other_record),
        **dict.fromkeys((Kind.SINGLE_COPY, Kind.SINGLE_COPY_MISSING), _other_copies),
        **dict.fromkeys(
            (Kind.THREE_COPIES, Kind.SAME_DATACENTER, Kind.TWICE_ON_EVACUATED), _other_copies
        ),
        **dict.fromkeys((Kind.MISSING_ON_SOURCE, Kind.CORRUPT_ON_SOURCE), _bad_source),
        **dict.fromkeys((Kind.SHORT_ON_SOURCE, Kind.GONE_SHARK), _bad_source),
        **dict.fromkeys((Kind.MISSING_SHARKS, Kind.MALFORMED_SHARKS), _bad_record),
        **dict.fromkeys((Kind.MISSING_MD5, Kind.CONTENT_LENGTH_STRING), _bad_record),
        **dict.fromkeys((Kind.ZERO_BYTE, Kind.ZERO_BYTE_WITH_SHARKS), _bad_record),
        **dict.fromkeys((Kind.NO_SHARKS_FIELD, Kind.NAMED_LIKE_SHARK), _bad_record),
        **dict.fromkeys((Kind.PRESENT_AT_DESTINATION, Kind.WRONG_AT_DESTINATION), _at_destination),
        **dict.fromkeys((Kind.SNAPLINK, Kind.DUPLICATE_ACROSS_SHARDS), _twice_recorded),
    }


def _shark(node: Node) -> dict[str, str]:
    return {"datacenter": node.datacenter, "manta_storage_id": node.manta_storage_id}


def generate(layout: Layout, ordinary: int) -> Iterator[Seeded]:
    """Return the contents of a region, the same for the same layout and number."""
    return Generator(layout).all(ordinary)


def write(
    layout: Layout, ordinary: int, made: Callable[[int], None] = lambda records: None
) -> Summary:
    """Make records and files of a region in its folder.  Blocking.

    `made` is called with the number of records so far, again and again; what it raises ends this.
    """
    for node in layout.nodes:
        layout.manta_root(node.manta_storage_id).mkdir(parents=True, exist_ok=True)
    totals = {"records": 0, "files": 0, "size": 0}
    with Before.create(layout.before_file) as before, ExitStack() as opened:
        stores = {
            number: opened.enter_context(closing(ShardStore(layout.shard_file(number))))
            for number in layout.shards
        }
        # Before all records, so that clones made of these are newer than the last heartbeat.
        beats = [heartbeat(layout, node.manta_storage_id) for node in layout.nodes]
        stores[layout.shards[0]].seed("manta_storage", [(beat["hostname"], beat) for beat in beats])
        for chunk in _chunks(generate(layout, ordinary), 500):
            made(totals["records"])
            for number, store in stores.items():
                store.seed("manta", [(s.key, s.record) for s in chunk if s.shard == number])
            for seeded in chunk:
                totals["records"] += 1
                for file in seeded.files:
                    write_file(layout.manta_root(file.node) / file.path, file.content)
                    before.add_file(file.node, file.path, len(file.content), md5(file.content))
                    totals["files"] += 1
                    totals["size"] += len(file.content)
        opened.close()

        def kinds() -> Iterator[tuple[int, str, Kind, str]]:
            for chunk in _chunks(generate(layout, ordinary), 500):
                made(totals["records"])
                yield from ((s.shard, s.key, s.kind, s.object_id) for s in chunk)

        on_evacuated = before.take_records(layout, kinds())
    return Summary(**totals, on_evacuated=on_evacuated)


def _chunks(items: Iterator[Seeded], size: int) -> Iterator[list[Seeded]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def write_file(path: Path, content: bytes) -> None:
    """Make a file of a storage node, and its folders if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
