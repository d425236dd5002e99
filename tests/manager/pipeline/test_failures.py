"""What breaks a job, and what must not: each reaches its end and is told."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.domain import reasons
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.objects import StorageNode
from rebalancer.domain.placement import free_bytes
from rebalancer.domain.reasons import Reason
from rebalancer.domain.records import read_object
from rebalancer.errors import (
    IllegalTransition,
    JobFailed,
    PeerError,
    PeerMalformed,
    PeerUnreachable,
    leaves,
)
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.pipeline.listings import EarlierJob
from rebalancer.manager.pipeline.stages.place import place
from rebalancer.manager.store import assignments, discovery, unplaced, updates, views
from rebalancer.manager.store.records import WRITTEN, FoundRecord, ScanPosition
from rebalancer.peers import scan
from rebalancer.peers.moray.errors import read_error
from rebalancer_devregion.moray import faults
from rebalancer_devregion.moray.errors import query_timeout
from tests.logs import capture_logs
from tests.manager.pipeline.test_pipeline import change_while_copying
from tests.manager.store.test_store import check_counters, found, keep, opened
from tests.manager.world import NODES, ORIGIN, World, counts, make_world, object_id, record
from tests.peers.fakes import RelayedAgents

SHARK = ORIGIN.manta_storage_id


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [record(number) for number in range(1, 21)])
    yield made
    made.close()


def on_the_shark(world: World) -> set[str]:
    return {r["objectId"] for r in world.records() if SHARK in str(r["sharks"])}


# --- errors of a scan ------------------------------------------------------------------------


@attrs.define
class Failing(scan.DirectoryShard):
    """A shard that fails its first statements.  Mutable state: how many it will."""

    shard: Any
    error: Callable[[], PeerError]
    left: float

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = 0.0
    ) -> Any:
        if self.left > 0:
            self.left -= 1
            await trio.lowlevel.checkpoint()
            raise self.error()
        return await self.shard.sql(statement, values)


def told(error: Any) -> Callable[[], PeerError]:
    """What the client makes of a server's error."""
    return lambda: read_error(error.payload)


SCAN_ERRORS: dict[str, Callable[[], PeerError]] = {
    "refused": partial(PeerUnreachable, "2.moray.lab: connection refused"),
    "cut in the middle": partial(PeerUnreachable, "2.moray.lab: connection closed by peer"),
    "query timeout": told(query_timeout("SELECT 1")),
    "overload": told(faults.overloaded()),
    "statement ended": told(faults.backend_killed()),
    "database down": told(faults.database_down()),
}


@pytest.mark.row("CRIT-1")
@pytest.mark.parametrize("name", SCAN_ERRORS)
async def test_an_error_of_a_scan_is_tried_again(
    world: World, autojump_clock: object, name: str
) -> None:
    """Whatever it is: after five failures nothing is missing."""
    async with world.job() as job:
        flaky = Failing(world.moray[2], SCAN_ERRORS[name], 5)
        await flow.run(attrs.evolve(job, scanned={**job.scanned, 2: flaky}))
        assert await counts(job.store) == {("complete", ""): 20}
    assert on_the_shark(world) == set()


@pytest.mark.row("CRIT-1", "L31")
@pytest.mark.parametrize("name", SCAN_ERRORS)
async def test_an_error_of_a_scan_that_stays_is_waited_for(
    world: World, autojump_clock: object, name: str
) -> None:
    """Ten hours: what the other shards have is moved first, the cause is shown, then it goes on."""
    error = SCAN_ERRORS[name]
    async with world.job() as job, trio.open_nursery() as nursery:
        broken = Failing(world.moray[2], error, float("inf"))
        job = attrs.evolve(job, scanned={**job.scanned, 2: broken})
        nursery.start_soon(flow.run, job)
        await trio.sleep(36_000)
        assert await counts(job.store) == {("complete", ""): 10}
        (cause,) = job.waits.causes
        assert (cause.subject, cause.detail) == ("the clone of shard 2", str(error()))
        broken.left = 0
    assert job.waits.causes == []
    assert on_the_shark(world) == set()


async def test_a_shard_that_is_waited_for_takes_no_reader_from_the_others(
    tmp_path: Path, autojump_clock: object
) -> None:
    """One reader only: the shard that does not answer is the first."""
    world = make_world(tmp_path / "w", [record(number) for number in range(1, 31)], shards=3)
    world.options = attrs.evolve(world.options, max_md_read_threads=1)
    async with world.job() as job, trio.open_nursery() as nursery:
        broken = Failing(world.moray[1], SCAN_ERRORS["refused"], float("inf"))
        nursery.start_soon(flow.run, attrs.evolve(job, scanned={**job.scanned, 1: broken}))
        await trio.sleep(3600)
        assert await counts(job.store) == {("complete", ""): 20}
        broken.left = 0
    assert on_the_shark(world) == set()
    world.close()


async def test_a_job_that_waits_for_a_shard_can_be_cancelled(
    world: World, autojump_clock: object
) -> None:
    """And comes to its end at once."""
    async with world.job() as job, trio.open_nursery() as nursery:
        broken = Failing(world.moray[2], SCAN_ERRORS["refused"], float("inf"))
        nursery.start_soon(flow.run, attrs.evolve(job, scanned={**job.scanned, 2: broken}))
        await trio.sleep(3600)
        job.cancel()
        with trio.fail_after(60):
            while nursery.child_tasks:  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.1)
        assert job.waits.causes == []


@pytest.mark.row("CRIT-1", "CRIT-7")
async def test_what_no_try_can_change_is_not_tried_again(
    world: World, autojump_clock: object
) -> None:
    """An answer that is no answer: the job says so at once."""
    async with world.job() as job:
        broken = Failing(world.moray[2], partial(PeerMalformed, "no rows"), 1)
        with pytest.raises(JobFailed, match="discovery on shard 2 did not finish: no rows"):
            await flow.run(attrs.evolve(job, scanned={**job.scanned, 2: broken}))


# --- bugs in a worker --------------------------------------------------------------------------


class Bug(Exception):
    """Stands for a mistake of ours."""


async def broken(*_args: object, **_more: object) -> None:
    await trio.lowlevel.checkpoint()
    raise Bug("a mistake")


def break_agents(name: str) -> Callable[[Job], Job]:
    def change(job: Job) -> Job:
        agents = RelayedAgents(job.agents)
        setattr(agents, name, broken)
        return attrs.evolve(job, agents=agents)

    return change


def break_store(transaction: object) -> Callable[[Job], Job]:
    def change(job: Job) -> Job:
        write = job.store.write

        async def break_one(fn: Any, *args: Any, **options: Any) -> Any:
            return await (broken() if fn is transaction else write(fn, *args, **options))

        vars(job.store)["write"] = break_one
        return job

    return change


def break_writes(job: Job) -> Job:
    for shard in job.shards.values():
        vars(shard)["batch"] = broken
    return job


WORKERS = {
    "discovery": break_store(discovery.store_found),
    "placement": break_store(assignments.assign),
    "posting": break_agents("post"),
    "polling": break_agents("get"),
    "what is copied": break_store(assignments.record_copied),
    "updates": break_writes,
    "what is settled": break_store(updates.record_updates),
}


@pytest.mark.row("IMP-8", "DEF-7", "L20")
@pytest.mark.parametrize("name", WORKERS)
async def test_a_mistake_in_any_worker_ends_the_job(
    world: World, autojump_clock: object, name: str
) -> None:
    """With the cause, and with all other workers; a later start goes on and finishes."""
    async with world.job() as job:
        with pytest.raises(ExceptionGroup) as caught:
            await flow.run(WORKERS[name](job))
        check_counters(job.store)
    assert {str(exc) for exc in leaves(caught.value)} == {"a mistake"}
    assert await world.run() == {("complete", ""): 20}


@pytest.mark.row("L3", "IMP-14", "DEF-2")
@pytest.mark.parametrize("name", ["posting", "polling", "updates", "what is settled"])
async def test_a_retry_takes_what_a_broken_job_left_half_way(
    world: World, autojump_clock: object, name: str
) -> None:
    """Unprocessed, assigned or copied: whatever is not complete."""
    async with world.job() as job:
        with pytest.raises(ExceptionGroup):
            await flow.run(WORKERS[name](job))
        left = await counts(job.store)
    first = world.job_file
    assert not left.get(("skipped", ""))
    assert sum(n for (status, _), n in left.items() if status != "complete") > 0

    world.job_name, world.listing = "retry", EarlierJob(first)
    moved = await world.run()
    assert set(moved) == {("complete", "")}
    met = {key[0] for key in left}
    assert met & {"unprocessed", "assigned", "post_processing"}
    with views._reading(first) as db:
        known = {row[0] for row in db.execute("SELECT id FROM evacuateobjects")}
    assert known & on_the_shark(world) == set()


# --- where to, and where not ---------------------------------------------------------------------


@pytest.mark.row("MIN-6", "L38", "MIN-4")
@pytest.mark.parametrize(
    ("excluded", "status"),
    [
        ((), ("complete", "")),
        (("dc3",), ("complete", "")),
        (("dc3", "dc4"), ("complete", "")),
        (("dc1", "dc2"), ("skipped", "destination_insufficient_space")),
    ],
)
async def test_datacenters_can_be_excluded(
    tmp_path: Path, autojump_clock: object, excluded: tuple[str, ...], status: tuple[str, str]
) -> None:
    """None, one, several, all: then every object is skipped with the reason."""
    single = [attrs.asdict(ORIGIN)]
    world = make_world(tmp_path / "w", [record(number, sharks=single) for number in range(1, 13)])
    if "dc3" in excluded:
        elsewhere = [StorageNode(f"{n}.stor.lab", f"dc{n - 5}", 900_000, 1) for n in (8, 9)]
        world.nodes = (*NODES, *elsewhere)
    world.config_changes = {"blacklist_datacenters": excluded, "max_attempts": 1}
    assert await world.run() == {status: 12}
    named = {s["datacenter"] for r in world.records() for s in r["sharks"]}
    assert not named & ({*excluded} - {"dc1"})
    world.close()


@pytest.mark.row("N12", "TEST-EVAC-7")
async def test_a_region_of_one_datacenter_can_be_emptied(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Its copies lie in one datacenter before, so they may after."""
    here = [attrs.asdict(ORIGIN), {**attrs.asdict(NODES[0].shark), "datacenter": "dc1"}]
    world = make_world(tmp_path / "w", [record(number, sharks=here) for number in range(1, 13)])
    world.nodes = tuple(attrs.evolve(node, datacenter="dc1") for node in NODES)
    assert await world.run() == {("complete", ""): 12}
    assert on_the_shark(world) == set()
    world.close()


@pytest.mark.row("TEST-EVAC-8", "TEST-EVAC-2", "TEST-EVAC-5", "L33", "L34", "L40")
async def test_a_hundred_objects_and_the_row_of_each(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Over several destinations, with odd keys, links, one copy, no byte, and some failures."""
    odd = '/account/stor/"quoted" \\ back\tslash \u2603 %2F'
    single = [attrs.asdict(ORIGIN)]
    records = [record(number) for number in range(1, 61)]
    records += [record(number, sharks=single) for number in range(61, 101)]
    records[6] = record(7, key=odd, name="odd")
    records[7] = record(8, sharks=single)
    records[8] = record(9, contentLength=0, contentMD5="1B2M2Y8AsgTpgAmY7PhCfg==")
    records[9] = record(10, contentLength=1 << 50)
    world = make_world(tmp_path / "w", [*records, record(5, key="/account/stor/link")])
    world.agents.failures = {object_id(n): reasons.MD5_MISMATCH for n in (11, 12)}
    world.config_changes = {"max_attempts": 2}
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        rows = {
            row["id"]: row
            for row in job.store.database._reader.execute("SELECT * FROM evacuateobjects")
        }
        given = job.store.database._reader.execute("SELECT * FROM assignments").fetchall()
    skipped = {10: "destination_insufficient_space", 11: "md5_mismatch", 12: "md5_mismatch"}
    assert set(rows) == {object_id(n) for n in range(1, 101)}
    for number in range(1, 101):
        row = rows[object_id(number)]
        status = "skipped" if number in skipped else "complete"
        assert (row["status"], row["skipped_reason"]) == (status, skipped.get(number)), number
        assert row["error"] is None
    assert on_the_shark(world) == {object_id(n) for n in skipped}
    for found_record in world.records():
        number = int(found_record["objectId"][-12:])
        if number not in skipped:
            names = [shark["manta_storage_id"] for shark in found_record["sharks"]]
            assert rows[object_id(number)]["dest_shark"] in names
    assert rows[object_id(7)]["key"] == odd
    assert len({row["dest_shark"] for row in given}) > 2
    # Each object was claimed once for each time it was handed out, its link never.
    sizes = sum(row["bytes"] for n, row in ((int(k[-12:]), r) for k, r in rows.items()) if n != 10)
    again = sum(rows[object_id(n)]["bytes"] for n in (11, 12))
    assert sum(row["bytes"] for row in given) == sizes + again
    world.close()


# --- limits ------------------------------------------------------------------------------------


@pytest.mark.row("N15", "L27")
async def test_a_limit_ends_the_scan(tmp_path: Path, autojump_clock: object) -> None:
    """No window is asked for once there are enough objects, but the one that is under way."""
    world = make_world(tmp_path / "w", [record(n) for n in range(1, 201)], shards=1)
    asked = 0

    @attrs.define
    class Counting(scan.DirectoryShard):
        shard: Any

        async def sql(
            self, statement: str, values: Sequence[Any] = (), *, within_s: float = 0.0
        ) -> Any:
            nonlocal asked
            asked += "position(" in statement
            return await self.shard.sql(statement, values)

    async with world.job(max_objects=7) as job:
        await flow.run(attrs.evolve(job, scanned={1: Counting(world.moray[1])}))
        assert await counts(job.store) == {("complete", ""): 7}
    assert asked == 3  # of forty windows of five
    world.close()


@pytest.mark.row("DEF-8", "N17")
async def test_an_assignment_is_sent_at_its_age_though_nothing_more_comes(
    tmp_path: Path, autojump_clock: object
) -> None:
    """One object that waits for others: no longer than max_assignment_age."""
    world = make_world(tmp_path / "w", [])
    world.options = attrs.evolve(world.options, max_tasks_per_assignment=50, max_assignment_age=90)
    feed, objects = trio.open_memory_channel[Feed](1)
    send, ready = trio.open_memory_channel[Assignment](1)
    obj = read_object(record(1))
    async with world.job() as job, trio.open_nursery() as nursery:
        await job.node_list.ready(job.waits)
        nursery.start_soon(place, job, objects, send)
        new = FoundRecord(obj.object_id, "k", 1, "e", "{}", obj.size, obj)
        stored = await job.store.write(discovery.store_found, [new], ScanPosition(1, "_id", 1, 2))
        began = trio.current_time()
        await feed.send(Feed(tuple(stored)))
        item = await ready.receive()
        assert 90 <= trio.current_time() - began < 91
        assert len(item.tasks) == 1
        nursery.cancel_scope.cancel()
    world.close()


@pytest.mark.row("L12")
async def test_an_assignment_may_be_as_large_as_configured(tmp_path: Path) -> None:
    """Ten thousand tasks are one statement after the other, not one with too many values."""
    numbers = range(1, 10_001)
    async with opened(tmp_path / "job.sqlite") as store:
        await keep(store, *[found(number) for number in numbers])
        names = tuple(object_id(number) for number in numbers)
        await store.write(assignments.assign, Assignment("a", NODES[1].shark, names, 1))
        assert (await counts(store)) == {("assigned", ""): 10_000}


@pytest.mark.row("L39", "N14")
async def test_a_retry_reads_the_earlier_job_by_pages(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Each record once, in pages of bounded size, whatever their number."""
    async with opened(tmp_path / "job.sqlite") as store:
        await keep(store, *[found(number) for number in range(1, 1001)])
        refused = [(object_id(n), reasons.NETWORK_ERROR) for n in range(1, 1001)]
        await store.write(unplaced.refuse, refused, max_attempts=1)
    listing = EarlierJob(tmp_path / "job.sqlite")
    keys, position, sizes = list[str](), 0, list[int]()
    while position < listing.until("objects"):
        position, page = listing.page("objects", position)
        keys += [one.key for one in page]
        sizes.append(len(page))
    assert sorted(keys) == sorted(f"/k/{number}" for number in range(1, 1001))
    assert max(sizes) <= 200


@pytest.mark.row("DEF-14", "IMP-7", "N29")
async def test_counts_are_shown_without_a_look_at_the_objects(tmp_path: Path) -> None:
    """As a job of fifty million objects needs it: the rows are not even there."""
    path = tmp_path / "job.sqlite"
    async with opened(path) as store:
        await keep(store, *[found(number) for number in range(1, 8)])
        for table in ("records", "progress"):
            await store.database.write(lambda db, name: db.execute(f"DROP TABLE {name}"), table)
        status = views.read_job(path).status
    assert status.objects("unprocessed") == 7


@pytest.mark.row("IMP-1", "TEST-EVAC-1", "L11")
def test_space_is_whole_numbers_for_every_percentage() -> None:
    """Rounding in floats made a node at its very limit less than empty at 29, 35 and 47 percent."""
    for percent in range(101):
        node = StorageNode("2.stor", "dc1", 1065, percent)
        free = [free_bytes(node, max_fill=fill, claimed=0) for fill in range(1, 101)]
        assert all(isinstance(size, int) and size >= 0 for size in free)
        assert all(size == 0 for fill, size in enumerate(free, 1) if fill <= percent)
        assert free == sorted(free)


# --- several records of one object ---------------------------------------------------------------


@pytest.mark.row("TEST-EVAC-6", "TEST-EVAC-9", "L19", "N11", "IMP-2")
@pytest.mark.parametrize("tasks", [1, 50])
async def test_a_hundred_records_of_one_object(
    tmp_path: Path, autojump_clock: object, tasks: int
) -> None:
    """On three shards, whatever the size of assignments: one copy, and all records name it."""
    records = [record(1, key=f"/account/stor/{n:03d}", name=f"{n}") for n in range(100)]
    world = make_world(tmp_path / "w", [*records, record(2)], shards=3)
    world.options = attrs.evolve(world.options, max_tasks_per_assignment=tasks)
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 2, ("duplicates", ""): 1}
        read = job.store.database._reader.execute
        assert [tuple(row) for row in read("SELECT * FROM duplicates")] == [
            (object_id(1), "/account/stor/000", "[1, 2, 3]")
        ]
        (links,) = read("SELECT count(*) FROM links WHERE status = 'complete'").fetchone()
    assert links == 99
    assert sorted(world.agents.copied_whole)[0][0] == object_id(1)
    assert len(world.agents.copied_whole) == 2
    assert on_the_shark(world) == set()
    world.close()


@pytest.mark.row("L7", "L18")
async def test_a_copy_of_what_somebody_else_moved_is_listed(
    world: World, autojump_clock: object
) -> None:
    """The object is where they put it; ours is told apart from what was moved, with its path."""
    elsewhere = {"datacenter": "dc9", "manta_storage_id": "99.stor.lab"}

    def move(store: Any, value: dict[str, Any]) -> None:
        others = [shark for shark in value["sharks"] if shark["manta_storage_id"] != SHARK]
        store.put("manta", value["key"], {**value, "sharks": [elsewhere, *others]})

    change_while_copying(world, 5, move)
    async with world.job() as job:
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): 19, ("skipped", "moved_elsewhere"): 1}
        (orphan,) = job.store.database._reader.execute("SELECT * FROM orphans").fetchall()
    assert orphan["path"] == f"/manta/{object_id(0)}/{object_id(5)}"
    (left,) = [r for r in world.records() if r["objectId"] == object_id(5)]
    assert elsewhere in left["sharks"]


@pytest.mark.row("TEST-EVAC-10")
async def test_a_retry_that_fails_again_is_told_as_the_first(
    world: World, autojump_clock: object
) -> None:
    """Nothing is lost between the two: the same objects, skipped again, as they were."""
    world.agents.fails = lambda _shark, _task: reasons.AGENT_FS_ERROR
    assert await world.run() == {("skipped", "agent_fs_error"): 20}
    first, before = world.job_file, world.records()
    world.job_name, world.listing = "retry", EarlierJob(first)
    assert await world.run() == {("skipped", "agent_fs_error"): 20}
    assert before == world.records()
    second = world.job_file
    world.agents.fails = lambda _shark, _task: None
    world.job_name, world.listing = "again", EarlierJob(second)
    assert await world.run() == {("complete", ""): 20}


# --- why, in the end ---------------------------------------------------------------------------


async def test_the_last_resort_does_not_hide_what_ails_the_other_copies(
    world: World, autojump_clock: object
) -> None:
    """Read from each of them, then from the evacuated node: what the copies said is recorded."""
    tried = list[str]()

    def fails(_shark: str, task: Any) -> Reason:
        source = task.source.manta_storage_id
        tried.append(source)
        return reasons.NETWORK_ERROR if source == SHARK else reasons.http_status_code(404)

    world.agents.fails = fails
    world.config_changes = {"max_attempts": 2}
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("skipped", "{http_status_code:404}"): 20}
        read = job.store.database._reader.execute
        details = {row[0] for row in read("SELECT detail FROM evacuateobjects")}
    assert SHARK in tried
    assert details == {"in the end: source_is_evac_shark"}


async def test_what_has_no_place_in_the_end_is_told_by_its_failures(
    tmp_path: Path, autojump_clock: object
) -> None:
    """The only destination with room vanishes after it had failed: its failure is recorded."""
    world = make_world(tmp_path / "w", [record(1)])

    def fails(_shark: str, _task: Any) -> Reason:
        world.nodes = tuple(attrs.evolve(node, available_mb=0) for node in NODES)
        job.node_list._nodes = world.nodes
        return reasons.MD5_MISMATCH

    world.agents.fails = fails
    async with world.job() as job:
        await flow.run(job)
        assert await counts(job.store) == {("skipped", "md5_mismatch"): 1}
    world.close()


# --- what is counted and changed -------------------------------------------------------------


@pytest.mark.row("MIN-2", "N10", "L10")
@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.write(
            assignments.assign, Assignment("a", NODES[1].shark, (object_id(9),), 1)
        ),
        lambda store: store.write(
            unplaced.refuse, [(object_id(9), reasons.NETWORK_ERROR)], max_attempts=1
        ),
        lambda store: store.write(updates.record_updates, {9: WRITTEN}),
        lambda store: store.write(assignments.accept, "a"),
        lambda store: store.write(updates.record_updates, {}, "a"),
    ],
    ids=["assign", "refuse", "settle", "accepted", "finished"],
)
async def test_an_update_that_touches_no_row_is_an_error(tmp_path: Path, change: Any) -> None:
    """What is not there was never promised to be: a mistake of ours, which must not pass."""
    async with opened(tmp_path / "job.sqlite") as store:
        with pytest.raises(IllegalTransition):
            await change(store)
        check_counters(store)


@pytest.mark.row("MIN-1", "N16", "L13")
@pytest.mark.parametrize("after_s", [0.05, 0.15, 0.3, 0.5, 1000])
async def test_no_permit_to_update_is_lost(
    world: World, autojump_clock: object, after_s: float
) -> None:
    """Of a job that is stopped at any time, or comes to its end."""
    async with world.job() as job:
        with trio.move_on_after(after_s):
            await flow.run(job)
        assert job.update_limiter._limiter.borrowed_tokens == 0


@pytest.mark.row("CRIT-6")
async def test_a_reason_that_nobody_knows_is_logged(world: World, autojump_clock: object) -> None:
    """As it came, with the object and the agent; a known one is not."""
    world.agents.failures = {object_id(3): Reason("OutOfCoffee"), object_id(4): reasons.AGENT_BUSY}
    world.config_changes = {"max_attempts": 1}
    with capture_logs() as lines:
        await world.run()
    (told,) = [line for line in lines if line["event"] == "unknown reason"]
    assert (told["object"], told["reason"]) == (object_id(3), "OutOfCoffee")
