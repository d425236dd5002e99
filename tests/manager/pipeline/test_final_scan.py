"""Invariant 11: what names the shark again, or late, is moved too or listed."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from rebalancer.config import Options
from rebalancer.domain import reasons
from rebalancer.domain.final_scan import is_news
from rebalancer.domain.reasons import read_word
from rebalancer.domain.states import ObjectStatus
from rebalancer.errors import JobFailed, PeerRefused
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.listings import EarlierJob, ObjectsFile
from rebalancer.manager.store import assignments, final_scans
from tests.manager.crashes import WHERE, Arm, sweep
from tests.manager.world import NODES, ORIGIN, World, counts, make_world, object_id, record

OBJECTS = 12
HERE, OTHER = attrs.asdict(ORIGIN), attrs.asdict(NODES[2].shark)


def shard_of(world: World, key: str) -> int:
    """Where a record is."""
    return next(n for n, store in world.shards.items()
                if store.find("manta", f"(_key={key})", {"noLimit": True}))  # fmt: skip


def on_shark(world: World) -> set[str]:
    """Keys of the objects that name the evacuated shark."""
    return {r["key"] for r in world.records() if ORIGIN.manta_storage_id in str(r["sharks"])}


def remaining(world: World) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(world.job_file)) as db:
        return db.execute("SELECT shard, key, object_id, why FROM remaining ORDER BY 2").fetchall()


def orphans(world: World) -> list[str]:
    with closing(sqlite3.connect(world.job_file)) as db:
        return [name for (name,) in db.execute("SELECT object_id FROM orphans")]


def rounds(world: World) -> list[tuple[int, int, int]]:
    with closing(sqlite3.connect(world.job_file)) as db:
        return db.execute("SELECT round, found, remaining FROM rounds ORDER BY 1").fetchall()


def when_moved(world: World, number: int, act: Callable[[], None], times: int = 1) -> None:
    """Call `act` right after the job has written the record of object `number`."""
    key, left = f"/account/stor/{number}", [times]

    def look(_shard: str) -> None:
        if left[0] and key not in on_shark(world):
            left[0] -= 1
            act()

    others = world.written

    def both(shard: str) -> None:
        others(shard)
        look(shard)

    world.written = both


def put(world: World, value: dict[str, Any], shard: int = 1) -> None:
    """As the front end writes: the whole record, whatever there is."""
    world.shards[shard].put("manta", value["key"], value)


def put_back(world: World, number: int, times: int = 1) -> None:
    """A front end that read the record before the job's update writes it back after that."""
    stale = record(number)
    shard = shard_of(world, stale["key"])
    when_moved(world, number, lambda: put(world, stale, shard), times)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [record(number) for number in range(1, OBJECTS + 1)])
    yield made
    made.close()


async def test_a_clean_scan_ends_the_job(world: World, autojump_clock: object) -> None:
    """One round, which finds nothing, and its positions apart from discovery's."""
    await world.run()
    assert rounds(world) == [(1, 0, 0)]
    assert remaining(world) == []
    with closing(sqlite3.connect(world.job_file)) as db:
        scans = db.execute("SELECT round, position = until, count(*) FROM scans GROUP BY 1, 2")
        assert scans.fetchall() == [(0, 1, 4), (1, 1, 4)]


async def test_a_record_that_was_put_back_is_moved_again(
    world: World, autojump_clock: object
) -> None:
    """To the copy that is there: its agent finds it, and nothing is copied twice."""
    put_back(world, 5)
    assert await world.run() == {("complete", ""): OBJECTS}
    assert on_shark(world) == set()
    assert rounds(world) == [(1, 1, 0), (2, 0, 0)]
    assert [name for name, _ in world.agents.found_there] == [object_id(5)]
    assert len(world.agents.copied_whole) == OBJECTS
    assert orphans(world) == []


async def test_a_copy_that_lost_its_place_is_an_orphan(
    world: World, autojump_clock: object
) -> None:
    """Where the node of the first copy takes no more writes, the second goes elsewhere."""
    stale = record(5)
    shard = shard_of(world, stale["key"])

    def act() -> None:
        (copied,) = [place for name, place in world.agents.copies if name == object_id(5)]
        world.nodes = tuple(n for n in NODES if n.manta_storage_id != copied)
        put(world, stale, shard)

    when_moved(world, 5, act)
    async with world.job() as job:

        async def ask() -> Any:
            await trio.lowlevel.checkpoint()
            return world.nodes

        job.node_list._ask = ask
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refresh_often, job.node_list.refresh)
            await flow.run(job)
            nursery.cancel_scope.cancel()
        assert await counts(job.store) == {("complete", ""): OBJECTS}
    assert on_shark(world) == set()
    copied = [place for name, place in world.agents.copied_whole if name == object_id(5)]
    assert len(copied) == 2
    with closing(sqlite3.connect(world.job_file)) as db:
        orphans = db.execute("SELECT object_id, shark, path FROM orphans").fetchall()
    assert orphans == [(object_id(5), copied[0], f"/manta/{object_id(0)}/{object_id(5)}")]


async def refresh_often(refresh: Callable[[], Any]) -> None:
    while True:
        await refresh()
        await trio.sleep(0.005)


async def test_late_uploads_are_moved_too(world: World, autojump_clock: object) -> None:
    """An object that appears on the shark while the job runs is an object like any other."""
    late = record(77)
    when_moved(world, 3, lambda: put(world, late))
    assert await world.run() == {("complete", ""): OBJECTS + 1}
    assert on_shark(world) == set()
    assert rounds(world) == [(1, 1, 0), (2, 0, 0)]


async def test_a_stubborn_writer_is_listed(world: World, autojump_clock: object) -> None:
    """After the last round a record that is put back each time is listed, and the job ends."""
    world.config_changes = {"final_scans": 2}
    put_back(world, 5, times=99)
    assert await world.run() == {("complete", ""): OBJECTS}
    assert rounds(world) == [(1, 1, 0), (2, 1, 0), (3, 0, 1)]
    (found,) = remaining(world)
    assert found[1:] == ("/account/stor/5", object_id(5), "found_too_late")
    assert orphans(world) == [object_id(5)]  # its copy, which no record names


@pytest.mark.row("N14")
async def test_what_came_too_late_can_be_retried(world: World, autojump_clock: object) -> None:
    """Its object is complete, so that only the list tells."""
    put_back(world, 5, times=3)
    await world.run()
    world.listing, world.job_name = EarlierJob(world.job_file), "retry"
    assert await world.run() == {("complete", ""): 1}
    assert on_shark(world) == set()


async def test_what_could_not_be_moved_is_listed_and_not_tried_again(
    world: World, autojump_clock: object
) -> None:
    """Skipped and unusable objects whose record is as it was, each with its reason."""
    world.agents.failures = {object_id(2): reasons.MD5_MISMATCH}
    put(world, record(50, contentMD5="?"))
    put(world, record(51, sharks=[HERE, HERE]))
    assert await world.run() == {
        ("complete", ""): OBJECTS - 1,
        ("skipped", "md5_mismatch"): 1,
        ("error", "bad_manta_object"): 1,
        ("error", "duplicate_shark"): 1,
    }
    assert rounds(world) == [(1, 0, 3)]
    assert [(key, why) for _, key, _, why in remaining(world)] == [
        ("/account/stor/2", "md5_mismatch"),
        ("/account/stor/50", "bad_manta_object"),
        ("/account/stor/51", "duplicate_shark"),
    ]
    assert world.agents.known_ever
    tasks = [name for name, _ in world.agents.copied_whole]
    assert object_id(2) not in tasks


async def test_a_skipped_object_that_changed_is_tried_again(
    world: World, autojump_clock: object
) -> None:
    """The owner's change may have healed it."""
    world.agents.failures = {object_id(2): reasons.MD5_MISMATCH}
    shard = shard_of(world, "/account/stor/2")

    def heal() -> None:
        world.agents.failures.clear()
        put(world, record(2, headers={"m-x": "1"}), shard)

    async with world.job() as job:
        store: Any = job.store
        write = store.write

        async def heal_when_skipped(fn: Any, *args: Any, **options: Any) -> Any:
            done = await write(fn, *args, **options)
            is_copied = fn is assignments.record_copied
            if is_copied and (await counts(job.store)).get(("skipped", "md5_mismatch")):
                heal()
            return done

        store.write = heal_when_skipped
        await flow.run(job)
        assert await counts(job.store) == {("complete", ""): OBJECTS}
    assert on_shark(world) == set()
    (moved,) = [r for r in world.records() if r["objectId"] == object_id(2)]
    assert moved["headers"] == {"m-x": "1"}


async def test_an_object_that_is_under_way_when_it_is_met_asks_for_another_scan(
    world: World, autojump_clock: object
) -> None:
    """A person has put it back, in the file of a paused job: nobody knows yet how it will end."""
    world.agents.failures = {object_id(5): reasons.MD5_MISMATCH}
    await world.run()
    with closing(sqlite3.connect(world.job_file)) as db, db:
        db.execute("DELETE FROM scans WHERE round = 1")
        db.execute("DELETE FROM remaining")
        db.execute("UPDATE rounds SET remaining = 0")
        db.execute(
            "UPDATE evacuateobjects SET status = 'unprocessed' WHERE id = ?", (object_id(5),)
        )
    await world.run()

    assert on_shark(world) == {"/account/stor/5"}
    assert [(key, why) for _, key, _, why in remaining(world)] == [
        ("/account/stor/5", "md5_mismatch")
    ]
    assert rounds(world) == [(1, 1, 0), (2, 0, 1)]


async def test_a_record_that_comes_to_a_shard_that_was_scanned_is_moved(
    world: World, autojump_clock: object
) -> None:
    """As by a rename, which takes its nodes along, while another shard has yet to be scanned."""
    asked = [0]
    async with world.job() as job:
        moray: Any = job.shards[2]
        ask = moray.sql

        async def late(statement: str, values: Any = (), **options: Any) -> Any:
            asked[0] += "pg_attribute" in statement
            if asked[0] == 2 and "pg_attribute" in statement:
                await trio.sleep(30)
                put(world, record(99), 1)
            return await ask(statement, values, **options)

        moray.sql = late
        await flow.run(job)

    assert on_shark(world) == set()
    assert rounds(world) == [(1, 1, 0), (2, 0, 0)]


async def test_what_came_back_unusable_is_an_error(world: World, autojump_clock: object) -> None:
    """A complete object whose record was put back with something wrong."""
    shard = shard_of(world, "/account/stor/5")
    when_moved(world, 5, lambda: put(world, record(5, sharks=[HERE, HERE]), shard))
    assert await world.run() == {
        ("complete", ""): OBJECTS - 1,
        ("error", "duplicate_shark"): 1,
    }
    assert [(key, why) for _, key, _, why in remaining(world)] == [
        ("/account/stor/5", "duplicate_shark")
    ]


async def test_links_that_were_put_back_are_written_again(
    world: World, autojump_clock: object
) -> None:
    """A further record of an object, put back or made late, comes to name the copy too."""
    link = record(1, key="/account/stor/link")
    late = record(2, key="/account/stor/late")
    put(world, link)
    left = [1]

    def act(_shard: str) -> None:
        if left[0] and link["key"] not in on_shark(world):
            left[0] = 0
            put(world, link)
            put(world, late)

    world.written = act
    assert await world.run() == {("complete", ""): OBJECTS, ("duplicates", ""): 2}
    assert on_shark(world) == set()
    assert rounds(world)[0][1] == 2
    for number in (1, 2):
        made = [r["sharks"] for r in world.records() if r["objectId"] == object_id(number)]
        assert len(made) == 2
        assert made[0] == made[1]


async def test_uploads_in_progress_are_listed_and_left_alone(
    world: World, autojump_clock: object
) -> None:
    """It is their directory that names the shark; other directories are no business of ours.

    One whose list of nodes cannot be read has the name all the same, so it may end there.
    """
    upload: dict[str, Any] = {
        "key": "/account/uploads/a/1",
        "type": "directory",
        "upload": {"id": object_id(900), "state": "created", "sharks": [HERE, OTHER]},
    }
    odd = {**upload, "key": "/account/uploads/a/3", "upload": {"sharks": 7, "x": HERE}}
    others = [
        odd,
        {**upload, "key": "/account/uploads/a/2", "upload": {"sharks": [OTHER]}},
        {"key": "/account/stor/d", "type": "directory", "name": ORIGIN.manta_storage_id},
    ]
    for value in (upload, *others):
        put(world, value)
    assert await world.run() == {("complete", ""): OBJECTS}
    assert remaining(world) == [
        (1, upload["key"], object_id(900), "upload_in_progress"),
        (1, odd["key"], "", "upload_in_progress"),
    ]
    assert world.shards[1].get("manta", upload["key"])["value"] == upload


@pytest.mark.parametrize("how", ["limited", "listed", "turned off"])
async def test_a_partial_job_has_no_final_scan(
    how: str, world: World, autojump_clock: object
) -> None:
    """It would find all the rest."""
    limit = None
    match how:
        case "limited":
            limit = 3
        case "listed":
            lines = [json.dumps({"key": f"/account/stor/{n}"}) for n in (1, 2, 3)]
            (world.folder / "list").write_text("\n".join(lines))
            world.listing = ObjectsFile(world.folder / "list")
        case "turned off":
            world.config_changes = {"final_scans": 0}
    found = await world.run(max_objects=limit)
    assert found == {("complete", ""): OBJECTS if how == "turned off" else 3}
    assert rounds(world) == []


async def test_a_shard_that_cannot_be_scanned_again_fails_the_job(
    world: World, autojump_clock: object
) -> None:
    """Nobody knows whether the shark is empty then."""
    async with world.job() as job:
        moray: Any = job.shards[2]
        ask = moray.sql

        async def refuse(statement: str, values: Any = (), **options: Any) -> Any:
            if "directory" in statement:
                raise PeerRefused("no")
            return await ask(statement, values, **options)

        moray.sql = refuse
        with pytest.raises(JobFailed, match="final scan of shard 2"):
            await flow.run(job)


#: What became of records that do not name the shark any more.
GONE = ("deleted", "overwritten", "moved_elsewhere")


@given(
    st.sampled_from([*map(str, ObjectStatus), "waiting"]),
    st.sampled_from([None, "excluded", "md5_mismatch", "as a person says", *GONE]),
    st.booleans(),
)
def test_what_is_news(status: str, word: str | None, is_unchanged: bool) -> None:
    """Every complete object; of those at another end, the changed and the vanished; no other."""
    expected = status == "complete" or (
        status in ("skipped", "error")
        and (word in GONE or (not is_unchanged and word != "excluded"))
    )
    assert is_news(status, read_word(word), is_unchanged=is_unchanged) == expected


# --- crashes ---------------------------------------------------------------------------------


FEW = 7


@asynccontextmanager
async def busy_world(folder: Path) -> AsyncIterator[World]:
    """A final scan has something of each kind to find."""
    records = [record(number) for number in range(1, FEW + 1)]
    with closing(make_world(folder, records, shards=1)) as made:
        made.options = Options(max_tasks_per_assignment=7, md_read_chunk_size=20)
        made.config_changes = {"final_scans": 1}
        made.agents.failures = {object_id(2): reasons.MD5_MISMATCH}
        put(made, record(1, key="/account/stor/link"))
        put(made, {"key": "/account/uploads/a/1", "type": "directory",
                   "upload": {"sharks": [HERE]}})  # fmt: skip
        put_back(made, 5)
        put_back(made, 6, times=99)
        when_moved(made, 7, lambda: put(made, record(77)))
        yield made


@WHERE
async def test_crash_at_every_commit_of_a_final_scan(
    where: str, tmp_path: Path, autojump_clock: object
) -> None:
    """From the first round on, until a run gets through, one commit later each time."""
    assert await sweep(tmp_path, where, busy_world, run_rounds, finish_rounds) >= 10


async def run_rounds(world: World, arm: Arm) -> None:
    """Run a job whose commits count from the one that begins its first round."""
    async with world.job() as job:
        write = job.store.write

        async def watch_rounds(fn: Any, *args: Any, **options: Any) -> Any:
            if fn is final_scans.begin_round:
                arm(job.store)
            return await write(fn, *args, **options)

        job.store.write = watch_rounds  # type: ignore[method-assign]
        await flow.run(job)


async def finish_rounds(world: World, k: int) -> None:
    assert await world.run() == {
        ("complete", ""): FEW,
        ("skipped", "md5_mismatch"): 1,
        ("duplicates", ""): 1,
    }, k
    check_end(world, k)


def check_end(world: World, k: int) -> None:
    """Whatever names the shark is listed, the rounds went on, and rows equal counters."""
    listed = {key: why for _, key, _, why in remaining(world)}
    assert listed == {
        "/account/stor/2": "md5_mismatch",
        "/account/stor/6": "found_too_late",
        "/account/uploads/a/1": "upload_in_progress",
    }, k
    assert on_shark(world) == listed.keys() - {"/account/uploads/a/1"}, k
    assert [number for number, _, _ in rounds(world)] == [1, 2], k
    assert rounds(world)[-1] == (2, 0, 3), k
    assert len(world.agents.copied_whole) == len(set(world.agents.copied_whole)) == FEW, k
    with closing(sqlite3.connect(world.job_file)) as db:
        rows = dict(db.execute("SELECT status, count(*) FROM evacuateobjects GROUP BY 1"))
        ours = {name for (name,) in db.execute("SELECT id FROM assignments")}
    assert rows == {"complete": FEW, "skipped": 1}, k
    assert world.agents.known_ever <= ours, k
    assert orphans(world) == [object_id(6)], k
