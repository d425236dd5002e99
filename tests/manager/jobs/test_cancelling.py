"""A job that is cancelled begins nothing more, and lets what is under way come to its end."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing

from rebalancer import agent_protocol
from rebalancer.domain import reasons
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.records import read_object
from rebalancer.domain.retries import UNTRIED
from rebalancer.errors import PeerUnreachable
from rebalancer.manager.fleet.bandwidth import BandwidthLimit
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.flow import QUEUE
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.pipeline.stages.discover import discover
from rebalancer.manager.pipeline.stages.place import place
from rebalancer.manager.pipeline.stages.poll import poll
from rebalancer.manager.pipeline.stages.post import post
from rebalancer.manager.store import discovery, unplaced
from rebalancer.manager.store.records import FoundRecord, ScanPosition
from rebalancer.peers.agents import PostAnswer, PostResult
from tests.manager.store.test_store import check_counters
from tests.manager.world import ORIGIN, World, counts, make_world, record
from tests.peers.fakes import RelayedAgents

OBJECTS = 60


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [])
    # More than are posted at a time, so that some wait.
    made.options = attrs.evolve(made.options, max_assignments_per_shark=10)
    yield made
    made.close()


async def feed(job: Job, found: trio.MemorySendChannel[Feed]) -> None:
    """Stands for discovery, which goes on until it hears of the cancellation."""
    async with found:
        for start in range(0, OBJECTS, 10):
            records = []
            for number in range(start, start + 10):
                text = json.dumps(record(number))
                obj = read_object(json.loads(text))
                records.append(FoundRecord(obj.object_id, "k", 1, "e", text, obj.size, obj))
            new = await job.store.write(
                discovery.store_found, records, ScanPosition(1, "_id", 1, 2)
            )
            await found.send(Feed(tuple(new)))
            await trio.sleep(0.03)
        await found.send(Feed((), is_flush=True))


async def take(moved: trio.MemoryReceiveChannel[Assignment], done: list[str]) -> None:
    async for item in moved:
        done.append(item.id)


async def run(job: Job, *, cancel_after_s: float) -> list[str]:
    """Placement, posting and polling, cancelled meanwhile; the assignments that were done."""
    done: list[str] = []
    found_send, found = trio.open_memory_channel[Feed](QUEUE)
    ready_send, ready = trio.open_memory_channel[Assignment](QUEUE)
    sent_send, sent = trio.open_memory_channel[Assignment](QUEUE)
    moved_send, moved = trio.open_memory_channel[Assignment](QUEUE)
    await job.node_list.ready(job.waits)
    with trio.fail_after(100_000):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed, job, found_send)
            nursery.start_soon(place, job, found, ready_send)
            async with ready, sent_send:
                for _ in range(4):
                    nursery.start_soon(post, job, ready.clone(), sent_send.clone())
            nursery.start_soon(poll, job, sent, moved_send)
            nursery.start_soon(take, moved, done)
            await trio.sleep(cancel_after_s)
            job.cancelled.set()
    return done


def rows(job: Job, query: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in job.store.database._reader.execute(query)]


@pytest.mark.row("L20")
@pytest.mark.parametrize("after_s", [0, 0.005, 0.015, 0.04, 0.08, 0.12, 0.2, 0.4, 0.8, 1.5, 3, 9])
async def test_nothing_is_begun_and_nothing_is_left_half_way(
    world: World, autojump_clock: object, after_s: float
) -> None:
    """At any moment: what agents have is done, all else is as it was found; no claim is left."""
    posted_late: list[str] = []
    rng = random.Random(int(after_s * 1000))
    world.agents.post_s = lambda: rng.uniform(0, 1)
    world.agents.fails = lambda _shark, _task: rng.choice([None, None, reasons.AGENT_FS_ERROR])
    async with world.job() as job:

        def answer(_shark: str, assignment: agent_protocol.Assignment) -> PostAnswer | None:
            if job.cancelled.is_set():
                posted_late.append(assignment.id)
            return None

        world.agents.post_answer = answer
        done = await run(job, cancel_after_s=after_s)
        check_counters(job.store)
        query = "SELECT state, count(*) FROM assignments GROUP BY 1"
        states = {str(row[0]): row[1] for row in rows(job, query)}
        found = await counts(job.store)
        query = "SELECT count(*) FROM evacuateobjects WHERE status = 'unprocessed' AND attempts"
        (failed,) = rows(job, query)[0]
    assert not posted_late
    assert set(done) == world.agents.known_ever
    assert set(states) <= {"agent_complete", "rejected"}
    assert states.get("agent_complete", 0) == len(done)
    copied = len(world.agents.copied_whole)
    assert found.get(("post_processing", ""), 0) == copied
    assert found.get(("unprocessed", ""), 0) == OBJECTS - copied
    posted = sum(world.agents.done[name].stats.total for name in done)
    assert failed == posted - copied  # what was never sent has made no attempt
    await trio.sleep(100)
    assert all(one.claimed == one.assignments == 0 for one in world.fleet_ledger.snapshot())


async def test_a_job_that_waits_for_busy_destinations_hears_of_it(
    world: World, autojump_clock: object
) -> None:
    """Placement is stuck, agents work for an hour: it ends when they do, and places no more."""
    world.agents.asked.default_factory = lambda: -300
    world.options = attrs.evolve(world.options, max_assignments_per_shark=2)
    async with world.job() as job:
        done = await run(job, cancel_after_s=50)
        found = await counts(job.store)
    # Two assignments of three objects at each of two nodes in the allowed datacenter.
    assert len(done) == 4
    assert found == {("post_processing", ""): 12, ("unprocessed", ""): OBJECTS - 12}


async def test_discovery_that_hands_on_what_was_given_back_hears_of_it(
    world: World, autojump_clock: object
) -> None:
    """Placement takes those objects after the cancellation, and nothing else happens any more."""
    send, receive = trio.open_memory_channel[Feed](0)
    async with world.job() as job:
        text = json.dumps(record(1))
        obj = read_object(json.loads(text))
        made = FoundRecord(obj.object_id, "k", 1, "e", text, obj.size, obj)
        await job.store.write(discovery.store_found, [made], ScanPosition(1, "_id", 1, 2))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(discover, job, 0, 0, send)
            assert await receive.receive() == Feed((), is_flush=True)  # all shards are scanned
            await trio.testing.wait_all_tasks_blocked()
            job.requeue(Assignment("an assignment", ORIGIN, (), 0))
            await trio.testing.wait_all_tasks_blocked()
            job.cancel()
            assert await receive.receive() == Feed((), is_flush=True)
            with trio.fail_after(60), pytest.raises(trio.EndOfChannel):
                await receive.receive()


@pytest.mark.parametrize(
    "answer",
    [PostAnswer(PostResult.BUSY, "503", 60.0), PeerUnreachable("down")],
    ids=["busy", "down"],
)
async def test_tries_to_post_end(
    world: World, autojump_clock: object, answer: PostAnswer | Exception
) -> None:
    """No further pause, no further try; the objects are unprocessed."""
    world.agents.post_answer = lambda _shark, _assignment: answer
    async with world.job() as job:
        began = trio.current_time()
        await run(job, cancel_after_s=0.1)
        assert trio.current_time() - began < 5
        assert await counts(job.store) == {("unprocessed", ""): OBJECTS}
    assert not world.agents.known_ever


async def test_a_cancelled_job_can_go_on_from_its_file(
    world: World, autojump_clock: object
) -> None:
    """What was withdrawn is found by the next start, without anything against it."""

    class Slow(RelayedAgents):
        """Agents that have not been told how much they may take in when the job is cancelled."""

        async def limit_bandwidth(self, shark: str, bytes_per_s: int | None) -> bool:
            await trio.sleep(1.0)
            return True

    limit = BandwidthLimit(Slow(world.agents), world.fleet_ledger.throttle, 1_000_000)
    async with world.job(bandwidth=limit) as job, limit.in_force():
        await run(job, cancel_after_s=0.5)
        left = job.store.uncopied
        assert rows(job, "SELECT count(*) FROM assignments WHERE state = 'rejected'") > [(0,)]
    async with world.job() as job:
        _, objects = await job.store.read(
            unplaced.read_new, 0, await job.store.read(unplaced.last_row)
        )
    assert len(objects) == left
    assert all(obj.tried == UNTRIED for obj in objects)


@pytest.mark.parametrize("after_s", [0, 0.01, 0.03, 0.1, 0.3, 1])
async def test_a_cancelled_job_brings_every_object_to_an_end(
    tmp_path: Path, autojump_clock: object, after_s: float
) -> None:
    """The whole pipeline, cut within its scans or later: what agents have is recorded."""
    made = make_world(tmp_path / "whole", [record(number) for number in range(OBJECTS)])
    async with made.job() as job:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flow.run, job)
            await trio.sleep(after_s)
            job.cancel()
        check_counters(job.store)
        found = await counts(job.store)
    made.close()
    assert set(found) <= {("complete", ""), ("skipped", reasons.CANCELLED.word)}
    assert found.get(("complete", ""), 0) == len(made.agents.copied_whole)
