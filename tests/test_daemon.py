"""What both services do alike: serving, errors, the end."""

import os
import resource
import signal
from collections.abc import Awaitable, Callable

import httpx
import prometheus_client as prometheus
import pytest
import trio

from rebalancer import daemon
from rebalancer.daemon import Listen, listen
from rebalancer.errors import Conflict, Unavailable
from rebalancer.metrics import metrics_app
from rebalancer.serving.app import Answer, App, Request
from tests.web import Client

ANY = Listen("127.0.0.1", 0)


def app_of_errors() -> App:
    app = App("program 1.2", 1000)

    @app.get("/conflict")
    async def conflict(_request: Request) -> Answer:
        raise Conflict("it is there")

    @app.get("/later")
    async def later(_request: Request) -> Answer:
        raise Unavailable("not now")

    @app.get("/bug")
    async def bug(_request: Request) -> Answer:
        raise ZeroDivisionError("secret")

    @app.get("/quote")
    async def quote(_request: Request) -> Answer:
        raise Conflict("half of a pair: \ud83d")

    @app.post("/echo")
    async def echo(request: Request) -> Answer:
        return Answer(str(await daemon.body_json(request.body)).encode())

    return app


@pytest.mark.row("CRIT-8", "L35", "N28")
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("GET", "/conflict", b"", 409, "it is there"),
        ("GET", "/later", b"", 503, "not now"),
        ("GET", "/bug", b"", 500, "internal error: see the log"),
        ("GET", "/quote", b"", 409, "half of a pair: "),
        ("GET", "/nothing", b"", 404, "The requested URL was not found on the server."),
        ("PUT", "/conflict", b"", 405, "The method is not allowed for the requested URL."),
        ("POST", "/echo", b"{", 400, "not JSON: Expecting property name"),
        ("POST", "/echo", b"[" * 999, 400, "not JSON"),
        ("POST", "/echo", b"1" * 1001, 413, "exceeds the capacity limit"),
    ],
)
async def test_errors_are_texts_or_json_as_the_client_wants(
    method: str, path: str, body: bytes, status: int, text: str
) -> None:
    """The message alone, or {"message": ...} when Accept names JSON first; never a traceback."""
    client = Client(app_of_errors())
    ask = {"GET": client.get, "PUT": client.put, "POST": client.post}[method]
    as_text = await ask(path, data=body)
    accept = {"accept": "application/json"}
    as_json = await ask(path, data=body, headers=accept)

    assert (as_text.status_code, as_json.status_code) == (status, status)
    assert as_text.content_type == "text/plain; charset=utf-8"
    assert text in (await as_text.get_data(as_text=True))
    assert "Traceback" not in (await as_text.get_data(as_text=True))
    assert text in (await as_json.get_json())["message"]


async def test_who_is_told_to_come_again_is_told_when() -> None:
    """503 carries Retry-After in seconds."""
    reply = await Client(app_of_errors()).get("/later")

    assert reply.headers["Retry-After"] == "10"


async def test_who_uses_a_wrong_method_is_told_the_right_ones() -> None:
    """405 carries Allow."""
    reply = await Client(app_of_errors()).put("/conflict")

    assert set(reply.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


async def test_an_idle_connection_does_not_delay_the_end() -> None:
    """A client that keeps its connection is shown the door when the service stops."""
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        where = await listen(nursery, app_of_errors(), ANY, stopping)
        host, _, port = where.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET /conflict HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while b"it is there" not in answer:
                answer += await stream.receive_some(1000)
            stopping.set()

            with trio.fail_after(daemon.GRACE_S * 0.9):
                assert await stream.receive_some(1000) == b""


async def serving(
    service: Callable[[], Awaitable[None]], on_reload: Callable[[], Awaitable[None]] | None = None
) -> None:
    await daemon.serve(
        service,
        api=app_of_errors(),
        api_at=ANY,
        metrics=metrics_app(prometheus.CollectorRegistry()),
        metrics_at=ANY,
        on_reload=on_reload,
    )


@pytest.mark.row("MIN-3")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_service(number: signal.Signals) -> None:
    """The service is cancelled, and `serve` returns as if all were well."""
    ended = []

    async def service() -> None:
        os.kill(os.getpid(), number)
        try:
            await trio.sleep_forever()
        finally:
            ended.append(True)

    with trio.fail_after(10):
        await serving(service)
    assert ended == [True]


@pytest.mark.row("IMP-15")
async def test_bursts_of_reloads_coalesce() -> None:
    """Signals that come while a reload is under way make one more, with the newest file."""
    reloads = 0

    async def reload() -> None:
        nonlocal reloads
        reloads += 1
        await trio.sleep(0.2)

    async def service() -> None:
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGUSR1)
            await trio.sleep(0.02)
        with trio.fail_after(10):
            while reloads < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await trio.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
        await trio.sleep_forever()

    await serving(service, reload)
    assert reloads == 2


async def test_a_service_that_breaks_takes_the_process_with_it() -> None:
    """The service manager is to see it, and to start it again."""

    async def service() -> None:
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as caught:
        await serving(service)
    assert caught.group_contains(ZeroDivisionError)


async def test_metrics_are_served_on_both_paths() -> None:
    """/metrics, and / as the predecessor did."""
    registry = prometheus.CollectorRegistry()
    prometheus.Counter("things", "things", registry=registry).inc(3)
    stopping = trio.Event()
    async with trio.open_nursery() as nursery, httpx.AsyncClient() as client:
        where = await listen(nursery, metrics_app(registry), ANY, stopping)
        replies = [await client.get(f"http://{where}{path}") for path in ("/", "/metrics")]
        stopping.set()

    assert ["things_total 3.0" in reply.text for reply in replies] == [True, True]


@pytest.mark.parametrize(("soft", "hard", "allowed"), [(256, 4096, 4096), (4096, 4096, 4096)])
def test_a_program_opens_as_many_files_as_it_may(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, allowed: int
) -> None:
    """The limit that it begins with is too small for the connections of a large region."""
    limits = [(soft, hard)]
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _kind, made: limits.append(made))
    assert daemon.open_many_files() == allowed
    assert limits[-1] == (allowed, hard)


def test_a_program_that_may_not_open_more_files_says_how_many_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes on with them."""

    def refuse(_kind: int, _limits: object) -> None:
        raise ValueError("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert daemon.open_many_files() == 256
