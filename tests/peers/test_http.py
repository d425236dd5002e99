"""The client of the control plane, and the agents' client on it."""

import gc
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio
import trustme

from rebalancer.agent_protocol import Assignment, Task
from rebalancer.domain.objects import Shark
from rebalancer.errors import PeerError, PeerMalformed, PeerRefused, PeerUnreachable
from rebalancer.peers import http as module
from rebalancer.peers.addresses import resolve
from rebalancer.peers.agents import Agents, PostResult
from rebalancer.peers.http import HttpClient, Reply, open_http
from rebalancer.peers.names import Endpoint, is_address, locate, split_port
from rebalancer.peers.resolver import Resolver

ID = "0fd630f1-f29d-4da9-953f-48f1a09f76b5"
ASSIGNMENT = Assignment(ID, (Task(ID, ID, "L9NrIZXTY37AYVZN9+gZ7w==", Shark("dc1", "2.stor")),))


@asynccontextmanager
async def answering(
    data: bytes, *, then_hang: bool = False
) -> AsyncIterator[tuple[HttpClient, int]]:
    """A peer that answers every connection with `data`."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(data)
        if then_hang:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        async with open_http({"2.stor.lab": "127.0.0.1"}) as http:
            yield http, listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def answer(status: int, body: str = "", *headers: str) -> bytes:
    fields = [f"Content-Length: {len(body)}", "Connection: close", *headers]
    lines = [f"HTTP/1.1 {status} X", *fields, "", body]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("told", "waited"),
    [("7", 7), ("0", 0), ("86400", 60), ("9" * 400, 60), ("-1", 5), ("soon", 5), ("\u00b2", 5)],
)
def test_no_peer_makes_us_wait_for_ever(told: str, waited: float) -> None:
    """Retry-After is honoured up to a minute; what is no number counts as not told."""
    assert Reply(503, {"retry-after": told}, b"").retry_after_s(5) == waited


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"220 mail ESMTP\r\n", PeerUnreachable),
        (b"", PeerUnreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", PeerUnreachable),
    ],
)
async def test_an_answer_that_breaks_off_is_no_answer(data: bytes, error: type[PeerError]) -> None:
    """The outcome is unknown; the message names host and path."""
    async with answering(data) as (http, port):
        with pytest.raises(error, match=r"GET 2\.stor\.lab/x"):
            await http.request("GET", "2.stor.lab", "/x", port=port)


@pytest.mark.row("CRIT-4")
async def test_silence_is_bounded() -> None:
    """The whole request, not each read of it."""
    async with answering(b"HTTP/1.1 200 OK\r\n", then_hang=True) as (http, port):
        with pytest.raises(PeerUnreachable, match=r"no answer in 0\.2 s"):
            await http.request("GET", "2.stor.lab", "/x", port=port, within_s=0.2)


async def test_an_endless_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has a limit."""
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 10)
    async with answering(answer(200, "x" * 11)) as (http, port):
        with pytest.raises(PeerMalformed, match="longer than 10"):
            await http.request("GET", "2.stor.lab", "/x", port=port)
        gc.collect()


async def test_redirects_are_not_followed() -> None:
    """They are answers like any other."""
    async with answering(answer(302, "", "Location: http://127.0.0.1:1/")) as (http, port):
        assert (await http.request("GET", "2.stor.lab", "/x", port=port)).status == 302


@pytest.mark.row("L23")
@pytest.mark.parametrize(
    ("data", "result", "pause_s"),
    [
        (answer(200, f'"{ID}"'), PostResult.ACCEPTED, 0),
        (answer(409, "it is known"), PostResult.ACCEPTED, 0),
        (answer(503, "", "Retry-After: 7"), PostResult.BUSY, 7),
        (answer(503, "", "Retry-After: 9999"), PostResult.BUSY, 60),
        (answer(503, "", "Retry-After: Thu"), PostResult.BUSY, 5),
        (answer(400, "tasks[0] is bad"), PostResult.REJECTED, 0),
        (answer(500), PostResult.REJECTED, 0),
    ],
)
async def test_what_an_agent_makes_of_an_assignment(
    data: bytes, result: PostResult, pause_s: float
) -> None:
    """409 for one we posted means that it has it."""
    async with answering(data) as (http, port):
        told = await Agents(http, port).post("2.stor.lab", ASSIGNMENT)

    assert (told.result, told.retry_after_s) == (result, pause_s)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (answer(500, "no"), PeerRefused),
        (answer(200, "{"), PeerMalformed),
        (answer(200, '{"uuid": 5}'), PeerMalformed),
        (answer(200, f'{{"uuid": "{ID}", "stats": {{"state": "Lost"}}}}'), PeerMalformed),
    ],
)
async def test_a_report_that_cannot_be_used_is_an_error(
    data: bytes, error: type[PeerError]
) -> None:
    """Never taken for an assignment without failures."""
    async with answering(data) as (http, port):
        with pytest.raises(error):
            await Agents(http, port).get("2.stor.lab", ID)


@pytest.mark.parametrize(
    ("status", "server", "features"),
    [
        (200, "rebalancer-agent 1.1.0 (v2)", {"v2"}),
        (200, "rebalancer-agent 1.1.0+abc (v3 v2)", {"v2", "v3"}),
        (200, "rebalancer-agent 1.0.0", set()),
        # As the deployed one, whose stamp is no feature, and a proxy before it.
        (404, "rebalancer-agent 0.1.0 (no-STAMP)", {"no-STAMP"}),
        (404, "nginx (v2)", set()),
    ],
)
async def test_only_agents_that_announce_it_are_sent_bucket_objects(
    status: int, server: str, features: set[str]
) -> None:
    """Another one would look for them where none of them are; it is not even posted to."""
    task = Task(ID, ID, "L9NrIZXTY37AYVZN9+gZ7w==", Shark("dc1", "3.stor.lab"))
    of_bucket = attrs.evolve(task, bucket_id=ID, object_name_hash="0" * 32)
    async with answering(answer(status, "", f"Server: {server}")) as (http, port):
        agents = Agents(http, port)
        assert await agents.ping("2.stor.lab") == features
        posted = await agents.post("2.stor.lab", Assignment(ID, (task, of_bucket)))
        assert (posted.result is PostResult.UNABLE) == ("v2" not in features)


async def test_an_agent_that_cannot_be_asked_has_no_assignment() -> None:
    """The connection was broken off at the question, before anything was posted."""
    of_bucket = Task(
        *(ID, ID, "L9NrIZXTY37AYVZN9+gZ7w==", Shark("dc1", "3.stor.lab")),
        bucket_id=ID,
        object_name_hash="0" * 32,
    )
    async with answering(b"") as (http, port):
        with pytest.raises(PeerUnreachable) as caught:
            await Agents(http, port).post("2.stor.lab", Assignment(ID, (of_bucket,)))
    assert not caught.value.was_sent


async def test_an_unknown_assignment_is_none() -> None:
    """404 is an answer."""
    async with answering(answer(404)) as (http, port):
        agents = Agents(http, port)
        assert await agents.get("2.stor.lab", ID) is None
        await agents.delete("2.stor.lab", ID)


async def test_a_deletion_that_is_refused_is_told() -> None:
    """The assignment is still there."""
    async with answering(answer(403, "running")) as (http, port):
        with pytest.raises(PeerRefused, match="403 running"):
            await Agents(http, port).delete("2.stor.lab", ID)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.lab", Endpoint("a.lab", 80)),
        ("a.lab:81", Endpoint("a.lab", 81)),
        ("10.0.0.1:81", Endpoint("10.0.0.1", 81)),
        ("::1", Endpoint("::1", 80)),
        ("[::1]", Endpoint("::1", 80)),
        ("[::1]:81", Endpoint("::1", 81)),
    ],
)
def test_names_and_addresses(text: str, expected: Endpoint) -> None:
    """With and without ports, of both families."""
    assert split_port(text, 80) == expected
    assert split_port(str(expected), 1) == expected


@pytest.mark.parametrize("text", ["a:", "a:x", "a:0", "a:65536", "a:-1"])
def test_what_is_no_port_is_refused(text: str) -> None:
    """A typing error in the hosts table is found at the start."""
    with pytest.raises(ValueError, match="port number"):
        split_port(text, 80)


def test_the_hosts_table_comes_first() -> None:
    """A name with or without its port; an address may bring its own."""
    hosts = {"a.lab": "10.0.0.1", "b.lab": "10.0.0.2:99", "c.lab:7": "10.0.0.3"}

    assert locate("a.lab", hosts, 80) == Endpoint("10.0.0.1", 80)
    assert locate("a.lab:81", hosts, 80) == Endpoint("10.0.0.1", 81)
    assert locate("b.lab", hosts, 80) == Endpoint("10.0.0.2", 99)
    assert locate("c.lab:7", hosts, 80) == Endpoint("10.0.0.3", 7)
    assert locate("d.lab", hosts, 80) == Endpoint("d.lab", 80)


async def test_an_answer_can_be_read_as_it_comes() -> None:
    """Status and headers first, then the body in pieces, whose number is not bounded."""
    async with (
        answering(answer(200, "x" * 100_000, "Server: a")) as (http, port),
        http.stream("GET", "2.stor.lab", "/x", port=port) as reply,
    ):
        size = 0
        async for piece in reply.pieces():
            size += len(piece)

    assert (reply.status, reply.headers["server"], size) == (200, "a", 100_000)


async def test_an_answer_that_breaks_off_while_it_is_read_is_an_error() -> None:
    """Where it is read, with host and path."""
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort"
    async with answering(data) as (http, port):
        with pytest.raises(PeerUnreachable, match=r"GET 2\.stor\.lab/x"):
            async with http.stream("GET", "2.stor.lab", "/x", port=port) as reply:
                assert [piece async for piece in reply.pieces()] == [b"short"]


async def test_a_certificate_is_for_the_name() -> None:
    """Also where the hosts table says which address that is; another's is told."""
    authority = trustme.CA()
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("2.stor.lab").configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            await stream.receive_some()
            await stream.send_all(answer(200, "hello"))
        except trio.BrokenResourceError:  # the client goes away
            pass

    async with trio.open_nursery() as nursery:
        start = partial(trio.serve_ssl_over_tcp, serve, 0, serving, host="127.0.0.1")
        (listener,) = await nursery.start(start)
        port = listener.transport_listener.socket.getsockname()[1]
        hosts = {"2.stor.lab": "127.0.0.1", "3.stor.lab": "127.0.0.1"}
        async with open_http(hosts, tls=trusting) as http:
            reply = await http.request("GET", "2.stor.lab", "/x", port=port)
        async with open_http(hosts, tls=trusting) as http:
            with pytest.raises(PeerUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
                await http.request("GET", "3.stor.lab", "/x", port=port)
        nursery.cancel_scope.cancel()

    assert reply.text == "hello"


@pytest.mark.parametrize(
    "name",
    [
        "7..stor.x",
        "x" * 70 + ".stor.x",
        "\ud800.stor.x",
        "1.stor.x:0",
        "1.stor.x:99999",
        "a\0b",
        "",
    ],
)
async def test_a_name_that_nobody_can_be_asked_for_is_an_error_of_that_name(name: str) -> None:
    """Resolvers cannot encode it, and say so in other ways than that it is not there."""
    async with open_http({}) as http:
        with pytest.raises(PeerUnreachable):
            await http.request("GET", name, "/")
    with pytest.raises(PeerUnreachable):
        await Resolver({}, Endpoint("127.0.0.1", 9)).targets(name)
    if name:
        with pytest.raises(PeerUnreachable):
            await resolve(name, {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.stor.lab", True),
        ("127.0.0.1", True),
        ("127.0.0.1:7878", True),
        ("[::1]:80", True),
        ("node_1.stor-a.lab", True),
        ("x" * 63, True),
        ("x" * 64, False),
        (".".join(["x" * 60] * 5), False),
        ("7..stor.x", False),
        ("a b", False),
        ("a/b", False),
        ("ö.lab", False),
        ("1.stor.lab:0", False),
        ("1.stor.lab:" + "1" * 5000, False),
        ("[::x]", False),
        ("", False),
    ],
)
def test_what_can_be_the_name_of_a_host(text: str, expected: bool) -> None:
    """With or without a port."""
    assert is_address(text) is expected


@pytest.mark.parametrize("size", [0, 40, 3_000_000])
async def test_a_request_leaves_in_one_write(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Its head and body together: the deployed manager waits for ever for what comes later."""
    sent, send_all = list[bytes](), trio.SocketStream.send_all

    async def note(stream: trio.SocketStream, data: bytes) -> None:
        if b"HTTP/1.1 200" not in data:  # which is the answer
            sent.append(bytes(data))
        await send_all(stream, data)

    monkeypatch.setattr(trio.SocketStream, "send_all", note)
    body = "x" * size if size else None
    async with answering(answer(200, "{}")) as (http, port):
        await http.request("POST", "2.stor.lab", "/jobs", port=port, body=body)
    (whole,) = sent
    head, _, rest = whole.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /jobs HTTP/1.1\r\n")
    assert len(rest) == (size + 2 if size else 0)
