"""This benchmark finds a shark's objects in a clone, beside a floor and the predecessor's way.

One table, one in twenty records on the shark.  Each contender runs in a process of its own, in
turns, and is measured there from its first connection to its last commit:

- `floor`: psql copies the matching rows to /dev/null, the filter being in the server;
- `storing`: the product's store keeps the same objects, read beforehand;
- `ours`: the job's own source, from the start to the last object in its file;
- `ours, moray`: the same through the region's Moray, which is no PostgreSQL;
- `predecessor`: every row of every column comes to the client, which parses its record and keeps
  those on the shark, in the same store.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import trio
from harness import on_disk, parser, session
from job import MORAY, ORIGIN, make_job, record
from metadata import running_server
from processes import field_bytes
from results import Figure, Round, Row, ratios, spread

from rebalancer import daemon
from rebalancer.config import ManagerConfig, Options, Shard
from rebalancer.domain.objects import StorageNode
from rebalancer.log import configure
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.fleet.ledger import FleetLedger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.pipeline.stages.discover import run_discovery
from rebalancer.manager.store import discovery
from rebalancer.manager.store.job_store import JobStore, open_store
from rebalancer.manager.store.records import FoundRecord, ScanPosition
from rebalancer.peers import scan
from rebalancer.peers.moray.client import open_moray
from rebalancer.peers.postgres import DATABASE, USER, open_postgres
from rebalancer_devregion import postgres
from rebalancer_devregion.moray.store import ShardStore
from rebalancer_devregion.postgres import Cluster
from rebalancer_devregion.processes import find_program

EVERY = 20  # of so many records, one is on the shark
SHARK = ORIGIN.manta_storage_id
CLONE = "1.rebalancer-postgres.lab"
COLUMNS = ("_key", "_value", "_etag", "_vnode", "dirname", "name", "owner", "objectid", "type")
MATCHING = (
    "SELECT _key, _etag, _value, type FROM manta"
    f""" WHERE type = 'object' AND position('"{SHARK}"' in _value) > 0"""
)
OBJECTS = "SELECT * FROM manta WHERE type = 'object'"
ACTION = Evacuate(ORIGIN)
CHUNK = 10_000  # ids of a window, the product's default


FIGURES = {
    "wall": Figure("s", "less"),
    "CPU": Figure("s", "less"),
    "RSS": Figure("MiB", "less"),
    "found": Figure("objects", "more"),
}


# --- the rows ------------------------------------------------------------------------------


def value_of(number: int) -> dict[str, Any]:
    """Return the record of row `number`, which is on the shark in one of `EVERY` cases."""
    made = record(number)
    if number % EVERY:
        made["sharks"][0] = {"datacenter": "dc1", "manta_storage_id": f"{number % 7 + 20}.stor.lab"}
    return made


def rows(first: int, last: int) -> Iterator[tuple[Any, ...]]:
    """Yield rows of `manta` for `COLUMNS`."""
    for number in range(first, last + 1):
        value = value_of(number)
        text = json.dumps(value, separators=(",", ":"))
        names = [value[name] for name in ("dirname", "name", "owner", "objectId", "type")]
        yield (value["key"], text, f"{number:08X}", value["vnode"], *names)


def fill(cluster: Cluster, first: int, last: int) -> None:
    """Insert rows `first` to `last`, in the order of their ids, and settle the table."""
    cluster.fill(COLUMNS, rows(first, last))
    with closing(cluster.connect()) as db:
        db.execute("VACUUM (FREEZE, ANALYZE) manta")
        db.execute("CHECKPOINT")


# --- contenders, each run by `--run` in a process of its own ---------------------------------


@asynccontextmanager
async def a_job(store: JobStore, shard: scan.Scannable) -> AsyncIterator[Job]:
    """Open a job as the manager does, but without agents and storinfo, which are not asked."""

    async def nodes() -> Sequence[StorageNode]:
        await trio.lowlevel.checkpoint()
        return ()

    config = ManagerConfig(
        domain_name="lab", shards=(Shard(MORAY),), options=Options(md_read_chunk_size=CHUNK)
    )
    with FleetLedger().open(config.options.max_assignments_per_shark) as ledger:
        yield make_job(config, store, ledger, node_list=NodeList(nodes), scanned={1: shard})


async def discovered(job: Job) -> int:
    """Run the job's source to its end, as if placement took all; returns how many objects."""
    send, receive = trio.open_memory_channel[Feed](2)
    async with trio.open_nursery() as nursery:

        async def take() -> None:
            async with receive:
                async for _ in receive:
                    pass

        nursery.start_soon(take)
        async with send:
            await run_discovery(job, send)
    assert not job.failed_scans, job.failed_scans
    return job.store.objects


async def ours(port: int, file: Path) -> int:
    async with (
        open_store(file) as store,
        open_postgres({1: CLONE}, {CLONE: f"127.0.0.1:{port}"}) as clones,
        a_job(store, clones[1]) as job,
    ):
        return await discovered(job)


async def through_moray(port: int, file: Path) -> int:
    async with (
        open_store(file) as store,
        open_moray({1: MORAY}, {MORAY: f"127.0.0.1:{port}"}, connections=1) as morays,
        a_job(store, morays[1]) as job,
    ):
        return await discovered(job)


async def predecessor(port: int, file: Path) -> int:
    """Send everything to the client, parse each row's record, store in lots as large as ours."""

    def read() -> Iterator[FoundRecord]:
        with (
            closing(psycopg.connect(host="127.0.0.1", port=port, user=USER, dbname=DATABASE)) as db,
            db.cursor().copy(f"COPY ({OBJECTS}) TO STDOUT".encode()) as copy,
        ):
            copy.set_types(["int8", "int4", "text", "text", "text", "int8", "int8", *["text"] * 5])
            for row in copy.rows():
                value = json.loads(row[3])
                if any(shark["manta_storage_id"] == SHARK for shark in value["sharks"]):
                    yield checked(ACTION.read(shard=1, key=row[2], etag=row[4], text=row[3]))

    async with open_store(file) as store:
        return await store_all(store, read())


async def storing(port: int, file: Path) -> int:
    """Store records that were read before the clock runs."""
    with closing(psycopg.connect(host="127.0.0.1", port=port, user=USER, dbname=DATABASE)) as db:
        found = [
            checked(ACTION.read(shard=1, key=key, etag=etag, text=text))
            for key, etag, text, _ in db.execute(MATCHING.encode())
        ]
    start_clock()
    async with open_store(file) as store:
        return await store_all(store, iter(found))


async def store_all(store: JobStore, records: Iterator[FoundRecord]) -> int:
    """Keep the records in as many transactions as a scan of windows has."""
    position = 0
    while lot := await trio.to_thread.run_sync(take, records, CHUNK // EVERY):
        position += 1
        await store.write(discovery.store_found, lot, ScanPosition(1, "_id", position, 1 << 40))
    return store.objects


def take(records: Iterator[FoundRecord], count: int) -> list[FoundRecord]:
    return [record for _, record in zip(range(count), records, strict=False)]


def checked(record: FoundRecord | None) -> FoundRecord:
    assert record is not None
    assert record.obj is not None
    return record


CONTENDERS = {
    "storing": storing,
    "ours": ours,
    "ours, moray": through_moray,
    "predecessor": predecessor,
}
_clock = [0.0, 0.0]


def start_clock() -> None:
    _clock[:] = time.perf_counter(), time.process_time()


def run_here(name: str, port: int, file: Path) -> None:
    """Run one contender and tell how it went."""
    configure("bench", "error")
    daemon.collect_rarely()
    start_clock()
    objects = trio.run(CONTENDERS[name], port, file)
    wall, cpu = time.perf_counter() - _clock[0], time.process_time() - _clock[1]
    peak = field_bytes(Path("/proc/self/status"), "VmHWM:")
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "rss": peak, "objects": objects}))


# --- rounds --------------------------------------------------------------------------------


def run_contender(name: str, port: int, folder: Path) -> Round:
    """Run a contender in a process of its own, with a new file."""
    file = folder / "job.sqlite"
    for old in folder.glob("job.sqlite*"):
        old.unlink()
    command = [sys.executable, __file__, "--run", name, "--port", str(port), "--file", str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {
        "wall": told["wall_s"],
        "CPU": told["cpu_s"],
        "RSS": told["rss"] / (1 << 20),
        "found": told["objects"],
    }


def run_floor(port: int, psql: str) -> Round:
    """Let psql copy the matching rows."""
    command = [psql, "-h", "127.0.0.1", "-p", str(port), "-U", USER, "-d", DATABASE]
    copy = f"\\copy ({MATCHING}) TO '/dev/null'"
    begun = time.perf_counter()
    told = subprocess.run([*command, "-c", copy], stdout=subprocess.PIPE, text=True, check=True)
    return {"wall": time.perf_counter() - begun, "found": int(told.stdout.split()[1])}


def goals(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the ratios of each round: neighbours in time have the same noise."""
    walls = {row.contender: row.values("wall") for row in rows}
    if {"ours", "floor", "storing"} <= walls.keys():
        beyond = [a - c for a, c in zip(walls["ours"], walls["storing"], strict=True)]
        yield f"(ours - storing) / floor: {spread(ratios(beyond, walls['floor']))}"
    if {"ours", "predecessor"} <= walls.keys():
        yield f"predecessor / ours: {spread(ratios(walls['predecessor'], walls['ours']))}"


def parse_options() -> argparse.Namespace:
    options_of = parser(__doc__, rounds=5)
    options_of.add_argument("--rows", type=int, nargs="+", default=[300_000], help="of the table")
    options_of.add_argument("--contenders", default=";".join(["floor", *CONTENDERS]))
    options_of.add_argument("--run", help=argparse.SUPPRESS)
    options_of.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options_of.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    return options_of.parse_args()


def main() -> None:
    options = parse_options()
    if options.run:
        run_here(options.run, options.port, options.file)
        return
    if (psql := find_program("psql")) is None or find_program("initdb") is None:
        sys.exit("PostgreSQL is not installed: there is nothing to scan")
    names = options.contenders.split(";")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=on_disk())))
        made = stack.enter_context(session("discovery", FIGURES, options, {"disk": folder}))
        cluster = stack.enter_context(postgres.running())
        cluster.create()
        ports, filled = {"postgres": cluster.port}, 0
        shard_file = folder / "moray.sqlite"
        if "ours, moray" in names:
            ports["moray"] = stack.enter_context(running_server(shard_file, 0.0))
        contenders = {
            name: partial(
                run_contender, name, ports["moray" if "moray" in name else "postgres"], folder
            )
            for name in names
        }
        if "floor" in contenders:
            contenders["floor"] = partial(run_floor, ports["postgres"], psql)
        for count in sorted(options.rows):
            fill(cluster, filled + 1, count)
            if "moray" in ports:
                with closing(ShardStore(shard_file)) as store:
                    new = range(filled + 1, count + 1)
                    store.seed("manta", ((v["key"], v) for v in map(value_of, new)))
            filled = count
            # A turn that warms the caches is not counted.
            rows = made.measure(f"{count:,} rows", contenders, warm_up=1)
            found = {number for row in rows for number in row.values("found")}
            assert len(found) == 1, f"they did not find the same: {found}"
            for line in goals(rows):
                made.tell(f"{count:,} rows: {line}")


if __name__ == "__main__":
    main()
