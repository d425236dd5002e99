"""One evacuation of both tiers by real processes, beside users, on a real PostgreSQL."""

import json
import re
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from rebalancer_devregion.audit import audit
from rebalancer_devregion.buckets.garbage import AFTER_S, collect
from rebalancer_devregion.buckets.kinds import EXPECTED, BucketKind
from rebalancer_devregion.buckets.tables import (
    PROGRAMS,
    SHARDS,
    VNODES,
    connected,
    schema_of,
)
from rebalancer_devregion.buckets.users import Change, change_rows
from rebalancer_devregion.checks import BUCKET_TITLES, TITLES, Audit
from rebalancer_devregion.layout import Layout
from rebalancer_devregion.postgres import BUCKET_COLUMNS
from rebalancer_devregion.region import Region, running
from tests.conftest import require
from tests.process.regions import Api, adm, new_region

pytestmark = pytest.mark.process

OBJECTS, BUCKET_OBJECTS = 60, 60


@attrs.frozen
class Evacuated:
    """A region after its jobs, and what was seen on the way."""

    layout: Layout
    #: What `job plan` said before: its exit code and its text.
    plan: tuple[int, str]
    view: dict[str, Any]
    #: Status and reason of each bucket object of the job.
    ends: Counter[tuple[str, str]]
    changes: dict[str, int]
    audit: Audit
    #: What `node check` says of the node before and after, and of another that bucket objects
    #: were counted on only; and what the job for that one came to.
    before: str
    after: str
    counted: dict[str, Any]
    #: The audit after an object was moved as it must not be.
    harmed: Audit


@pytest.fixture(scope="module")
def evacuated(tmp_path_factory: pytest.TempPathFactory) -> Evacuated:
    for program in PROGRAMS:
        require(program)
    return trio.run(evacuate, tmp_path_factory.mktemp("buckets"))


async def evacuate(folder: Path) -> Evacuated:
    region = await trio.to_thread.run_sync(
        partial(new_region, folder, OBJECTS, bucket_objects=BUCKET_OBJECTS)
    )
    layout, changes = region.layout, dict[str, int]()

    async def change() -> None:
        changes.update(await trio.to_thread.run_sync(change_rows, layout, 0.4, 0.01))

    async with running(region), httpx.AsyncClient() as client:
        api = Api(client, region)
        before = await check(region)
        words = ["--url", region.url, "job", "plan", "--shark", "1.stor"]
        plan = await trio.to_thread.run_sync(lambda: adm(*words))
        job_id = await api.create()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(change)
            view = await api.finish(job_id)
        after = await check(region)
        # So that all of it has been collected that may be.
        await trio.sleep(AFTER_S + 1)
        job_file = region.job_file(job_id)
        report = await trio.to_thread.run_sync(audit, layout, job_file)
        counted = await count_only(region, api)
        await trio.to_thread.run_sync(move_by_create, layout)
        harmed = await trio.to_thread.run_sync(audit, layout, job_file)
        await region.stop()
    with closing(sqlite3.connect(job_file)) as db:
        select = "SELECT status, coalesce(skipped_reason, error, outcome, '') FROM evacuateobjects"
        ends = Counter(db.execute(f"{select} WHERE shard < 0").fetchall())
    said = plan.returncode, plan.stdout
    return Evacuated(layout, said, view, ends, changes, report, before, after, counted, harmed)


async def check(region: Region) -> str:
    words = ["--url", region.url, "node", "check", region.layout.evacuated]
    return (await trio.to_thread.run_sync(lambda: adm(*words))).stdout


async def count_only(region: Region, api: Api) -> dict[str, Any]:
    """A job for another node, once bucket objects are counted only."""
    file = region.layout.folder / "etc" / "manager.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "buckets_update": "off"}))
    region.manager.signal(signal.SIGHUP)
    await trio.sleep(0.5)
    return await api.finish(await api.create(from_shark="2.stor"))


def move_by_create(layout: Layout) -> None:
    """Do to one row what must not be done: write it anew under its id, as `createobject` does."""
    columns = ", ".join(BUCKET_COLUMNS)
    number = SHARDS[0]
    with connected(layout, number) as db:
        schema = schema_of(VNODES[number][0])
        done = db.execute(
            f"WITH moved AS (SELECT {columns} FROM {schema}.manta_bucket_object"
            " JOIN region.kinds USING (owner, bucket_id, name) WHERE kind = %s LIMIT 1)"
            f" INSERT INTO {schema}.manta_bucket_deleted_object ({columns}, deleted_at)"
            f" SELECT {columns}, '2000-01-01' FROM moved".encode(),
            [BucketKind.ELSEWHERE],
        )
        assert done.rowcount == 1
    collect(layout, number)


def test_the_job_ends_with_a_verdict_of_both_tiers(evacuated: Evacuated) -> None:
    assert (evacuated.view["state"], evacuated.view["warnings"]) == ("Complete", [])
    assert evacuated.view["verdict"]["verdict"] == "not_empty"


@pytest.mark.parametrize("number", sorted({**TITLES, **BUCKET_TITLES}))
def test_the_audit_finds_that_an_invariant_holds(evacuated: Evacuated, number: int) -> None:
    """In either tier, of what it has."""
    both = (*evacuated.audit.checks, *evacuated.audit.buckets)
    found = [one for one in both if one.number == number]
    assert [one.offenders for one in found] == [[] for _ in found]
    assert all(one.ok for one in found)
    assert len(found) == (number in TITLES) + (number in BUCKET_TITLES)


def test_each_kind_of_bucket_object_ended_somehow(evacuated: Evacuated) -> None:
    """The audit has compared each with its expectation; here that none was left out."""
    assert set(EXPECTED) == set(BucketKind)
    expected = {(end.status, end.reason) for end in EXPECTED.values() if end}
    by_users = {("skipped", "deleted"), ("skipped", "overwritten")}
    assert expected <= set(evacuated.ends) <= expected | by_users
    assert min(evacuated.changes[kind] for kind in Change) >= 5


def test_a_plan_has_a_destination_for_bucket_objects(evacuated: Evacuated) -> None:
    """Parts of uploads that go on are left, which is no want of room."""
    status, text = evacuated.plan
    assert (status, text.splitlines()[-1]) == (0, "it fits")
    assert re.search(r"left alone: active_upload +2 ", text)


def test_a_node_check_counts_what_names_the_node_in_both_tiers(evacuated: Evacuated) -> None:
    """Afterwards what nobody can move: parts of uploads that go on, and spoiled copies."""
    before, after = (
        dict(re.findall(r"^([a-z ]+): (\d+)", text, re.MULTILINE))
        for text in (evacuated.before, evacuated.after)
    )
    assert int(before["bucket object"]) > BUCKET_OBJECTS
    assert re.search(r"shard 2: \d+, buckets shard 1: \d+, buckets", evacuated.before)
    assert (after["bucket object"], after["upload in progress"]) == ("6", "4")


def test_what_is_only_counted_keeps_a_node_from_being_empty(evacuated: Evacuated) -> None:
    verdict = evacuated.counted["verdict"]
    assert verdict["verdict"] == "not_empty"
    assert "buckets_update_off" in {cause["cause"] for cause in verdict["causes"]}


def test_a_move_by_create_shows_as_lost_data(evacuated: Evacuated) -> None:
    """The collector deletes what a living row names, and the audit sees it."""
    broken = {one.number for one in evacuated.harmed.buckets if not one.ok}
    assert broken == {2, 12}


async def test_servers_update_what_the_database_would(tmp_path: Path) -> None:
    """By buckets-mdapi, beside users: all but rows of which its handlers die."""
    for program in PROGRAMS:
        require(program)
    region = await trio.to_thread.run_sync(
        partial(new_region, tmp_path, 10, bucket_objects=40, buckets_update="mdapi")
    )
    async with running(region), httpx.AsyncClient() as client:
        api = Api(client, region)
        job_id = await api.create()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, change_rows, region.layout, 0.4, 0.01)
            await api.finish(job_id)
        report = await trio.to_thread.run_sync(audit, region.layout, region.job_file(job_id))
        await region.stop()
    assert [one.offenders for one in report.buckets] == [[] for _ in BUCKET_TITLES]
    assert report.ok
