"""A small region for verify jobs: records in shards' files, copies on real web servers."""

import base64
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import trio

from rebalancer.actions.verify import VerifyParams
from rebalancer.config import ManagerConfig, Options
from rebalancer.manager.actions.verify.job import VerifyJob
from rebalancer.manager.store.job_store import JobStore, open_store
from rebalancer.peers import scan
from rebalancer.peers.http import open_http
from rebalancer.waits import Waits
from rebalancer_devregion.storagenode import serve_node
from tests.inline import inline
from tests.manager.world import World, make_world, object_id, record

NODES = tuple(f"{number}.stor.lab" for number in range(1, 7))
OWNER = object_id(0)


def content(number: int) -> bytes:
    return b"object %d; " % number * number


def good_record(number: int, **fields: Any) -> dict[str, Any]:
    """A record of an object whose content is `content(number)`."""
    body = content(number)
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    return record(number, **{"contentLength": len(body), "contentMD5": md5, **fields})


@attrs.define(eq=False)
class Region:
    """Shards and storage nodes below one folder; `hosts` says where the nodes listen.

    `storage_port` is the port that the manager's configuration has for nodes listed without one.
    """

    world: World
    hosts: dict[str, str]
    storage_port: int = 80

    def copy(self, number: int, node: str) -> Path:
        return self.world.folder / "nodes" / node / OWNER / object_id(number)

    def put(self, made: Mapping[str, Any], shard: int) -> None:
        """Write a record, as a user does."""
        self.world.shards[shard].put("manta", made["key"], made)

    def shard_of(self, number: int) -> int:
        key = f"/account/stor/{number}"
        return next(int(r["_shard"]) for r in self.world.records() if r["key"] == key)

    @property
    def config(self) -> ManagerConfig:
        return attrs.evolve(
            self.world.config,
            options=Options(md_read_chunk_size=5),
            storage_port=self.storage_port,
        )

    @asynccontextmanager
    async def job(
        self, *, name: str = "verify", retry_of: str | None = None, **params: Any
    ) -> AsyncIterator[tuple[VerifyJob, JobStore]]:
        """A verify job on the folder's file, as a manager that has just started makes it."""
        given = {**attrs.asdict(VerifyParams(**params)), "retry_of": retry_of}
        config = self.config
        async with (
            open_http(self.hosts) as http,
            open_store(self.world.folder / f"{name}.sqlite", run=inline) as store,
        ):
            store.database._writer.execute("PRAGMA synchronous=OFF")
            yield (
                VerifyJob(
                    params=given,
                    config=config,
                    store=store,
                    live=cast(
                        Mapping[int, scan.Scannable], {**self.world.moray, **self.world.buckets}
                    ),
                    http=http,
                    waits=Waits(),
                    file=lambda name: self.world.folder / f"{name}.sqlite",
                ),
                store,
            )


def lay_out(folder: Path, records: Sequence[dict[str, Any]]) -> None:
    """Write the copies that `records` name, each with its content."""
    for made in records:
        number = int(made["objectId"][-12:])
        for shark in made["sharks"]:
            path = folder / "nodes" / shark["manta_storage_id"] / OWNER / made["objectId"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content(number))


@asynccontextmanager
async def open_region(folder: Path, records: Sequence[dict[str, Any]]) -> AsyncIterator[Region]:
    """A region of `records` with all of their copies."""
    world = make_world(folder, records)
    lay_out(folder, records)
    async with AsyncExitStack() as stack:
        stack.callback(world.close)
        nursery = await stack.enter_async_context(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        hosts = {}
        for node in NODES:
            root = folder / "nodes" / node
            root.mkdir(parents=True, exist_ok=True)
            _, port = await nursery.start(serve_node, root, "127.0.0.1", 0)
            hosts[node] = f"127.0.0.1:{port}"
        yield Region(world, hosts)
