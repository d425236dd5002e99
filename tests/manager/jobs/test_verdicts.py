"""The verdicts of ended jobs, by what is in their files."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

from rebalancer.config import ManagerConfig, Shard
from rebalancer.domain.states import JobState
from rebalancer.domain.verdicts import End, Word
from rebalancer.errors import StoreError
from rebalancer.manager.actions.registry import ACTIONS
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store import views
from tests.manager.http.test_api import open_rig
from tests.manager.world import ORIGIN, World, make_world, object_id, record

CONFIG = ManagerConfig("lab", (Shard("1.moray.lab"), Shard("2.moray.lab")))
WHOLE: dict[str, Any] = {"from_shark": ORIGIN.manta_storage_id}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [record(number) for number in range(1, 9)])
    yield made
    made.close()


def change(world: World, statement: str, *values: Any) -> None:
    """Change a job's file as another history would have left it."""
    with closing(sqlite3.connect(world.job_file)) as db, db:
        db.execute(statement, values)


def word(end: End, params: dict[str, Any] = WHOLE, config: ManagerConfig = CONFIG) -> Word:
    row = JobRow("job", "evacuate", JobState.COMPLETE, params, "", None, None, None)
    return ACTIONS["evacuate"].verdict(row, end, config).word


async def test_a_node_is_empty_when_the_last_scan_met_nothing(
    world: World, autojump_clock: object
) -> None:
    """Of a job that took all of it, and only then."""
    await world.run()
    end = views.read_end(world.job_file)

    assert (end.remaining, end.links, end.dropped) == ({}, {}, 0)
    assert word(end) is Word.EMPTY
    for part in ({"max_objects": 10}, {"objects_file": "/a"}, {"retry_of": "b"}):
        assert word(end, {**WHOLE, **part}) is Word.PARTIAL
    assert word(end, {**WHOLE, "retry_of": "b", "scans": True}) is Word.EMPTY


def test_a_verification_that_bounds_shards_has_seen_a_part_of_its_node() -> None:
    """What a job has moved is verified whole all the same."""

    def verify(**params: str | None) -> Word:
        params = {"job": None, "shark": None, **params}
        row = JobRow("job", "verify", JobState.COMPLETE, params, "", None, None, None)
        config = attrs.evolve(CONFIG, min_shard=2)
        return ACTIONS["verify"].verdict(row, End({("complete", ""): 5}), config).word

    assert [verify(shark="1.stor"), verify(job="0fd6")] == [Word.PARTIAL, Word.RIGHT]


async def test_what_the_last_scan_met_is_counted_by_its_reason(
    world: World, autojump_clock: object
) -> None:
    """A reason that is a text, as a link may have, is one of others."""
    key = "/account/uploads/0/a"
    upload = {"id": object_id(77), "sharks": [attrs.asdict(ORIGIN)]}
    world.shards[1].put("manta", key, {"key": key, "type": "directory", "upload": upload})
    await world.run()
    for number in (1, 2):
        why = f"Lost: {number}"
        change(world, "INSERT INTO remaining VALUES (1, ?, ?, ?)", why, object_id(number), why)
    end = views.read_end(world.job_file)

    assert end.remaining == {"upload_in_progress": 1, "other": 2}
    assert word(end) is Word.NOT_EMPTY


async def test_a_scan_that_found_something_proves_nothing(
    world: World, autojump_clock: object
) -> None:
    """Nobody has looked whether that was moved: `final_scans` was lowered while the job paused."""
    await world.run()
    change(world, "UPDATE rounds SET found = 1")
    end = views.read_end(world.job_file)

    assert end.remaining is None
    assert word(end) is Word.PARTIAL


def test_what_the_configuration_leaves_out_was_not_looked_at() -> None:
    """Shards beyond its bounds, and bucket objects in a region that has them."""
    clean = End({}, {}, shards={1, 2})
    some = ManagerConfig("lab", CONFIG.shards, min_shard=2)
    buckets = attrs.evolve(CONFIG, has_bucket_objects=True)

    assert word(clean, config=CONFIG) is Word.EMPTY
    assert word(clean, config=some) is Word.PARTIAL
    assert word(clean, config=buckets) is Word.NOT_EMPTY


def test_a_job_of_one_tier_has_seen_a_part_of_a_node_that_has_both() -> None:
    """It needs to have looked at no shard of the other; in a region of one tier it has seen all."""
    buckets = attrs.evolve(CONFIG, has_bucket_objects=True)
    shards = (Shard("1.buckets-mdapi.lab"),)
    seen = attrs.evolve(buckets, buckets_shards=shards, buckets_primary="{shard}.primary.lab")
    first, second = {**WHOLE, "tiers": ["directory"]}, {**WHOLE, "tiers": ["buckets"]}

    assert word(End({}, {}, shards={1, 2}), first) is Word.EMPTY
    for config in (buckets, seen):
        assert word(End({}, {}, shards={1, 2}), first, config) is Word.PARTIAL
    assert word(End({}, {}, shards={-1}), second, seen) is Word.PARTIAL
    row = JobRow("job", "evacuate", JobState.COMPLETE, first, "", None, None, None)
    (cause,) = ACTIONS["evacuate"].verdict(row, End({}, {}, shards={1, 2}), seen).causes
    assert cause.word == "tiers_left_out"
    assert word(End({}, {}, shards={1, 2, -1}), config=seen) is Word.EMPTY


async def test_a_shard_that_came_later_was_not_looked_at(
    world: World, autojump_clock: object
) -> None:
    """Whether the region grew since, or the bounds were lifted that the job had."""
    await world.run()
    end = views.read_end(world.job_file)
    more = attrs.evolve(CONFIG, shards=(*CONFIG.shards, Shard("3.moray.lab")))

    assert end.shards == {1, 2}
    assert word(end) is Word.EMPTY
    assert word(end, config=more) is Word.PARTIAL
    assert word(End({}), {**WHOLE, "retry_of": "b"}, more) is Word.PARTIAL


async def test_what_an_earlier_round_listed_on_a_late_shard_remains(
    world: World, autojump_clock: object
) -> None:
    """A shard was configured when all rounds had run on the others: it catches up with each."""
    late = world.shards.pop(2)
    stuck = record(51, sharks=[attrs.asdict(ORIGIN)] * 2)
    late.put("manta", stuck["key"], stuck)
    await world.run()
    change(world, "UPDATE rounds SET found = 1")
    await world.run()
    world.shards[2] = late
    await world.run()

    assert views.read_end(world.job_file).remaining == {"duplicate_shark": 1}


async def test_what_is_gone_from_the_list_of_remaining_records_counts(
    world: World, autojump_clock: object
) -> None:
    """A person has taken it from the list: that moves no record."""
    stuck = record(51, sharks=[attrs.asdict(ORIGIN)] * 2)
    world.shards[1].put("manta", stuck["key"], stuck)
    await world.run()
    change(world, "DELETE FROM remaining")

    assert views.read_end(world.job_file).remaining == {"other": 1}


async def test_a_verdict_is_decided_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of an ended job changes; of a job whose file is lost there is none.

    But the configuration does: without a restart, a verdict follows from what it says now.
    """
    async with open_rig(tmp_path) as rig:
        known = await rig.create()
        await rig.reach(known, "Complete")
        lost = await rig.create(from_shark="20.stor")
        await rig.reach(lost, "Complete")
        shown = [(await rig.get(known))["verdict"]["verdict"]]

        def read_end(_path: Path) -> End:
            raise StoreError("it is lost")

        rig.jobs.queries.verdicts._known.pop(lost, None)
        monkeypatch.setattr(views, "read_end", read_end)
        shown.append((await rig.get(known))["verdict"]["verdict"])
        listed = await (await rig.client.get("/jobs")).get_json()
        rig.jobs.reload(attrs.evolve(rig.jobs.resources.config, has_bucket_objects=True))
        shown.append((await rig.get(known))["verdict"]["verdict"])
        later = await (await rig.client.get("/jobs")).get_json()

    assert shown == ["empty", "empty", "not_empty"]
    assert [one.get("verdict") for one in listed] == ["empty", None]
    assert [one.get("verdict") for one in later] == ["not_empty", None]
