"""Invariant 7: an evacuation dies in a final scan, a retry, or when it was paused or cancelled.

`tests/manager/actions/test_crashes.py` has the jobs that nobody disturbs, of all actions.
"""

import itertools
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path

import pytest
import trio

from rebalancer.domain import reasons
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.pipeline.listings import EarlierJob
from rebalancer.manager.store.job_store import JobStore
from tests.manager.crashes import WHERE, Arm, sweep
from tests.manager.pipeline.test_final_scan import on_shark, orphans, put_back, remaining, rounds
from tests.manager.store.test_store import check_counters
from tests.manager.world import ORIGIN, World, counts, make_world, object_id, record

OBJECTS = 12


@asynccontextmanager
async def a_world(folder: Path) -> AsyncIterator[World]:
    """Objects to be moved, of which one fails and one fits nowhere, and a link."""
    records = [record(number) for number in range(1, OBJECTS + 1)]
    records.append(record(1, key="/account/stor/link"))
    records.append(record(OBJECTS + 1, contentLength=1 << 50))  # there is no room for it
    with closing(make_world(folder, records)) as world:
        world.agents.failures = {object_id(2): reasons.MD5_MISMATCH}
        yield world


async def run_once(world: World, arm: Arm) -> None:
    async with world.job() as job:
        arm(job.store)
        await flow.run(job)


async def check_restart(world: World, _k: int) -> None:
    async with world.job() as job:
        await flow.run(job)
        await check_end(world, job.store)


async def check_end(world: World, store: JobStore) -> None:
    """All of `a_world` is at its end, once, and the job's file has all of it."""
    assert await counts(store) == {
        ("complete", ""): OBJECTS - 1,
        ("skipped", "md5_mismatch"): 1,
        ("skipped", "destination_insufficient_space"): 1,
        ("duplicates", ""): 1,
    }
    rows = store.database._reader.execute("SELECT status, count(*) FROM evacuateobjects GROUP BY 1")
    assert dict(tuple(row) for row in rows) == {"complete": OBJECTS - 1, "skipped": 2}
    ours = {row[0] for row in store.database._reader.execute("SELECT id FROM assignments")}
    # The outside world too: no agent was given work of which there is no record, no object
    # was copied twice to one place, and every record but those of the failed ones has moved.
    assert world.agents.known_ever <= ours
    assert len(world.agents.copied_whole) == len(set(world.agents.copied_whole))
    assert world.agents.found_there == []
    left = [r for r in world.records() if ORIGIN.manta_storage_id in str(r["sharks"])]
    assert sorted(r["objectId"] for r in left) == [object_id(2), object_id(OBJECTS + 1)]


# --- final scans -------------------------------------------------------------------------


@asynccontextmanager
async def a_haunted_world(folder: Path) -> AsyncIterator[World]:
    """Two records are put back behind the job, one of them twice."""
    records = [record(number) for number in range(1, OBJECTS + 1)]
    with closing(make_world(folder, records)) as world:
        put_back(world, 5)
        put_back(world, 8, times=2)
        yield world


async def check_empty(world: World, k: int) -> None:
    """Nothing names the shark, nothing was copied twice, and nothing lies about."""
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): OBJECTS}, k
    assert on_shark(world) == set(), k
    assert remaining(world) == [], k
    assert orphans(world) == [], k
    assert rounds(world)[-1][1:] == (0, 0), k
    assert sorted(name for name, _ in world.agents.copied_whole) == [
        object_id(number) for number in range(1, OBJECTS + 1)
    ], k


@WHERE
async def test_crash_at_every_commit_of_final_scans(
    where: str, tmp_path: Path, autojump_clock: object
) -> None:
    """What was put back is moved again to the copy that is there, wherever the job was killed."""
    assert await sweep(tmp_path, where, a_haunted_world, run_once, check_empty) > 20


# --- retry -------------------------------------------------------------------------------


@asynccontextmanager
async def a_retried_world(folder: Path) -> AsyncIterator[World]:
    """A job has skipped three objects; what hindered them is over, and a retry is next."""
    records = [record(number) for number in range(1, OBJECTS + 1)]
    failing = {2: reasons.MD5_MISMATCH, 3: reasons.AGENT_FS_ERROR, 4: reasons.NETWORK_ERROR}
    with closing(make_world(folder, records)) as world:
        world.agents.failures = {object_id(number): why for number, why in failing.items()}
        assert (await world.run())["complete", ""] == OBJECTS - 3
        world.agents.failures = {}
        world.listing, world.job_name = EarlierJob(world.job_file), "retry"
        yield world


async def check_retried(world: World, k: int) -> None:
    async with world.job() as job:
        await flow.run(job)
        check_counters(job.store)
        assert await counts(job.store) == {("complete", ""): 3}, k
    assert on_shark(world) == set(), k
    assert orphans(world) == [], k
    assert len(world.agents.copied_whole) == len(set(world.agents.copied_whole)), k


@WHERE
async def test_crash_at_every_commit_of_a_retry(
    where: str, tmp_path: Path, autojump_clock: object
) -> None:
    """A retry takes what its job has left, once."""
    assert await sweep(tmp_path, where, a_retried_world, run_once, check_retried) > 5


# --- pause and cancel --------------------------------------------------------------------


def at_commit(job: Job, number: int, act: Callable[[], None]) -> None:
    """Call `act` at a commit; what is called there already, still is."""
    inner, count = job.store.database.after_commit, itertools.count(1)

    def both() -> None:
        if next(count) == number:
            act()
        inner()

    job.store.database.after_commit = both


async def run_paused(number: int, world: World, arm: Arm) -> None:
    """Pause at a commit, resume, and crash in what comes then."""
    async with world.job() as job:
        with trio.CancelScope() as scope:
            at_commit(job, number, scope.cancel)
            await flow.run(job)
    await run_once(world, arm)


async def run_cancelled(number: int, world: World, arm: Arm) -> None:
    """Crash, before or after the job was cancelled at a commit."""
    async with world.job() as job:
        arm(job.store)
        at_commit(job, number, job.cancel)
        await flow.run(job)


async def check_cancelled(world: World, k: int) -> None:
    """A manager that starts again knows that the job is cancelled; then all is at an end."""
    cancelled = trio.Event()
    cancelled.set()
    async with world.job(cancelled=cancelled) as job:
        await flow.run(job)
        check_counters(job.store)
        ends = {status for status, _ in await counts(job.store)}
        assert ends <= {"complete", "skipped", "duplicates"}, k
    with closing(sqlite3.connect(world.job_file)) as db:
        # A further record of an object that is complete may never have been met.
        keys = db.execute("SELECT key FROM evacuateobjects WHERE status = 'complete'")
        done = {key for (key,) in keys}
        ours = {name for (name,) in db.execute("SELECT id FROM assignments")}
        states = {state for (state,) in db.execute("SELECT DISTINCT state FROM assignments")}
        copies = set(db.execute("SELECT id, dest_shark FROM evacuateobjects"))
        stray = set(db.execute("SELECT object_id, shark FROM orphans"))
    assert states <= {"rejected", "post_processed"}, k
    assert world.agents.known_ever <= ours, k
    assert world.agents.copies <= copies | stray, k
    assert not on_shark(world) & done, k


#: Commits at which a job is paused or cancelled; the run of a whole one has some thirty.
MOMENTS = (3, 9, 16)


@WHERE
@pytest.mark.parametrize("number", MOMENTS)
async def test_crash_at_every_commit_after_a_pause(
    where: str, number: int, tmp_path: Path, autojump_clock: object
) -> None:
    """A job that was paused and resumed is as safe as any."""
    run = partial(run_paused, number)
    assert await sweep(tmp_path, where, a_world, run, check_restart) >= 1


@WHERE
@pytest.mark.parametrize("number", MOMENTS)
async def test_crash_at_every_commit_of_a_job_that_is_cancelled(
    where: str, number: int, tmp_path: Path, autojump_clock: object
) -> None:
    """Everything is at an end, no agent has unknown work, and every copy is known."""
    run = partial(run_cancelled, number)
    assert await sweep(tmp_path, where, a_world, run, check_cancelled) >= 1
