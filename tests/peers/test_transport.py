"""Connections of the control plane: kept, used again, and never trusted too far."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio

from rebalancer.errors import PeerUnreachable
from rebalancer.peers import transport
from rebalancer.peers.http import HttpClient, open_http

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@attrs.define(eq=False)
class Server:
    """Answers each request with `answer`; what came, by connection, in the order they opened."""

    http: HttpClient
    port: int = 0
    answer: bytes = OK
    requests: list[list[bytes]] = attrs.field(factory=list)
    streams: list[trio.SocketStream] = attrs.field(factory=list)
    most: int = 0
    busy: int = 0
    pause_s: float = 0.0

    async def serve(self, stream: trio.SocketStream) -> None:
        mine = list[bytes]()
        self.requests.append(mine)
        self.streams.append(stream)
        try:
            async for data in stream:
                mine.append(bytes(data))
                self.busy += 1
                self.most = max(self.most, self.busy)
                await trio.sleep(self.pause_s)
                self.busy -= 1
                await stream.send_all(self.answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def ask(self) -> bytes:
        return (await self.http.request("POST", "127.0.0.1", "/x", port=self.port, body=1)).body


@asynccontextmanager
async def serving(connections: int = 100) -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery, open_http({}, connections=connections) as http:
        server = Server(http)
        serve = partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        server.port = listener.socket.getsockname()[1]
        yield server
        nursery.cancel_scope.cancel()


async def test_a_connection_is_used_again() -> None:
    """Requests one behind the other share one."""
    async with serving() as server:
        assert [await server.ask() for _ in range(3)] == [b"ok"] * 3
        assert [len(requests) for requests in server.requests] == [3]


async def test_a_request_is_sent_as_it_is_meant() -> None:
    """Method, target, host, length and body; and no packing of the answer is asked for."""
    async with serving() as server:
        await server.ask()
        head, _, body = server.requests[0][0].lower().partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
    assert lines[0] == b"post /x http/1.1"
    assert {
        b"host: 127.0.0.1",
        b"content-length: 1",
        b"content-type: application/json",
        b"accept-encoding: identity",
    } <= set(lines)
    assert body == b"1"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda server: setattr(
            server, "answer", OK.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
        ),
        lambda server: setattr(server, "answer", OK + b"more"),
        lambda server: setattr(server, "answer", OK.replace(b"1.1", b"1.0")),
    ],
    ids=["closing", "talkative", "old"],
)
async def test_a_connection_that_is_spoilt_is_not_used_again(
    spoil: Callable[[Server], None],
) -> None:
    """A server that wants to close, says more than was asked, or is too old gets a new one."""
    async with serving() as server:
        spoil(server)
        assert [await server.ask() for _ in range(2)] == [b"ok"] * 2
        assert [len(requests) for requests in server.requests] == [1, 1]


async def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    """Its end is seen before a request is sent into it, whose outcome nobody would know."""
    async with serving() as server:
        await server.ask()
        await server.streams[0].aclose()
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(next(iter(pool(server)._idle)).stream.socket)
        assert await server.ask() == b"ok"


async def test_idle_connections_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other places are closed with time too."""
    async with serving() as server:
        await server.ask()
        monkeypatch.setattr(transport, "IDLE_S", -1.0)
        await server.ask()
        assert not pool(server)._idle
        assert not any(pool(server)._idle_at.values())


async def test_requests_at_a_time_are_bounded() -> None:
    """Further ones wait."""
    async with serving(connections=2) as server, trio.open_nursery() as nursery:
        server.pause_s = 0.01
        for _ in range(6):
            nursery.start_soon(server.ask)
    assert server.most == 2
    assert sum(map(len, server.requests)) == 6


async def test_a_request_that_is_given_up_takes_its_connection_along() -> None:
    """The answer that still comes must not be taken for the next one's."""
    async with serving() as server:
        server.pause_s = 0.05
        with trio.move_on_after(0.01):
            await server.ask()
        server.pause_s = 0.0
        assert await server.ask() == b"ok"
        assert [len(requests) for requests in server.requests] == [1, 1]
        assert len(pool(server)._idle) == 1


async def test_chunks_and_interim_answers_are_understood() -> None:
    """As HTTP/1.1 has them."""
    async with serving() as server:
        server.answer = (
            b"HTTP/1.1 103 Early Hints\r\n\r\n"
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n"
        )
        assert [await server.ask() for _ in range(2)] == [b"ok"] * 2
        assert len(server.requests) == 1


async def test_nobody_there_is_told() -> None:
    """With host and path."""
    async with serving() as server:
        with pytest.raises(PeerUnreachable, match=r"GET 127\.0\.0\.1/x: .+"):
            await server.http.request("GET", "127.0.0.1", "/x", port=1)


def pool(server: Server) -> transport.Transport:
    found = server.http._client._transport
    assert isinstance(found, transport.Transport)
    return found
