"""Regions filled to the limit: whatever happens, no node takes a byte too many."""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from rebalancer import agent_protocol
from rebalancer.agent_protocol import Task
from rebalancer.domain import reasons
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.objects import StorageNode
from rebalancer.domain.placement import MIB
from rebalancer.domain.reasons import Reason
from rebalancer.domain.records import read_object
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.pipeline.stages.place import place
from rebalancer.manager.store import discovery
from rebalancer.manager.store.records import FoundRecord, ScanPosition
from rebalancer.peers.agents import PostAnswer
from tests.manager.store.test_store import check_counters
from tests.manager.world import ORIGIN, World, counts, make_world, object_id, record

#: A node's heartbeat and storinfo's poll of it.
LATE_S = 35.0


@attrs.define
class Disk:
    """A storage node's disk.  Mutable state: the bytes used, now and at times before."""

    total: int
    used: int
    history: deque[tuple[float, int]] = attrs.field(factory=deque)

    def write(self, size: int) -> None:
        self.used += size
        self.history.append((trio.current_time(), self.used))

    def told(self) -> tuple[int, int]:
        """Free MiB and percentage used as they were `LATE_S` ago, rounded as storinfo does."""
        used = self.history[0][1]
        for at, then in self.history:
            if at <= trio.current_time() - LATE_S:
                used = then
        return (self.total - used) // MIB, -(-100 * used // self.total)


@attrs.define(eq=False)
class Region:
    """Disks behind a world's nodes and agents, with a law: none is filled past the limit.

    Mutable state: the disks, what agents have accepted and not yet written, and who has what.
    """

    world: World
    disks: dict[str, Disk]
    datacenters: dict[str, str]
    sizes: dict[str, int]
    max_fill: int
    accepted: defaultdict[str, int] = attrs.field(factory=lambda: defaultdict(int))

    def check(self, name: str) -> None:
        disk = self.disks[name]
        assert (disk.used + self.accepted[name]) * 100 <= disk.total * self.max_fill

    def nodes(self) -> tuple[StorageNode, ...]:
        return tuple(
            StorageNode(name, self.datacenters[name], *disk.told())
            for name, disk in self.disks.items()
        )

    def post(
        self, shark: str, assignment: agent_protocol.Assignment
    ) -> PostAnswer | Exception | None:
        if assignment.id not in self.world.agents.assignments:
            self.accepted[shark] += sum(self.sizes[task.object_id] for task in assignment.tasks)
            self.check(shark)
        return None

    def copy(self, fails: Callable[[str], bool]) -> Callable[[str, Task], Reason | None]:
        def run(shark: str, task: Task) -> Reason | None:
            size = self.sizes[task.object_id]
            self.accepted[shark] -= size
            if fails(task.object_id):
                return reasons.AGENT_FS_ERROR
            self.disks[shark].write(size)
            self.check(shark)
            return None

        return run


def a_disk(rng: random.Random, max_fill: int) -> Disk:
    total = rng.randint(500 * MIB, 4000 * MIB)
    disk = Disk(total, total * max_fill // 100 - rng.randint(0, 60 * MIB))
    disk.history.append((0.0, disk.used))
    return disk


@pytest.mark.row("IMP-1", "DEF-5", "L26")
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    max_fill=st.sampled_from([100, 95, 80, 47]),
    jobs=st.sampled_from([1, 2]),
)
def test_no_node_is_ever_overfilled(
    tmp_path_factory: pytest.TempPathFactory, seed: int, max_fill: int, jobs: int
) -> None:
    """To the byte: with claims under way, tasks that fail, late news of usage, and two jobs."""
    rng = random.Random(seed)
    names = [f"{number}.stor.lab" for number in range(2, rng.randint(4, 7))]
    numbers = range(1, 41)
    sizes = {object_id(n): rng.choice([0, rng.randint(1, 12 * MIB)]) for n in numbers}
    unlucky = rng.sample(list(sizes), 8)
    records = [
        record(n, contentLength=sizes[object_id(n)], sharks=[attrs.asdict(ORIGIN)]) for n in numbers
    ]
    world = make_world(tmp_path_factory.mktemp("filling") / "world", records)
    world.config_changes = {"min_avail_mb": 0, "max_fill_percentage": max_fill}
    world.options = attrs.evolve(
        world.options, max_tasks_per_assignment=2, max_assignments_per_shark=rng.randint(1, 3)
    )
    world.agents.post_s = lambda: rng.uniform(0, 15)
    region = Region(
        world,
        {name: a_disk(rng, max_fill) for name in names},
        {name: rng.choice(["dc1", "dc2"]) for name in names},
        sizes,
        max_fill,
    )
    rounds = defaultdict[str, int](int)

    def fails(name: str) -> bool:
        rounds[name] += 1
        return name in unlucky and rounds[name] == 1

    world.agents.post_answer = region.post
    world.agents.fails = region.copy(fails)
    found: list[dict[tuple[str, str], int]] = []

    async def ask() -> Sequence[StorageNode]:
        await trio.lowlevel.checkpoint()
        return region.nodes()

    async def one(name: str, shard: int) -> None:
        fleet = NodeList(ask)
        shards = {n: store for n, store in world.shards.items() if jobs == 1 or n == shard}
        part = attrs.evolve(world, job_name=name, shards=shards)
        async with part.job(node_list=fleet) as job:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fleet.poll)
                await flow.run(job)
                nursery.cancel_scope.cancel()
            check_counters(job.store)
            found.append(await counts(job.store))

    async def run() -> None:
        with trio.fail_after(100_000):
            async with trio.open_nursery() as nursery:
                for number in range(1, jobs + 1):
                    nursery.start_soon(one, f"job{number}", number)

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    world.close()
    assert sum(sum(part.values()) for part in found) == len(records)
    ends = {key for part in found for key in part}
    assert ends <= {
        ("complete", ""),
        ("skipped", "destination_insufficient_space"),
        ("skipped", "agent_fs_error"),
    }
    assert not any(region.accepted.values())


# --- limits that change while the job runs ------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [])
    yield made
    made.close()


async def placed(job: Job, numbers: Sequence[int], feed: Any, ready: Any) -> list[Assignment]:
    """Let a running placement place these objects; the assignments it makes."""
    objects = []
    for number in numbers:
        obj = read_object(record(number, sharks=[attrs.asdict(ORIGIN)]))
        objects.append(FoundRecord(obj.object_id, obj.object_id, 1, "e", "{}", obj.size, obj))
    new = await job.store.write(discovery.store_found, objects, ScanPosition(1, "_id", 1, 2))
    await feed.send(Feed(tuple(new), is_flush=True))
    made: list[Assignment] = []
    while sum(len(item.tasks) for item in made) < len(new):
        made.append(await ready.receive())
    for item in made:
        job.ledger.done(item.destination.manta_storage_id, item.size)
    return made


@pytest.mark.row("MIN-6", "DEF-8", "N13")
async def test_limits_that_change_hold_from_the_next_object_on(
    world: World, autojump_clock: object
) -> None:
    """Tasks an assignment, destinations at a time, blacklist, evacuations, fill."""
    feed_send, feed = trio.open_memory_channel[Feed](2)
    ready_send, ready = trio.open_memory_channel[Assignment](100)
    evacuated = {"nobody"}
    world.fleet_ledger.evacuated = evacuated

    def where(made: list[Assignment]) -> set[str]:
        return {item.destination.manta_storage_id for item in made}

    async with world.job() as job, trio.open_nursery() as nursery:
        await job.node_list.ready(job.waits)
        nursery.start_soon(place, job, feed, ready_send)

        def change(**options: Any) -> None:
            changed = attrs.evolve(job.config.options, **options)
            job.config = attrs.evolve(job.config, options=changed)

        made = await placed(job, range(30), feed_send, ready)
        assert where(made) == {f"{n}.stor.lab" for n in range(2, 7)}
        assert max(len(item.tasks) for item in made) == 3
        change(max_tasks_per_assignment=10, max_sharks=2)
        made = await placed(job, range(30, 50), feed_send, ready)
        assert len(where(made)) == 2
        assert max(len(item.tasks) for item in made) == 10
        change(max_sharks=10)
        job.config = attrs.evolve(job.config, blacklist_datacenters=("dc1",))
        made = await placed(job, range(60, 90), feed_send, ready)
        assert where(made) == {"2.stor.lab", "4.stor.lab", "6.stor.lab"}
        evacuated.add("4.stor.lab")
        made = await placed(job, range(90, 120), feed_send, ready)
        assert where(made) == {"2.stor.lab", "6.stor.lab"}
        world.nodes = tuple(
            attrs.evolve(n, percent_used=90) if n.manta_storage_id == "2.stor.lab" else n
            for n in world.nodes
        )
        await job.node_list.refresh()
        job.config = attrs.evolve(job.config, max_fill_percentage=90)
        made = await placed(job, range(120, 150), feed_send, ready)
        assert where(made) == {"6.stor.lab"}
        nursery.cancel_scope.cancel()


async def test_objects_wait_for_a_destination_that_is_busy(
    world: World, autojump_clock: object
) -> None:
    """No assignment more than a node may have; the next one when one is over."""
    world.nodes = world.nodes[1:2]
    feed_send, feed = trio.open_memory_channel[Feed](2)
    ready_send, ready = trio.open_memory_channel[Assignment](100)
    _, silent = trio.open_memory_channel[Assignment](0)
    async with world.job() as job, trio.open_nursery() as nursery:
        await job.node_list.ready(job.waits)
        nursery.start_soon(place, job, feed, ready_send)
        nursery.start_soon(placed, job, range(30), feed_send, silent)
        await trio.sleep(1000)
        (name,) = [node.manta_storage_id for node in world.nodes]
        assert ready.statistics().current_buffer_used == 4
        assert job.ledger.is_busy(name)
        job.ledger.done(name, 0)
        await trio.sleep(1)
        assert ready.statistics().current_buffer_used == 5
        nursery.cancel_scope.cancel()
