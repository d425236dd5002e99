"""No job is complete with anything left to look at, and a retry takes up all that is left."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer.config import Options
from rebalancer.domain.states import JobState
from rebalancer.errors import BadRequest, JobFailed, PeerUnreachable
from rebalancer.manager.actions.evacuate.retries import (
    listing_of,
    params_of_retry,
    read_left,
    scans_shards,
)
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.pipeline import flow
from rebalancer.manager.store import final_scans, scans
from tests.manager.http.test_api import open_rig, rows
from tests.manager.world import NODES, ORIGIN, World, counts, make_world, record

#: Many small windows, so that a scan can be cut in its midst.
SMALL = Options(max_tasks_per_assignment=3, md_read_chunk_size=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [record(number) for number in range(1, 41)])
    made.options = SMALL
    yield made
    made.close()


def left_on_the_shark(world: World) -> int:
    return sum(ORIGIN.manta_storage_id in json.dumps(found) for found in world.records())


async def cut(world: World, seconds: float) -> None:
    """Run a job, and kill its manager after some time."""
    async with world.job() as job:
        with trio.move_on_after(seconds):
            await flow.run(job)


async def without(world: World, *shards: int, **changes: Any) -> str:
    """Why a job fails that runs on while these shards are not configured."""
    async with world.job(**changes) as job:
        for number in shards:
            del job.shards[number]  # type: ignore[attr-defined]
        with trio.fail_after(100_000), pytest.raises(JobFailed) as caught:
            await flow.run(job)
    return str(caught.value)


class Chain:
    """Jobs that retry one another, as the manager makes them of rows and runs them.

    Mutable state: the rows.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.known = {"job": self._row("job", {"from_shark": ORIGIN.manta_storage_id})}

    def _row(self, name: str, params: dict[str, Any]) -> JobRow:
        return JobRow(name, "evacuate", JobState.FAILED, params, "", None, None, None)

    def file(self, name: str) -> Path:
        return self.world.folder / f"{name}.sqlite"

    def retry(self, earlier: str, name: str, taken: int = 0) -> dict[str, Any]:
        """What `World.job` needs for a job that retries `earlier`."""
        params = params_of_retry(self.known[earlier], self.known.get, taken)
        self.known[name] = self._row(name, params)
        self.world.job_name = name
        return {
            "listing": listing_of(params, self.file),
            "scans_shards": scans_shards(params),
            "max_objects": params.get("max_objects"),
        }

    async def take_over(self, job: Any) -> None:
        params = self.known[self.world.job_name].params
        await job.store.write(scans.continue_scans, *read_left(params, self.file))

    async def run(self, earlier: str, name: str) -> dict[tuple[str, str], int]:
        async with self.world.job(**self.retry(earlier, name)) as job:
            await self.take_over(job)
            with trio.fail_after(100_000):
                await flow.run(job)
            return await counts(job.store)


@pytest.mark.parametrize("final_scans", [0, 2])
async def test_a_job_is_not_complete_while_a_shard_is_half_read(
    world: World, autojump_clock: object, final_scans: int
) -> None:
    """Killed amid discovery, started without that shard: it is named, and a retry does the rest."""
    world.config_changes["final_scans"] = final_scans
    await cut(world, 0.1)
    cause = await without(world, 2)
    assert "discovery on shard 2 did not finish: the shard is not configured" in cause
    assert left_on_the_shark(world)
    # The shard is still away: so says the retry too, however little was listed.
    chain = Chain(world)
    changes = chain.retry("job", "first")
    async with world.job(**changes) as job:
        await chain.take_over(job)
    assert "shard 2 did not finish: the shard is not configured" in await without(
        world, 2, **changes
    )
    found = await chain.run("first", "second")
    assert set(found) == {("complete", "")}
    assert left_on_the_shark(world) == 0


async def test_a_shard_that_is_away_for_the_final_scan_is_named(
    world: World, autojump_clock: object
) -> None:
    """Its objects were listed; that nothing came back to it, nobody has seen."""
    async with world.job() as job:
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flow.run, job)
                while await job.store.read(final_scans.last_round) == 0:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
    cause = await without(world, 1)
    assert "the final scan of shard 1 did not finish: the shard is not configured" in cause
    assert "discovery" not in cause
    assert await Chain(world).run("job", "retry") == {}


async def test_shards_that_come_later_are_emptied_too(world: World, autojump_clock: object) -> None:
    """Those of the configuration when the job began, and those of each later start."""
    shard = world.shards.pop(2)
    assert set(await world.run()) == {("complete", "")}
    world.shards[2] = shard
    assert await world.run() == {("complete", ""): 40}
    assert left_on_the_shark(world) == 0


async def test_a_retry_of_a_job_that_listed_nothing_empties_the_shark(
    world: World, autojump_clock: object
) -> None:
    """And so does the retry of a retry that came to nothing either."""
    chain = Chain(world)
    async with world.job():
        pass  # it failed before it had asked any shard
    changes = chain.retry("job", "first")
    async with world.job(**changes) as job:
        await chain.take_over(job)
    assert await chain.run("first", "second") == {("complete", ""): 40}
    assert left_on_the_shark(world) == 0


async def test_a_retry_of_a_retry_lists_what_the_first_one_had_not_read(
    world: World, autojump_clock: object
) -> None:
    """Its own file knows nothing of those, so the chain is followed."""
    world.agents.post_answer = lambda _shark, _assignment: PeerUnreachable("down")
    found = await world.run()
    assert found == {("skipped", "destination_unreachable"): 40}
    chain = Chain(world)
    changes = chain.retry("job", "first")
    async with world.job(**changes) as job:
        await chain.take_over(job)
        for number in (1, 2):
            del job.shards[number]  # type: ignore[attr-defined]
        with pytest.raises(JobFailed, match="listed records of shard 1 were left out"):
            await flow.run(job)
    world.agents.post_answer = lambda *_: None
    assert await chain.run("first", "second") == {("complete", ""): 40}


@pytest.mark.parametrize("seconds", [0.1, 0.2, 0.3])
async def test_copies_of_a_broken_job_are_used_by_its_retry(
    world: World, autojump_clock: object, seconds: float
) -> None:
    """Each object is copied once in all, and no file lies anywhere that nobody names or lists."""
    await cut(world, seconds)
    with closing(sqlite3.connect(world.job_file)) as db:
        waiting = "SELECT count(*) FROM progress WHERE status = 'post_processing'"
        copied = db.execute(waiting).fetchone()[0]
    assert await Chain(world).run("job", "retry")
    assert left_on_the_shark(world) == 0
    named = {
        (found["objectId"], shark["manta_storage_id"])
        for found in world.records()
        for shark in found["sharks"]
    }
    files = (world.folder / "job.sqlite", world.folder / "retry.sqlite")
    listed = {pair for path in files for pair in rows(path, "SELECT object_id, shark FROM orphans")}
    assert world.agents.copies - named - listed == set()
    assert not rows(files[1], "SELECT object_id, shark FROM orphans")
    assert len(world.agents.copied_whole) == 40
    assert len(world.agents.found_there) >= copied


async def test_a_copy_that_cannot_be_used_is_listed(world: World, autojump_clock: object) -> None:
    """Its destination is gone, or its record."""
    async with world.job() as job:
        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(flow.run, job)
                while not world.agents.copies:  # noqa: ASYNC110
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
    (gone_id, gone_at), *others = sorted(world.agents.copies)
    number = int(gone_id[-12:])
    for store in world.shards.values():
        for row in store.find("manta", f"(name={number})", {}):
            store.delete("manta", row["key"], None)
    unusable = {shark for _, shark in others}
    world.nodes = tuple(node for node in NODES if node.manta_storage_id not in unusable)
    before = set(world.agents.copies)
    await Chain(world).run("job", "retry")
    listed = set(rows(world.folder / "retry.sqlite", "SELECT object_id, shark FROM orphans"))
    assert (gone_id, gone_at) in listed
    # Those of assignments that were under way may be there, and are listed as well.
    assert before <= listed


def row(name: str, state: JobState = JobState.FAILED, **params: Any) -> JobRow:
    made = {"from_shark": "1.stor.lab", **params}
    return JobRow(name, "evacuate", state, made, "", None, None, None)


def test_what_a_retry_goes_on_with() -> None:
    """Nothing but its list after a complete job; scans, file and limit after any other."""
    known = {
        "whole": row("whole"),
        "limited": row("limited", max_objects=7),
        "file": row("file", objects_file="/list"),
        "old": row("old", retry_of="whole"),
        "removed": row("removed", retry_of="nobody", chain=[], scans=False),
        "one tier": row("one tier", tiers=["buckets"]),
        "complete": row("complete", JobState.COMPLETE, max_objects=7),
        "imported": row("imported", imported_from="elsewhere"),
        "of imported": row("of imported", retry_of="imported"),
    }
    made = {name: params_of_retry(known[name], known.get, 3) for name in known if name != "removed"}
    looked = {name: (scans_shards(params), params.get("chain")) for name, params in made.items()}
    assert looked == {
        "whole": (True, []),
        "limited": (True, []),
        "file": (False, []),
        "old": (True, ["whole"]),
        "one tier": (True, []),
        "complete": (False, None),
        # How many objects it was to take is not known, nor where it looked.
        "imported": (False, None),
        "of imported": (False, ["imported"]),
    }
    assert made["limited"]["max_objects"] == 4
    assert made["one tier"]["tiers"] == ["buckets"]
    assert "max_objects" not in params_of_retry(known["limited"], known.get, 7)
    assert made["file"]["objects_file"] == "/list"
    with pytest.raises(BadRequest, match="job nobody, which was removed"):
        params_of_retry(known["removed"], known.get, 0)


async def test_a_strict_job_that_was_refused_is_retried_whole(tmp_path: Path) -> None:
    """Through the API: it had listed nothing, and its retry finds everything there is."""
    async with open_rig(tmp_path, objects=5, max_attempts=1) as rig:
        first = await rig.create(strict=True)
        view = await rig.reach(first, "Failed")
        assert view["results"]["Total"] == 0
        reply = await rig.client.post(f"/jobs/{first}/retry")
        second = (await reply.get_data(as_text=True)).strip()
        # Its agents are away, so it does not come to an end.
        with trio.fail_after(60):
            while (view := await rig.get(second))["results"]["Total"] < 5:  # noqa: ASYNC110
                await trio.sleep(0.02)
    assert view["state"] == "Running"
    assert {one["column"] for one in view["scans"]} >= {"objects", "_id"}
