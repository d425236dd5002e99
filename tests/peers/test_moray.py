"""The client against the embedded server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from rebalancer.domain.completeness import Reached
from rebalancer.errors import PeerUnreachable
from rebalancer.peers import scan
from rebalancer.peers.metadata import Put
from rebalancer.peers.moray.client import MorayClient, open_moray
from rebalancer.peers.moray.errors import MorayError
from rebalancer_devregion.moray.server import ShardServer
from rebalancer_devregion.moray.store import ShardStore

KEY = "/1f4c8a90-6d2b-4c51-9c1e-0a7d5b8e2f11/stor/logs/2020/a.log"


@attrs.frozen
class Shard:
    server: ShardServer
    client: MorayClient
    address: tuple[str, int]


@asynccontextmanager
async def a_shard(path: Path, connections: int = 2) -> AsyncIterator[Shard]:
    store = ShardStore(path / "1.sqlite")
    server = ShardServer(store)
    try:
        async with trio.open_nursery() as nursery:
            host, port = await nursery.start(server.serve, "127.0.0.1", 0)
            hosts = {"1.moray.lab": f"{host}:{port}"}
            async with open_moray({1: "1.moray.lab"}, hosts, connections=connections) as clients:
                yield Shard(server, clients[1], (host, port))
            nursery.cancel_scope.cancel()
    finally:
        store.close()


def value(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "name": "a.log", "vnode": 5, **fields}


@pytest.mark.row("CRIT-3")
async def test_put_get_and_the_three_conditions(tmp_path: Path) -> None:
    """null: there must be none; a string: it must be that one; the conflict tells both."""
    async with a_shard(tmp_path) as shard:
        etag = await shard.client.put_object("manta", KEY, value(), None)
        record = await shard.client.get_object("manta", KEY)
        assert record is not None
        assert (record.value, record.etag) == (value(), etag)
        with pytest.raises(MorayError) as caught:
            await shard.client.put_object("manta", KEY, value(), None)
        assert caught.value.is_conflict
        assert caught.value.context["actual"] == etag
        with pytest.raises(MorayError) as caught:
            await shard.client.put_object("manta", KEY, value(x=1), "DEADBEEF")
        assert caught.value.conflicting_key == KEY
        assert await shard.client.put_object("manta", KEY, value(x=1), etag) != etag


async def test_a_missing_record_is_none(tmp_path: Path) -> None:
    """Deleted is an answer, not an error."""
    async with a_shard(tmp_path) as shard:
        assert await shard.client.get_object("manta", "/nobody") is None


@pytest.mark.row("CRIT-3")
async def test_a_batch_is_all_or_nothing(tmp_path: Path) -> None:
    """One stale member rolls all back, and its key is named."""
    async with a_shard(tmp_path) as shard:
        one = await shard.client.put_object("manta", "/1", value(), None)
        await shard.client.put_object("manta", "/2", value(), None)
        puts = [
            Put("manta", "/1", value(n=1), one),
            Put("manta", "/2", value(n=2), "00000000"),
        ]
        with pytest.raises(MorayError) as caught:
            await shard.client.batch(puts)
        assert caught.value.conflicting_key == "/2"
        first = await shard.client.get_object("manta", "/1")
        assert first is not None
        assert first.etag == one


@pytest.mark.row("CRIT-3")
async def test_find_sorts_and_limits(tmp_path: Path) -> None:
    """In order of `_id`, no more than asked for."""
    async with a_shard(tmp_path) as shard:
        for number in range(5):
            await shard.client.put_object("manta", f"/{number}", value(), None)
        found = await shard.client.find_objects("manta", "(type=object)", 3)
        assert [record.key for record in found] == ["/0", "/1", "/2"]


@pytest.mark.row("CRIT-3")
async def test_scanning_windows_finds_exactly_the_mentions(tmp_path: Path) -> None:
    """Windows cover every id once; the filter is on whole strings."""
    async with a_shard(tmp_path) as shard:
        for number in range(10):
            name = "1.stor.lab" if number % 3 == 0 else "11.stor.lab"
            sharks = [{"datacenter": "d", "manta_storage_id": name}]
            await shard.client.put_object("manta", f"/{number}", value(sharks=sharks), None)
        records = shard.client.records()
        assert await records.parts() == ("_id", scan.NO_ID)
        done = await records.end_of("_id")
        assert done == Reached(0, 10)
        found = []
        while not done.is_end:
            done, rows = await records.window("_id", done, 3, "1.stor.lab")
            found += rows
        assert [row.key for row in found] == ["/0", "/3", "/6", "/9"]


async def test_an_empty_table_has_last_id_zero(tmp_path: Path) -> None:
    """max of nothing is null, not a crash."""
    async with a_shard(tmp_path) as shard:
        assert (await shard.client.records().end_of("_id")).is_end


@pytest.mark.row("CRIT-3")
async def test_many_requests_share_one_connection(tmp_path: Path) -> None:
    """Answers find their requests, whatever the order they come in."""
    async with a_shard(tmp_path, connections=1) as shard:
        await shard.client.put_object("manta", "/x", value(), None)
        late = trio.Event()

        async def first_waits(method: str, args: list[Any]) -> None:
            if args[1] == "/slow":
                await late.wait()

        shard.server.before_reply = first_waits
        got: list[str] = []

        async def get(key: str) -> None:
            await shard.client.get_object("manta", key)
            got.append(key)

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(get, "/slow")
                await trio.testing.wait_all_tasks_blocked(0.01)
                for _ in range(20):
                    nursery.start_soon(get, "/x")
                while len(got) < 20:  # noqa: ASYNC110 - deadline above
                    await trio.sleep(0.001)
                late.set()
        assert got[-1] == "/slow"


async def test_a_cancelled_request_leaves_the_connection_usable(tmp_path: Path) -> None:
    """Giving up on an answer harms neither the server nor the other requests."""
    async with a_shard(tmp_path, connections=1) as shard:
        never = trio.Event()

        async def wait(method: str, args: list[Any]) -> None:
            if args[1] == "/never":
                await never.wait()

        shard.server.before_reply = wait
        with trio.move_on_after(0.05) as scope:
            await shard.client.get_object("manta", "/never")
        assert scope.cancelled_caught
        assert await shard.client.get_object("manta", "/other") is None
        never.set()
        assert await shard.client.get_object("manta", "/other") is None


async def test_a_server_that_goes_away_fails_all_requests(tmp_path: Path) -> None:
    """Nobody waits for an answer that cannot come; the next call connects anew."""
    async with a_shard(tmp_path, connections=1) as shard:

        async def reset(method: str, args: list[Any]) -> None:
            raise trio.BrokenResourceError  # as if the process had died

        shard.server.before_reply = reset
        with trio.fail_after(5), pytest.raises(PeerUnreachable):
            await shard.client.get_object("manta", "/x")
        with trio.fail_after(5), pytest.raises(PeerUnreachable):
            await shard.client.get_object("manta", "/x")


async def test_a_shard_that_is_down_is_told() -> None:
    """Refused connections are an error of the peer with its name and address."""
    async with open_moray({1: "1.moray.lab"}, {"1.moray.lab": "127.0.0.1:1"}, connections=1) as m:
        with pytest.raises(PeerUnreachable, match=r"1\.moray\.lab"):
            await m[1].ping()


async def test_garbage_from_a_server_is_an_error(tmp_path: Path) -> None:
    """Bytes that are not Fast end the connection and fail its requests."""

    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, talk, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        async with open_moray({1: "m"}, {"m": f"127.0.0.1:{port}"}, connections=1) as clients:
            with trio.fail_after(5), pytest.raises(PeerUnreachable, match="version 72"):
                await clients[1].ping()
        nursery.cancel_scope.cancel()
