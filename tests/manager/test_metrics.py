"""What a scraper sees of a manager at work."""

from pathlib import Path

import prometheus_client as prometheus
from prometheus_client.parser import text_string_to_metric_families

from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline import flow
from tests.manager.world import make_world, record


def scraped(metrics: ManagerMetrics) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name and the values of their labels."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(
        prometheus.generate_latest(metrics.registry).decode()
    ):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


async def test_stages_are_timed_and_queues_and_destinations_shown(
    tmp_path: Path, autojump_clock: object
) -> None:
    """While a job runs; afterwards its queues are gone, and what it did has been counted."""
    world = make_world(tmp_path / "world", [record(n) for n in range(1, 31)])
    during = []
    async with world.job() as job:
        job.metrics.watch_destinations(world.fleet_ledger.snapshot)
        world.before_write = lambda _name: during.append(scraped(job.metrics))
        await flow.run(job)
        after = scraped(job.metrics)
        assignments = await job.store.database.read(
            lambda db: db.execute("SELECT count(*) FROM assignments").fetchone()[0]
        )
    world.close()

    assert set(during[0]["queue_length"]) == {("found",), ("moved",), ("ready",), ("sent",)}
    assert any(any(seen["destination_claimed_bytes"].values()) for seen in during)
    assert any(any(seen["destination_assignments"].values()) for seen in during)
    assert "queue_length" not in after
    counted = after["stage_seconds_count"]
    for stage in ("post", "copy", "update"):
        assert counted[(stage,)] == assignments
    assert counted[("scan",)] > 0
    assert not any(after["destination_assignments"].values())
