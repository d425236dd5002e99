"""A region in one process for tests of the pipeline: records in real shard files, agents that
copy nothing but keep account, and the laws checked on every call.

Effects first, answers after: a caller that is cancelled is one whose answer was lost.
"""

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from rebalancer.agent_protocol import (
    FEATURES,
    V2,
    Assignment,
    AssignmentReport,
    AssignmentStats,
    ReportedState,
    Task,
    failed,
)
from rebalancer.config import ManagerConfig, Options, Shard
from rebalancer.domain.objects import Shark, StorageNode
from rebalancer.domain.reasons import Reason
from rebalancer.domain.records import id_of, read_sharks
from rebalancer.jsontext import JsonText
from rebalancer.manager.actions.evacuate.decisions import Evacuate
from rebalancer.manager.fleet.bandwidth import BandwidthLimit
from rebalancer.manager.fleet.ledger import FleetLedger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.pipeline.listings import Listing
from rebalancer.manager.store.job_store import JobStore, open_store
from rebalancer.peers import scan
from rebalancer.peers.agents import PostAnswer, PostResult
from rebalancer.peers.metadata import Put
from rebalancer.peers.protocols import AgentService, LiveShard, MorayShard
from rebalancer_devregion.moray.store import ShardStore
from tests.inline import inline
from tests.peers.fakes import StoredShard, parsed

T = TypeVar("T")

ORIGIN = Shark("dc1", "1.stor.lab")
NODES = tuple(
    StorageNode(f"{number}.stor.lab", f"dc{(number - 1) % 2 + 1}", 100_000, 10)
    for number in range(2, 7)
)


def object_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def record(number: int, **fields: Any) -> dict[str, Any]:
    other = NODES[0] if number % 2 else NODES[2]
    made = {
        "key": f"/account/stor/{number}",
        "name": str(number),
        "type": "object",
        "owner": object_id(0),
        "objectId": object_id(number),
        "contentLength": 1000 + number,
        "contentMD5": "L9NrIZXTY37AYVZN9+gZ7w==",
        "sharks": [attrs.asdict(ORIGIN), attrs.asdict(other.shark)],
        "vnode": number,
    }
    return {**made, **fields}


class FakeMoray(StoredShard):
    """A shard of a world, with a law: no name without a copy."""

    def __init__(self, world: "World", number: int, store: ShardStore) -> None:
        super().__init__(store, f"{number}.moray.lab")
        self._world = world

    async def put_object(
        self, bucket: str, key: str, value: Mapping[str, Any] | JsonText, etag: str | None
    ) -> str:
        self._world.check_update(parsed(value))
        return await super().put_object(bucket, key, value, etag)

    async def batch(self, puts: Sequence[Put]) -> None:
        for put in puts:
            self._world.check_update(parsed(put.value))
        await super().batch(puts)

    async def call(self, method: str, keys: Sequence[str], effect: Callable[[], T]) -> T:
        if method not in ("put", "batch"):
            return await super().call(method, keys, effect)

        def write() -> T:
            made = effect()
            self._world.written(self.name)
            return made

        self._world.before_write(self.name)
        answer = await super().call(method, keys, write)
        self._world.after_write(self.name)
        return answer


@attrs.define(eq=False)
class FakeAgents:
    """All agents.  Mutable state: assignments by id, how often each was asked for and what came
    of it, copies.
    """

    assignments: dict[str, tuple[str, Assignment]] = attrs.field(factory=dict)
    done: dict[str, AssignmentReport] = attrs.field(factory=dict)
    asked: defaultdict[str, int] = attrs.field(factory=lambda: defaultdict(int))
    known_ever: set[str] = attrs.field(factory=set)
    copies: set[tuple[str, str]] = attrs.field(factory=set)
    copied_whole: list[tuple[str, str]] = attrs.field(factory=list)
    #: Tasks whose healthy file lay there already, so that nothing was copied.
    found_there: list[tuple[str, str]] = attrs.field(factory=list)
    failures: dict[str, Reason] = attrs.field(factory=dict)
    #: Why a task fails, if `failures` does not say so.
    fails: Callable[[str, Task], Reason | None] = lambda _shark, _task: None
    post_s: Callable[[], float] = lambda: 0.01
    #: Why a destination does not answer to a question.
    away: Callable[[str], Exception | None] = lambda _shark: None
    post_answer: Callable[[str, Assignment], PostAnswer | Exception | None] = lambda *_: None
    report: Callable[[AssignmentReport], AssignmentReport | None] = lambda report: report
    #: What the agent of a destination announces.
    features: Callable[[str], frozenset[str]] = lambda _shark: frozenset(FEATURES)

    async def post(self, shark: str, assignment: Assignment) -> PostAnswer:
        answer = self.post_answer(shark, assignment)
        of_buckets = any(task.bucket_id is not None for task in assignment.tasks)
        if answer is None and of_buckets and V2 not in self.features(shark):
            answer = PostAnswer(PostResult.UNABLE)
        if answer is None:
            self.assignments.setdefault(assignment.id, (shark, assignment))
            self.known_ever.add(assignment.id)
            answer = PostAnswer(PostResult.ACCEPTED)
        await trio.sleep(self.post_s())
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def get(self, shark: str, assignment_id: str) -> AssignmentReport | None:
        if (failure := self.away(shark)) is not None:
            await trio.sleep(0.01)
            raise failure
        at, assignment = self.assignments.get(assignment_id, ("", None))
        if assignment is None:
            await trio.sleep(0.01)
            return None
        assert at == shark
        self.asked[assignment_id] += 1
        report = self._work(assignment, shark, self.asked[assignment_id])
        await trio.sleep(0.01)
        return self.report(report)

    def _work(self, assignment: Assignment, shark: str, asked: int) -> AssignmentReport:
        total = len(assignment.tasks)
        if asked < 3:
            return AssignmentReport(
                assignment.id, AssignmentStats(ReportedState.RUNNING, 0, 0, total)
            )
        if assignment.id not in self.done:
            self.done[assignment.id] = self._copy(assignment, shark)
        return self.done[assignment.id]

    def _copy(self, assignment: Assignment, shark: str) -> AssignmentReport:
        bad = []
        for task in assignment.tasks:
            reason = self.failures.get(task.object_id) or self.fails(shark, task)
            if reason is not None:
                bad.append(attrs.evolve(task, status=failed(reason)))
            else:
                place = (task.copy_name, shark)
                (self.found_there if place in self.copies else self.copied_whole).append(place)
                self.copies.add(place)
        total = len(assignment.tasks)
        stats = AssignmentStats(
            ReportedState.COMPLETE, len(bad), total, total, tuple[Task, ...](bad)
        )
        return AssignmentReport(assignment.id, stats)

    async def ping(self, shark: str) -> frozenset[str]:
        await trio.sleep(0.01)
        if (failure := self.away(shark)) is not None:
            raise failure
        return self.features(shark)

    async def delete(self, shark: str, assignment_id: str) -> None:
        if (failure := self.away(shark)) is None:
            self.assignments.pop(assignment_id, None)
        await trio.sleep(0.01)
        if failure is not None:
            raise failure

    async def limit_bandwidth(self, shark: str, _bytes_per_s: int | None) -> bool:
        await self.ping(shark)
        return True


@attrs.define(eq=False)
class World:
    """Shards, agents and a job's file in one folder."""

    folder: Path
    shards: dict[int, ShardStore]
    agents: FakeAgents = attrs.field(factory=FakeAgents)
    nodes: tuple[StorageNode, ...] = NODES
    options: Options = attrs.field(
        factory=lambda: Options(max_tasks_per_assignment=3, md_read_chunk_size=5)
    )
    config_changes: dict[str, Any] = attrs.field(factory=dict)
    #: The shards of the buckets tier, by the numbers that stages know.
    buckets: dict[int, LiveShard] = attrs.field(factory=dict)
    #: Where objects are looked for, if not through Moray.
    scanned: Mapping[int, scan.Scannable] | None = None
    listing: Listing | None = None
    job_name: str = "job"
    fleet_ledger: FleetLedger = attrs.field(factory=FleetLedger)
    #: Called with the shard's name around its writes; what they raise, the client raises.
    before_write: Callable[[str], None] = lambda _name: None
    after_write: Callable[[str], None] = lambda _name: None
    #: Called when a write has had its effect, whether or not the client lives to hear of it.
    written: Callable[[str], None] = lambda _name: None

    @property
    def job_file(self) -> Path:
        return self.folder / f"{self.job_name}.sqlite"

    def check_update(self, value: Mapping[str, Any]) -> None:
        """Invariant 1: what metadata names has been verified there, or was there before."""
        for shark in read_sharks(value):
            name = shark.manta_storage_id
            was_there = name in (NODES[0].manta_storage_id, NODES[2].manta_storage_id)
            assert was_there or (id_of(value), name) in self.agents.copies, (
                f"{id_of(value)} has no verified copy on {name}"
            )

    async def ask(self) -> Sequence[StorageNode]:
        """Answer as storinfo does."""
        await trio.lowlevel.checkpoint()
        return self.nodes

    @property
    def config(self) -> ManagerConfig:
        return ManagerConfig(
            domain_name="lab",
            shards=tuple(Shard(f"{number}.moray.lab") for number in self.shards),
            options=self.options,
            **self.config_changes,
        )

    @property
    def moray(self) -> dict[int, MorayShard]:
        """New clients of the shards."""
        return {n: FakeMoray(self, n, store) for n, store in self.shards.items()}

    def records(self) -> list[dict[str, Any]]:
        found = []
        for number, store in self.shards.items():
            for row in store.find("manta", "(type=object)", {"noLimit": True}):
                found.append({**row["value"], "_shard": number, "_etag": row["_etag"]})
        return found

    @asynccontextmanager
    async def job(self, **changes: Any) -> AsyncIterator[Job]:
        """A job on the folder's file, as a manager that has just started makes it."""
        config, shards = self.config, {**self.moray, **self.buckets}
        agents: AgentService = self.agents
        limit = config.options.max_assignments_per_shark
        async with open_store(self.job_file, run=inline) as store:
            # The machine does not crash here, and to wait for its disk is most of a test's time.
            store.database._writer.execute("PRAGMA synchronous=OFF")
            with self.fleet_ledger.open(limit) as ledger:
                made = {
                    "id": "job",
                    "decisions": Evacuate(ORIGIN),
                    "config": config,
                    "store": store,
                    "node_list": NodeList(self.ask),
                    "agents": agents,
                    "scanned": self.scanned or shards,
                    "shards": shards,
                    "listing": self.listing,
                    "metrics": ManagerMetrics(config),
                    "ledger": ledger,
                    "bandwidth": BandwidthLimit(agents, self.fleet_ledger.throttle, None),
                    "update_limiter": UpdateLimiter(
                        config.options.max_metadata_update_threads,
                        config.metadata_timeout,
                    ),
                    "rng": random.Random(1),
                }
                yield Job(**{**made, **changes})

    async def run(self, **changes: Any) -> dict[tuple[str, str], int]:
        """Run a job to its end; its counts by status and reason."""
        async with self.job(**changes) as job:
            with trio.fail_after(100_000):
                await flow.run(job)
            return await counts(job.store)

    def close(self) -> None:
        for store in self.shards.values():
            store.close()


async def counts(store: JobStore) -> dict[tuple[str, str], int]:
    """Objects by status and reason, without the zeros."""
    status = await store.status()
    return {key: objects for key, (objects, _) in status.counts.items() if objects}


def make_world(folder: Path, records: Sequence[dict[str, Any]], shards: int = 2) -> World:
    """A world with `records` spread over `shards` shards."""
    folder.mkdir(exist_ok=True)
    stores = {n: ShardStore(folder / f"{n}.sqlite") for n in range(1, shards + 1)}
    for number, store in stores.items():
        chosen = [r for i, r in enumerate(records) if i % shards + 1 == number]
        store.seed("manta", [(r["key"], r) for r in chosen])
    return World(folder, stores)
