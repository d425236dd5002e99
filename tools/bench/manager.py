"""What an object costs the manager: a whole job, with neighbours that cost it nothing.

The job runs in a process of its own, with the real pipeline, store and clients.  Its shard is the
region's Moray in a second process, its agents are a third that says of every assignment that it
is done; so the CPU of the first is all the manager's.  In the same run a plain script only reads
the same records, inserts the same rows and encodes the same updates: that is the floor.
"""

import argparse
import cProfile
import json
import os
import platform
import resource
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import trio
from agents import serve_agents
from metadata import DESTINATION, ORIGIN, record, running_server
from rich.console import Console
from rich.table import Table

from rebalancer import daemon
from rebalancer.config import ManagerConfig, Options, Shard
from rebalancer.devregion.moray.store import ShardStore
from rebalancer.domain.objects import StorageNode
from rebalancer.domain.sharks import rewrite
from rebalancer.domain.states import ObjectStatus
from rebalancer.log import configure
from rebalancer.manager import pipeline
from rebalancer.manager.actions.evacuate import Evacuate
from rebalancer.manager.fleet import Fleet
from rebalancer.manager.job import Job
from rebalancer.manager.layouts import JOB_FILE
from rebalancer.manager.ledger import Ledgers
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.store import open_store
from rebalancer.manager.throttle import Throttle
from rebalancer.manager.updaters import Updaters
from rebalancer.manager.views import read_job
from rebalancer.peers.agents import Agents
from rebalancer.peers.http import open_http
from rebalancer.peers.moray import fast
from rebalancer.peers.moray.client import open_moray
from rebalancer.sqlite import Database, connect, transact

#: Destinations, in the datacenter of the evacuated shark and in a third one.
NODES = tuple(
    StorageNode(f"{number}.stor.lab", f"dc{1 + 2 * (number % 2)}", 100_000_000, 10)
    for number in range(10, 40)
)
MORAY = "1.moray.lab"
VIEWS = 200  # of a job, for the cost of one


@attrs.frozen
class Setting:
    """A row: so many objects, tasks of an assignment, and where the job's file is."""

    objects: int
    tasks: int
    folder: str


# --- the agents ----------------------------------------------------------------------------


@contextmanager
def running_agents() -> Iterator[int]:
    command = [sys.executable, __file__, "--agents"]
    popen = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert popen.stdout is not None
        yield int(popen.stdout.readline())
    finally:
        popen.kill()
        popen.wait(10)


# --- whose CPU it is -----------------------------------------------------------------------


class Split(trio.abc.Instrument):
    """CPU seconds of each task by its name, and of each transaction by its own.

    Mutable state: those, behind a lock for the threads, and when the running task began.
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
        """A `RunSync` that counts."""

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
            async def run(fn: Callable[..., Any], *args: Any) -> Any:
                def body(db: sqlite3.Connection) -> Any:
                    begun = time.thread_time()
                    try:
                        return fn(db, *args)
                    finally:
                        cpu = self._add(f"store: {fn.__name__}", begun)
                        self.seconds["commits"] -= cpu

                return await ask(body)

            return run

        for name in ("read", "write"):
            setattr(database, name, by_name(getattr(database, name)))


#: Name of a stage -> what the names of its tasks and transactions begin with.
STAGES = {
    "discover": ("manager.stages.discover", "manager.stages.sources", "store: found"),
    "place": ("manager.stages.place", "store: assign", "store: refuse"),
    "post": ("manager.stages.post", "store: accept"),
    "poll": ("manager.stages.poll", "store: copied"),
    "update": ("manager.stages.update", "store: to_update", "store: settle", "store: finish"),
    "answers of Moray": ("peers.moray.connection",),
    "commits": ("commits",),
}


def by_stage(seconds: dict[str, float], total: float) -> dict[str, float]:
    """CPU seconds of each stage, of all the rest that has a name, and of none (trio, threads)."""
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
    metrics = ManagerMetrics(config)
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
        await store.set_origin(ORIGIN)
        agents = Agents(http, config.agent_port)
        job = Job(
            id="bench",
            action=Evacuate(ORIGIN),
            config=config,
            store=store,
            fleet=Fleet(ask),
            agents=agents,
            scanned=moray,
            moray=moray,
            listing=None,
            metrics=metrics,
            ledger=stack.enter_context(Ledgers().open(options.max_assignments_per_shark)),
            throttle=Throttle(agents, None),
            updaters=Updaters(threads, config.metadata_timeout, metrics.updaters),
        )
        if split is not None:
            split.watch(store.database)
            trio.lowlevel.add_instrument(split)
        daemon.collect_rarely()
        begun, cpu = time.perf_counter(), time.process_time()
        await pipeline.run(job)
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
    """Key, etag and text of each record."""
    with closing(connect(shard_file, mode="ro")) as db:
        for row in db.execute("SELECT _key, _etag, _value FROM manta ORDER BY _id"):
            yield row["_key"], row["_etag"], row["_value"]


def floor(shard_file: Path, file: Path, tasks: int) -> float:
    """CPU seconds of reading each record, inserting its row and encoding its update, no more."""
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


# --- one row -------------------------------------------------------------------------------


@attrs.frozen
class Result:
    """What one setting cost; bytes, and seconds of the CPU but for `wall_s`."""

    setting: Setting
    wall_s: float
    cpu_s: float
    floor_s: float
    rss: int
    file_bytes: int
    record_bytes: int
    view_s: float
    split: dict[str, float]
    names: dict[str, float]


def seed(shard_file: Path, objects: int) -> int:
    """Make the shard; bytes of its records."""
    shard = ShardStore(shard_file)
    with closing(shard):
        values = (record(number) for number in range(objects))
        shard.seed("manta", ((value["key"], value) for value in values))
    with closing(connect(shard_file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(db.execute("SELECT sum(length(_value)) FROM manta").fetchone()[0])


def size_of(file: Path) -> int:
    """Bytes of a sqlite file with its WAL, once that is written back."""
    with closing(connect(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(path.stat().st_size for path in file.parent.glob(f"{file.name}*"))


def cost_of_a_view(file: Path) -> float:
    """Seconds that it takes to read what GET /jobs/{id} shows."""
    begun = time.perf_counter()
    for _ in range(VIEWS):
        read_job(file)
    return (time.perf_counter() - begun) / VIEWS


def measure(setting: Setting, shared: str, *flags: str) -> Result:
    with (
        tempfile.TemporaryDirectory(dir=shared) as shards,
        tempfile.TemporaryDirectory(dir=setting.folder) as folder,
    ):
        shard_file, job_file = Path(shards) / "shard.sqlite", Path(folder) / "job.sqlite"
        record_bytes = seed(shard_file, setting.objects)
        floor_s = floor(shard_file, Path(folder) / "floor.sqlite", setting.tasks)
        (Path(folder) / "floor.sqlite").unlink()
        with running_server(shard_file, 0.0) as moray_port, running_agents() as agents_port:
            arguments = [str(job_file), str(setting.tasks), str(moray_port), str(agents_port)]
            command = [sys.executable, __file__, *flags, "--manage", *arguments]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        told = json.loads(done.stdout)
        assert told.pop("complete") == setting.objects
        return Result(
            setting,
            floor_s=floor_s,
            record_bytes=record_bytes,
            file_bytes=size_of(job_file),
            view_s=cost_of_a_view(job_file),
            **told,
        )


def best(runs: list[Result]) -> Result:
    """The run with the least CPU, beside the lowest of the floors: a neighbour only adds."""
    least = min(runs, key=lambda run: run.cpu_s)
    return attrs.evolve(least, floor_s=min(run.floor_s for run in runs))


def show(console: Console, results: list[Result], splits: list[Result]) -> None:
    table = Table(
        *("objects", "tasks", "file in", "objects/s", "CPU s/M", "floor s/M", "x floor"),
        *("RSS MiB", "file/records", "view us"),
        title=f"{os.cpu_count()} CPUs, Python {platform.python_version()}",
    )
    for one in results:
        count = one.setting.objects
        table.add_row(
            f"{count:,}",
            str(one.setting.tasks),
            one.setting.folder,
            f"{count / one.wall_s:,.0f}",
            f"{one.cpu_s / count * 1e6:.0f}",
            f"{one.floor_s / count * 1e6:.0f}",
            f"{one.cpu_s / one.floor_s:.2f}",
            f"{one.rss / 2**20:.0f}",
            f"{one.file_bytes / one.record_bytes:.2f}",
            f"{one.view_s * 1e6:.0f}",
        )
    console.print(table)
    if not splits:
        return
    table = Table(
        "CPU s/M",
        *(f"{one.setting.objects:,} by {one.setting.tasks}" for one in splits),
        title="By stage, while watched",
    )
    for name in splits[0].split:
        table.add_row(
            name, *(f"{one.split[name] / one.setting.objects * 1e6:.1f}" for one in splits)
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--tasks", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--rounds", type=int, default=1, help="of which the best counts")
    parser.add_argument("--folder", nargs="+", default=["/dev/shm"], help="of the job's file")
    parser.add_argument(
        "--stages", action="store_true", help="once more, watching every task, which costs a tenth"
    )
    parser.add_argument("--names", action="store_true", help="of --stages, each task too")
    parser.add_argument("--profile", metavar="FILE", help="what its event loop does, for pstats")
    parser.add_argument("--manage", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--agents", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    configure("bench", "error")
    if options.agents:
        trio.run(serve_agents)
        return
    if options.manage:
        file, tasks, moray, agents = options.manage
        profiler = cProfile.Profile(time.thread_time)
        with profiler if options.profile else nullcontext():
            split = Split() if options.stages else None
            told = trio.run(manage, Path(file), int(tasks), int(moray), int(agents), split)
        if options.profile:
            profiler.dump_stats(options.profile)
        print(json.dumps(told))
        return
    console = Console(width=110)
    results, splits = list[Result](), list[Result]()
    profile = () if options.profile is None else ("--profile", options.profile)
    for folder in options.folder:
        for objects in options.objects:
            for tasks in options.tasks:
                setting = Setting(objects, tasks, folder)
                shared = options.folder[0]
                runs = [measure(setting, shared, *profile) for _ in range(options.rounds)]
                results.append(best(runs))
                if options.stages or options.names:
                    splits.append(measure(setting, shared, "--stages"))
                if options.names:
                    for name, cpu in sorted(splits[-1].names.items(), key=lambda item: -item[1]):
                        console.print(f"{cpu / objects * 1e6:8.1f} {name}")
    show(console, results, splits)


if __name__ == "__main__":
    main()
