"""Each route of the agent, asked for what is right."""

from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.agent.api import make_api
from tests.agent.scripted import open_rig
from tests.sources import ASSIGNMENT, Answer, ok, task, uuid

RATE = "/limits/bandwidth_bytes_per_s"


@pytest.mark.row("CRIT-8", "TEST-AGENT-6")
async def test_every_route_answers(tmp_path: Path) -> None:
    """Its success; a route that is not asked here is seen."""
    content = b"an object"
    async with open_rig(tmp_path, lambda *_: Answer(ok(content))) as rig:
        assert await rig.outcome(task(1, content)) == {}
        body = {"id": uuid(70), "tasks": [task(2, content)]}
        one = "/assignments/<assignment_id>"
        asked: dict[tuple[str, str], tuple[str, Any]] = {
            ("GET", "/ping"): ("/ping", None),
            ("GET", "/status"): ("/status", None),
            ("GET", "/openapi.json"): ("/openapi.json", None),
            ("GET", "/limits"): ("/limits", None),
            ("PUT", "/limits"): ("/limits", {"workers_per_assignment": 2}),
            ("DELETE", RATE): (RATE, None),
            ("GET", "/assignments"): ("/assignments", None),
            ("POST", "/assignments"): ("/assignments", body),
            ("GET", one): (f"/assignments/{ASSIGNMENT}", None),
            ("DELETE", one): (f"/assignments/{ASSIGNMENT}", None),
        }
        statuses = {}
        for route, (path, sent) in asked.items():
            send = getattr(rig.client, route[0].lower())
            reply = await (send(path) if sent is None else send(path, json=sent))
            statuses[route] = reply.status_code
        routes = {(route.method, route.path) for route in make_api(rig.agent).routes}

    assert statuses == dict.fromkeys(asked, 200)
    assert routes == set(asked)


@pytest.mark.row("TEST-AGENT-8")
async def test_several_failures_of_one_assignment(tmp_path: Path) -> None:
    """Each with its own reason; processed are all, and what was good is there."""
    content = b"an object"
    answers = {
        1: Answer(ok(content)),
        2: Answer(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
        3: Answer(ok(b"an objecT")),
        4: Answer(ok(content)[:-3], keep=False),
        5: Answer(ok(content)),
    }
    async with open_rig(tmp_path, lambda _, path: answers[int(path[-1])]) as rig:
        failed = await rig.outcome(*[task(number, content) for number in answers])
        stats = await rig.stats()
        there = [number for number in answers if rig.path(number).exists()]

    assert failed == {
        uuid(2): {"Failed": {"HTTPStatusCode": 404}},
        uuid(3): {"Failed": "MD5Mismatch"},
        uuid(4): {"Failed": "NetworkError"},
    }
    assert (stats["failed"], stats["complete"], stats["total"]) == (3, 5, 5)
    assert there == [1, 5]


@pytest.mark.row("TEST-AGENT-9")
async def test_several_downloads_at_once(tmp_path: Path) -> None:
    """As many as the assignment may have, over as many connections, side by side."""
    content, all_there = b"an object", trio.Event()

    def answer(_request: int, _path: str) -> Answer:
        if rig.source.at_work >= 8:
            all_there.set()
        return Answer(b"", late=ok(content), until=all_there, keep=False)

    def change(config: Any) -> Any:
        return attrs.evolve(config, server=attrs.evolve(config.server, workers_per_assignment=8))

    async with open_rig(tmp_path, answer, change=change) as rig:
        assert await rig.outcome(*[task(number, content) for number in range(8)]) == {}
        assert rig.source.most_at_once == 8
