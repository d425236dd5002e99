"""This benchmark measures updates of records a second, by the number of updaters.

They are done by the manager's own stage and store, against the region's Moray in a process of its
own.

A real server leaves Nagle's algorithm on, so END waits for the client's acknowledgement of DATA,
which a kernel delays by 40 ms unless told by TCP_QUICKACK not to.  The region's server has no such
delay; in the rows without QUICKACK it waits as long before END, and the client does not set the
option.

Beside them is what node-moray's users do, a get and a put for each record: `get and put` is a
plain script over blocking sockets, a thread for each connection, that keeps nothing of what it
has done.  It has the product's codec, so that all that it costs besides are its two calls.
"""

import argparse
import json
import socket
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import attrs
import trio
from harness import in_memory, parser, session
from job import DESTINATION, MORAY, ORIGIN, make_job, record
from processes import announcing
from results import Figure, Round, ratios, spread

from rebalancer import daemon
from rebalancer.config import ManagerConfig, Options, Shard
from rebalancer.domain import sharks
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.states import ObjectStatus
from rebalancer.log import configure
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.fleet.ledger import FleetLedger, JobLedger
from rebalancer.manager.pipeline.stages.update import update
from rebalancer.manager.store import assignments, discovery
from rebalancer.manager.store.job_store import JobStore, open_store
from rebalancer.manager.store.records import ScanPosition
from rebalancer.peers.metadata import Put, Record
from rebalancer.peers.moray import connection, fast
from rebalancer.peers.moray.client import MorayClient, open_moray
from rebalancer_devregion.moray.server import ShardServer
from rebalancer_devregion.moray.store import ShardStore

TASKS = 50  # of an assignment
DELAYED_ACK_S = 0.04
UPDATERS = (1, 4, 10, 30, 100)
GET_AND_PUT, PLAIN, BATCHED = "get and put", "plain", f"batches of {TASKS}"


@attrs.frozen
class Setting:
    """A setting tells how records are written, with QUICKACK or not, and by how many updaters."""

    writes: str
    quickack: bool
    updaters: int

    def __str__(self) -> str:
        return f"{self.writes}, {'' if self.quickack else 'no '}QUICKACK, {self.updaters}"

    @property
    def batched(self) -> bool:
        return self.writes == BATCHED

    @property
    def assignments(self) -> int:
        """Return how many assignments take some seconds, some for each updater."""
        if self.batched:
            return max(2 * self.updaters, 40)
        return max(self.updaters, 10 if self.quickack else 2)


@attrs.frozen
class Run:
    """A run took these seconds of the clock, of our CPU, and for each call of the client."""

    wall_s: float
    cpu_s: float
    calls_s: tuple[float, ...]


# --- the server ----------------------------------------------------------------------------


def running_server(file: Path, delay_s: float) -> AbstractContextManager[int]:
    """Run the region's Moray over `file`, in another process; gives its port."""
    return announcing([sys.executable, __file__, "--serve", str(file), "--delay", str(delay_s)])


async def serve(file: Path, delay_s: float) -> None:
    """Serve one shard for ever, and tell the port."""
    async with trio.open_nursery() as nursery:
        server = ShardServer(ShardStore(file), delay_end_s=delay_s)
        _, port = await nursery.start(server.serve, "127.0.0.1", 0)
        print(port, flush=True)


# --- the peer ------------------------------------------------------------------------------


@attrs.define
class Plain:
    """This client has one connection with one request at a time.

    Mutable state: the time of each call.
    """

    connection: socket.socket
    quickack: bool
    seconds: list[float] = attrs.field(factory=list)

    def call(self, method: str, args: list[Any]) -> Any:
        """Return the one object that the server answers."""
        begun = time.perf_counter()
        number = len(self.seconds) + 1
        message = fast.Message(number, fast.Status.DATA, method, args, uts=time.time_ns() // 1000)
        self.connection.sendall(fast.encode(message))
        rows, decoder, is_over = list[Any](), fast.Decoder(), False
        while not is_over:
            data = self.connection.recv(64 << 10)
            if self.quickack:
                self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
            for answer in decoder.feed(data):
                assert answer.status is not fast.Status.ERROR, answer.data
                rows += answer.data
                is_over = answer.status is fast.Status.END
        self.seconds.append(time.perf_counter() - begun)
        (row,) = rows
        return row

    def update(self, keys: Sequence[str]) -> None:
        """Read each record, and write it with its new shark if nobody was quicker."""
        for key in keys:
            read = self.call("getObject", ["manta", key, {"noCache": True}])
            value = sharks.rewrite(read["value"], ORIGIN.manta_storage_id, DESTINATION)
            options = {"etag": read["_etag"], "headers": {}}
            self.call("putObject", ["manta", key, value, options])


def get_and_put(setting: Setting, port: int, keys: Sequence[str]) -> Run:
    """Write all records, each connection as many, and return what that took."""
    connections = [
        Plain(socket.create_connection(("127.0.0.1", port)), setting.quickack)
        for _ in range(setting.updaters)
    ]
    begun, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(setting.updaters) as threads:
        parts = [keys[start :: setting.updaters] for start in range(setting.updaters)]
        for _ in threads.map(Plain.update, connections, parts):
            pass
    wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
    for plain in connections:
        plain.connection.close()
    return Run(wall, cpu, tuple(second for plain in connections for second in plain.seconds))


# --- the manager ---------------------------------------------------------------------------


@attrs.define
class Timed:
    """This client has its calls timed."""

    client: MorayClient
    seconds: list[float] = attrs.field(factory=list)

    @property
    def name(self) -> str:
        return self.client.name

    async def put_object(self, bucket: str, key: str, value: Any, etag: str | None) -> str:
        begun = time.perf_counter()
        made = await self.client.put_object(bucket, key, value, etag)
        self.seconds.append(time.perf_counter() - begun)
        return made

    async def batch(self, puts: Sequence[Put]) -> None:
        begun = time.perf_counter()
        await self.client.batch(puts)
        self.seconds.append(time.perf_counter() - begun)

    async def get_object(self, bucket: str, key: str) -> Record | None:
        return await self.client.get_object(bucket, key)


def seeded(shard: ShardStore, count: int) -> list[dict[str, Any]]:
    """Put the records of so many assignments into the shard, and return them."""
    values = [record(number) for number in range(count * TASKS)]
    shard.seed("manta", [(value["key"], value) for value in values])
    return values


async def fill(store: JobStore, shard: ShardStore, count: int) -> list[Assignment]:
    """Fill the job's file with the objects of the shard's records, copied."""
    values = seeded(shard, count)
    action = Evacuate(ORIGIN)
    found = []
    for value in values:
        key, row = value["key"], shard.get("manta", value["key"])
        text = json.dumps(row["value"], separators=(",", ":"))  # as a shard has it
        one = action.read(shard=1, key=key, etag=row["_etag"], text=text)
        assert one is not None
        found.append(one)
    await store.write(discovery.store_found, found, ScanPosition(1, "_id", len(found), len(found)))
    moved = []
    for start in range(0, len(found), TASKS):
        ids = tuple(one.id for one in found[start : start + TASKS])
        made = Assignment(str(uuid.uuid4()), DESTINATION, ids, 0)
        await store.write(assignments.assign, made)
        await store.write(assignments.accept, made.id)
        await store.write(assignments.record_copied, made.id, {}, max_attempts=1)
        moved.append(made)
    return moved


def measure_peer(setting: Setting, folder: Path) -> Run:
    """Measure the plain script, and make sure that it wrote all records."""
    shard_file = folder / "shard.sqlite"
    shard = ShardStore(shard_file)
    keys = [value["key"] for value in seeded(shard, setting.assignments)]
    shard.close()
    with running_server(shard_file, 0.0 if setting.quickack else DELAYED_ACK_S) as port:
        done = get_and_put(setting, port, keys)
    shard = ShardStore(shard_file)
    for key in keys:
        named = [shark["manta_storage_id"] for shark in shard.get("manta", key)["value"]["sharks"]]
        assert named[0] == DESTINATION.manta_storage_id, named
    shard.close()
    return done


async def measure(setting: Setting, folder: Path) -> Run:
    """Measure from the first assignment until the last record is written and its row settled."""
    shard_file = folder / "shard.sqlite"
    options = Options(
        use_batched_updates=setting.batched, max_metadata_update_threads=setting.updaters
    )
    config = ManagerConfig("lab", (Shard(MORAY),), options=options, delete_assignments=False)
    async with open_store(folder / "job.sqlite") as store:
        shard = ShardStore(shard_file)
        moved = await fill(store, shard, setting.assignments)
        shard.close()
        with running_server(shard_file, 0.0 if setting.quickack else DELAYED_ACK_S) as port:
            hosts = {MORAY: f"127.0.0.1:{port}"}
            async with open_moray({1: MORAY}, hosts, connections=setting.updaters) as m:
                timed = Timed(m[1])
                clients = {1: cast(MorayClient, timed)}
                job = make_job(config, store, JobLedger(FleetLedger(), 1), moray=clients)
                await m[1].ping()
                begun, cpu = time.perf_counter(), time.process_time()
                send, receive = trio.open_memory_channel[Assignment](len(moved))
                for item in moved:
                    send.send_nowait(item)
                send.close()
                await update(job, receive)
                wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        status = await store.status()
        assert status.objects(ObjectStatus.COMPLETE) == len(moved) * TASKS, status
    return Run(wall, cpu, tuple(timed.seconds))


# --- rounds and the table ------------------------------------------------------------------


def run(setting: Setting) -> Run:
    """Run a setting in a folder of its own, in memory if there is such a place."""
    # The module knows whether the system has the option; the rows without it are as if not.
    before = connection._QUICKACK
    if not setting.quickack:
        connection._QUICKACK = None
    try:
        with tempfile.TemporaryDirectory(dir=in_memory()) as folder:
            if setting.writes == GET_AND_PUT:
                return measure_peer(setting, Path(folder))
            return trio.run(measure, setting, Path(folder))
    finally:
        connection._QUICKACK = before


def figures(setting: Setting) -> Round:
    """Run a setting once."""
    one, count = run(setting), setting.assignments * TASKS
    calls = sorted(one.calls_s)
    p50, p99 = (calls[min(int(len(calls) * part), len(calls) - 1)] for part in (0.5, 0.99))
    return {
        "updates": count / one.wall_s,
        "CPU": one.cpu_s / count * 1e6,
        "call, median": p50 * 1000,
        "call, 99 of 100": p99 * 1000,
    }


FIGURES = {
    "updates": Figure("/s", "more"),
    "CPU": Figure("us/update", "less"),
    "call, median": Figure("ms", "less"),
    "call, 99 of 100": Figure("ms", "less"),
}


def main() -> None:
    options_of = parser(__doc__, rounds=3)
    options_of.add_argument("--only", default="", help="settings that contain this text")
    options_of.add_argument("--updaters", type=int, nargs="+", default=UPDATERS)
    options_of.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options_of.add_argument("--delay", type=float, default=0.0, help=argparse.SUPPRESS)
    options = options_of.parse_args()
    configure("bench", "error")
    daemon.collect_rarely()
    if options.serve:
        trio.run(serve, options.serve, options.delay)
        return
    settings = [
        (quickack, updaters, writes)
        for quickack in (False, True)
        for updaters in options.updaters
        for writes in (GET_AND_PUT, PLAIN, BATCHED)
        if options.only in str(Setting(writes, quickack, updaters))
    ]
    memory = in_memory()
    folders = {} if memory is None else {"memory": memory}
    with session("metadata", FIGURES, options, folders) as made:
        for (quickack, updaters), chosen in groupby(settings, key=itemgetter(0, 1)):
            ways = {GET_AND_PUT: None} | {writes: None for _, _, writes in chosen}
            contenders = {
                writes: partial(figures, Setting(writes, quickack, updaters)) for writes in ways
            }
            title = f"{'' if quickack else 'no '}QUICKACK, {updaters} updaters"
            peer, *rows = made.measure(title, contenders)
            for row in rows:
                faster = ratios(row.values("updates"), peer.values("updates"))
                made.tell(f"{title}: {row.contender} / {GET_AND_PUT}: {spread(faster)}")


if __name__ == "__main__":
    main()
