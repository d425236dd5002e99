"""Objects of both tiers go through the same stages; each rule of the buckets tier has a test."""

import copy
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.domain.bucket_objects import BucketKey
from rebalancer.domain.reasons import MD5_MISMATCH
from rebalancer.domain.records import id_of, read_sharks
from rebalancer.domain.tiers import Tier
from rebalancer.errors import JobFailed, PeerRefused
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.http import render
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.listings import ObjectsFile
from rebalancer.manager.pipeline.stages.read_listing import LEFT_ALONE
from rebalancer.manager.store import final_scans, views
from rebalancer.peers.agents import PostAnswer, PostResult
from tests.manager.buckets import BUCKET, OWNER, FakeBuckets, row
from tests.manager.crashes import WHERE, Arm, sweep
from tests.manager.store.test_store import check_counters
from tests.manager.world import ORIGIN, World, counts, make_world, object_id, record


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Ten objects of each tier, in two shards each."""
    made = make_world(tmp_path, [record(n) for n in range(10)])
    made.buckets = {
        -1: FakeBuckets.make([row(n) for n in range(5)]),
        -2: FakeBuckets.make([row(n) for n in range(5, 10)]),
    }
    for shard in buckets(made):
        shard.check = made.check_update
    yield made
    made.close()


def buckets(world: World) -> list[FakeBuckets]:
    return [shard for shard in world.buckets.values() if isinstance(shard, FakeBuckets)]


def rows(world: World) -> list[dict[str, Any]]:
    return [one for shard in buckets(world) for one in shard.rows.values()]


def named(world: World) -> list[str]:
    """The names of the bucket objects whose rows name the evacuated node."""
    return [one["name"] for one in rows(world) if any(s == ORIGIN for s in read_sharks(one))]


async def test_both_tiers_are_emptied_by_one_job(world: World, autojump_clock: object) -> None:
    """Nothing of a row but one shark changes: users' headers and roles stay."""
    before = {one["id"]: copy.deepcopy(one) for one in rows(world)}

    assert await world.run() == {("complete", ""): 20}

    assert named(world) == []
    for one in rows(world):
        old = before[one["id"]]
        assert {**one, "sharks": old["sharks"]} == old
        assert len(set(one["sharks"])) == len(old["sharks"])
        assert one["sharks"][1] == old["sharks"][1]


async def test_bucket_objects_are_counted_whoever_changes_rows(
    world: World, autojump_clock: object
) -> None:
    """Also a person, in the file itself; a job without any has no table of them."""
    assert await world.run() == {("complete", ""): 20}
    known = views.read_job(world.job_file)
    first, second = render.tiers(known.status, known.buckets)
    assert [(one.tier, one.objects) for one in (first, second)] == [
        ("directory", 10),
        ("buckets", 10),
    ]
    assert second.bytes_complete == sum(range(10))

    with closing(sqlite3.connect(world.job_file)) as db, db:
        db.execute("DELETE FROM evacuateobjects WHERE shard = -1 AND bytes = 4")
        change = "UPDATE evacuateobjects SET status = 'skipped', shard = ? WHERE bytes = ?"
        db.executemany(f"{change} AND shard = -2", [(1, 9), (-2, 8)])
    async with world.job() as job:
        check_counters(job.store)
    kept = views.read_job(world.job_file).buckets
    assert (kept["complete"], kept["skipped"]) == ((7, 24), (1, 8))

    world.buckets, world.job_name = {}, "directory only"
    async with world.job() as job:
        await flow.run(job)
        tables = await job.store.read(lambda db: db.execute("SELECT name FROM sqlite_master"))
        assert not any("bucket" in name for (name,) in tables)
        check_counters(job.store)


async def test_an_id_of_both_tiers_is_two_objects(world: World, autojump_clock: object) -> None:
    """Their copies lie in different files, so each is copied."""
    shard = buckets(world)[0]
    twin = row(77, id=object_id(3))
    shard.rows[BucketKey(3, OWNER, BUCKET, twin["name"])] = twin

    assert await world.run() == {("complete", ""): 21}

    assert {object_id(3), id_of(twin)} <= {name for name, _ in world.agents.copied_whole}


async def test_counting_moves_nothing(world: World, autojump_clock: object) -> None:
    """And the final scan lists what was counted, so that the node is not taken for empty."""
    async with world.job(decisions=Evacuate(ORIGIN, leaves_buckets=True)) as job:
        await flow.run(job)
        *_, last = await job.store.read(final_scans.read_rounds)
    assert len(named(world)) == 10
    assert last.remaining == 10


Change = Callable[[FakeBuckets, BucketKey], None]


def deleted(shard: FakeBuckets, key: BucketKey) -> None:
    del shard.rows[key]


def overwritten(shard: FakeBuckets, key: BucketKey) -> None:
    shard.rows[key] = {**shard.rows[key], "id": object_id(99), "sharks": ["dc2:2.stor.lab"]}


def with_headers(shard: FakeBuckets, key: BucketKey) -> None:
    shard.rows[key] = {**shard.rows[key], "headers": {"m-n": "new"}}


def moved(shard: FakeBuckets, key: BucketKey) -> None:
    shard.rows[key] = {**shard.rows[key], "sharks": ["dc2:2.stor.lab", "dc3:6.stor.lab"]}


@pytest.mark.parametrize(
    ("change", "ended"),
    [
        (deleted, ("skipped", "deleted")),
        (overwritten, ("skipped", "overwritten")),
        (moved, ("skipped", "moved_elsewhere")),
        (with_headers, ("complete", "")),
    ],
)
async def test_a_user_s_write_wins(
    world: World, autojump_clock: object, change: Change, ended: tuple[str, str]
) -> None:
    """Whatever comes between the copy and the update; a change of headers stays and costs none."""
    shard, *_ = buckets(world)
    key = next(iter(shard.rows))
    after = dict[str, Any]()

    def once(at: FakeBuckets) -> None:
        if not after:
            change(at, key)
            after["row"] = copy.deepcopy(at.rows.get(key))

    shard.before_write = once
    ends = await world.run()

    assert ends.get(ended, 0) - (10 + 9 if ended[0] == "complete" else 0) == 1
    if ended[0] == "complete":
        assert shard.rows[key]["headers"] == {"m-n": "new"}
    else:
        assert shard.rows.get(key) == after["row"]
    assert named(world) == []


async def test_a_listing_names_records_of_both_tiers(
    world: World, autojump_clock: object, tmp_path: Path
) -> None:
    """The key says of which tier a record is; the number of its shard counts in the tier."""
    (one, two, *_), (three, *_) = (list(shard.rows) for shard in buckets(world))
    listed = [
        {"key": str(one)},
        {"key": str(two), "shard": 1},
        {"key": str(three), "shard": 2, "tier": "buckets"},
        {"key": record(1)["key"]},
        {"key": record(2)["key"], "tier": "directory"},
        {"key": str(attrs.evolve(one, name="gone"))},
    ]
    path = tmp_path / "objects"
    path.write_text("\n".join(map(json.dumps, listed)))
    world.listing = ObjectsFile(path)

    assert await world.run() == {("complete", ""): 5}

    assert len(named(world)) == 7
    shown = views.report_page(world.job_file, "object", 0)[1]
    assert {(line["tier"], line["shard"]) for line in shown if "/v2/" in line["key"]} == {
        ("buckets", 1),
        ("buckets", 2),
    }
    (dropped,) = views.report_page(world.job_file, "dropped", 0)[1]
    assert (dropped["tier"], dropped["shard"]) == (None, 0)


async def test_listed_records_of_a_tier_that_is_not_taken_are_dropped(
    world: World, autojump_clock: object, tmp_path: Path
) -> None:
    """So that the job does the rest; where it takes the tier and cannot, it fails and says so."""
    key = str(next(iter(buckets(world)[0].rows)))
    path = tmp_path / "objects"
    path.write_text("\n".join(json.dumps({"key": one}) for one in (key, record(1)["key"])))
    world.listing = ObjectsFile(path)
    first: Any = world.moray

    only = {"shards": first, "scanned": first}
    assert await world.run(**only, tiers={Tier.DIRECTORY}) == {("complete", ""): 1}
    (dropped,) = views.report_page(world.job_file, "dropped", 0)[1]
    assert (dropped["key"], dropped["reason"]) == (key, LEFT_ALONE)

    world.job_name = "unconfigured"
    with pytest.raises(JobFailed, match="records of a tier without shards were left out"):
        await world.run(**only)
    assert len(named(world)) == 10


async def test_parts_of_an_upload_that_goes_on_stay(world: World, autojump_clock: object) -> None:
    """Its node joins them by local paths; the upload itself is listed, by its record's headers."""
    shard, other = buckets(world)
    preallocated = f'[{{"datacenter":"dc1","manta_storage_id":"{ORIGIN.manta_storage_id}"}}]'
    upload = row(
        50,
        name=".mpu-uploads/u1",
        sharks=[],
        content_length=0,
        headers={"x-preallocated-sharks": preallocated},
    )
    other.rows[BucketKey(3, OWNER, BUCKET, upload["name"])] = upload
    for shard_of, name in ((other, ".mpu-parts/u1/1"), (shard, ".mpu-parts/over/1")):
        part = row(60 if shard_of is shard else 61, name=name)
        shard_of.rows[BucketKey(11, OWNER, BUCKET, name)] = part

    async with world.job() as job:
        await flow.run(job)
        listed = await job.store.read(lambda db: db.execute("SELECT * FROM remaining").fetchall())
    assert named(world) == [".mpu-parts/u1/1"]
    assert sorted((one["shard"], one["why"]) for one in listed) == [
        (-2, "active_upload"),
        (-2, "upload_in_progress"),
    ]


async def test_a_row_that_cannot_be_read_is_for_a_person(
    world: World, autojump_clock: object
) -> None:
    """A wrong digest, an entry without a colon: the others are moved."""
    shard, _ = buckets(world)
    odd_ones: list[dict[str, Any]] = [{"content_md5": "eA=="}, {"sharks": ["1.stor.lab"]}]
    for number, changes in enumerate(odd_ones):
        odd = row(80 + number, **changes)
        shard.rows[BucketKey(3, OWNER, BUCKET, odd["name"])] = odd

    assert await world.run() == {
        ("complete", ""): 20,
        ("error", "bad_manta_object"): 1,
        ("error", "missing_sharks"): 1,
    }


async def test_the_same_ids_of_another_owner_are_other_files(
    world: World, autojump_clock: object
) -> None:
    """No front end makes them; taken for a link, the row would name a node without its file."""
    shard, _ = buckets(world)
    key, known = next(iter(shard.rows.items()))
    stranger = {**known, "owner": object_id(55)}
    shard.rows[BucketKey(key.vnode, object_id(55), BUCKET, known["name"])] = stranger

    assert await world.run() == {("complete", ""): 20, ("error", "bad_manta_object"): 1}
    assert attrs.evolve(key, owner=object_id(55)) in shard.rows
    assert len(named(world)) == 1


async def test_a_vnode_that_moves_to_another_shard_is_moved_all_the_same(
    world: World, autojump_clock: object
) -> None:
    """The row is met again in the other shard by a final scan, and its copy is there already."""
    one, other = buckets(world)
    key = next(iter(one.rows))

    def once(_shard: FakeBuckets) -> None:
        if key in one.rows:
            other.rows[key] = one.rows.pop(key)

    one.before_write = once
    await world.run()

    assert named(world) == []


class Late(FakeBuckets):
    """A shard whose second window with a named row comes when that row was updated since."""

    met = 0

    async def window(self, *args: Any, **options: Any) -> Any:
        reached, found = await super().window(*args, **options)
        self.met += bool(found and options["uploads"])
        if self.met == 2:
            self.met += 1
            await trio.sleep(1000)
        return reached, found


async def test_a_copy_that_a_row_names_is_no_orphan_whatever_a_late_window_says(
    world: World, autojump_clock: object
) -> None:
    """The second walk of a final scan reads rows that the first one has moved: in between, too.

    The object gets another turn for nothing.  An operator who deletes orphans must not delete the
    copy of the turn before.
    """
    shard = Late(FakeBuckets.make([row(0)]).rows)
    (key,) = shard.rows
    writes = list[str]()

    def meddle(_shard: FakeBuckets) -> None:
        writes.append(shard.rows[key]["sharks"][0].partition(":")[2])
        if len(writes) == 1:
            shard.rows[key] = row(0)  # somebody puts it back
            world.agents.post_s = lambda: 0.3
        elif len(writes) == 2:
            refusal = PostAnswer(PostResult.REJECTED)
            world.agents.post_answer = lambda node, _: refusal if node == writes[1] else None

    shard.after_write = meddle
    world.buckets = {-1: shard}

    ends = await world.run()

    assert (len(writes), ends["skipped", "moved_elsewhere"]) == (2, 1)
    assert shard.rows[key]["sharks"][0].endswith(f":{writes[1]}")
    orphans = [one["shark"] for one in views.report_page(world.job_file, "orphan", 0)[1]]
    assert writes[1] not in orphans
    assert orphans


class Leaving(FakeBuckets):
    """A shard whose first vnode is moved to another when so many windows of it were asked for."""

    other: FakeBuckets
    windows: int

    async def window(self, part: str, *args: Any, **options: Any) -> Any:
        done, _, shark = args
        if part == "3":
            self.windows -= 1
            if not self.windows:
                for key in [key for key in self.rows if key.vnode == 3]:
                    self.other.rows[key] = self.rows.pop(key)
            if self.windows <= 0:
                raise PeerRefused("the schema does not exist")
        return await super().window(part, done, 2, shark, **options)


@pytest.mark.parametrize("windows", [2, 4, 6, 8, 9])
async def test_a_vnode_that_moves_while_it_is_scanned_fails_a_job_only_once(
    world: World, autojump_clock: object, windows: int
) -> None:
    """A run that goes on has nothing to wait for in a schema that is gone."""
    shard = Leaving(FakeBuckets.make([row(n) for n in range(12)]).rows)
    shard.other, shard.windows = FakeBuckets({}), windows
    world.buckets = {-1: shard, -2: shard.other}
    with pytest.raises(JobFailed, match="the schema does not exist"):
        await world.run()

    assert await world.run() == {("complete", ""): 22}
    assert named(world) == []


@asynccontextmanager
async def of_both(folder: Path) -> AsyncIterator[World]:
    """Objects of both tiers with one row that is put back behind the job, and one that fails."""
    with closing(make_world(folder, [record(n) for n in range(3)])) as world:
        rows_of = [row(n) for n in range(6)]
        shard = FakeBuckets.make(rows_of)
        shard.check = world.check_update
        name = id_of(rows_of[5])
        world.agents.fails = lambda _, task: MD5_MISMATCH if task.copy_name == name else None
        (key,) = (key for key in shard.rows if key.name == rows_of[0]["name"])

        def put_back(at: FakeBuckets) -> None:
            if at.rows[key]["sharks"] != rows_of[0]["sharks"]:
                at.rows[key] = copy.deepcopy(rows_of[0])
                at.after_write = lambda _shard: None

        shard.after_write = put_back
        world.buckets = {-1: shard}
        yield world


async def run_once(world: World, arm: Arm) -> None:
    async with world.job() as job:
        arm(job.store)
        await flow.run(job)


async def check_restart(world: World, k: int) -> None:
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 8, ("skipped", "md5_mismatch"): 1}, k
    assert named(world) == [row(5)["name"]], k
    assert len(world.agents.copied_whole) == len(set(world.agents.copied_whole)), k


@pytest.mark.row("IMP-7")
@WHERE
async def test_crash_at_every_commit_of_a_job_of_both_tiers(
    where: str, tmp_path: Path, autojump_clock: object
) -> None:
    """Wherever it was killed, what was put back goes to the copy that is there, and all is done."""
    assert await sweep(tmp_path, where, of_both, run_once, check_restart) > 20
