"""An embedded buckets-mdapi in a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from rebalancer.peers.buckets.mdapi import MdapiClient, open_mdapi
from rebalancer.peers.moray.fast import Message, Status, encode
from rebalancer_devregion.buckets.methods import Behaviour
from rebalancer_devregion.buckets.server import POOL, MdapiServer
from rebalancer_devregion.postgres import Cluster
from tests.devregion.moray.shards import converse
from tests.peers.buckets.servers import NAME
from tests.peers.buckets.shards import connected

WAIT_S = 60


@attrs.frozen
class Mdapi:
    server: MdapiServer
    address: tuple[str, int]

    async def call(self, method: str, **args: Any) -> list[Any]:
        """The rows of an answer, or what an ERROR has."""
        *rows, last = await converse(self.address, request(method, **args))
        return [last.data] if last.status is Status.ERROR else [row.data[0] for row in rows]


def request(method: str, **args: Any) -> bytes:
    every = {"request_id": "f0000000-0000-4000-8000-00000000000f", **args}
    return encode(Message(1, Status.DATA, method, [every], uts=1))


@asynccontextmanager
async def an_mdapi(
    cluster: Cluster, behaviour: Behaviour | None = None, pool: int = POOL
) -> AsyncIterator[Mdapi]:
    server = MdapiServer(cluster.address, behaviour or Behaviour(), pool)
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.serve, "127.0.0.1", 0)
        yield Mdapi(server, address)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client_of(mdapi: Mdapi) -> AsyncIterator[MdapiClient]:
    host, port = mdapi.address
    async with open_mdapi({1: NAME}, {NAME: f"{host}:{port}"}) as clients:
        yield clients[1]


async def until_waiting(cluster: Cluster, count: int = 1) -> None:
    """Return when so many statements wait for locked rows."""
    with connected(cluster) as db, trio.fail_after(WAIT_S):
        while waiting(db) < count:  # noqa: ASYNC110 - in another process
            await trio.sleep(0.005)


def waiting(db: Any) -> int:
    statement = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    return int(db.execute(statement).fetchone()[0])
