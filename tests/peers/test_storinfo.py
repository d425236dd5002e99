"""Walking storinfo's list, as the real one pages it and breaks it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from quart import Response, request
from quart_trio import QuartTrio

from rebalancer.daemon import Listen, listen
from rebalancer.devregion.storinfo import make_storinfo_app
from rebalancer.domain.objects import StorageNode
from rebalancer.errors import PeerError, PeerMalformed, PeerRefused, PeerUnreachable
from rebalancer.peers.http import HttpClient, open_http
from rebalancer.peers.storinfo import storage_nodes


def node(number: int, **changes: Any) -> dict[str, Any]:
    made = {
        "manta_storage_id": f"{number}.stor.lab",
        "datacenter": f"dc{number % 3}",
        "availableMB": number,
        "percentUsed": 12,
        "filesystem": "/manta",
        "timestamp": 1700000000000,
    }
    return {**made, **changes}


@asynccontextmanager
async def serving(app: QuartTrio) -> AsyncIterator[tuple[HttpClient, str]]:
    stopping = trio.Event()
    async with trio.open_nursery() as nursery:
        where = await listen(nursery, app, Listen("127.0.0.1", 0), stopping)
        async with open_http({}) as http:
            yield http, where
        stopping.set()


@pytest.mark.row("N5")
@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 1203])
async def test_every_page_is_read(count: int) -> None:
    """Whatever the number of nodes; the first page is asked for without a cursor."""
    asked: list[dict[str, str]] = []
    app = make_storinfo_app(lambda: [node(number) for number in range(1, count + 1)])

    @app.before_request
    async def note() -> None:
        asked.append(dict(request.args))

    async with serving(app) as (http, where):
        found = await storage_nodes(http, where)

    assert [n.manta_storage_id for n in found] == [f"{n}.stor.lab" for n in range(1, count + 1)]
    assert asked[0] == {"limit": "500"}
    assert found[:1] == [StorageNode("1.stor.lab", "dc1", 1, 12, 1700000000000)][:count]


def scripted(pages: list[Any]) -> QuartTrio:
    """An app that answers each request with the next of `pages`: a list, or a status."""
    app = QuartTrio(__name__)
    left = list(pages)

    @app.get("/storagenodes")
    async def nodes() -> Any:
        page = left.pop(0) if left else 500
        return Response("", status=page) if isinstance(page, int) else page

    return app


FIRST = [node(number) for number in range(1, 501)]
SECOND = [node(number) for number in range(501, 511)]


@pytest.mark.parametrize(
    "broken", [404, FIRST, [*SECOND[:3], FIRST[7]]], ids=["gone", "restarted", "repeated"]
)
async def test_a_list_that_changes_under_the_walk_is_read_anew(broken: Any) -> None:
    """The cursor's node left: 404, or the first page once more."""
    async with serving(scripted([FIRST, broken, FIRST, SECOND])) as (http, where):
        assert len(await storage_nodes(http, where)) == 510


async def test_a_list_that_never_holds_still_is_an_error() -> None:
    """After three walks."""
    async with serving(scripted([FIRST, 404] * 3)) as (http, where):
        with pytest.raises(PeerRefused, match="kept changing"):
            await storage_nodes(http, where)


@pytest.mark.row("L4")
@pytest.mark.parametrize(
    ("page", "error"),
    [(500, PeerRefused), (404, PeerRefused), ({"nodes": []}, PeerMalformed)],
)
async def test_an_answer_that_cannot_be_used_is_an_error(page: Any, error: type[PeerError]) -> None:
    """Never an empty list, which would mean that there is nowhere to go."""
    async with serving(scripted([page])) as (http, where):
        with pytest.raises(error):
            await storage_nodes(http, where)


@pytest.mark.row("L5")
async def test_one_bad_entry_does_not_hide_the_others() -> None:
    """Entries without the fields that count are left out."""
    bad = [None, 7, {}, node(3, availableMB="1"), node(4, datacenter=None)]
    async with serving(scripted([[node(1), *bad, node(2, percentUsed=12.3)]])) as (http, where):
        found = await storage_nodes(http, where)

    assert [(n.manta_storage_id, n.percent_used) for n in found] == [
        ("1.stor.lab", 12),
        ("2.stor.lab", 13),
    ]


@pytest.mark.row("N5")
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("limit=0", 400),
        ("limit=501", 400),
        ("limit=x", 400),
        ("colour=red", 400),
        ("after_id=7.stor.lab", 200),
        ("after_id=777.stor.lab", 404),
    ],
)
async def test_the_regions_storinfo_answers_as_the_real_one(query: str, status: int) -> None:
    """Its limits, its errors, and the Link to the next page."""
    client = make_storinfo_app(lambda: [node(n) for n in range(1, 151)]).test_client()
    reply = await client.get(f"/storagenodes?{query}")
    body = await reply.get_json()

    assert reply.status_code == status
    if status == 200:
        assert len(body) == 100
        assert reply.headers["Link"].endswith('limit=100>; rel="next"')
    elif status == 400:
        assert body["code"] == "BadRequest"


async def test_single_nodes_and_flush() -> None:
    """The other routes of storinfo."""
    client = make_storinfo_app(lambda: [node(1)]).test_client()

    assert await (await client.get("/storagenodes/1.stor.lab")).get_json() == node(1)
    assert (await client.get("/storagenodes/2.stor.lab")).status_code == 404
    assert (await client.post("/flush")).status_code == 200


async def test_nobody_there_is_told() -> None:
    """With the address in the message."""
    async with open_http({"storinfo.lab": "127.0.0.1:1"}) as http:
        with pytest.raises(PeerUnreachable, match=r"storinfo\.lab"):
            await storage_nodes(http, "storinfo.lab")
