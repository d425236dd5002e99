"""What clients can do to a server: nothing that ends it, or that keeps others waiting."""

import errno
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trustme

from rebalancer import daemon
from rebalancer.daemon import Listen, body_json, listen, require_token
from rebalancer.errors import StoreError
from rebalancer.serving.app import Answer, App, Application, Request
from rebalancer.serving.bounds import Bounds, api_connections, metrics_connections
from rebalancer.tokens import Token
from tests.logs import capture_logs

ANY = Listen("127.0.0.1", 0)
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
#: 2,000 streams, each depending on the one before.
PRIORITIES = b"".join(
    b"\0\0\5\2\0" + number.to_bytes(4, "big") + (number - 2).to_bytes(4, "big") + b"\x10"
    for number in range(3, 4003, 2)
)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


@attrs.define(eq=False)
class SomeApp(App):
    """What came to it, and whether one left."""

    came: list[str] = attrs.field(factory=list)
    left: trio.Event = attrs.field(factory=trio.Event)


def some_app() -> SomeApp:
    app = SomeApp("program 1.2", 1 << 20)

    @app.get("/ping")
    async def ping(_request: Request) -> Answer:
        return Answer(b"pong")

    @app.post("/echo")
    async def echo(request: Request) -> Answer:
        return Answer(str(await body_json(request.body)).encode())

    @app.get("/much")
    async def much(_request: Request) -> Answer:
        async def pieces() -> AsyncGenerator[bytes, None]:
            while True:
                yield b"x" * 65536

        return Answer(pieces())

    @app.get("/deep")
    async def deep(_request: Request) -> Answer:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield b"x"
            raise RecursionError

        return Answer(pieces())

    @app.get("/removed")
    async def removed(_request: Request) -> Answer:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield b"x"
            raise StoreError("no such file")

        return Answer(pieces())

    @app.get("/unreadable")
    async def unreadable(_request: Request) -> Answer:
        async def pieces() -> AsyncGenerator[bytes, None]:
            yield b"x"
            raise OSError(errno.EIO, "Input/output error")

        return Answer(pieces())

    @app.get("/soon")
    async def soon(request: Request) -> Answer:
        app.came.append(request.path)
        await trio.sleep(0.5)
        return Answer(b"now")

    @app.get("/long")
    async def long(request: Request) -> Answer:
        app.came.append(request.path)
        try:
            await trio.sleep_forever()
        finally:
            app.left.set()

    return app


@attrs.frozen
class Port:
    """A server, and a way to it."""

    host: str
    port: int
    stopping: trio.Event
    app: Any

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(self.host, self.port)

    async def send(self, data: bytes) -> bytes:
        """All that is answered to `data`, until the server closes."""
        async with await self.connect() as stream:
            await stream.send_all(data)
            return await read_all(stream)

    async def is_well(self) -> bool:
        async with await self.connect() as stream:
            await stream.send_all(PING)
            return (await read_answer(stream)).endswith(b"pong")


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    answer = b""
    try:
        while data := await stream.receive_some():
            answer += data
    except trio.BrokenResourceError:
        answer += b"(reset)"
    return answer


async def read_answer(stream: trio.abc.ReceiveStream) -> bytes:
    """One answer of known length."""
    answer = b""
    while True:
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if length and len(body) >= int(length[1]):
            return answer
        data = await stream.receive_some()
        assert data, answer
        answer += data


@asynccontextmanager
async def served(app: Application | None = None, **bounds: Any) -> AsyncIterator[Port]:
    app, stopping = app or some_app(), trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            where = await listen(nursery, app, ANY, stopping, Bounds(**bounds))
            host, _, port = where.rpartition(":")
            yield Port(host, int(port), stopping, app)
            stopping.set()


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found


def get(path: str = "/ping", *headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = [b"GET " + path.encode() + b" HTTP/" + version, b"Host: x", *headers, b"", b""]
    return b"\r\n".join(lines)


HOSTILE = {
    "no_chunk": b"POST /nope HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
    "priorities": PREFACE + PRIORITIES,
    "long_host": b"GET /ping HTTP/1.1\r\nHost: " + b"a" * 60_000 + b"\r\n\r\n",
    "host_label": b"GET /ping HTTP/1.1\r\nHost: " + b"a" * 300 + b"\r\n\r\n",
    "host_labels": b"GET /ping HTTP/1.1\r\nHost: a..b\r\n\r\n",
    "host_first_label": b"GET /ping HTTP/1.1\r\nHost: " + b"a" * 64 + b".x\r\n\r\n",
    "host_odd": b"GET /ping HTTP/1.1\r\nHost: \xff[::\r\n\r\n",
    "long_target": get("/" + "a" * 60_000),
    "no_target": b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "connect": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "many_headers": get("/ping", *[b"a%d: b" % number for number in range(5000)]),
    "long_length": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: "
    + b"9" * 5000
    + b"\r\n\r\n",
    "big_length": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 18 + b"\r\n\r\n",
    "coding": b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    "websocket": get(
        "/ping",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Version: 13",
    ),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "blank": b"\r\n" * 40_000,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_nonsense_is_refused_and_harms_nobody(name: str, logs: list[Any]) -> None:
    """The client is told of its error, others are served, and no error of ours is logged."""
    async with served(head_s=0.5, body_s=0.5, idle_s=0.5) as port:
        answers = [await port.send(HOSTILE[name] + b"ZZ\r\n" * again) for again in (1, 2, 3)]
        assert await port.is_well()

    for answer in answers:
        assert re.match(rb"HTTP/1.1 4\d\d ", answer), answer[:200]
        assert b"server: program 1.2" in answer.lower()
    assert [line for line in logs if line["log_level"] == "error"] == []


async def test_http_2_is_not_spoken_even_if_it_is_asked_for() -> None:
    """An offer to change to it is passed over, and answered in HTTP/1.1."""
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
    async with served() as port:
        answer = await port.send(get("/ping", *upgrade))

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"pong")


@pytest.mark.parametrize("path", ["/deep", "/unreadable"])
async def test_an_error_ends_its_connection_only(logs: list[Any], path: str) -> None:
    """A bug that shows itself within an answer is logged, once a minute, and others are served."""
    async with served() as port, await port.connect() as other:
        await other.send_all(PING)
        await read_answer(other)
        for _ in range(3):
            # Its last chunk is missing, which tells the client.
            assert b"0\r\n\r\n" not in await port.send(get(path))
        await other.send_all(PING)
        assert (await read_answer(other)).endswith(b"pong")

    broke = [line for line in logs if line["event"] == "a connection ended by an error"]
    assert len(broke) == 1


async def test_an_answer_that_state_ends_is_no_error_of_the_server(logs: list[Any]) -> None:
    """A job that is removed while its report is read, say: the client sees that it is cut."""
    async with served() as port:
        answer = await port.send(get("/removed"))
        assert await port.is_well()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith(b"0\r\n\r\n")
    assert [(line["log_level"], line["error"]) for line in logs] == [("warning", "no such file")]


async def test_requests_follow_one_another_on_a_connection() -> None:
    """Also those that are sent before the first is answered, of every kind of body."""
    chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = (
        PING
        + chunked
        + b"3\r\n[1,\r\n2\r\n2]\r\n0\r\n\r\n"
        + b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n[3]"
        + b"HEAD /ping HTTP/1.1\r\nHost: x\r\n\r\n"
        + get("/none")
        + get("http://x/ping")
        + get(version=b"1.0")
    )
    async with served() as port:
        answer = await port.send(sent)

    found = re.findall(rb"HTTP/1.1 (\d+)", answer)
    assert found == [b"200", b"200", b"200", b"200", b"404", b"200", b"200"]
    assert answer.count(b"\r\nserver: program 1.2\r\n") == len(found)
    assert b"[1, 2]" in answer
    assert b"[3]" in answer


async def test_a_client_that_waits_for_leave_to_send_gets_it() -> None:
    """`Expect: 100-continue`, as curl sends it before a large body."""
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    async with served() as port, await port.connect() as stream:
        await stream.send_all(head)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"[1]")
        assert (await read_answer(stream)).endswith(b"[1]")


async def test_many_idle_connections_keep_nobody_out() -> None:
    """When there are as many as may be, the one that has been silent longest goes."""
    half = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n["
    async with served(connections=8, patience_s=0.05) as port, AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(await port.connect()) for _ in range(60)]
        held = [await stack.enter_async_context(await port.connect()) for _ in range(60)]
        for stream in held:
            await stream.send_all(half)
        for _ in range(3):
            assert await port.is_well()
        # All but the latest have been shown the door.
        for stream in (idle + held)[: -8 - 3]:
            assert await read_all(stream) in (b"", b"(reset)")


async def test_a_request_under_way_keeps_its_connection() -> None:
    """However long its answer takes; who is new waits until one ends."""
    async with served(connections=2, patience_s=0.0) as port, AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(await port.connect()) for _ in range(2)]
        for stream in (first, second):
            await stream.send_all(get("/long"))
        while len(port.app.came) < 2:  # noqa: ASYNC110
            await trio.sleep(0.01)
        third = await stack.enter_async_context(await port.connect())
        await third.send_all(PING)
        with trio.move_on_after(0.3) as waited:
            await third.receive_some()
        assert waited.cancelled_caught
        await first.aclose()
        assert (await read_answer(third)).endswith(b"pong")


async def test_room_is_found_when_all_were_busy_and_are_idle_now() -> None:
    """Nobody waits for a connection to be closed that is kept for requests to come."""
    async with served(connections=1, patience_s=0.0) as port, await port.connect() as first:
        await first.send_all(get("/soon"))
        while not port.app.came:  # noqa: ASYNC110
            await trio.sleep(0.01)
        async with await port.connect() as second:
            await second.send_all(PING)
            assert (await read_answer(first)).endswith(b"now")
            with trio.fail_after(30):
                assert (await read_answer(second)).endswith(b"pong")


async def test_a_client_that_has_ended_what_it_sends_gets_its_answer() -> None:
    """It may have closed its own direction only."""
    async with served() as port, await port.connect() as stream:
        await stream.send_all(get("/soon"))
        await stream.send_eof()
        answer = await read_all(stream)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"now")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_no_request_hides_in_the_body_of_another(version: bytes) -> None:
    """Two ways of telling a body's length could be read in two ways by two servers."""
    head = b"POST /echo HTTP/" + version + b"\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    length = b"Content-Length: 4\r\n" if version == b"1.1" else b""
    async with served() as port:
        answer = await port.send(head + length + b"\r\n1\r\n1\r\n0\r\n\r\n" + PING)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Transfer-Encoding: not with Content-Length" in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b""),
        (b"GET /ping HT", b"408"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n[", b"408"),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[", b"408"),
    ],
)
async def test_a_request_must_be_whole_in_time(sent: bytes, status: bytes) -> None:
    """Head and body each; a connection without a request is closed without a word."""
    async with served(idle_s=0.2, head_s=0.2, body_s=0.2) as port:
        answer = await port.send(sent)

    assert answer[9:12] == status


async def test_a_large_answer_that_nobody_reads_ends_in_time() -> None:
    """The client is taken for gone once it has taken nothing for long enough."""
    async with served(send_s=0.2) as port, await port.connect() as stream:
        await stream.send_all(get("/much"))
        await trio.sleep(1)
        answer = await read_all(stream)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"(reset)") or not answer.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("path", ["/much", "/long"])
async def test_a_stop_waits_for_no_client(path: str) -> None:
    """One that does not read its answer, and one whose answer takes long, are cut."""
    async with served() as port, await port.connect() as stream:
        await stream.send_all(get(path))
        await trio.sleep(0.2)
        port.stopping.set()
        with trio.fail_after(daemon.GRACE_S + 20):
            await read_all(stream)


async def test_a_request_ends_with_its_client() -> None:
    """Nobody works for somebody who has gone."""
    async with served(half_closed_s=0.1) as port:
        async with await port.connect() as stream:
            await stream.send_all(get("/long"))
            await trio.sleep(0.1)
        await port.app.left.wait()


async def test_a_body_that_will_be_refused_is_not_read() -> None:
    """Without the token nobody can have the server take in megabytes."""
    app = some_app()
    require_token(app, Token("", "secret"))
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
    async with served(app) as port:
        answer = await port.send(head + b"\r\n")
        wrong = await port.send(head + b"Authorization: Bearer s\xe9cret\r\n\r\n")
        async with await port.connect() as stream:
            await stream.send_all(head + b"Authorization: Bearer secret\r\n\r\n")
            await stream.send_all(b" " * 999_999 + b"1")
            right = await read_answer(stream)
        assert b" 200 " in await port.send(get("/ping", b"Connection: close"))

    assert [answer[9:12], wrong[9:12], right[9:12]] == [b"401", b"401", b"200"]


async def test_large_bodies_have_so_much_memory_together() -> None:
    """Who comes when it is taken is told to come again; it is free again afterwards."""
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 499000\r\n\r\n"
    app = some_app()
    app.max_body_bytes = 500_000
    async with served(app, small_body_bytes=1000, bodies_bytes=1_000_000, patience_s=60.0) as port:
        async with AsyncExitStack() as stack:
            first, second, third = [
                await stack.enter_async_context(await port.connect()) for _ in range(3)
            ]
            for stream in (first, second):
                await stream.send_all(head + b" " * 498_999)
            await trio.sleep(0.5)
            await third.send_all(head + b" " * 498_999)
            refused = await read_all(third)
            for stream in (first, second):
                await stream.send_all(b"1")
                assert (await read_answer(stream)).endswith(b"\r\n\r\n1")
        async with await port.connect() as fourth:
            await fourth.send_all(head + b" " * 498_999 + b"2")
            assert (await read_answer(fourth)).endswith(b"\r\n\r\n2")

    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 10" in refused.lower()


async def test_too_long_a_body_is_refused_however_it_comes() -> None:
    """With and without its length."""
    declared = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n"
    chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with served() as port:
        first = await port.send(declared)
        second = await port.send(chunked + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 17)

    assert [first[9:12], second[9:12]] == [b"413", b"413"]


async def test_a_lack_of_files_is_logged_seldom_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, logs: list[Any]
) -> None:
    """Connections wait until there is one for them."""
    accept, left = trio.SocketListener.accept, 5

    async def scarce(self: trio.SocketListener) -> trio.SocketStream:
        nonlocal left
        left -= 1
        if left >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(self)

    monkeypatch.setattr(trio.SocketListener, "accept", scarce)
    monkeypatch.setattr("rebalancer.serving.server.PAUSE_S", 0.01)
    async with served() as port:
        assert await port.is_well()

    found = [line for line in logs if line["event"] == "connections cannot be accepted"]
    assert left < 0
    assert len(found) == 1


@pytest.mark.parametrize("files", [64, 256, 1024, 65536])
def test_connections_leave_most_files_to_the_process(files: int) -> None:
    """Two thirds of them at the least, and half where there are very few."""
    both = api_connections(files) + metrics_connections(files)

    assert both <= files / (3 if files >= 256 else 2)


async def test_tls_offers_nothing_but_http_1(tmp_path: Any) -> None:
    """Whatever the client would rather speak; a client that does not shake hands is cut."""
    authority = trustme.CA()
    made = authority.issue_cert("x")
    cert, key = tmp_path / "cert", tmp_path / "key"
    made.private_key_and_cert_chain_pem.write_to_path(cert)
    made.private_key_pem.write_to_path(key)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    stopping = trio.Event()
    at = Listen("127.0.0.1", 0, str(cert), str(key))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            bounds = Bounds(handshake_s=0.2)
            where = await listen(nursery, some_app(), at, stopping, bounds)
            host, _, port = where.rpartition(":")
            silent = await trio.open_tcp_stream(host, int(port))
            assert await read_all(silent) == b""
            await silent.aclose()
            plain = await trio.open_tcp_stream(host, int(port))
            stream = trio.SSLStream(plain, context, server_hostname="x", https_compatible=True)
            await stream.send_all(PING)
            assert (await read_answer(stream)).endswith(b"pong")
            assert stream.selected_alpn_protocol() is None
            await stream.aclose()
            stopping.set()
