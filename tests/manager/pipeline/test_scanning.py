"""Scans window by window: how far one reads ahead, and what one that breaks off leaves."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from rebalancer.domain.completeness import UnfinishedScan
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.pipeline.stages.discover import run_discovery
from rebalancer.manager.store import scans
from rebalancer.peers.moray.client import open_moray
from rebalancer.peers.postgres import open_postgres
from rebalancer_devregion import postgres
from rebalancer_devregion.moray.errors import MorayError
from rebalancer_devregion.moray.server import ShardServer
from rebalancer_devregion.postgres import Cluster
from tests.conftest import require
from tests.manager.pipeline.test_discovery import (
    CLONE,
    NO_TABLE,
    Unsteady,
    Watched,
    discovered,
    kept,
    seed,
)
from tests.manager.pipeline.test_discovery import text_of as text
from tests.manager.world import World, make_world, record

OBJECTS, WINDOW = 30, 4
PATIENCE_S = 30.0
MORAY = "1.moray.lab"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make_world(tmp_path / "world", [record(n) for n in range(1, OBJECTS + 1)], shards=1)
    made.options = attrs.evolve(made.options, md_read_chunk_size=WINDOW)
    yield made
    made.close()


async def stored(job: Job) -> tuple[int, int]:
    """How far the scan of shard 1 has come, and how many objects there are."""
    position = await job.store.read(scans.read_position, 1, "_id")
    return (0 if position is None else position.position), job.store.objects


# --- reading ahead -----------------------------------------------------------------------


async def test_one_window_is_read_ahead_and_no_more(world: World, autojump_clock: object) -> None:
    """While nobody takes what was found, its window is stored and one more read: that is all."""
    windows = list[Any]()
    send, receive = trio.open_memory_channel[Feed](0)
    async with world.job() as job, trio.open_nursery() as nursery, send, receive:
        watched = attrs.evolve(job, scanned={1: Watched(world.moray[1], windows.append)})
        nursery.start_soon(run_discovery, watched, send)
        await trio.sleep(1000)
        assert [bounds[1:] for bounds in windows] == [(0, WINDOW), (WINDOW, 2 * WINDOW)]
        assert await stored(job) == (WINDOW, WINDOW)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("windows", [0, 1, 2, 5])
async def test_what_was_read_is_stored_whatever_becomes_of_the_next_window(
    world: World, windows: int, autojump_clock: object
) -> None:
    """The objects of all windows before the shard refused are stored, and the position."""
    async with world.job() as job:
        # Two statements ask for columns and the last id.
        refusing = Unsteady(world.moray[1], frozenset(range(3 + windows, 1000)), NO_TABLE)
        await discovered(attrs.evolve(job, scanned={1: refusing}))
        assert job.failed_scans == [UnfinishedScan(0, 1, str(NO_TABLE))]
        assert await stored(job) == (windows * WINDOW, windows * WINDOW)


@pytest.mark.parametrize("limit", [1, WINDOW, WINDOW + 1, OBJECTS, OBJECTS + 1])
async def test_a_limit_is_exact_though_a_window_is_read_ahead(world: World, limit: int) -> None:
    """What was read beyond the limit is not stored, and little is."""
    windows = list[Any]()
    async with world.job(max_objects=limit) as job:
        watched = Watched(world.moray[1], windows.append)
        await discovered(attrs.evolve(job, scanned={1: watched}))
        position, objects = await stored(job)
    assert objects == min(limit, OBJECTS)
    assert position <= -(-limit // WINDOW) * WINDOW
    assert len(windows) <= -(-limit // WINDOW) + 1


# --- PostgreSQL --------------------------------------------------------------------------

#: `manta` as a view, where reading row 12 does what table `hindrance` says.
HINDERED = """
    ALTER TABLE manta RENAME TO records;
    CREATE TABLE hindrance (seconds float, divisor int);
    INSERT INTO hindrance VALUES (0, 1);
    CREATE FUNCTION hinder(id bigint) RETURNS text STABLE LANGUAGE plpgsql AS $$
        BEGIN
            IF id = 12 THEN
                PERFORM pg_sleep(seconds), 1 / divisor FROM hindrance;
            END IF;
            RETURN '';
        END
    $$;
    CREATE VIEW manta AS SELECT _id, _key, _etag, type, _value || hinder(_id) AS _value FROM records
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require("initdb")
    with postgres.running() as made:
        yield made


@asynccontextmanager
async def hindered(world: World, cluster: Cluster) -> AsyncIterator[None]:
    """The world's records in a clone, which is scanned."""
    rows = [
        {"_id": n, "_key": f"/k/{n}", "_value": text(n, "plain"), "_etag": f"{n:08X}",
         "type": "object"}
        for n in range(1, OBJECTS + 1)
    ]  # fmt: skip

    def make() -> None:
        for store in world.shards.values():
            store.delete_many("manta", "(type=object)", {})
        seed(world, cluster, rows)
        execute(cluster, HINDERED)

    await trio.to_thread.run_sync(make)
    async with open_postgres({1: CLONE}, {CLONE: cluster.address}) as clones:
        world.scanned = clones
        yield


def execute(cluster: Cluster, statement: str) -> Sequence[Any]:
    with closing(cluster.connect()) as db:
        done = db.execute(statement.encode())
        return done.fetchall() if done.description else ()


async def test_a_connection_that_is_lost_within_a_window_costs_a_try(
    world: World, cluster: Cluster
) -> None:
    """Ended by the server while the rows are looked for: the window is asked for again, whole."""

    def end_the_hindered() -> bool:
        execute(cluster, "UPDATE hindrance SET seconds = 0")
        return bool(
            execute(
                cluster,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'rebalancer' AND wait_event = 'PgSleep'",
            )
        )

    def is_hindered() -> bool:
        return bool(execute(cluster, "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    async with hindered(world, cluster), world.job() as job:
        await trio.to_thread.run_sync(execute, cluster, "UPDATE hindrance SET seconds = 600")
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(discovered, job)
                while not await trio.to_thread.run_sync(is_hindered):  # noqa: ASYNC110 - elsewhere
                    await trio.sleep(0.01)
                # Row 12 is in the third window; the two before it are stored meanwhile.
                while (await stored(job))[0] < 2 * WINDOW:  # noqa: ASYNC110 - bounded by the runner
                    await trio.sleep(0.01)
                assert await stored(job) == (2 * WINDOW, 2 * WINDOW)
                assert await trio.to_thread.run_sync(end_the_hindered)
        assert job.failed_scans == []
        assert await stored(job) == (OBJECTS, OBJECTS)


async def test_a_statement_that_fails_at_a_row_leaves_nothing_of_its_window(
    world: World, cluster: Cluster
) -> None:
    """Neither objects nor the position; once the cause is gone, another run finds them all."""
    async with hindered(world, cluster):
        await trio.to_thread.run_sync(execute, cluster, "UPDATE hindrance SET divisor = 0")
        async with world.job() as job:
            await discovered(job)
            (failure,) = map(str, job.failed_scans)
            assert "division by zero" in failure
            assert await stored(job) == (2 * WINDOW, 2 * WINDOW)
        await trio.to_thread.run_sync(execute, cluster, "UPDATE hindrance SET divisor = 1")
        async with world.job() as job:
            await discovered(job)
            assert job.failed_scans == []
            assert await stored(job) == (OBJECTS, OBJECTS)


# --- Moray -------------------------------------------------------------------------------


@attrs.define
class Breaking:
    """Answers the window behind id 8 with some of its rows, and then with an error.

    Mutable state: how often it still does.
    """

    world: World
    error: MorayError
    times: int

    async def __call__(self, method: str, args: list[Any]) -> None:
        if method == "sql" and list(args[1][1:2]) == [2 * WINDOW] and self.times:
            self.times -= 1
            raise self.error.after(self.world.shards[1].sql(args[0], args[1])[:2])


@pytest.mark.parametrize(
    ("error", "whole"),
    [
        (MorayError("error", "terminating connection due to administrator command"), True),
        (MorayError("InternalError", "division by zero"), False),
    ],
)
async def test_rows_before_an_error_of_moray_are_not_taken_for_all(
    world: World, error: MorayError, whole: bool
) -> None:
    """They may be any part of the window: it is asked for again, or is not stored at all."""
    breaking = Breaking(world, error, times=1)
    server = ShardServer(world.shards[1], before_reply=breaking)
    async with trio.open_nursery() as nursery:
        _, port = await nursery.start(server.serve, "127.0.0.1", 0)
        hosts = {MORAY: f"127.0.0.1:{port}"}
        async with open_moray({1: MORAY}, hosts, connections=1) as morays:
            world.scanned = morays
            async with world.job() as job:
                await discovered(job)
                left = await stored(job)
                assert bool(job.failed_scans) is not whole
            assert left == ((OBJECTS, OBJECTS) if whole else (2 * WINDOW, 2 * WINDOW))
            async with world.job() as job:
                await discovered(job)
                assert await stored(job) == (OBJECTS, OBJECTS)
        nursery.cancel_scope.cancel()
    assert breaking.times == 0
    assert len(kept(world.job_file)["objects"]) == OBJECTS
