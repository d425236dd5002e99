"""What a scraper sees of a manager at work."""

from pathlib import Path

import prometheus_client as prometheus
from prometheus_client.parser import text_string_to_metric_families

from rebalancer.config import ManagerConfig, Shard
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline import flow
from rebalancer.manager.store.records import StatusCounts
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
        job.metrics.watch_fleet(world.fleet_ledger, job.node_list)
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


def test_what_comes_to_an_end_is_counted_by_its_reason() -> None:
    """Only what is more than before: an object that a final scan takes up again takes none back."""
    metrics = ManagerMetrics(ManagerConfig("lab", (Shard("1.moray.lab"),)))
    before = {("complete", ""): (5, 50), ("skipped", "excluded"): (1, 1), ("assigned", ""): (1, 1)}
    after = {
        ("complete", ""): (7, 90),
        ("skipped", "{http_status_code:404}"): (1, 1),
        ("skipped", "{http_status_code:500}"): (1, 1),
        ("skipped", "what nobody knows"): (1, 1),
        ("skipped", "excluded"): (0, 0),
        ("error", "bad_moray_object"): (3, 0),
        ("assigned", ""): (9, 9),
    }
    metrics.counted("evacuate", StatusCounts(before), StatusCounts(after))
    metrics.counted("evacuate", StatusCounts(after), StatusCounts(before))
    found = scraped(metrics)

    def counted(name: str) -> dict[str, float]:
        return {
            sample.labels[label]: sample.value
            for family in metrics.registry.collect()
            if family.name == name
            for sample in family.samples
            for label in sample.labels.keys() & {"type", "reason", "error"}
        }

    assert counted("object_count") == {"evacuate": 2, "total": 2}
    assert set(found["bytes_count"].values()) == {40}
    assert counted("skip_count") == {
        "http_status_code": 2,
        "unknown_reason": 1,
        "excluded": 1,
        "total": 4,
    }
    assert counted("error_count") == {"bad_moray_object": 3, "total": 3}
