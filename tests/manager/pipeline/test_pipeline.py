"""The pipeline, end to end, on virtual time; and every way an object can leave its path."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.agent_protocol import Assignment, AssignmentReport
from rebalancer.domain import reasons
from rebalancer.domain.objects import StorageNode
from rebalancer.errors import JobFailed, PeerRefused, PeerUnreachable
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers import scan
from rebalancer.peers.agents import PostAnswer, PostResult
from tests.manager.world import NODES, ORIGIN, World, counts, make_world, object_id, record


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [record(number) for number in range(1, 21)])
    yield made
    made.close()


def sharks_of(world: World, number: int) -> set[str]:
    return {
        shark["manta_storage_id"]
        for found in world.records()
        if found["objectId"] == object_id(number)
        for shark in found["sharks"]
    }


@pytest.mark.row("CRIT-1", "CRIT-2", "L32", "N2", "N7")
async def test_every_object_leaves_the_shark(world: World, autojump_clock: object) -> None:
    """All complete; no record names the evacuated shark; each keeps two sharks."""
    assert await world.run() == {("complete", ""): 20}
    for found in world.records():
        names = {shark["manta_storage_id"] for shark in found["sharks"]}
        assert ORIGIN.manta_storage_id not in names
        assert len(names) == 2
        assert {shark["datacenter"] for shark in found["sharks"]} == {"dc1", "dc2"} or len(
            {shark["datacenter"] for shark in found["sharks"]}
        ) == 1
    assert not world.agents.assignments  # deleted at the agents


async def test_objects_that_are_left_on_their_way_fail_the_job_in_words(
    world: World, autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator reads how many there are in each status."""

    async def takes_all(
        _job: Job, feeds: trio.MemoryReceiveChannel[Feed], placed: trio.abc.AsyncResource
    ) -> None:
        async with feeds, placed:
            async for _ in feeds:
                pass

    monkeypatch.setattr(flow, "place", takes_all)
    monkeypatch.setattr(JobStore, "uncopied", 0)
    async with world.job() as job:
        with pytest.raises(JobFailed, match="^objects were left unfinished: 20 unprocessed$"):
            await flow.run(job)


async def test_a_second_run_finds_nothing_to_do(world: World, autojump_clock: object) -> None:
    """A job that has ended may be started again and changes nothing."""
    await world.run()
    before = world.records()
    assert await world.run() == {("complete", ""): 20}
    assert before == world.records()


@pytest.mark.row("N15")
async def test_max_objects_is_exact(world: World, autojump_clock: object) -> None:
    """No more objects than asked for, whatever the windows hold."""
    assert await world.run(max_objects=7) == {("complete", ""): 7}


@pytest.mark.row("TEST-EVAC-3", "TEST-EVAC-5")
async def test_failed_tasks_are_skipped_with_their_reasons(
    world: World, autojump_clock: object
) -> None:
    """The agent's reason is the object's; its record is untouched."""
    world.agents.failures = {
        object_id(3): reasons.MD5_MISMATCH,
        object_id(4): reasons.http_status_code(404),
    }
    assert await world.run() == {
        ("complete", ""): 18,
        ("skipped", "md5_mismatch"): 1,
        ("skipped", "{http_status_code:404}"): 1,
    }
    assert ORIGIN.manta_storage_id in sharks_of(world, 3)


async def test_an_unreachable_destination_is_replaced(world: World, autojump_clock: object) -> None:
    """Objects for an agent that is down go elsewhere."""
    down = NODES[1].manta_storage_id

    def answer(shark: str, _assignment: Assignment) -> Exception | None:
        return PeerUnreachable("down") if shark == down else None

    world.agents.post_answer = answer
    assert await world.run() == {("complete", ""): 20}
    assert all(down not in sharks_of(world, number) for number in range(1, 21))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (PeerUnreachable("down"), "destination_unreachable"),
        (PostAnswer(PostResult.BUSY, "503", 1.0), "agent_busy"),
        (PostAnswer(PostResult.REJECTED, "400"), "assignment_rejected"),
    ],
)
async def test_what_no_agent_takes_is_skipped(
    answer: Any, reason: str, world: World, autojump_clock: object
) -> None:
    """After all attempts the reason is the last refusal's, and the job still ends."""
    world.agents.post_answer = lambda _shark, _assignment: answer
    assert await world.run() == {("skipped", reason): 20}


@pytest.mark.row("TEST-EVAC-3")
async def test_an_agent_that_forgets_loses_the_assignment(
    world: World, autojump_clock: object
) -> None:
    """404 returns the objects to placement; what is never found again is skipped at the end."""
    world.agents.report = lambda _report: None
    assert await world.run() == {("skipped", "agent_assignment_no_ent"): 20}


def _drop_a_task(report: AssignmentReport) -> AssignmentReport:
    stats = report.stats
    if stats.failures is None:
        return report
    short = attrs.evolve(stats, complete=stats.complete - 1, total=stats.total - 1)
    return attrs.evolve(report, stats=short)


async def test_a_report_that_does_not_add_up_counts_nothing(
    world: World, autojump_clock: object
) -> None:
    """An agent that accounts for too few tasks: no object of it counts as copied."""
    world.agents.report = _drop_a_task
    assert await world.run() == {("skipped", "assignment_mismatch"): 20}
    assert all(ORIGIN.manta_storage_id in sharks_of(world, n) for n in range(1, 21))


@pytest.mark.row("DEF-3", "L21", "N17")
async def test_an_agent_without_progress_is_given_up(world: World, autojump_clock: object) -> None:
    """An agent that answers and never works does not hold the job for ever."""
    world.agents.asked.default_factory = lambda: -(10**9)
    assert await world.run() == {("skipped", "network_error"): 20}


@pytest.mark.row("MIN-4", "TEST-EVAC-5")
async def test_no_room_anywhere(world: World, autojump_clock: object) -> None:
    """All candidates are tried; then the reason is want of space."""
    world.nodes = tuple(attrs.evolve(node, percent_used=100) for node in NODES)
    assert await world.run() == {("skipped", "destination_insufficient_space"): 20}


@pytest.mark.row("DEF-5")
async def test_no_destination_is_ever_overfilled(world: World, autojump_clock: object) -> None:
    """Claims are counted in bytes: a node with room for five small objects gets no more."""
    room = 12_000
    world.nodes = tuple(
        StorageNode(node.manta_storage_id, node.datacenter, 1000, 99) for node in NODES
    )
    world.config_changes = {"min_avail_mb": 0}
    # total is 100,000 MiB, used 99,000: a fill of 100 % leaves 1000 MiB, so claim most first.
    async with world.job() as job:
        for node in world.nodes:
            job.ledger.claim(node.manta_storage_id, (1000 << 20) - room)
        await flow.run(job)
        taken: dict[str, int] = {}
        for assignment in job.store.database._reader.execute("SELECT * FROM assignments"):
            name = assignment["dest_shark"]
            taken[name] = taken.get(name, 0) + assignment["bytes"]
    assert taken
    assert all(size <= room for size in taken.values())


@pytest.mark.row("TEST-EVAC-4")
async def test_an_empty_storinfo_is_waited_for(world: World, autojump_clock: object) -> None:
    """Nowhere to go at the start is a clear cause, not a job of skipped objects, nor its end."""
    known, world.nodes = world.nodes, ()
    async with world.job() as job, trio.open_nursery() as nursery:
        nursery.start_soon(flow.run, job)
        await trio.sleep(36_000)
        (cause,) = job.waits.causes
        assert (cause.subject, cause.detail) == ("storinfo", "it lists no storage nodes")
        assert await counts(job.store) == {}
        world.nodes = known
    assert world.agents.copied_whole


@pytest.mark.row("CRIT-1", "CRIT-7")
async def test_a_shard_that_fails_fails_the_job_at_its_end(
    world: World, autojump_clock: object
) -> None:
    """The other shards are done first; the cause names the shard."""
    world.shards[2].close()

    class Down(scan.DirectoryShard):
        async def sql(self, *_args: object, **_options: object) -> Any:
            await trio.lowlevel.checkpoint()
            raise PeerRefused("2.moray.lab: relation manta does not exist")

    async with world.job() as job:
        job.shards[2] = Down()  # type: ignore[index]
        with pytest.raises(JobFailed, match="shard 2"):
            await flow.run(job)
        assert job.store.objects == 10
    del world.shards[2]
    assert all(ORIGIN.manta_storage_id not in str(found["sharks"]) for found in world.records())


# --- records that change while the job runs ------------------------------------------------


def change_while_copying(world: World, number: int, change: Any) -> None:
    """Apply `change(store, key)` to an object's record once its copy is made."""
    original = world.agents.report
    done: list[int] = []

    def report(told: AssignmentReport) -> AssignmentReport | None:
        if told.stats.failures is not None and not done:
            done.append(1)
            for store in world.shards.values():
                try:
                    value = store.get("manta", f"/account/stor/{number}")["value"]
                except Exception:
                    continue
                change(store, value)
        return original(told)

    world.agents.report = report


@pytest.mark.row("CRIT-2", "L18")
async def test_invariant_5_an_overwritten_object_is_left_alone(
    world: World, autojump_clock: object
) -> None:
    """A user's write wins; the copy that nobody names is listed with its path.

    What the user wrote is an object of its own, which the final scan finds.
    """

    def overwrite(store: Any, value: dict[str, Any]) -> None:
        store.put("manta", value["key"], {**value, "objectId": object_id(999)})

    change_while_copying(world, 5, overwrite)
    assert await world.run() == {("complete", ""): 20, ("skipped", "overwritten"): 1}
    assert sharks_of(world, 999)
    assert ORIGIN.manta_storage_id not in sharks_of(world, 999)
    async with world.job() as job:
        (orphan,) = job.store.database._reader.execute("SELECT * FROM orphans").fetchall()
    assert orphan["object_id"] == object_id(5)
    assert orphan["path"] == f"/manta/{object_id(0)}/{object_id(5)}"


@pytest.mark.row("CRIT-2")
async def test_invariant_5_a_deleted_object_is_recorded(
    world: World, autojump_clock: object
) -> None:
    """Gone is gone: no record is made anew."""
    change_while_copying(world, 5, lambda store, value: store.delete("manta", value["key"]))
    assert await world.run() == {("complete", ""): 19, ("skipped", "deleted"): 1}
    assert not sharks_of(world, 5)


@pytest.mark.row("CRIT-2", "L16")
async def test_a_changed_record_is_merged(world: World, autojump_clock: object) -> None:
    """Attributes that a user changed meanwhile stay changed; only the shark is exchanged."""

    def touch(store: Any, value: dict[str, Any]) -> None:
        store.put("manta", value["key"], {**value, "m-colour": "blue"})

    change_while_copying(world, 5, touch)
    assert await world.run() == {("complete", ""): 20}
    (found,) = [r for r in world.records() if r["objectId"] == object_id(5)]
    assert found["m-colour"] == "blue"
    assert ORIGIN.manta_storage_id not in sharks_of(world, 5)


# --- updates that fail -----------------------------------------------------------------------


def failing(times: int) -> Callable[[str], None]:
    """Fail the first `times` calls."""
    left = [times]

    def fail(name: str) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise PeerUnreachable(f"{name}: connection lost")

    return fail


@pytest.mark.row("CRIT-2", "DEF-12", "L17")
@pytest.mark.parametrize("batched", [True, False])
async def test_an_update_whose_fate_is_unknown_is_settled_by_reading(
    world: World, autojump_clock: object, batched: bool
) -> None:
    """The write took effect, its answer was lost: complete, and written once only."""
    world.options = attrs.evolve(world.options, use_batched_updates=batched)
    world.after_write = failing(3)
    assert await world.run() == {("complete", ""): 20}
    assert all(ORIGIN.manta_storage_id not in str(found["sharks"]) for found in world.records())


@pytest.mark.parametrize("batched", [True, False])
async def test_an_update_that_fails_for_a_while_is_tried_again(
    world: World, autojump_clock: object, batched: bool
) -> None:
    """A shard that is away for some seconds costs no object."""
    world.options = attrs.evolve(world.options, use_batched_updates=batched)
    world.before_write = failing(30)
    assert await world.run() == {("complete", ""): 20}


@pytest.mark.row("DEF-1", "DEF-15", "L6", "L18", "N3")
async def test_an_update_that_fails_for_ever_is_an_error(
    world: World, autojump_clock: object
) -> None:
    """The object is told with its cause, its copy is listed; its record is as it was."""
    world.before_write = failing(1_000_000)
    assert await world.run() == {("error", "metadata_update_failed"): 20}
    async with world.job() as job:
        rows = job.store.database._reader.execute("SELECT detail FROM evacuateobjects")
        assert {row["detail"] for row in rows} == {
            "1.moray.lab: connection lost; whether it was written is unknown",
            "2.moray.lab: connection lost; whether it was written is unknown",
        }
        (orphans,) = job.store.database._reader.execute("SELECT count(*) FROM orphans").fetchone()
    assert orphans == 20
    assert all(ORIGIN.manta_storage_id in str(found["sharks"]) for found in world.records())


async def test_a_shard_that_is_not_configured_any_more_is_told(
    world: World, autojump_clock: object
) -> None:
    """The configuration shrank between two starts of the manager."""
    async with world.job() as job:
        with trio.move_on_after(0.35):
            await flow.run(job)
        assert job.store.objects == 20
        unsettled = job.store.uncopied
    assert unsettled
    async with world.job() as job:
        del job.shards[2]  # type: ignore[attr-defined]
        with trio.fail_after(10_000), pytest.raises(JobFailed, match="the shard is not configured"):
            await flow.run(job)
        found = await counts(job.store)
    assert found["error", "bad_shard_number"] + found["complete", ""] == 20
    assert found["error", "bad_shard_number"] > 0


# --- odd records ---------------------------------------------------------------------------


@pytest.mark.row("IMP-2", "TEST-EVAC-6", "L19", "N11")
async def test_links_and_duplicates_move_once_and_are_all_rewritten(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Two records of one object, on one shard or two: one row, one copy, both rewritten."""
    link = record(1, key="/account/stor/link", name="link")
    world = make_world(tmp_path / "w", [record(1), record(2), link, record(2, key="/x")])
    assert await world.run() == {("complete", ""): 2, ("duplicates", ""): 2}
    assert len(world.agents.copied_whole) == 2
    assert all(ORIGIN.manta_storage_id not in str(r["sharks"]) for r in world.records())
    assert len(world.records()) == 4
    async with world.job() as job:
        rows = job.store.database._reader.execute("SELECT * FROM duplicates ORDER BY id")
        assert [tuple(row) for row in rows] == [
            (object_id(1), "/account/stor/1", "[1]"),
            (object_id(2), "/account/stor/2", "[2]"),
        ]
    world.close()


async def test_a_link_that_a_person_removes_while_it_is_written_ends_no_job(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Its record names the new copy, and the row of the job's file stays gone."""
    link = record(1, key="/account/stor/link", name="link")
    world = make_world(tmp_path / "w", [record(1), link])

    def remove_link(_shard: str) -> None:
        with closing(sqlite3.connect(world.job_file)) as db, db:
            db.execute("DELETE FROM links")

    writes = count(1)
    world.after_write = lambda shard: remove_link(shard) if next(writes) == 2 else None
    assert await world.run() == {("complete", ""): 1, ("duplicates", ""): 1}
    assert all(ORIGIN.manta_storage_id not in str(r["sharks"]) for r in world.records())
    with closing(sqlite3.connect(world.job_file)) as db:
        assert db.execute("SELECT count(*) FROM links").fetchone() == (0,)
    world.close()


@pytest.mark.row("CRIT-2", "DEF-4", "L8")
async def test_one_bad_record_never_stops_a_job(tmp_path: Path, autojump_clock: object) -> None:
    """Each ends in its own error; the good ones move."""
    twice = [attrs.asdict(ORIGIN), attrs.asdict(ORIGIN)]
    world = make_world(
        tmp_path / "w",
        [
            record(1),
            record(2, sharks={"0": attrs.asdict(ORIGIN)}),
            record(3, contentMD5=None),
            record(4, contentLength="5"),
            record(5, sharks=twice),
            record(6, name=ORIGIN.manta_storage_id, sharks=[attrs.asdict(NODES[0].shark)]),
            record(7, sharks=[{"datacenter": "d c", "manta_storage_id": ORIGIN.manta_storage_id},
                              {"datacenter": "dc1", "manta_storage_id": "a/b?"}]),
        ],
    )  # fmt: skip
    assert await world.run() == {
        ("complete", ""): 1,
        ("error", "missing_sharks"): 2,
        ("error", "bad_manta_object"): 1,
        ("error", "bad_content_length"): 1,
        ("error", "duplicate_shark"): 1,
    }
    world.close()
