"""Connections of the control plane: what is kept for the next request, and what is not."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import pytest
import trio
import trio.testing

from rebalancer.errors import PeerUnreachable
from rebalancer.peers.connections import (
    AT_ONE_PLACE,
    ConnectionFailed,
    Connections,
    Place,
    affordable,
)
from rebalancer.peers.http import HttpClient, open_http
from rebalancer.peers.names import Endpoint

Serve = Callable[[trio.SocketStream], Awaitable[None]]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """A peer that counts its connections and answers each request with the same bytes."""

    def __init__(self, data: bytes = OK, *, close: bool = False) -> None:
        self.data, self.close = data, close
        self.connections = 0
        self.streams: list[trio.SocketStream] = []
        self.ended = trio.Event()

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.streams.append(stream)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await stream.receive_some():
                await stream.send_all(self.data)
                if self.close:
                    return
        self.ended.set()


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[Place]:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield Place(Endpoint("127.0.0.1", listener.socket.getsockname()[1]))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_peer(serve: Serve) -> AsyncIterator[tuple[HttpClient, int]]:
    async with listening(serve) as place, open_http({}) as http:
        yield http, place.where.port


async def ask(http: HttpClient, port: int) -> str:
    return (await http.request("GET", "127.0.0.1", "/x", port=port)).text


async def test_a_connection_serves_one_request_after_another() -> None:
    """Making one costs more than asking over it."""
    peer = Peer()
    async with open_peer(peer.serve) as (http, port):
        assert [await ask(http, port) for _ in range(3)] == ["ok"] * 3
    assert peer.connections == 1


@pytest.mark.parametrize(
    ("data", "close"),
    [
        (OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), False),
        (OK, True),
        (OK + OK, False),
        (b"HTTP/1.0 200 OK\r\n\r\nok", True),
    ],
    ids=["said", "closed", "more than was asked for", "ends with the connection"],
)
async def test_a_connection_that_may_be_of_no_more_use_is_not_used_again(
    data: bytes, *, close: bool
) -> None:
    """A second answer that nobody asked for would be taken for that of the next request."""
    peer = Peer(data, close=close)
    async with open_peer(peer.serve) as (http, port):
        for _ in range(2):
            assert await ask(http, port) == "ok"
            await trio.testing.wait_all_tasks_blocked(0.02)
    assert peer.connections == 2


async def test_a_connection_that_its_peer_has_closed_meanwhile_is_not_used() -> None:
    """A request on it would be lost, and nobody could tell whether it was done."""
    peer = Peer()
    async with open_peer(peer.serve) as (http, port):
        await ask(http, port)
        await peer.streams[0].aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await ask(http, port) == "ok"
    assert peer.connections == 2


async def test_connections_have_a_bound() -> None:
    """Those that are kept give way; whoever gets none in time has not asked."""
    first, second = Peer(), Peer()
    async with listening(first.serve) as one, listening(second.serve) as other:
        connections = Connections(1, 0.05, None)
        connection = await connections.take(one)
        await connection.ask("GET", "/x", [("host", "a")], b"")
        assert [await connection.piece(), await connection.piece()] == [b"ok", b""]
        connections.give_back(connection)
        connection = await connections.take(other)
        await first.ended.wait()
        with pytest.raises(ConnectionFailed, match="all 1 connections are in use"):
            await connections.take(one)
        connections.give_back(connection)
    assert (first.connections, second.connections) == (1, 1)


async def test_an_answer_that_comes_before_all_was_sent_is_taken() -> None:
    """What is too large is refused while it is still on its way."""

    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some(10)
        await stream.send_all(OK.replace(b"200", b"413"))

    async with open_peer(refuse) as (http, port):
        body = "x" * 50_000_000
        try:
            reply = await http.request("POST", "127.0.0.1", "/x", port=port, body=body)
        except PeerUnreachable:
            return  # a reset may overtake the answer
    assert reply.status == 413


async def test_a_peer_that_is_slow_leaves_connections_to_the_others() -> None:
    """Whoever waits for one that is in use at a place holds none of the rest."""
    peer = Peer()
    async with listening(peer.serve) as place:
        slow, other = attrs.evolve(place, name="slow"), attrs.evolve(place, name="other")
        connections = Connections(AT_ONE_PLACE + 1, 0.05, None)
        taken = [await connections.take(slow) for _ in range(AT_ONE_PLACE)]
        async with trio.open_nursery() as nursery:

            async def wait_for_slow() -> None:
                with pytest.raises(ConnectionFailed, match="to it are in use"):
                    await connections.take(slow)

            for _ in range(3):
                nursery.start_soon(wait_for_slow)
            await trio.testing.wait_all_tasks_blocked()
            connections.give_back(await connections.take(other))
        connections.give_back(taken.pop())
        taken.append(await connections.take(slow))
        for connection in taken:
            connections.give_back(connection)
        connections.close()


def test_a_client_leaves_most_files_to_the_rest_of_its_process() -> None:
    """Shards and servers need some too."""
    assert [affordable(files) for files in (64, 1024, 4000, 65_536)] == [100, 256, 1000, 1000]
