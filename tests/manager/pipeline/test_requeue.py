"""What was not copied is tried again within the job, with what has not failed yet."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.agent_protocol import Assignment, Task
from rebalancer.domain import reasons
from rebalancer.domain.objects import StorageNode
from rebalancer.domain.reasons import Reason
from rebalancer.errors import PeerUnreachable
from rebalancer.manager.fleet.ledger import FleetLedger
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.pipeline.stages.discover import ROOM_S
from tests.manager.store.test_store import check_counters
from tests.manager.world import NODES, ORIGIN, World, counts, make_world, object_id, record


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [record(number) for number in range(1, 21)])
    yield made
    made.close()


def rows(job: Job, query: str = "SELECT * FROM evacuateobjects ORDER BY id") -> list[Any]:
    return job.store.database._reader.execute(query).fetchall()


REASONS = [
    reasons.AGENT_FS_ERROR,
    reasons.AGENT_BUSY,
    reasons.ASSIGNMENT_ERROR,
    reasons.MD5_MISMATCH,
    reasons.NETWORK_ERROR,
    reasons.SOURCE_OTHER_ERROR,
    reasons.http_status_code(503),
    Reason("OutOfCoffee"),
]


@pytest.mark.parametrize("reason", REASONS, ids=str)
async def test_what_one_destination_cannot_another_may(
    world: World, autojump_clock: object, reason: Reason
) -> None:
    """One node fails every task: all objects move, none twice to it, and no count is left over."""
    bad = NODES[1].manta_storage_id
    given: list[str] = []

    def fails(shark: str, task: Task) -> Reason | None:
        if shark == bad:
            given.append(task.object_id)
        return reason if shark == bad else None

    world.agents.fails = fails
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 20}
        tried = {row["id"]: json.loads(row["tried"]) for row in rows(job) if row["tried"]}
    assert given
    assert set(given) == set(tried)
    assert len(set(given)) == len(given)
    assert all(found["destinations"] == [bad] for found in tried.values())


@pytest.mark.parametrize("reason", REASONS, ids=str)
async def test_what_fails_everywhere_is_skipped_in_the_end(
    world: World, autojump_clock: object, reason: Reason
) -> None:
    """After `max_attempts` tries, with the last reason, while all else moves."""
    world.config_changes = {"max_attempts": 3}
    at: list[str] = []

    def fails(shark: str, task: Task) -> Reason | None:
        if task.object_id != object_id(7):
            return None
        at.append(shark)
        return reason

    world.agents.fails = fails
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        found = await counts(job.store)
        (left,) = rows(job, "SELECT * FROM evacuateobjects WHERE status = 'skipped'")
    assert found[("complete", "")] == 19
    assert left["id"] == object_id(7)
    # Each of its two sources may be away once for nothing.
    excused = 2 if reason in (reasons.NETWORK_ERROR, reasons.SOURCE_OTHER_ERROR) else 0
    assert len(at) == 3 + excused
    # Its other copy is in dc2, so dc1 has two nodes for it; later tries repeat one.
    assert len(set(at)) == 2


async def test_agents_that_are_away_for_a_minute_cost_no_object(
    world: World, autojump_clock: object
) -> None:
    """All of them at once, as when they are upgraded: the last try comes when they are back."""
    world.config_changes = {"max_attempts": 3}
    back_at = trio.current_time() + 60

    def away(_shark: str, _assignment: Assignment) -> Exception | None:
        return PeerUnreachable("refused") if trio.current_time() < back_at else None

    world.agents.post_answer = away
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 20}
        assert {row["attempts"] for row in rows(job)} == {0}


@pytest.mark.row("A9")
async def test_another_source_is_read_when_one_failed(
    tmp_path: Path, autojump_clock: object
) -> None:
    """A rotten copy: the others are read, the evacuated shark's last."""
    sharks = [attrs.asdict(ORIGIN), *(attrs.asdict(node.shark) for node in NODES[:3:2])]
    world = make_world(tmp_path / "w", [record(1, sharks=sharks)])
    read: list[str] = []

    def fails(_shark: str, task: Task) -> Reason | None:
        read.append(task.source.manta_storage_id)
        return reasons.MD5_MISMATCH if task.source != ORIGIN else None

    world.agents.fails = fails
    assert await world.run() == {("complete", ""): 1}
    assert sorted(read[:2]) == sorted(node.manta_storage_id for node in NODES[:3:2])
    assert read[2:] == [ORIGIN.manta_storage_id]
    world.close()


async def test_a_restart_remembers_what_failed(world: World, autojump_clock: object) -> None:
    """Destinations, sources and attempts are in the row, and count after a start."""
    world.config_changes = {"max_attempts": 2}
    failing = [True]
    after: dict[str, tuple[str, str]] = {}

    def fails(shark: str, task: Task) -> Reason | None:
        after[task.object_id] = (shark, task.source.manta_storage_id)
        return reasons.NETWORK_ERROR if failing[0] else None

    world.agents.fails = fails
    async with world.job() as job, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run, job)
        while not (before := rows(job, "SELECT * FROM evacuateobjects WHERE attempts = 1")):
            await job.store.wait_change()
        nursery.cancel_scope.cancel()
    failing[0] = False
    world.fleet_ledger = FleetLedger()
    async with world.job() as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 20}
    assert before
    for row in before:
        tried = json.loads(row["tried"])
        destination, source = after[row["id"]]
        assert [destination] != tried["destinations"]
        assert [source] != tried["sources"]


# --- want of room ------------------------------------------------------------------------


@pytest.mark.row("DEF-6", "N13")
async def test_what_lacks_room_is_tried_again_when_all_else_is_settled(
    world: World, autojump_clock: object
) -> None:
    """Room comes free meanwhile: storinfo says so, and the object moves."""
    small = tuple(attrs.evolve(node, available_mb=2000) for node in NODES)
    world.nodes = small
    big = record(99, contentLength=1500 << 20)
    world.shards[1].seed("manta", [(big["key"], big)])
    settled: list[float] = []

    async def grow(job: Job) -> None:
        while job.store.uncopied != 1 or not job.store.deferred:
            await job.store.wait_change()
        settled.append(trio.current_time())
        world.nodes = NODES
        await job.node_list.refresh()

    async with world.job() as job:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(grow, job)
            await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 21}
        (row,) = rows(job, f"SELECT * FROM evacuateobjects WHERE id = '{object_id(99)}'")
    assert row["attempts"] == 1
    assert settled
    assert trio.current_time() - settled[0] > ROOM_S


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_what_never_has_room_is_skipped(
    world: World, autojump_clock: object, attempts: int
) -> None:
    """After `max_attempts` refusals, the first one included; the job ends."""
    world.config_changes = {"max_attempts": attempts}
    world.nodes = tuple(attrs.evolve(node, percent_used=100) for node in NODES)
    async with world.job() as job:
        began = trio.current_time()
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("skipped", "destination_insufficient_space"): 20}
        assert job.store.deferred == 0
        assert (trio.current_time() - began) // ROOM_S == attempts - 1


async def test_what_was_put_off_is_fed_after_a_restart(
    world: World, autojump_clock: object
) -> None:
    """Killed while objects wait for room, with room after the start."""
    world.nodes = tuple(attrs.evolve(node, percent_used=100) for node in NODES)
    async with world.job() as job:
        with trio.move_on_after(ROOM_S / 2):
            await flow.run(job)
        assert job.store.deferred == job.store.uncopied == 20
    world.nodes = NODES
    async with world.job() as job:
        assert job.store.deferred == 0
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 20}


async def test_more_objects_than_a_page_can_wait_for_room(
    tmp_path: Path, autojump_clock: object
) -> None:
    """All pages of them are tried again, each object once a round."""
    world = make_world(tmp_path / "w", [record(number) for number in range(1, 1203)])
    world.options = attrs.evolve(
        world.options, md_read_chunk_size=5000, max_tasks_per_assignment=100
    )
    world.nodes = tuple(attrs.evolve(node, percent_used=100) for node in NODES)

    async def grow(job: Job) -> None:
        while job.store.deferred < 1202:
            await job.store.wait_change()
        world.nodes = NODES
        await job.node_list.refresh()

    async with world.job() as job:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(grow, job)
            await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 1202}
        (most,) = rows(job, "SELECT max(attempts) FROM evacuateobjects")[0]
    assert most == 1
    world.close()


async def test_a_node_that_is_being_evacuated_is_no_destination(
    world: World, autojump_clock: object
) -> None:
    """Not of any job."""
    gone = {NODES[1].manta_storage_id}
    world.nodes = (*NODES, StorageNode(ORIGIN.manta_storage_id, "dc1", 10**9, 0))
    world.fleet_ledger.evacuated = gone
    found = await world.run()
    assert found == {("complete", ""): 20}
    named = {s["manta_storage_id"] for r in world.records() for s in r["sharks"]}
    assert not named & {*gone, ORIGIN.manta_storage_id}


@pytest.mark.parametrize("others_copy", ["no good", "gone for good"])
async def test_sources_that_are_away_use_up_no_attempt(
    world: World, autojump_clock: object, others_copy: str
) -> None:
    """All nodes are started again; the other copy of each object is no good, or on no node.

    So each must be read from the evacuated node in the end, when that answers again.
    """
    began = trio.current_time()

    def fails(_shark: str, task: Task) -> Reason | None:
        if trio.current_time() - began < 5:
            return reasons.SOURCE_OTHER_ERROR
        if task.source == ORIGIN:
            return None
        return reasons.MD5_MISMATCH if others_copy == "no good" else reasons.SOURCE_OTHER_ERROR

    world.agents.fails = fails
    async with world.job() as job:
        with trio.fail_after(100_000):
            await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 20}


async def test_sources_that_are_away_for_good_end_an_object(
    world: World, autojump_clock: object
) -> None:
    """Each source is excused once, no more."""
    asked: list[str] = []

    def fails(_shark: str, task: Task) -> Reason | None:
        asked.append(task.object_id)
        return reasons.SOURCE_OTHER_ERROR

    world.agents.fails = fails
    async with world.job() as job:
        with trio.fail_after(100_000):
            await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("skipped", "source_other_error"): 20}
        tries = job.config.max_attempts + 2
    assert {asked.count(name) for name in asked} == {tries}
