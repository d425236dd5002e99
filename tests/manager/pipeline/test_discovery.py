"""Discovery: every source finds the same objects, and goes on where it was interrupted."""

import functools
import json
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebalancer.domain import reasons
from rebalancer.domain.completeness import UnfinishedScan
from rebalancer.errors import JobFailed, PeerError, PeerRefused, PeerUnreachable
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.pipeline.listings import EarlierJob, Listing, ObjectsFile, check
from rebalancer.manager.pipeline.stages.discover import run_discovery
from rebalancer.manager.store.records import Listed
from rebalancer.peers import scan
from rebalancer.peers.postgres import open_postgres
from rebalancer_devregion import postgres
from rebalancer_devregion.postgres import Cluster
from tests.conftest import require
from tests.manager.world import NODES, ORIGIN, World, make_world, object_id, record

SHARK = ORIGIN.manta_storage_id
CLONE = "1.rebalancer-postgres.lab"
OTHER = attrs.asdict(NODES[0].shark)
HERE = [attrs.asdict(ORIGIN), OTHER]
LOST = PeerUnreachable("connection lost")
#: An answer that waiting does not change.
NO_TABLE = PeerRefused("relation manta does not exist")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require("initdb")
    with postgres.running() as made:
        yield made


# --- odd data ----------------------------------------------------------------------------


def text_of(number: int, kind: str) -> str:
    """The `_value` of a row of some kind."""
    made = record(number, sharks=HERE)
    match kind:
        case "elsewhere":
            made["sharks"] = [OTHER]
        case "named like the shark":
            made |= {"name": SHARK, "sharks": [OTHER]}
        case "other number":
            made["sharks"] = [{"datacenter": "dc1", "manta_storage_id": f"1{SHARK}"}, OTHER]
        case "no list":
            made["sharks"] = {"0": HERE[0]}
        case "no sharks":
            made |= {"name": SHARK}
            del made["sharks"]
        case "twice":
            made["sharks"] = [HERE[0], HERE[0]]
        case "no md5":
            del made["contentMD5"]
        case "odd length":
            made["contentLength"] = "12"
        case "no id":
            made["objectId"] = 7
        case "same id":
            made["objectId"] = object_id(1)
        case "not ascii":
            made["headers"] = {"x": "\u00e9\u2603\U0001f600\u0000\u2028"}
        case "not JSON":
            return f'{{"sharks": ["{SHARK}", nonsense'
        case "not an object":
            return f'["{SHARK}"]'
        case "a string":
            return f'"{SHARK}"'
        case "pretty":
            return json.dumps(made, indent=2)
    return json.dumps(made, ensure_ascii=False, separators=(",", ":")).replace("\u0000", "\\u0000")


KINDS = (
    "plain",
    "elsewhere",
    "named like the shark",
    "other number",
    "no list",
    "no sharks",
    "twice",
    "no md5",
    "odd length",
    "no id",
    "same id",
    "not ascii",
    "not JSON",
    "not an object",
    "a string",
    "pretty",
)


@pytest.mark.parametrize(
    "text",
    [
        f'["{SHARK}", ' + "[" * 100_000,
        f'{{"sharks": ["{SHARK}"], "n": NaN}}',
        f'{{"sharks": ["{SHARK}"], "n": 1.1e9990}}',
    ],
    ids=["nested without end", "no number", "too large a number"],
)
def test_what_no_javascript_would_read_is_an_error_like_others(text: str) -> None:
    """The first would have stopped the scan of its shard; the others would be copied in vain."""
    read = Evacuate(ORIGIN).read(shard=1, key="/k", etag="e", text=text)
    assert read is not None
    assert read.reason is reasons.BAD_MORAY_OBJECT


KEYS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12
)


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Rows of `manta`: odd keys, odd records, other types, and rows without an id."""
    keys = draw(st.lists(KEYS, unique=True, max_size=12))
    gaps = st.integers(1, 9)
    rows, last = [], 0
    for number, key in enumerate(keys, 1):
        last += draw(gaps)
        rows.append(
            {
                "_id": draw(st.sampled_from([last, last, last, None])),
                "_key": key,
                "_value": text_of(number, draw(st.sampled_from(KINDS))),
                "_etag": f"{number:08X}",
                "type": draw(st.sampled_from(["object", "object", "object", "directory", None])),
            }
        )
    return rows


def seed(world: World, cluster: Cluster, rows: Sequence[dict[str, Any]]) -> None:
    """The same rows in the first shard's file and in its clone; blocking."""
    names = ("_id", "_key", "_value", "_etag", "type")
    values = [tuple(row[name] for name in names) for row in rows]
    with closing(sqlite3.connect(world.folder / "1.sqlite")) as db, db:
        db.executemany("INSERT INTO manta (_id, _key, _value, _etag, type) VALUES (?,?,?,?,?)",
                       values)  # fmt: skip
    cluster.create()
    cluster.fill(names, values)


async def discovered(job: Job) -> None:
    """Run the source of a job to its end, as if placement took all."""
    send, receive = trio.open_memory_channel[Feed](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_drain, receive)
        async with send:
            await run_discovery(job, send)


async def _drain(receive: trio.MemoryReceiveChannel[Feed]) -> None:
    async with receive:
        async for _ in receive:
            pass


def kept(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What a job's file holds, without what depends on the order of discovery."""
    with closing(sqlite3.connect(path)) as db:
        objects = db.execute(
            "SELECT id, status, error, bytes FROM evacuateobjects ORDER BY id"
        ).fetchall()
        records = db.execute(
            "SELECT id, shard, key, object, etag FROM evacuateobjects"
            " UNION ALL SELECT id, shard, key, object, etag FROM links ORDER BY 1, 2, 3"
        ).fetchall()
        duplicates = db.execute("SELECT * FROM duplicates ORDER BY id").fetchall()
    return {"objects": objects, "records": records, "duplicates": duplicates}


async def _found_by(world: World, name: str, listing: Listing | None = None) -> Any:
    world.job_name, world.listing = name, listing
    async with world.job() as job:
        await discovered(job)
        assert job.failed_scans == []
    return kept(world.job_file)


@pytest.mark.row("CRIT-1", "DEF-4", "L31", "L33", "N2")
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(rows=tables())
def test_all_sources_find_the_same_objects(cluster: Cluster, rows: list[dict[str, Any]]) -> None:
    """PostgreSQL, Moray's sql, a file and an earlier job: one answer, whatever the rows hold."""

    async def run(folder: Path) -> None:
        world = make_world(folder / "world", [], shards=1)
        seed(world, cluster, rows)
        through_moray = await _found_by(world, "moray")
        async with open_postgres({1: CLONE}, {CLONE: cluster.address}) as clones:
            world.scanned = clones
            assert await _found_by(world, "postgres") == through_moray
        world.scanned = None
        # In the order of a scan: of several records of one object the first counts.
        wanted = sorted(
            (row for row in rows if row["type"] == "object"),
            key=lambda row: (row["_id"] is None, row["_id"] or 0, row["_key"].encode()),
        )
        lines = [{"key": row["_key"], "shard": 1, "more": None} for row in wanted]
        (folder / "objects.ndjson").write_text("\n\n".join(map(json.dumps, lines)))
        listing = ObjectsFile(folder / "objects.ndjson")
        assert await _found_by(world, "file", listing) == through_moray
        with closing(sqlite3.connect(world.folder / "moray.sqlite")) as db, db:
            db.execute("UPDATE evacuateobjects SET status = 'skipped' WHERE error IS NULL")
        earlier = EarlierJob(world.folder / "moray.sqlite")
        assert await _found_by(world, "retry", earlier) == through_moray
        world.close()

    with tempfile.TemporaryDirectory() as folder:
        trio.run(run, Path(folder))


# --- listings ----------------------------------------------------------------------------


async def test_a_listing_without_shards_asks_all_of_them(tmp_path: Path) -> None:
    """The record is found where it is; one that is nowhere, or moved, is noted and dropped."""
    world = make_world(tmp_path / "world", [record(n) for n in range(1, 9)])
    moved = record(9, sharks=[OTHER])
    world.shards[2].seed("manta", [(moved["key"], moved)])
    path = tmp_path / "objects.ndjson"
    keys = [record(n)["key"] for n in (1, 2, 3, 9)]
    path.write_text("".join(f"{json.dumps({'key': key})}\n" for key in [*keys, "/gone"]))

    found = await _found_by(world, "job", ObjectsFile(path))
    with closing(sqlite3.connect(world.job_file)) as db:
        dropped = set(db.execute("SELECT * FROM dropped"))
    world.close()

    assert [row[0] for row in found["objects"]] == [object_id(n) for n in (1, 2, 3)]
    assert dropped == {
        (2, "/account/stor/9", "is not on the shark any more"),
        (0, "/gone", "does not exist any more"),
    }


@pytest.mark.row("IMP-14", "DEF-9", "TEST-EVAC-10", "L16", "N14")
async def test_a_retry_takes_what_did_not_go_and_reads_it_anew(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Records that changed meanwhile are taken as they are now; complete ones are left alone."""
    world = make_world(tmp_path / "world", [record(n) for n in range(1, 11)])
    world.agents.post_answer = lambda _shark, _assignment: PeerUnreachable("down")
    assert set(await world.run(max_objects=4)) == {("skipped", "destination_unreachable")}
    first = world.job_file
    world.agents.post_answer = lambda *_: None
    for store in world.shards.values():
        for row in store.find("manta", "(type=object)", {"noLimit": True}):
            store.put("manta", row["key"], {**row["value"], "headers": {"changed": "since"}})

    world.job_name, world.listing = "retry", EarlierJob(first)
    assert await world.run() == {("complete", ""): 4}
    names = [{s["manta_storage_id"] for s in found["sharks"]} for found in world.records()]
    assert sum(SHARK not in sharks for sharks in names) == 4
    assert all(found["headers"] == {"changed": "since"} for found in world.records())
    world.close()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: Expecting"),
        (b"[]", 'line 2: expected an object with a string "key"'),
        (b'{"key": 1}', "line 2: expected"),
        (b'{"key": "/x", "shard": "1"}', "line 2: expected"),
        (b"\xff", "line 2: "),
        (b'{"key": "/a/stor/x", "tier": "buckets"}', "line 2: expected"),
        (b'{"key": "/v2/1/x", "shard": 1}', "line 2: '/v2/1/x' is no key of the buckets tier"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    """The file and the place in it."""
    path = tmp_path / "objects.ndjson"
    path.write_bytes(b'{"key": "/a"}\n' + line + b"\n")
    with pytest.raises(JobFailed, match=f"objects.ndjson: {message}"):
        check(ObjectsFile(path))


def test_a_file_is_read_page_by_page(tmp_path: Path) -> None:
    """Positions are those of whole lines, so any of them is a place to go on from."""
    path = tmp_path / "objects.ndjson"
    keys = [f"/{number}/\u2603" for number in range(1000)]
    path.write_text("\n".join(json.dumps({"key": key}) for key in keys))
    listing = ObjectsFile(path)
    read, position = list[Listed](), 0
    while position < listing.until("file"):
        position, page = listing.page("file", position)
        read += page
    assert [one.key for one in read] == keys


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No traceback for what a user can cause."""
    with pytest.raises(JobFailed, match="nowhere: No such file"):
        check(ObjectsFile(tmp_path / "nowhere"))


# --- interruptions -----------------------------------------------------------------------


@attrs.define
class Unsteady(scan.DirectoryShard):
    """A shard that some statements fail on: by default its connection is lost.

    Mutable state: how many statements there were.
    """

    shard: scan.Shard
    lost: frozenset[int]
    error: PeerError = LOST
    asked: int = 0

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = 0.0
    ) -> list[dict[str, Any]]:
        self.asked += 1
        if self.asked in self.lost:
            raise self.error
        return await self.shard.sql(statement, values, within_s=within_s)


@pytest.mark.row("L2")
async def test_a_scan_goes_on_behind_what_is_stored(tmp_path: Path) -> None:
    """Interrupted at any window, the next run asks for no stored window and misses none."""
    world = make_world(tmp_path / "world", [record(n) for n in range(1, 31)], shards=1)
    world.options = attrs.evolve(world.options, md_read_chunk_size=4)
    whole = await _found_by(world, "whole")
    for stop_after in range(1, 12):
        world.job_name = f"stopped-{stop_after}"
        windows = list[Any]()
        with trio.CancelScope() as scope:
            async with world.job() as job:
                stop = functools.partial(_count_windows, windows, scope, stop_after)
                watched = Watched(world.moray[1], stop)
                await discovered(attrs.evolve(job, scanned={1: watched}))
        async with world.job() as job:
            watched = Watched(world.moray[1], windows.append)
            await discovered(attrs.evolve(job, scanned={1: watched}))
        assert kept(world.job_file) == whole
        # The window that was being stored may be asked for again, and the one ahead of it.
        assert len(windows) <= len(set(windows)) + 2
    world.close()


def _count_windows(
    windows: list[Any], scope: trio.CancelScope, stop_after: int, window: Any
) -> None:
    windows.append(window)
    if len(windows) == stop_after:
        scope.cancel()


@attrs.define
class Watched(scan.DirectoryShard):
    """A shard that tells of each window before it is asked for."""

    shard: scan.Shard
    tell: Any

    async def sql(
        self, statement: str, values: Sequence[Any] = (), *, within_s: float = 0.0
    ) -> list[dict[str, Any]]:
        if "position(" in statement:
            self.tell(tuple(values))
        return await self.shard.sql(statement, values, within_s=within_s)


@pytest.mark.row("CRIT-1")
async def test_a_lost_connection_costs_a_try(tmp_path: Path, autojump_clock: object) -> None:
    """Statements are asked again after a pause; nothing is missed."""
    world = make_world(tmp_path / "world", [record(n) for n in range(1, 31)], shards=1)
    whole = await _found_by(world, "whole")
    world.job_name = "lossy"
    async with world.job() as job:
        lossy = Unsteady(world.moray[1], frozenset(range(1, 100, 2)))
        await discovered(attrs.evolve(job, scanned={1: lossy}))
        assert job.failed_scans == []
    assert kept(world.job_file) == whole
    world.close()


@pytest.mark.row("CRIT-1", "CRIT-7")
async def test_a_shard_that_refuses_its_scan_fails_the_job_at_its_end(
    tmp_path: Path, autojump_clock: object
) -> None:
    """The other shards are scanned to their ends, and the cause is kept."""
    world = make_world(tmp_path / "world", [record(n) for n in range(1, 21)])
    async with world.job() as job:
        refusing = Unsteady(world.moray[2], frozenset(range(3, 1000)), NO_TABLE)
        await discovered(attrs.evolve(job, scanned={**job.scanned, 2: refusing}))
        assert job.failed_scans == [UnfinishedScan(0, 2, str(NO_TABLE))]
    assert len(kept(world.job_file)["objects"]) >= 10
    world.close()


async def test_a_shard_that_stays_away_is_waited_for_while_the_others_are_scanned(
    tmp_path: Path, autojump_clock: object
) -> None:
    """For hours if need be, visibly; when it is back its scan goes on behind what is stored."""
    world = make_world(tmp_path / "world", [record(n) for n in range(1, 21)])
    async with world.job() as job, trio.open_nursery() as nursery:
        gone = Unsteady(world.moray[2], frozenset(range(4, 100_000)))
        nursery.start_soon(discovered, attrs.evolve(job, scanned={**job.scanned, 2: gone}))
        await trio.sleep(7200)
        (wait,) = job.waits.causes
        assert (wait.subject, wait.detail) == ("the clone of shard 2", "connection lost")
        assert 10 <= job.store.objects < 20
        gone.lost = frozenset()
        with trio.fail_after(60):
            while nursery.child_tasks:  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.1)
        assert (job.failed_scans, job.waits.causes) == ([], [])
    assert len(kept(world.job_file)["objects"]) == 20
    world.close()
