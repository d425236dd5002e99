"""What names a node now: counted on every shard, live, while others write."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.domain.node_checks import Kind
from rebalancer.errors import PeerRefused, PeerUnreachable
from rebalancer.manager.nodes.scan import NodeScan, read_rows
from rebalancer.peers import scan
from tests.manager.buckets import FakeBuckets, row
from tests.manager.world import NODES, ORIGIN, FakeMoray, World, make_world, object_id, record

NODE = ORIGIN.manta_storage_id
OTHERS = [attrs.asdict(node.shark) for node in NODES[:2]]


def upload(number: int, sharks: Any) -> dict[str, Any]:
    key = f"/account/uploads/{number}"
    return {"key": key, "type": "directory", "upload": {"id": object_id(number), "sharks": sharks}}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    records = [record(number) for number in range(1, 21)]
    records += [record(number, sharks=OTHERS) for number in range(21, 31)]
    records += [record(31, sharks=OTHERS, name=NODE), record(32, sharks=[NODE])]
    records += [upload(33, [attrs.asdict(ORIGIN)]), upload(34, OTHERS)]
    made = make_world(tmp_path / "world", records)
    yield made
    made.close()


def scan_of(world: World, first: int | None = None, **shards: scan.Scannable) -> NodeScan:
    moray: dict[int, scan.Scannable] = {
        number: FakeMoray(world, number, store) for number, store in world.shards.items()
    }
    return NodeScan(NODE, {**moray, **{int(n[1:]): s for n, s in shards.items()}}, 2, 5, first)


async def test_all_that_names_a_node_is_counted_by_kind_and_shard(
    world: World, autojump_clock: object
) -> None:
    """Records that hold its name elsewhere are not; a sample has some keys of each kind."""
    checked = scan_of(world)
    await checked.run()

    assert checked.totals == {Kind.OBJECT: 20, Kind.UNUSABLE: 1, Kind.UPLOAD: 1}
    assert checked.counts[Kind.OBJECT, 1] == checked.counts[Kind.OBJECT, 2] == 10
    assert (checked.failures, checked.ended, checked.share) == ({}, {1, 2}, 1.0)
    sampled = [one.kind for one in checked.sample]
    assert (sampled.count(Kind.OBJECT), sampled.count(Kind.UPLOAD)) == (10, 1)
    assert object_id(33) in [one.id for one in checked.sample]


async def test_a_count_can_stop_early(world: World, autojump_clock: object) -> None:
    """With no more than was asked for."""
    checked = scan_of(world, first=3)
    await checked.run()

    assert sum(checked.totals.values()) == 3
    assert checked.has_enough


class Broken(scan.DirectoryShard):
    """A shard that does not answer, or that refuses."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = 0
    ) -> list[dict[str, Any]]:
        await trio.sleep(0.01)
        raise self.failure


@pytest.mark.parametrize("failure", [PeerUnreachable("it is away"), PeerRefused("it refuses")])
async def test_a_shard_that_does_not_answer_is_named(
    world: World, autojump_clock: object, failure: Exception
) -> None:
    """After a bounded time; the others are scanned nevertheless."""
    checked = scan_of(world, _3=Broken(failure))
    with trio.fail_after(300):
        await checked.run()

    assert checked.failures == {3: str(failure)}
    assert checked.totals[Kind.OBJECT] == 20


class Growing(FakeMoray):
    """A shard to which a front end writes a new record when the scan has reached its end."""

    async def sql(self, statement: str, values: Sequence[Any] = (), **bounds: Any) -> Any:
        rows = await super().sql(statement, values, **bounds)
        if "_id IS NULL" in statement:
            new = record(99)
            self._world.shards[1].put("manta", new["key"], new)
        return rows


async def test_a_record_that_comes_during_the_scan_is_counted(
    world: World, autojump_clock: object
) -> None:
    """Its id lies behind all that there were when the scan began."""
    checked = scan_of(world, _1=Growing(world, 1, world.shards[1]))
    await checked.run()

    assert checked.totals[Kind.OBJECT] == 21


class Late(FakeMoray):
    """A shard that is scanned after the other, to which a front end has just written a record."""

    async def sql(self, statement: str, values: Sequence[Any] = (), **bounds: Any) -> Any:
        if "pg_attribute" in statement:
            await trio.sleep(30)
            new = record(99)
            self._world.shards[1].put("manta", new["key"], new)
        return await super().sql(statement, values, **bounds)


async def test_a_record_that_goes_to_a_shard_which_was_scanned_is_counted(
    world: World, autojump_clock: object
) -> None:
    """As by a rename, which takes its nodes along: new records are looked for when all is done."""
    checked = scan_of(world, _2=Late(world, 2, world.shards[2]))
    await checked.run()

    assert checked.totals[Kind.OBJECT] == 21
    assert (checked.ended, checked.share) == ({1, 2}, 1.0)


async def test_a_scan_beside_an_evacuation_says_what_is_left(
    world: World, autojump_clock: object
) -> None:
    """Never that a node is empty while records name it; and so once the job has emptied it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        seen = list[int]()
        while not seen or seen[-1] > 0:
            left = sum(NODE in json.dumps(one["sharks"]) for one in world.records())
            checked = scan_of(world)
            await checked.run()
            seen.append(checked.totals.get(Kind.OBJECT, 0))
            now = sum(NODE in json.dumps(one["sharks"]) for one in world.records())
            # The scan took its time: records have been moved since it began.
            assert now - 1 <= seen[-1] <= left - 1  # of record 32, which cannot be used
            await trio.sleep(0.05)

    assert (seen[0], seen[-1]) == (20, 0)


def test_an_upload_whose_nodes_cannot_be_read_counts() -> None:
    """It holds the name, and nobody can say that it will not end there."""
    texts = [upload(1, NODE), upload(2, [ORIGIN.manta_storage_id]), {"key": "/a", "note": NODE}]
    rows = [scan.FoundRow("/a", "1", json.dumps(text), may_be_upload=True) for text in texts]

    assert [one.kind for one in read_rows(NODE, 1, rows)] == [Kind.UPLOAD] * 2


async def test_a_bucket_object_is_counted_once_however_often_it_is_met(
    autojump_clock: object,
) -> None:
    """What is new may be anywhere among the keys, so all are walked twice."""
    shard = FakeBuckets.make([row(n) for n in range(7)])
    shard.gone = [row(9)]
    del shard.rows[next(iter(shard.rows))]
    checked = NodeScan(ORIGIN.manta_storage_id, {-1: shard}, readers=1, width=2)

    await checked.run()

    assert checked.totals == {Kind.BUCKET_OBJECT: 6}
    assert checked.deleted == {-1: 1}
    assert (len(checked.sample), checked.share) == (6, 1)


@pytest.mark.parametrize("first", [1, 3, 4, 6])
async def test_a_count_of_bucket_objects_that_stops_early_is_kept(
    autojump_clock: object, first: int
) -> None:
    """The walk that is left out finds nothing, which is no answer."""
    shard = FakeBuckets.make([row(n) for n in range(7)])
    scanned = NodeScan(ORIGIN.manta_storage_id, {-1: shard}, readers=1, width=2, first=first)

    await scanned.run()

    assert scanned.totals == {Kind.BUCKET_OBJECT: first}
    assert scanned.has_enough


async def test_objects_that_are_moved_during_a_cut_count_do_not_make_it_a_whole_one(
    autojump_clock: object,
) -> None:
    """Though fewer are counted at last than the check was to find."""

    class Emptied(FakeBuckets):
        async def parts(self) -> tuple[str, ...]:
            found = await super().parts()
            if self.parts_asked:
                self.rows = {key: {**row, "sharks": []} for key, row in self.rows.items()}
            self.parts_asked += 1
            return found

        parts_asked = 0

    emptied = Emptied.make([row(n) for n in range(4)])
    other = FakeBuckets.make([row(n) for n in range(10, 20)])

    class Slow(FakeBuckets):
        async def window(self, *args: Any, **options: Any) -> Any:
            await trio.sleep(0.035)
            return await super().window(*args, **options)

    slow = Slow(other.rows)
    scanned = NodeScan(
        ORIGIN.manta_storage_id, {-1: emptied, -2: slow}, readers=2, width=2, first=12
    )

    await scanned.run()

    assert scanned.has_enough


async def test_a_second_walk_that_fails_leaves_what_the_first_has_counted(
    autojump_clock: object,
) -> None:
    """The answer is unknown then, and what is known speaks against it."""

    class Tiring(FakeBuckets):
        asked = 0

        async def window(self, *args: Any, **options: Any) -> Any:
            self.asked += 1
            if self.asked > 8:
                raise PeerRefused("buckets shard 1: the disk is gone")
            return await super().window(*args, **options)

    shard = Tiring.make([row(n) for n in range(7)])
    checked = NodeScan(ORIGIN.manta_storage_id, {-1: shard}, readers=1, width=2)

    await checked.run()

    assert checked.totals == {Kind.BUCKET_OBJECT: 7}
    assert set(checked.failures) == {-1}
