"""No statement of a job that runs walks through all of its rows, of which there may be millions."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio

from rebalancer.domain import reasons
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.store import views
from rebalancer.peers.agents import PostAnswer, PostResult
from rebalancer.sqlite import connect
from tests.manager.world import World, make_world, record

#: Tables that grow with the job.
LARGE = {"records", "progress", "assignments", "links", "duplicates", "orphans", "dropped"}
#: Indexes of what is under way, which is little at any time.
SMALL_INDEXES = {"waiting", "open_assignments"}
#: What is asked at a job's beginning or at the end of a round only, or looks at one row.
ALLOWED = (
    # The shards of a file of an earlier version.
    "INSERT INTO shards SELECT shard FROM",
    # Listed records whose shard was not configured.
    "SELECT DISTINCT shard FROM dropped",
    "SELECT 1 FROM orphans LIMIT 1",
)

_SCAN = re.compile(r"^SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [record(number) for number in range(1, 41)])
    yield made
    made.close()


def watch(job: Job, seen: set[str]) -> None:
    """Note every statement of a job's file."""
    for connection in job.store.database.connections:
        connection.set_trace_callback(seen.add)


def walks(job: Job, statement: str) -> list[str]:
    """Return how a statement goes through a whole table that grows with the job, if it does."""
    if not re.match(r"\s*(SELECT|INSERT|UPDATE|DELETE)", statement):
        return []
    if statement.startswith(ALLOWED):
        return []
    _, reader = job.store.database.connections
    found = []
    for row in reader.execute(f"EXPLAIN QUERY PLAN {statement}"):
        scan = _SCAN.match(row["detail"])
        if scan is not None and scan[1] in LARGE and scan[2] not in SMALL_INDEXES:
            found.append(f"{row['detail']}: {statement[:150]}")
    return found


async def test_no_statement_of_a_job_walks_through_its_rows(
    world: World, autojump_clock: object
) -> None:
    """Nor when objects fail, wait, are given back, or are met again by a final scan."""
    seen = set[str]()
    world.agents.fails = lambda _shark, task: (
        reasons.NETWORK_ERROR if task.object_id.endswith("5") else None
    )
    busy = iter([PostResult.BUSY] * 12 + [PostResult.REJECTED] * 3)

    def answer(_shark: str, _assignment: object) -> PostAnswer | None:
        outcome = next(busy, None)
        return None if outcome is None else PostAnswer(outcome)

    world.agents.post_answer = answer
    world.config_changes = {"final_scans": 2}
    async with world.job() as job:
        watch(job, seen)
        with trio.fail_after(100_000):
            await flow.run(job)
        await job.store.status()
        assert [walk for statement in sorted(seen) for walk in walks(job, statement)] == []
        assert walks(job, "SELECT count(*) FROM progress WHERE dest_shark = 'x'")
    kinds = {statement.split()[0] for statement in seen}
    assert {"SELECT", "INSERT", "UPDATE"} <= kinds
    assert len(seen) > 50


async def test_a_cancelled_job_and_its_next_start_walk_through_no_rows(
    world: World, autojump_clock: object
) -> None:
    """What waits is found by an index of what waits."""
    seen = set[str]()
    world.options = attrs.evolve(world.options, max_tasks_per_assignment=1)
    for _ in range(2):
        async with world.job() as job:
            watch(job, seen)
            await job.store.load()
            with trio.move_on_after(0.3):
                await flow.run(job)
    async with world.job() as job:
        watch(job, seen)
        job.cancel()
        await flow.run(job)
        assert [walk for statement in sorted(seen) for walk in walks(job, statement)] == []


async def test_a_view_of_a_job_walks_through_no_rows(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the same at any size."""
    seen = set[str]()

    def watched(path: Path, *, mode: str) -> sqlite3.Connection:
        made = connect(path, mode=mode)
        made.set_trace_callback(seen.add)
        return made

    async with world.job() as job:
        await flow.run(job)
        monkeypatch.setattr("rebalancer.manager.store.views.connect", watched)
        views.read_job(world.job_file)
        views.objects_page(world.job_file, None, None, 10, 5)
        assert len(seen) > 5
        assert [walk for statement in sorted(seen) for walk in walks(job, statement)] == []
