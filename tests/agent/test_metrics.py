"""What the agent exports, as a Prometheus server reads it."""

from pathlib import Path

import httpx
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from rebalancer.daemon import Listen, listen
from rebalancer.metrics import metrics_app
from tests.agent.scripted import open_rig
from tests.sources import ASSIGNMENT, Answer, ok, task

CONSTANT = {"service", "server", "datacenter", "zonename"}
#: Each family: its type, and the labels of its samples.  The older ones have the names of the
#: deployed agent, which are no names of counters to this library, so they are untyped.
FAMILIES: dict[str, tuple[str, set[str]]] = {
    "log_lines_dropped": ("counter", set()),
    "request_count": ("unknown", CONSTANT | {"req"}),
    "object_count": ("unknown", CONSTANT | {"type"}),
    "error_count": ("unknown", CONSTANT | {"error"}),
    "bytes_count": ("unknown", CONSTANT),
    "assignment_time": ("histogram", CONSTANT),
    "rebalancer_agent_bytes_transferred": ("counter", set()),
    "rebalancer_agent_objects_processed": ("counter", {"status"}),
    "rebalancer_agent_objects_failed": ("counter", set()),
    "rebalancer_agent_errors": ("counter", {"error_type"}),
    "rebalancer_agent_assignments_completed": ("counter", set()),
    "rebalancer_agent_assignment_duration_seconds": ("histogram", set()),
    "rebalancer_agent_download_duration_seconds": ("histogram", set()),
    "rebalancer_agent_cleanup_failures": ("counter", set()),
    "rebalancer_agent_state_write_retries": ("counter", set()),
    "rebalancer_agent_quarantined": ("counter", set()),
    "rebalancer_agent_queued_assignments": ("gauge", set()),
    "rebalancer_agent_running_tasks": ("gauge", set()),
    "rebalancer_agent_disk_free_bytes": ("gauge", set()),
}


@pytest.mark.row("IMP-3")
async def test_every_family_is_scraped(tmp_path: Path) -> None:
    """Over HTTP: all of both predecessors' names, with their types and labels, and no other."""
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

    families = [
        family
        for family in text_string_to_metric_families(reply.text)
        if not family.name.endswith("_created")
    ]
    found = {
        family.name: (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in families
    }
    assert found == FAMILIES
    assert all(family.samples for family in families)
    values = {
        (sample.name, *(sample.labels[name] for name in ("req", "type", "error", "status")
                        if name in sample.labels)): sample.value
        for family in families
        for sample in family.samples
    }  # fmt: skip
    assert values["object_count", "total"] == 2
    assert values["error_count", "total"] == values["error_count", "http_status_code"] == 1
    assert values["request_count", "total"] == values["request_count", "GET"] + 1
    assert values["rebalancer_agent_objects_processed_total", "completed"] == 1
    assert values["rebalancer_agent_objects_processed_total", "failed"] == 1
