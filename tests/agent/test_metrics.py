"""What the agent exports, as a Prometheus server reads it."""

from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from rebalancer.daemon import Listen, listen
from rebalancer.metrics import metrics_app
from tests import families
from tests.agent.scripted import open_rig
from tests.sources import ASSIGNMENT, Answer, ok, task


@pytest.mark.row("IMP-3")
async def test_every_family_is_scraped(tmp_path: Path) -> None:
    """Over HTTP: every family that the page lists, and no other."""
    content = b"an object"
    gone = Answer(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    def answer(_request: int, path: str) -> Answer:
        return gone if path.endswith("9") else Answer(ok(content))

    async with open_rig(tmp_path, answer) as rig, trio.open_nursery() as nursery:
        assert len(await rig.outcome(task(1, content), task(9, content))) == 1
        await rig.client.get(f"/assignments/{ASSIGNMENT}")
        app = metrics_app(rig.agent.metrics.registry)
        where = await listen(nursery, app, Listen("127.0.0.1", 0), trio.Event())
        async with httpx.AsyncClient() as scraper:
            reply = await scraper.get(f"http://{where}/metrics")
        nursery.cancel_scope.cancel()

    assert families.read(reply.text).keys() == families.documented("agent").keys()
    values = {
        (sample.name, *(sample.labels[name] for name in ("req", "type", "error", "status")
                        if name in sample.labels)): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }  # fmt: skip
    assert values["object_count", "total"] == 2
    assert values["error_count", "total"] == values["error_count", "http_status_code"] == 1
    assert values["request_count", "total"] == values["request_count", "GET"] + 1
    assert values["rebalancer_agent_objects_processed_total", "completed"] == 1
    assert values["rebalancer_agent_objects_processed_total", "failed"] == 1
