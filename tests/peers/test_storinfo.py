"""Walking storinfo's list, as the real one pages it and breaks it."""

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.daemon import Listen, listen
from rebalancer.domain.objects import StorageNode
from rebalancer.errors import PeerError, PeerMalformed, PeerRefused, PeerUnreachable
from rebalancer.peers.http import HttpClient, open_http
from rebalancer.peers.storinfo import MOST, LeftOut, read_nodes, storage_nodes
from rebalancer.serving.app import Answer, App, Request
from rebalancer_devregion.storinfo import make_storinfo_app
from tests.logs import capture_logs
from tests.web import Client


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
async def serving(app: App) -> AsyncIterator[tuple[HttpClient, str]]:
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
    app.on_request = lambda request: asked.append(request.parameters)

    async with serving(app) as (http, where):
        found = await storage_nodes(http, where)

    assert [n.manta_storage_id for n in found] == [f"{n}.stor.lab" for n in range(1, count + 1)]
    assert asked[0] == {"limit": "500"}
    assert found[:1] == [StorageNode("1.stor.lab", "dc1", 1, 12, 1700000000000)][:count]


def scripted(pages: list[Any]) -> App:
    """An app that answers each request with the next of `pages`: a list, or a status."""
    app = App("storinfo", 0)
    left = list(pages)

    @app.get("/storagenodes")
    async def nodes(_request: Request) -> Answer:
        page = left.pop(0) if left else 500
        return Answer(b"", page) if isinstance(page, int) else Answer(json.dumps(page).encode())

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
    client = Client(make_storinfo_app(lambda: [node(n) for n in range(1, 151)]))
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
    client = Client(make_storinfo_app(lambda: [node(1)]))

    assert await (await client.get("/storagenodes/1.stor.lab")).get_json() == node(1)
    assert (await client.get("/storagenodes/2.stor.lab")).status_code == 404
    assert (await client.post("/flush")).status_code == 200


async def test_nobody_there_is_told() -> None:
    """With the address in the message."""
    async with open_http({"storinfo.lab": "127.0.0.1:1"}) as http:
        with pytest.raises(PeerUnreachable, match=r"storinfo\.lab"):
            await storage_nodes(http, "storinfo.lab")


# --- entries that cannot be used -----------------------------------------------------------

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_JSON = st.recursive(
    _SCALARS | st.sampled_from([10**400, -1, "7..stor.x", "x" * 70, "\ud800", math.inf]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
_ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "manta_storage_id": _JSON | st.just("1.stor.lab"),
        "datacenter": _JSON | st.just("dc1"),
        "availableMB": _JSON | st.just(7),
        "percentUsed": _JSON | st.just(12),
        "timestamp": _JSON,
    },
)


@given(st.lists(_ENTRY | _JSON, max_size=6))
def test_whatever_is_listed_only_what_can_be_used_is_taken(entries: list[Any]) -> None:
    """Nothing is raised, each entry is a node or has a problem, and a node has sound values."""
    problems: list[str] = []
    nodes = read_nodes([*entries, node(3)], problems)

    assert nodes[-1] == StorageNode("3.stor.lab", "dc0", 3, 12, 1700000000000)
    assert len(nodes) + len(problems) == len(entries) + 1
    for found in nodes:
        found.manta_storage_id.encode("idna")
        assert min(found.available_mb, found.percent_used, found.timestamp_ms) >= 0
        assert max(found.available_mb, found.percent_used, found.timestamp_ms) <= MOST
    for problem in problems:
        problem.encode("utf-8", "backslashreplace")
        assert len(problem) < 500


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"timestamp": "2026-11-25T00:00:00Z"}, "timestamp"),
        ({"timestamp": [1]}, "timestamp"),
        ({"timestamp": math.inf}, "timestamp"),
        ({"availableMB": math.inf}, "availableMB"),
        ({"availableMB": -1}, "availableMB"),
        ({"availableMB": True}, "availableMB"),
        ({"percentUsed": math.nan}, "percentUsed"),
        ({"percentUsed": 10**400}, "percentUsed"),
        ({"datacenter": None}, "datacenter"),
        ({"datacenter": "\ud800"}, "datacenter"),
        ({"manta_storage_id": "7..stor.x"}, "manta_storage_id"),
        ({"manta_storage_id": "x" * 70 + ".stor.lab"}, "manta_storage_id"),
        ({"manta_storage_id": "1.stor.lab:99999"}, "manta_storage_id"),
        ({"manta_storage_id": 7}, "manta_storage_id"),
    ],
)
def test_a_bad_entry_is_named_with_what_is_wrong(changes: dict[str, Any], why: str) -> None:
    """It alone is left out."""
    problems: list[str] = []

    assert len(read_nodes([node(1), node(2, **changes), node(3)], problems)) == 2
    assert len(problems) == 1
    assert why in problems[0]


async def test_a_bad_entry_is_logged_once() -> None:
    """Not at each of the polls, of which there are six a minute; it is counted at each."""
    left_out = LeftOut()
    app = scripted([[node(1), node(2, timestamp="x")]] * 3 + [[node(1), node(3, timestamp="x")]])
    async with serving(app) as (http, where):
        with capture_logs() as lines:
            for _ in range(4):
                assert len(await storage_nodes(http, where, left_out)) == 1
                assert len(left_out.problems) == 1

    told = [line["reason"] for line in lines if line["event"] == "storage node left out"]
    assert ["2.stor.lab" in reason for reason in told] == [True, False]


async def test_bad_entries_do_not_end_a_walk() -> None:
    """A page is full by what it lists; the cursor is the last name, whatever else is wrong."""
    full = [*FIRST[:-1], node(500, timestamp="x", manta_storage_id="5 ö/.stor")]
    asked: list[dict[str, str]] = []
    app = scripted([full, SECOND])
    app.on_request = lambda request: asked.append(request.parameters)

    async with serving(app) as (http, where):
        found = await storage_nodes(http, where)

    assert len(found) == 509
    assert asked[1]["after_id"] == "5 ö/.stor"


async def test_a_list_without_an_end_is_given_up() -> None:
    """A full page of nothing that has a name leads nowhere."""
    async with serving(scripted([[7] * 500] * 10)) as (http, where):
        with pytest.raises(PeerRefused, match="kept changing"):
            await storage_nodes(http, where)
