"""A verify job finds what is not as records say, on real web servers, and nothing else."""

import base64
import hashlib
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio

from rebalancer.domain import copies
from rebalancer.domain.records import id_of
from rebalancer.errors import JobFailed
from rebalancer.manager.actions.verify.collect import LiveShards
from rebalancer.manager.actions.verify.copies import Copy, Fault, is_sampled
from rebalancer.manager.actions.verify.reader import Reader
from rebalancer.manager.store import views
from tests.manager.actions.verify.region import (
    OWNER,
    Region,
    content,
    good_record,
    open_region,
)
from tests.manager.buckets import FakeBuckets, row
from tests.manager.store.test_store import check_counters
from tests.manager.world import ORIGIN, counts, object_id

OBJECTS = 12
NODE = "2.stor.lab"
#: Objects with an odd number have a copy there.
OTHER = "4.stor.lab"


def records(**fields: Any) -> list[dict[str, Any]]:
    return [good_record(number, **fields) for number in range(1, OBJECTS + 1)]


async def verified(region: Region, **params: Any) -> dict[tuple[str, str], int]:
    """Run a job to its end, whatever it finds, and return its counts."""
    async with region.job(**params) as (job, store):
        try:
            await job.run(trio.Event())
        except JobFailed:
            assert any(status == "error" for status, _ in await counts(store))
        else:
            assert not any(status == "error" for status, _ in await counts(store))
        check_counters(store)
        return await counts(store)


def listed(region: Region, status: str = "error") -> dict[str, tuple[str, str]]:
    """The reason and the detail of each object with this status in the job's report, by id."""
    _, lines = views.report_page(region.world.folder / "verify.sqlite", "object", 0)
    return {
        line["id"]: (line["reason"], line["detail"]) for line in lines if line["status"] == status
    }


async def collected(region: Region, **params: Any) -> None:
    """Let a job find its objects, and end the manager then."""
    async with region.job(**params) as (job, _):
        await job._collect(LiveShards(job.live, job.waits))


async def test_a_sound_region_is_found_sound(tmp_path: Path) -> None:
    """Every object whose record names the node is complete, and the job does not fail."""
    async with open_region(tmp_path, records()) as region:
        assert await verified(region, shark=NODE, sample=1.0) == {("complete", ""): OBJECTS // 2}


async def test_what_is_wrong_is_listed_with_its_place(tmp_path: Path) -> None:
    """Copies are deleted, cut, and changed at the same length; the others are right."""
    async with open_region(tmp_path, records()) as region:
        region.copy(1, NODE).unlink()
        region.copy(3, NODE).write_bytes(content(3)[:-1])
        region.copy(5, ORIGIN.manta_storage_id).write_bytes(content(5)[::-1])
        region.copy(7, NODE).unlink()
        region.copy(7, ORIGIN.manta_storage_id).write_bytes(b"")

        assert await verified(region, shark=NODE, sample=1.0) == {
            ("complete", ""): 2,
            ("error", "copy_missing"): 2,
            ("error", "wrong_size"): 1,
            ("error", "wrong_md5"): 1,
        }
    found = listed(region)
    assert found[object_id(1)][0] == "copy_missing"
    assert NODE in found[object_id(1)][1]
    assert object_id(1) in found[object_id(1)][1]
    assert found[object_id(7)][0] == "copy_missing"
    assert all(node in found[object_id(7)][1] for node in (NODE, ORIGIN.manta_storage_id))


async def test_sample_0_looks_at_sizes_only(tmp_path: Path) -> None:
    """A copy of the right length with other bytes is found by reading it, and not otherwise."""
    async with open_region(tmp_path, records()) as region:
        for number in range(1, OBJECTS + 1):
            region.copy(number, ORIGIN.manta_storage_id).write_bytes(content(number)[::-1])
        assert await verified(region, shark=NODE, sample=0.0) == {("complete", ""): OBJECTS // 2}


async def test_a_part_of_the_objects_is_read_whole(tmp_path: Path) -> None:
    """Those whose ids belong to the share, whichever run looks at them."""
    node = ORIGIN.manta_storage_id
    async with open_region(tmp_path, records()) as region:
        for number in range(1, OBJECTS + 1):
            region.copy(number, node).write_bytes(content(number)[::-1])
        await verified(region, shark=node, sample=0.5)
    expected = {object_id(n) for n in range(1, OBJECTS + 1) if is_sampled(object_id(n), 0.5)}
    assert 0 < len(expected) < OBJECTS
    assert set(listed(region)) == expected


async def test_what_users_change_meanwhile_is_no_fault(tmp_path: Path) -> None:
    """Records that are gone, or other objects' by now, are skipped; a moved one is followed."""
    async with open_region(tmp_path, records()) as region, region.job(shark=NODE) as (job, store):
        await job._collect(LiveShards(job.live, job.waits))
        for number in (1, 3, 5):
            region.copy(number, NODE).unlink()
        region.world.shards[region.shard_of(1)].delete("manta", "/account/stor/1")
        new = good_record(3, objectId=object_id(103), sharks=[])
        region.put(new, region.shard_of(3))
        sharks = [{"datacenter": "dc1", "manta_storage_id": ORIGIN.manta_storage_id}]
        region.put(good_record(5, sharks=sharks), region.shard_of(5))
        await job.run(trio.Event())

        assert await counts(store) == {
            ("complete", ""): 4,
            ("skipped", "deleted"): 1,
            ("skipped", "overwritten"): 1,
        }


async def test_a_node_that_is_down_is_listed_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    """What lies on the other nodes is compared all the same."""
    async with open_region(tmp_path, records()) as region:
        region.hosts[NODE] = "127.0.0.1:1"
        region.copy(2, OTHER).unlink()
        node = ORIGIN.manta_storage_id
        assert await verified(region, shark=node, patience_s=0) == {
            ("complete", ""): OBJECTS // 2 - 1,
            ("error", "node_unreachable"): OBJECTS // 2,
            ("error", "copy_missing"): 1,
        }


@pytest.mark.parametrize("is_given", [False, True])
async def test_a_port_that_is_given_comes_before_the_configured_one(
    tmp_path: Path, is_given: bool
) -> None:
    """An operator need not know where the region's web servers listen, and may say it."""
    sharks = [{"datacenter": "dc1", "manta_storage_id": NODE}]
    async with open_region(tmp_path, [good_record(1, sharks=sharks)]) as region:
        region.hosts[NODE], _, port = region.hosts[NODE].partition(":")
        region.storage_port = 1 if is_given else int(port)
        given = {"port": int(port)} if is_given else {}
        assert await verified(region, shark=NODE, patience_s=0, **given) == {("complete", ""): 1}


async def test_records_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    """A node that is named twice is one copy less than the record says."""
    twice = [{"datacenter": "dc1", "manta_storage_id": NODE}] * 2
    made = [*records(), good_record(13, sharks=twice), good_record(15, contentMD5="odd")]
    async with open_region(tmp_path, made) as region:
        found = await verified(region, shark=NODE)
        assert found["error", "duplicate_shark"] == 1
        assert found["error", "bad_manta_object"] == 1


async def test_an_object_that_has_lost_all_its_copies_is_listed(tmp_path: Path) -> None:
    """A record that names no storage node is right only if there is nothing to store."""
    async with open_region(tmp_path, records()) as region:
        await collected(region, shark=NODE)
        region.put(good_record(1, sharks=[]), region.shard_of(1))
        assert await verified(region, shark=NODE) == {
            ("complete", ""): OBJECTS // 2 - 1,
            ("error", "missing_sharks"): 1,
        }


async def test_a_record_whose_shard_cannot_be_asked_is_not_taken_for_deleted(
    tmp_path: Path,
) -> None:
    """A manager was started with fewer shards than the one that has found the objects."""
    async with open_region(tmp_path, records()) as region:
        await collected(region, shark=NODE)
        gone = region.shard_of(1)
        lost = sum(region.shard_of(number) == gone for number in range(1, OBJECTS, 2))
        store = region.world.shards.pop(gone)
        found = await verified(region, shark=NODE)
        region.world.shards[gone] = store
        assert found["error", "bad_shard_number"] == lost
        assert ("skipped", "deleted") not in found


async def test_each_record_of_an_object_is_looked_at(tmp_path: Path) -> None:
    """A link may name other nodes than the first record of its object."""
    link = good_record(1, key="/account/stor/link")
    link["sharks"] = [{"datacenter": "dc1", "manta_storage_id": n} for n in (NODE, OTHER)]
    async with open_region(tmp_path, [*records(), link]) as region:
        region.copy(1, OTHER).unlink()
        assert (await verified(region, shark=NODE))["error", "copy_missing"] == 1
    assert OTHER in listed(region)[object_id(1)][1]


# --- what changes while it is looked at --------------------------------------------------


def meanwhile(monkeypatch: pytest.MonkeyPatch, change: Callable[[Copy], None]) -> None:
    """Call `change` each time that a copy was compared, before anything is made of that."""
    compare = Reader.check

    async def check(self: Reader, copy: Copy, *, is_sampled: bool) -> Fault | None:
        fault = await compare(self, copy, is_sampled=is_sampled)
        change(copy)
        return fault

    monkeypatch.setattr(Reader, "check", check)


def path_of(number: int) -> str:
    return f"/{OWNER}/{object_id(number)}"


async def test_a_record_that_keeps_changing_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fault is told of a record that is not the latest; a retry looks again."""
    async with open_region(tmp_path, records()) as region:

        def move(copy: Copy) -> None:
            if copy.path == path_of(1):
                node = OTHER if copy.shark == NODE else NODE
                sharks = [{"datacenter": "dc1", "manta_storage_id": node}]
                region.put(good_record(1, sharks=sharks), region.shard_of(1))

        region.copy(1, NODE).unlink()
        meanwhile(monkeypatch, move)
        assert await verified(region, shark=NODE) == {
            ("complete", ""): OBJECTS // 2 - 1,
            ("skipped", "changing"): 1,
        }
        monkeypatch.undo()
        found = await verified(region, name="second", retry_of="verify", shark=NODE)
        assert found == {("error", "copy_missing"): 1}


async def test_a_record_that_goes_in_the_end_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known of it in the end counts, and not how often it changed before."""
    async with open_region(tmp_path, records()) as region:
        nodes = ["3.stor.lab", "5.stor.lab"]

        def change(copy: Copy) -> None:
            if copy.path == path_of(1) and copy.shark != ORIGIN.manta_storage_id:
                shard = region.shard_of(1)
                if not nodes:
                    region.world.shards[shard].delete("manta", "/account/stor/1")
                    return
                sharks = [{"datacenter": "dc1", "manta_storage_id": nodes.pop()}]
                region.put(good_record(1, sharks=sharks), shard)

        region.copy(1, NODE).unlink()
        meanwhile(monkeypatch, change)
        assert (await verified(region, shark=NODE))["skipped", "deleted"] == 1


async def test_a_record_that_was_mended_since_its_page_was_read_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of objects may have been looked at in between."""
    async with open_region(tmp_path, records()) as region:
        await collected(region, shark=NODE)
        shard = region.shard_of(11)
        region.put(good_record(11, contentMD5="odd"), shard)
        meanwhile(monkeypatch, lambda _: region.put(good_record(11), shard))
        assert await verified(region, shark=NODE, requests=1) == {("complete", ""): OBJECTS // 2}


def by_hand(region: Region, change: str, number: int) -> None:
    """Change the row of an object as a person does, with another program."""
    with closing(sqlite3.connect(region.world.folder / "verify.sqlite")) as db, db:
        db.execute(f"{change} WHERE id = ?", (object_id(number),))


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("DELETE FROM evacuateobjects", {}),
        (
            "UPDATE evacuateobjects SET status = 'skipped', outcome = 'excluded'",
            {("skipped", "excluded"): 1},
        ),
        ("UPDATE evacuateobjects SET key = '/account/stor/gone'", {("skipped", "deleted"): 1}),
    ],
)
async def test_what_a_person_makes_of_a_row_meanwhile_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, found: dict[Any, int]
) -> None:
    """The other objects are looked at all the same."""
    left = [1]
    async with open_region(tmp_path, records()) as region:

        def edit(copy: Copy) -> None:
            if copy.path == path_of(1) and left:
                by_hand(region, change, left.pop())

        meanwhile(monkeypatch, edit)
        assert await verified(region, shark=NODE) == {("complete", ""): 5, **found}


@pytest.mark.parametrize("change", ["shard = NULL", "key = NULL", "key = x'ff'"])
async def test_a_row_that_cannot_be_used_any_more_is_an_error(tmp_path: Path, change: str) -> None:
    """As an object whose record cannot be used; the others are looked at."""
    async with open_region(tmp_path, records()) as region:
        await collected(region, shark=NODE)
        by_hand(region, f"UPDATE evacuateobjects SET {change}", 1)
        assert await verified(region, shark=NODE) == {
            ("complete", ""): 5,
            ("error", "bad_moray_object"): 1,
        }


async def test_a_row_that_a_person_puts_back_is_looked_at_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every object of a job comes to an end, whenever it was put back."""
    async with open_region(tmp_path, records()) as region:
        region.copy(1, NODE).unlink()
        left = [1]

        def mend(copy: Copy) -> None:
            if copy.path == path_of(11) and left:
                region.copy(1, NODE).write_bytes(content(1))
                by_hand(region, "UPDATE evacuateobjects SET status = 'unprocessed'", left.pop())

        meanwhile(monkeypatch, mend)
        assert await verified(region, shark=NODE, requests=1) == {("complete", ""): 6}


# --- what a job has moved ----------------------------------------------------------------


async def moved(region: Region) -> str:
    """Let an evacuation move everything, with its copies; return the name of its file."""
    assert (await region.world.run())["complete", ""] == OBJECTS
    for object_name, node in region.world.agents.copies:
        number = int(object_name[-12:])
        path = region.copy(number, node)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
    return region.world.job_name


async def test_what_a_job_has_moved_is_verified(tmp_path: Path) -> None:
    """Each object where its record says now; what is gone since is skipped."""
    async with open_region(tmp_path, records()) as region:
        name = await moved(region)
        region.world.shards[region.shard_of(2)].delete("manta", "/account/stor/2")
        one = next(r for r in region.world.records() if r["objectId"] == object_id(3))
        region.copy(3, one["sharks"][0]["manta_storage_id"]).unlink()
        assert await verified(region, job=name, sample=1.0) == {
            ("complete", ""): OBJECTS - 2,
            ("skipped", "deleted"): 1,
            ("error", "copy_missing"): 1,
        }
    assert set(listed(region)) == {object_id(3)}


async def test_a_link_outlives_the_record_that_its_object_was_moved_by(tmp_path: Path) -> None:
    """The object is still there by the link's name, so its copies are looked at."""
    link = good_record(1, key="/account/stor/link")
    async with open_region(tmp_path, [*records(), link]) as region:
        name = await moved(region)
        lines = [line for kind in ("object", "link") for line in report(region, name, kind)]
        first = next(line for line in lines if line["id"] == object_id(1))
        region.world.shards[first["shard"]].delete("manta", first["key"])
        left = next(r for r in region.world.records() if r["objectId"] == object_id(1))
        region.copy(1, left["sharks"][0]["manta_storage_id"]).unlink()
        found = await verified(region, job=name)
        assert found["error", "copy_missing"] == 1
        assert found["complete", ""] == OBJECTS - 1


async def test_an_unusable_record_of_another_object_says_nothing_of_this_one(
    tmp_path: Path,
) -> None:
    """Its key was written over, as with a record that can be used; the report has the object."""
    async with open_region(tmp_path, records()) as region:
        name = await moved(region)
        region.put(good_record(3, objectId=object_id(103), contentMD5="odd"), region.shard_of(3))
        region.put(good_record(4, objectId="odd"), region.shard_of(4))
        assert await verified(region, job=name) == {
            ("complete", ""): OBJECTS - 2,
            ("skipped", "overwritten"): 1,
            ("error", "bad_manta_object"): 1,
        }
    assert set(listed(region, "skipped")) == {object_id(3)}
    assert set(listed(region)) == {object_id(4)}


def report(region: Region, name: str, kind: str) -> list[Mapping[str, Any]]:
    return list(views.report_page(region.world.folder / f"{name}.sqlite", kind, 0)[1])


async def test_copies_of_bucket_objects_are_verified_too(tmp_path: Path) -> None:
    """Those of a node, and those that a job has moved, by the paths that they have."""
    rows = []
    for number in (1, 3, 5):
        body = content(number)
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        rows.append(row(number, content_length=len(body), content_md5=md5))
    async with open_region(tmp_path, []) as region:
        region.world.buckets = {-2: FakeBuckets.make(rows)}
        for number, made in zip((1, 3, 5), rows, strict=True):
            for shark in made["sharks"]:
                path = copies.path_of(made["owner"], id_of(made) or "")
                copy = tmp_path / "nodes" / shark.partition(":")[2] / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content(number))
        copy.unlink()

        found = {("complete", ""): 2, ("error", "copy_missing"): 1}
        assert await verified(region, shark=NODE, sample=1.0) == found

        lines = report(region, "verify", "object")
        assert {(line["tier"], line["shard"]) for line in lines} == {("buckets", 2)}
        copy.write_bytes(content(5))
        async with region.job(name="moved", job="verify") as (job, store):
            await job.run(trio.Event())
            assert await counts(store) == {("complete", ""): 2}
        async with region.job(name="retry", shark=NODE, retry_of="verify") as (job, store):
            await job.run(trio.Event())
            assert await counts(store) == {("complete", ""): 1}


# --- stopping and going on ---------------------------------------------------------------


async def test_a_cancelled_job_skips_what_is_left(tmp_path: Path) -> None:
    """It ends at once; nothing counts as looked at that was not."""
    cancelled = trio.Event()
    async with open_region(tmp_path, records()) as region, region.job(shark=NODE) as (job, store):
        await job._collect(LiveShards(job.live, job.waits))
        cancelled.set()
        await job.run(cancelled)
        assert await counts(store) == {("skipped", "cancelled"): OBJECTS // 2}


async def test_a_retry_looks_again_at_what_was_not_right(tmp_path: Path) -> None:
    """Not at what was; a copy that was put back is right now."""
    async with open_region(tmp_path, records()) as region:
        kept = region.copy(1, NODE).read_bytes()
        region.copy(1, NODE).unlink()
        region.copy(3, NODE).unlink()
        assert (await verified(region, shark=NODE))["error", "copy_missing"] == 2
        region.copy(1, NODE).write_bytes(kept)
        assert await verified(region, name="second", retry_of="verify", shark=NODE) == {
            ("complete", ""): 1,
            ("error", "copy_missing"): 1,
        }


async def test_a_retry_of_a_job_that_had_not_collected_all_looks_at_everything(
    tmp_path: Path,
) -> None:
    """What the cancelled one did not come to is only known from where it looked."""
    cancelled = trio.Event()
    cancelled.set()
    async with open_region(tmp_path, records()) as region:
        async with region.job(shark=NODE) as (job, store):
            await job.run(cancelled)
            assert await counts(store) == {}
        found = await verified(region, name="second", retry_of="verify", shark=NODE)
        assert found == {("complete", ""): OBJECTS // 2}
