"""Applications: which route answers, and what exceptions are told as."""

import ast

import pytest
import quart

from rebalancer.errors import Conflict, StoreError, Unavailable
from rebalancer.serving.app import Answer, App, Application, Request
from rebalancer.serving.quartapp import QuartApp
from tests.web import Client

ERRORS = {b"ours": Conflict("known"), b"store": StoreError("locked"), b"bug": KeyError()}


def some_app() -> App:
    app = App("program 1.2", 100)

    @app.get("/things")
    async def some(request: Request) -> Answer:
        return Answer(repr((request.pairs, request.parameters)).encode())

    @app.put("/things/<one>")
    async def change(_request: Request, one: str) -> Answer:
        return Answer(one.encode(), headers={"X-More": "1"})

    @app.get("/things/<one>/parts/<other>")
    async def part(_request: Request, one: str, other: str) -> Answer:
        return Answer(f"{one} {other}".encode())

    @app.post("/group")
    async def group(request: Request) -> Answer:
        raise ExceptionGroup("some", [ERRORS[name] for name in request.body.split()])

    app.meaning = _meaning
    return app


def some_quart_app() -> QuartApp:
    """An application of the same routes."""
    app = QuartApp("program 1.2", 100)

    @app.quart.get("/things")
    async def some() -> quart.Response:
        args = quart.request.args
        return quart.Response(repr((list(args.items(multi=True)), args.to_dict())))

    @app.quart.put("/things/<one>")
    async def change(one: str) -> quart.Response:
        return quart.Response(one, headers={"X-More": "1"})

    @app.quart.get("/things/<one>/parts/<other>")
    async def part(one: str, other: str) -> quart.Response:
        return quart.Response(f"{one} {other}")

    @app.quart.post("/group")
    async def group() -> quart.Response:
        raise ExceptionGroup("some", [ERRORS[name] for name in (await quart.request.body).split()])

    app.meaning = _meaning
    return app


def _meaning(exc: Exception, _request: Request) -> Unavailable | None:
    return Unavailable(str(exc)) if isinstance(exc, StoreError) else None


@pytest.fixture(params=[some_app, some_quart_app])
def app(request: pytest.FixtureRequest) -> Application:
    made: Application = request.param()
    return made


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/things", 200, "([], {})"),
        ("GET", "/things?a=1&a=%2F&b=", 200, "([('a', '1'), ('a', '/'), ('b', '')], "),
        ("HEAD", "/things", 200, ""),
        ("GET", "/things/", 404, "not found"),
        ("PUT", "/things//x", 404, "not found"),
        ("PUT", "/things/x", 200, "x"),
        ("PUT", "/things/%C3%BC", 200, "ü"),
        ("PUT", "/things/", 404, "not found"),
        ("PUT", "/things/a%2Fb", 404, "not found"),
        ("PUT", "/things/%3Cone%3E", 200, "<one>"),
        ("GET", "/things/x", 405, "not allowed"),
        ("GET", "/things/a/parts/b", 200, "a b"),
        ("GET", "/things//parts/b", 404, "not found"),
        ("OPTIONS", "/things/x", 200, ""),
        ("OPTIONS", "/nothing", 404, "not found"),
    ],
)
async def test_a_request_finds_its_route(
    app: Application, method: str, path: str, status: int, text: str
) -> None:
    """By its decoded path, part by part, and by its method."""
    reply = await Client(app).open(path, method=method)

    assert reply.status_code == status
    assert text in await reply.get_data(as_text=True)


async def test_methods_that_there_are_are_told(app: Application) -> None:
    """Whether the client asks for them or uses another."""
    client = Client(app)
    asked = await client.open("/things", method="OPTIONS")
    wrong = await client.delete("/things")

    for reply in (asked, wrong):
        assert sorted(reply.headers["Allow"].split(", ")) == ["GET", "HEAD", "OPTIONS"]


async def test_a_slash_at_the_end_is_taken_where_it_may_be() -> None:
    """One, and not as a path by itself."""
    app = some_app()
    app.takes_slash = True
    paths = ("/things/", "/things//", "/things/x/parts/y/", "//things", "/")
    statuses = [(await Client(app).get(path)).status_code for path in paths]

    assert statuses == [200, 404, 200, 404, 404]


async def test_the_first_of_a_name_in_a_query_counts(app: Application) -> None:
    """All of them are there in order."""
    reply = await Client(app).get("/things?a=1&a=2&b=3")

    assert ast.literal_eval(reply.content.decode()) == (
        [("a", "1"), ("a", "2"), ("b", "3")],
        {"a": "1", "b": "3"},
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"ours", 409), (b"store", 503), (b"store ours", 503), (b"bug", 500), (b"ours bug", 500)],
)
async def test_a_group_of_errors_is_told_by_its_first(
    app: Application, body: bytes, status: int
) -> None:
    """But a bug in it is never hidden."""
    assert (await Client(app).post("/group", data=body)).status_code == status


async def test_whoever_is_not_admitted_learns_nothing_of_routes(app: Application) -> None:
    """401, whatever was asked for; it is counted all the same."""
    seen = list[str]()
    app.admits = lambda request: request.headers.get("authorization") == "Bearer x"
    app.on_request = lambda request: seen.append(request.path)
    client = Client(app)
    replies = [await client.get(path) for path in ("/things", "/nothing")]
    good = await client.get("/things", headers={"Authorization": "Bearer x"})

    assert [reply.status_code for reply in (*replies, good)] == [401, 401, 200]
    assert replies[0].headers["WWW-Authenticate"] == "Bearer"
    assert seen == ["/things", "/nothing", "/things"]
