"""This benchmark measures what an object costs the manager in a whole job.

The job runs in a process of its own, with the real pipeline, store and clients.  Its shard is the
region's Moray in a second process, its agents are a third that says of every assignment that it
is done; so the CPU of the first is all the manager's.  In the same round a plain script only reads
the same records, inserts the same rows and encodes the same updates: that is the floor.
"""

import argparse
import cProfile
import json
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from agents import serve_agents
from harness import Session, parser, session
from instructions import Counter, Uncountable, find_counter
from job import DESTINATION, MORAY, ORIGIN, make_job, record
from metadata import running_server
from processes import announcing
from products import Product, add_option, products
from results import Figure, Round, Row

from rebalancer import daemon
from rebalancer.config import ManagerConfig, Options, Shard
from rebalancer.domain.objects import StorageNode
from rebalancer.domain.sharks import rewrite
from rebalancer.domain.states import ObjectStatus
from rebalancer.log import configure
from rebalancer.manager.fleet.ledger import FleetLedger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.pipeline import flow
from rebalancer.manager.store import job_info
from rebalancer.manager.store.job_store import open_store
from rebalancer.manager.store.schema import JOB_FILE
from rebalancer.manager.store.views import read_job
from rebalancer.peers.agents import Agents
from rebalancer.peers.http import open_http
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.client import open_moray
from rebalancer.sqlite import Database, connect, transact
from rebalancer_devregion.moray.store import ShardStore

#: Destinations, in the datacenter of the evacuated shark and in a third one.
NODES = tuple(
    StorageNode(f"{number}.stor.lab", f"dc{1 + 2 * (number % 2)}", 100_000_000, 10)
    for number in range(10, 40)
)
VIEWS = 200  # of a job, for the cost of one
COUNTED = 1_000  # objects whose instructions are counted


@attrs.frozen
class Setting:
    """A setting has so many objects, tasks of an assignment, and a place for the job's file."""

    objects: int
    tasks: int
    folder: str

    def __str__(self) -> str:
        place = "" if self.folder == "/dev/shm" else f", in {self.folder}"
        return f"{self.objects:,} objects, {self.tasks} tasks an assignment{place}"


# --- the agents ----------------------------------------------------------------------------


def running_agents() -> AbstractContextManager[int]:
    """Run agents that copy nothing, in another process; gives their port."""
    return announcing([sys.executable, __file__, "--agents"])


# --- whose CPU it is -----------------------------------------------------------------------


class Split(trio.abc.Instrument):
    """This counts CPU seconds of each task by its name, and of each transaction by its own.

    Mutable state: these seconds, behind a lock for the threads, and when the running task began.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._begun = time.thread_time()
        self._lock = threading.Lock()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._begun = time.thread_time()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.seconds[task.name.removeprefix("rebalancer.")] += time.thread_time() - self._begun

    def _add(self, name: str, begun: float) -> float:
        cpu = time.thread_time() - begun
        with self._lock:
            self.seconds[name] += cpu
        return cpu

    async def in_thread(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Run a function in a thread, as any `RunSync`, and count its CPU."""

        def run() -> Any:
            begun = time.thread_time()
            try:
                return fn(*args)
            finally:
                self._add("commits", begun)

        return await trio.to_thread.run_sync(run)

    def watch(self, database: Database) -> None:
        """Count the transactions of `database` by their names, apart from commits."""

        def by_name(ask: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def run(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
                def body(db: sqlite3.Connection) -> Any:
                    begun = time.thread_time()
                    try:
                        return fn(db, *args, **kwargs)
                    finally:
                        module = fn.__module__.rpartition(".")[2]
                        cpu = self._add(f"store: {module}.{fn.__name__}", begun)
                        self.seconds["commits"] -= cpu

                return await ask(body)

            return run

        for name in ("read", "write"):
            setattr(database, name, by_name(getattr(database, name)))


#: Name of a stage -> what the names of its tasks and transactions begin with.
STAGES = {
    "discover": (
        "manager.pipeline.stages.discover",
        "manager.pipeline.stages.scan_shards",
        "manager.pipeline.stages.read_listing",
        "store: discovery.store_found",
    ),
    "place": ("manager.pipeline.stages.place", "store: assignments.assign", "store: unplaced"),
    "post": ("manager.pipeline.stages.post", "store: assignments.accept"),
    "poll": ("manager.pipeline.stages.poll", "store: assignments.record_copied"),
    "update": (
        "manager.pipeline.stages.update",
        "store: updates",
        "store: links",
    ),
    "answers of Moray": ("peers.moray.connection",),
    "commits": ("commits",),
}


def by_stage(seconds: dict[str, float], total: float) -> dict[str, float]:
    """Return the CPU of each stage, of the rest that has a name, and of none (trio, threads)."""
    split = dict.fromkeys([*STAGES, "other"], 0.0)
    for name, cpu in seconds.items():
        stages = [s for s, starts in STAGES.items() if name.startswith(starts)]
        split[stages[0] if stages else "other"] += cpu
    return {**split, "trio and threads": total - sum(seconds.values())}


# --- the manager ---------------------------------------------------------------------------


async def manage(
    file: Path, tasks: int, moray_port: int, agents_port: int, split: Split | None
) -> dict[str, Any]:
    """Run a job to its end and tell what it cost, and by a `split` whose the cost was."""
    hosts = {MORAY: f"127.0.0.1:{moray_port}"}
    hosts |= {node.manta_storage_id: f"127.0.0.1:{agents_port}" for node in NODES}
    options = Options(max_tasks_per_assignment=tasks)
    config = ManagerConfig("lab", (Shard(MORAY),), options=options)
    run = None if split is None else split.in_thread

    async def ask() -> tuple[StorageNode, ...]:
        await trio.lowlevel.checkpoint()
        return NODES

    threads = options.max_metadata_update_threads
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        moray = await enter(open_moray({1: MORAY}, hosts, connections=threads))
        http = await enter(open_http(hosts))
        store = await enter(open_store(file, run=run))
        await store.write(job_info.write_origin, ORIGIN)
        agents = Agents(http, config.agent_port)
        ledger = stack.enter_context(FleetLedger().open(options.max_assignments_per_shark))
        job = make_job(
            config,
            store,
            ledger,
            node_list=NodeList(ask),
            agents=agents,
            scanned=moray,
            moray=moray,
        )
        if split is not None:
            split.watch(store.database)
            trio.lowlevel.add_instrument(split)
        daemon.collect_rarely()
        begun, cpu = time.perf_counter(), time.process_time()
        await flow.run(job)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        status = await store.status()
    return {
        "wall_s": wall,
        "cpu_s": cpu,
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        "complete": status.objects(ObjectStatus.COMPLETE),
        "split": {} if split is None else by_stage(split.seconds, cpu),
        "names": {} if split is None else split.seconds,
    }


# --- the floor -----------------------------------------------------------------------------


def read_records(shard_file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield key, etag and text of each record."""
    with closing(connect(shard_file, mode="ro")) as db:
        for row in db.execute("SELECT _key, _etag, _value FROM manta ORDER BY _id"):
            yield row["_key"], row["_etag"], row["_value"]


def floor(shard_file: Path, file: Path, tasks: int) -> float:
    """Return the CPU of reading each record, inserting its row and encoding its update, no more."""
    with closing(connect(file)) as db:
        JOB_FILE.bring_up(db)
        cpu, chunk = 0.0, list[tuple[str, str, str]]()
        for found in read_records(shard_file):
            chunk.append(found)
            if len(chunk) == tasks:
                cpu += _floor(db, chunk)
                chunk = []
        return cpu + _floor(db, chunk)


def _insert(db: sqlite3.Connection, rows: list[Any], sizes: list[Any]) -> None:
    db.executemany(
        "INSERT INTO records (id, object, shard, etag, key) VALUES (?, ?, ?, ?, ?)", rows
    )
    db.executemany("INSERT INTO progress (status, bytes) VALUES ('unprocessed', ?)", sizes)


def _floor(db: sqlite3.Connection, chunk: list[tuple[str, str, str]]) -> float:
    begun = time.process_time()
    values = [json.loads(text) for _, _, text in chunk]
    rows = [
        (value["objectId"], text, 1, etag, key)
        for value, (key, etag, text) in zip(values, chunk, strict=True)
    ]
    sizes = [(value["contentLength"],) for value in values]
    transact(db, _insert, rows, sizes)
    puts = [
        {
            "operation": "put",
            "bucket": "manta",
            "key": key,
            "value": rewrite(value, ORIGIN.manta_storage_id, DESTINATION),
            "options": {"etag": etag, "headers": {}},
        }
        for value, (key, etag, _) in zip(values, chunk, strict=True)
    ]
    fast.encode(fast.Message(1, fast.Status.DATA, "batch", [puts, {}], uts=1))
    return time.process_time() - begun


# --- one round -----------------------------------------------------------------------------

FIGURES = {
    "objects": Figure("/s", "more"),
    "CPU": Figure("us/object", "less"),
    "floor": Figure("us/object", "less"),
    "x floor": Figure("", "less"),
    "RSS": Figure("MiB", "less"),
    "file": Figure("of records", "less"),
    "view": Figure("us", "less"),
    "instructions": Figure("1000/object", "less"),
}


def seed(shard_file: Path, objects: int) -> int:
    """Make the shard; returns the bytes of its records."""
    with closing(ShardStore(shard_file)) as shard:
        values = (record(number) for number in range(objects))
        shard.seed("manta", ((value["key"], value) for value in values))
    with closing(connect(shard_file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(db.execute("SELECT sum(length(_value)) FROM manta").fetchone()[0])


def size_of(file: Path) -> int:
    """Return the bytes of a sqlite file with its WAL, once that is written back."""
    with closing(connect(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))


def cost_of_a_view(file: Path) -> float:
    """Return the seconds that it takes to read what GET /jobs/{id} shows."""
    begun = time.perf_counter()
    for _ in range(VIEWS):
        read_job(file)
    return (time.perf_counter() - begun) / VIEWS


@attrs.frozen
class Bench:
    """A bench is a setting that is ready: a seeded shard, of which each job gets a copy."""

    setting: Setting
    shard: Path
    record_bytes: int

    def job(self, product: Product, *flags: str, counter: Counter | None = None) -> dict[str, Any]:
        """Run a job in a process of `product`; returns what it told, and what is left of it."""
        with (
            tempfile.TemporaryDirectory(dir=self.shard.parent) as shards,
            tempfile.TemporaryDirectory(dir=self.setting.folder) as folder,
        ):
            shard, file, out = Path(shards) / "shard", Path(folder) / "job", Path(shards) / "count"
            shutil.copy(self.shard, shard)
            with running_server(shard, 0.0) as moray_port, running_agents() as agents_port:
                arguments = [file, self.setting.tasks, moray_port, agents_port]
                command = [*product.script("manager.py"), *flags, "--manage", *map(str, arguments)]
                if counter is not None:
                    command = counter.wrap(command, out)
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=folder)
            told: dict[str, Any] = json.loads(done.stdout)
            assert told["complete"] == self.setting.objects
            told |= {"file": size_of(file), "view_s": 0.0 if counter else cost_of_a_view(file)}
            return told | ({} if counter is None else {"instructions": counter.total(out)})

    def run(self, product: Product, *flags: str) -> Round:
        """Run the floor, then a job, as neighbours in time have the same noise."""
        each = 1e6 / self.setting.objects
        with tempfile.TemporaryDirectory(dir=self.setting.folder) as folder:
            floor_s = floor(self.shard, Path(folder) / "floor", self.setting.tasks)
        told = self.job(product, *flags)
        return {
            "objects": self.setting.objects / told["wall_s"],
            "CPU": told["cpu_s"] * each,
            "floor": floor_s * each,
            "x floor": told["cpu_s"] / floor_s,
            "RSS": told["rss"] / (1 << 20),
            "file": told["file"] / self.record_bytes,
            "view": told["view_s"] * 1e6,
        }


@contextmanager
def bench(setting: Setting, shared: str) -> Iterator[Bench]:
    """Seed a shard for a setting."""
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        shard = Path(folder) / "seeded"
        yield Bench(setting, shard, seed(shard, setting.objects))


def stages(ready: Bench, *, with_names: bool) -> list[Row]:
    """Run one job that is watched; returns what each stage costs, and if asked each task."""
    told = ready.job(products(None, "")[""], "--stages")
    each = 1e6 / ready.setting.objects
    rows = [
        Row(f"{ready.setting}, by stage", n, [{"CPU": s * each}]) for n, s in told["split"].items()
    ]
    if with_names:
        names = sorted(told["names"].items(), key=lambda item: -item[1])
        rows += [Row(f"{ready.setting}, by task", n, [{"CPU": s * each}]) for n, s in names]
    return rows


def count_instructions(made: Session, tasks: int, folder: str, options: argparse.Namespace) -> None:
    """Count what an object costs, as the difference between jobs of many and of few."""
    chosen = products(options.product, "manager")
    with tempfile.TemporaryDirectory() as place:
        try:
            counter = find_counter(Path(place))
        except Uncountable as exc:
            sys.exit(str(exc))
    made.tell(f"instructions are counted by {counter.name}")
    few, many = (Setting(count, tasks, folder) for count in (tasks, tasks + COUNTED))

    def count(product: Product) -> Round:
        totals = [one.job(product, counter=counter)["instructions"] for one in (low, high)]
        return {"instructions": (totals[1] - totals[0]) / COUNTED / 1e3}

    with bench(few, folder) as low, bench(many, folder) as high:
        made.measure(str(many), {name: partial(count, one) for name, one in chosen.items()})


def run(made: Session, options: argparse.Namespace) -> None:
    """Measure all settings that were asked for."""
    profile = () if options.profile is None else ("--profile", str(options.profile.resolve()))
    for folder in options.folder:
        if options.instructions:
            for tasks in options.tasks:
                count_instructions(made, tasks, folder, options)
            continue
        for objects in options.objects:
            for tasks in options.tasks:
                with bench(Setting(objects, tasks, folder), options.folder[0]) as ready:
                    chosen = products(options.product, "manager").items()
                    contenders = {n: partial(ready.run, one, *profile) for n, one in chosen}
                    made.measure(str(ready.setting), contenders)
                    if options.stages or options.names:
                        made.add(stages(ready, with_names=options.names))


def main() -> None:
    options_of = parser(__doc__, rounds=5)
    options_of.add_argument("--objects", type=int, nargs="+", default=[20_000])
    options_of.add_argument("--tasks", type=int, nargs="+", default=[50, 200])
    options_of.add_argument("--folder", nargs="+", default=["/dev/shm"], help="of the job's file")
    options_of.add_argument(
        "--stages", action="store_true", help="once more, watching every task, which costs a tenth"
    )
    options_of.add_argument("--names", action="store_true", help="of --stages, each task too")
    options_of.add_argument(
        "--profile", type=Path, metavar="FILE", help="what its event loop does, for pstats"
    )
    add_option(options_of)
    options_of.add_argument("--instructions", action="store_true", help="count them instead")
    options_of.add_argument("--manage", nargs=4, help=argparse.SUPPRESS)
    options_of.add_argument("--agents", action="store_true", help=argparse.SUPPRESS)
    options = options_of.parse_args()
    configure("bench", "error")
    if options.agents:
        trio.run(serve_agents)
    elif options.manage:
        manage_here(options)
    else:
        folders = {folder: Path(folder) for folder in options.folder}
        with session("manager", FIGURES, options, folders) as made:
            run(made, options)


def manage_here(options: argparse.Namespace) -> None:
    """Run a job in this process and tell what it cost."""
    file, tasks, moray, agents = options.manage
    profiler = cProfile.Profile(time.thread_time)
    with profiler if options.profile else nullcontext():
        split = Split() if options.stages else None
        told = trio.run(manage, Path(file), int(tasks), int(moray), int(agents), split)
    if options.profile:
        profiler.dump_stats(options.profile)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
