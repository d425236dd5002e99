"""Invariant 7: the job dies before or after each of its commits, and a restart finishes it."""

from pathlib import Path

import pytest
import trio

from rebalancer.domain import reasons
from rebalancer.manager import pipeline
from tests.manager.world import ORIGIN, World, counts, make_world, object_id, record

OBJECTS = 12


class Crash(Exception):
    """Stands for kill -9: nothing after it runs, not even cleanup that matters."""


def a_world(folder: Path) -> World:
    records = [record(number) for number in range(1, OBJECTS + 1)]
    records.append(record(1, key="/account/stor/link"))
    records.append(record(OBJECTS + 1, contentLength=1 << 60))  # there is no room for it
    world = make_world(folder, records)
    world.agents.failures = {object_id(2): reasons.MD5_MISMATCH}
    return world


@pytest.mark.row("IMP-7", "DEF-2", "L2", "N8")
@pytest.mark.parametrize("where", ["before_commit", "after_commit"])
async def test_crash_at_every_commit(where: str, tmp_path: Path, autojump_clock: object) -> None:
    """Until a run gets through, kill it one commit later than the last time."""
    k, survived = 0, False
    while not survived:
        k += 1
        world, commits = a_world(tmp_path / str(k)), 0

        def crash() -> None:
            nonlocal commits
            commits += 1
            if commits == k:  # noqa: B023 - called within this turn only
                raise Crash

        try:
            async with world.job() as job:
                setattr(job.store.database, where, crash)
                await pipeline.run(job)
                survived = True
        except* Crash:
            pass
        with trio.fail_after(100_000):
            await check_restart(world, k)
        world.close()
    assert k > 10


async def check_restart(world: World, k: int) -> None:
    async with world.job() as job:
        await pipeline.run(job)
        assert await counts(job.store) == {
            ("complete", ""): OBJECTS - 1,
            ("skipped", "md5_mismatch"): 1,
            ("skipped", "destination_insufficient_space"): 1,
            ("duplicates", ""): 1,
        }, k
        rows = job.store.database._reader.execute(
            "SELECT status, count(*) FROM evacuateobjects GROUP BY 1"
        )
        assert dict(tuple(row) for row in rows) == {"complete": OBJECTS - 1, "skipped": 2}
        ours = {row[0] for row in job.store.database._reader.execute("SELECT id FROM assignments")}
    # The outside world too: no agent was given work of which there is no record, no object
    # was copied twice to one place, and every record but those of the failed ones has moved.
    assert world.agents.known_ever <= ours, k
    assert len(world.agents.copied_whole) == len(set(world.agents.copied_whole)), k
    assert world.agents.found_there == [], k
    left = [r for r in world.records() if ORIGIN.manta_storage_id in str(r["sharks"])]
    assert sorted(r["objectId"] for r in left) == [object_id(2), object_id(OBJECTS + 1)], k
