"""This module defines a running pipeline: what its stages share."""

import math
import random
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import attrs
import trio

from rebalancer.config import ManagerConfig
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.batches import BatchLimits
from rebalancer.domain.completeness import UnfinishedScan
from rebalancer.domain.objects import MantaObject
from rebalancer.domain.placement import Rules
from rebalancer.domain.tiers import Tier
from rebalancer.manager.fleet.bandwidth import BandwidthLimit
from rebalancer.manager.fleet.health import Health
from rebalancer.manager.fleet.ledger import JobLedger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.fleet.update_limiter import UpdateLimiter
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline.decisions import MoveDecisions
from rebalancer.manager.pipeline.listings import Listing
from rebalancer.manager.store.job_store import JobStore
from rebalancer.peers import scan
from rebalancer.peers.protocols import AgentService, LiveShard
from rebalancer.waits import Waits

#: Objects in one message to placement.
CHUNK = 200


@attrs.frozen
class Feed:
    """A feed is what discovery sends to placement: objects that need a destination."""

    objects: tuple[MantaObject, ...]
    #: Whether batches are closed however small they are, because no further feed may come soon.
    is_flush: bool = False


async def feed_placement(
    channel: trio.MemorySendChannel[Feed], objects: Sequence[MantaObject]
) -> None:
    """Send objects on to placement in messages of bounded size."""
    for start in range(0, len(objects), CHUNK):
        await channel.send(Feed(tuple(objects[start : start + CHUNK])))


@attrs.define
class Absence:
    """An absence counts the objects that are deferred because all their destinations are away.

    Mutable state: the count of these objects; and how many times destinations had come back when
    the first of these objects was deferred.
    """

    objects: int = 0
    times_back: int = 0

    def note(self, objects: int, times_back: int) -> None:
        """Count `objects` more; so far, destinations have come back `times_back` times."""
        if not self.objects:
            self.times_back = times_back
        self.objects += objects

    def forget(self) -> None:
        """Count from 0 again, because none of the objects is deferred any more."""
        self.objects = 0


def rules_of(config: ManagerConfig) -> Rules:
    """Return the operator's limits on destinations."""
    return Rules(
        max_fill_percentage=config.max_fill_percentage,
        min_avail_mb=config.min_avail_mb,
        max_sharks=config.options.max_sharks,
        blacklist_datacenters=frozenset(config.blacklist_datacenters),
        allow_source_evac_shark=config.allow_source_evac_shark,
    )


async def unless(event: trio.Event, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work`, and cancel it when `event` is set."""

    async def give_up() -> None:
        await event.wait()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        await work()
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Job:
    """A job has what the stages of its pipeline share.

    Mutable state: `config`, and the limit in `update_limiter`, which operators change while the job
    runs; `requeued`, the assignments with objects that `discover` must feed again; `absence`, the
    objects that wait for destinations which are away; `failed_scans`, which make the job fail in
    the end; `ended_scans`, which show how far discovery is; `cancelled`, set when the job must
    begin nothing more.
    """

    id: str
    decisions: MoveDecisions
    config: ManagerConfig
    store: JobStore
    node_list: NodeList
    agents: AgentService
    #: The live shards of the metadata tiers that the job takes.
    shards: Mapping[int, LiveShard]
    #: The clones of the shards in which objects are looked for, or the live shards.
    scanned: Mapping[int, scan.Scannable]
    #: The listing that is read before any shard is scanned.
    listing: Listing | None
    metrics: ManagerMetrics
    ledger: JobLedger
    bandwidth: BandwidthLimit
    update_limiter: UpdateLimiter
    #: Whether shards are scanned: all of them, or, of a retry job, what the earlier job left.
    scans_shards: bool = attrs.field(
        default=attrs.Factory(lambda job: job.listing is None, takes_self=True)
    )
    #: The metadata tiers whose objects the job takes.
    tiers: Collection[Tier] = frozenset(Tier)
    waits: Waits = attrs.field(factory=Waits)
    #: Seconds for which discovery waits for a peer that does not answer: a job waits without end, a
    #: dry run does not.
    patience_s: float = math.inf
    max_objects: int | None = None
    rng: random.Random = attrs.field(factory=random.Random)
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    requeued: deque[str] = attrs.field(factory=deque)
    absence: Absence = attrs.field(factory=Absence)
    failed_scans: list[UnfinishedScan] = attrs.field(factory=list)
    #: The shards with which discovery is done in this run, or which it has given up.
    ended_scans: set[int] = attrs.field(factory=set)
    cancelled: trio.Event = attrs.field(factory=trio.Event)

    @property
    def rules(self) -> Rules:
        """Return the operator's limits on destinations."""
        return rules_of(self.config)

    @property
    def health(self) -> Health:
        """Return how the destinations answer, of all jobs together."""
        return self.ledger.health

    @property
    def batch_limits(self) -> BatchLimits:
        """Return how large and how old a batch may become before it is an assignment."""
        options = self.config.options
        return BatchLimits(options.max_tasks_per_assignment, float(options.max_assignment_age))

    @property
    def has_enough(self) -> bool:
        """Tell whether the job takes no more objects, because of its limit."""
        return self.max_objects is not None and self.store.objects >= self.max_objects

    def configure(self, config: ManagerConfig) -> None:
        """Put another configuration in force, with its limits on updates."""
        threads = config.options.max_metadata_update_threads
        if threads != self.config.options.max_metadata_update_threads:
            self.update_limiter.resize(threads)
            for shard in self.shards.values():
                shard.resize(threads)
        self.config = config

    async def unless_cancelled(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work`, and cancel it when the job is cancelled."""
        await unless(self.cancelled, work)

    def requeue(self, assignment: Assignment) -> None:
        """Let `discover` feed the objects of an assignment that have become unplaced."""
        self.requeued.append(assignment.id)
        self.store.wake()

    def cancel(self) -> None:
        """Let the stages begin nothing more; they still record what agents finish."""
        self.cancelled.set()
        self.store.wake()
