"""An application of quart: its answers, errors and ends are those of an application of ours."""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import attrs
import pytest
import trio
from quart import Response, request

from rebalancer.daemon import GRACE_S, require_token
from rebalancer.errors import StoreError
from rebalancer.serving.quartapp import QuartApp
from rebalancer.tokens import Token
from tests.logs import capture_logs
from tests.serving.test_server import get, read_all, read_answer, served


@attrs.define(eq=False)
class SomeApp(QuartApp):
    """What came to it, and whether one left, or pieces were closed."""

    came: list[str] = attrs.field(factory=list)
    left: trio.Event = attrs.field(factory=trio.Event)


def some_app() -> SomeApp:
    app = SomeApp("program 1.2", 1 << 20)
    quart = app.quart

    async def pieces(exc: Exception | None) -> AsyncIterator[bytes]:
        try:
            yield b"a piece"
            if exc is not None:
                raise exc
            while True:
                yield b"x" * 65536
        finally:
            app.left.set()

    @quart.get("/ping")
    async def ping() -> Response:
        return Response("pong")

    @quart.post("/echo")
    async def echo() -> Response:
        return Response((await request.body).strip())

    @quart.get("/pieces/<kind>")
    async def stream(kind: str) -> Response:
        errors = {"deep": RecursionError(), "removed": StoreError("no such file")}
        return Response(pieces(errors.get(kind)), content_type="text/x")

    @quart.get("/bug")
    async def bug() -> Response:
        raise ZeroDivisionError("secret")

    @quart.get("/long")
    async def long() -> Response:
        app.came.append(request.path)
        try:
            await trio.sleep_forever()
        finally:
            app.left.set()

    return app


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[Any]]:
    with capture_logs() as found:
        yield found


async def test_requests_follow_one_another_on_a_connection() -> None:
    """Of every kind of body, and of every kind of answer."""
    chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = (
        get()
        + chunked
        + b"3\r\none\r\n4\r\n two\r\n0\r\n\r\n"
        + b"HEAD /ping HTTP/1.1\r\nHost: x\r\n\r\n"
        + b"HEAD /pieces/endless HTTP/1.1\r\nHost: x\r\n\r\n"
        + get("/none")
        + get("/bug", b"Accept: application/json")
        + b"DELETE /ping HTTP/1.1\r\nHost: x\r\n\r\n"
        + get("http://x/ping", b"Connection: close")
    )
    async with served(some_app()) as port:
        answer = await port.send(sent)

    found = re.findall(rb"HTTP/1.1 (\d+)", answer)
    assert found == [b"200"] * 4 + [b"404", b"500", b"405", b"200"]
    assert answer.count(b"\r\nserver: program 1.2\r\n") == len(found)
    assert answer.count(b"\r\ncontent-type: ") == len(found)
    assert b"\r\n\r\none two" in answer
    assert answer.count(b"pong") == 2
    assert b"a piece" not in answer
    assert b'{"message": "internal error: see the log", "request_id": ' in answer
    assert b"secret" not in answer


async def test_a_bug_is_logged_and_ends_its_request_only(logs: list[Any]) -> None:
    """The connection goes on."""
    async with served(some_app()) as port:
        answer = await port.send(get("/bug") + get("/ping", b"Connection: close"))

    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"500", b"200"]
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["request failed"]


@pytest.mark.parametrize(
    ("kind", "told"),
    [("deep", "a connection ended by an error"), ("removed", "an answer was cut short")],
)
async def test_an_error_within_an_answer_cuts_it_short(
    kind: str, told: str, logs: list[Any]
) -> None:
    """Its last chunk is missing, which tells the client; others are served."""
    async with served(app := some_app()) as port:
        answer = await port.send(get(f"/pieces/{kind}"))
        assert await port.is_well()

    assert b"a piece" in answer
    assert not answer.endswith(b"0\r\n\r\n")
    assert [line["event"] for line in logs] == [told]
    assert app.left.is_set()


async def test_a_request_ends_with_its_client() -> None:
    """Nobody works for somebody who has gone."""
    async with served(app := some_app(), half_closed_s=0.1) as port:
        async with await port.connect() as stream:
            await stream.send_all(get("/long"))
            while not app.came:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await app.left.wait()


async def test_pieces_come_as_long_as_the_client_takes_them() -> None:
    """They are closed, and not only forgotten, when it goes."""
    async with served(app := some_app()) as port:
        async with await port.connect() as stream:
            await stream.send_all(get("/pieces/endless"))
            size = 0
            while size < 1 << 20:
                size += len(await stream.receive_some())
            assert not app.left.is_set()
        await app.left.wait()


@pytest.mark.parametrize("path", ["/long", "/pieces/endless"])
async def test_a_stop_waits_for_no_client(path: str) -> None:
    """Neither for a handler nor for an answer that nobody reads."""
    async with served(app := some_app()) as port, await port.connect() as stream:
        await stream.send_all(get(path))
        await trio.sleep(0.1)
        port.stopping.set()
        with trio.fail_after(GRACE_S + 20):
            await app.left.wait()
            await read_all(stream)


async def test_too_long_a_body_is_refused_however_it_comes() -> None:
    """With and without its length, where it is wanted; where it is not, it does not matter."""
    chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    declared = b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n"
    async with served(some_app()) as port:
        answers = [await port.send(start + declared) for start in (b"POST /echo", b"GET /ping")]
        answers.append(await port.send(chunked + (b"10000\r\n" + b" " * 65536 + b"\r\n") * 17))

    assert [answer[9:12] for answer in answers] == [b"413", b"200", b"413"]


async def test_nobody_without_the_token_is_answered() -> None:
    """Nor is a body taken of such a one, or a route told; /ping is for all."""
    require_token(app := some_app(), Token("", "secret"))
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n"
    async with served(app) as port:
        none = await port.send(head + b"\r\n")
        wrong = await port.send(get("/none", b"Authorization: Bearer s\xe9cret", version=b"1.0"))
        async with await port.connect() as stream:
            await stream.send_all(head + b"Authorization: Bearer secret\r\n\r\n")
            await stream.send_all(b" " * 999_999 + b"1")
            right = await read_answer(stream)
        assert await port.is_well()

    assert [none[9:12], wrong[9:12], right[9:12]] == [b"401", b"401", b"200"]
    assert b"\r\nwww-authenticate: Bearer\r\n" in none
    assert right.endswith(b"\r\n\r\n1")
