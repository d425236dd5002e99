"""Placement: a destination for each object, and assignments of those that share one."""

import math
from collections.abc import Sequence

import trio

from rebalancer.domain import placement
from rebalancer.domain.batches import Batch
from rebalancer.domain.objects import MantaObject, StorageNode
from rebalancer.domain.placement import Placement
from rebalancer.domain.reasons import Reason
from rebalancer.log import get_logger
from rebalancer.manager.job import Found, Job, Ready
from rebalancer.manager.store import NewAssignment

log = get_logger()


async def place(
    job: Job,
    found: trio.MemoryReceiveChannel[Found],
    ready: trio.MemorySendChannel[Ready],
) -> None:
    """Turn found objects into recorded assignments; skip those that fit nowhere."""
    placer = _Placer(job, ready)
    async with found, ready:
        while True:
            message = None
            with trio.move_on_at(placer.due_at()):
                try:
                    message = await found.receive()
                except trio.EndOfChannel:
                    break
            if message is not None:
                await placer.take(message.objects)
            await placer.flush(everything=message is not None and message.flush)
        await placer.flush(everything=True)


class _Placer:
    """The batches being filled, one a destination: its whole mutable state."""

    def __init__(self, job: Job, ready: trio.MemorySendChannel[Ready]) -> None:
        self._job = job
        self._ready = ready
        self._limits = job.batch_limits
        self._batches: dict[str, Batch] = {}

    def due_at(self) -> float:
        """When the oldest batch must be sent however small."""
        return min((b.due_at(self._limits) for b in self._batches.values()), default=math.inf)

    async def take(self, objects: Sequence[MantaObject]) -> None:
        """Put each object into a batch, or skip it."""
        refused: list[tuple[str, Reason]] = []
        for obj in objects:
            plan = await self._plan(obj)
            if isinstance(plan, Placement):
                await self._add(obj, plan)
            else:
                refused.append((obj.object_id, plan))
                self._job.metrics.skipped(plan)
        if refused:
            await self._job.store.refuse(refused)

    async def flush(self, *, everything: bool) -> None:
        """Send the batches that are due, or all."""
        now = trio.current_time()
        for name, batch in list(self._batches.items()):
            if everything or batch.due_at(self._limits) <= now:
                await self._send(name)

    async def _plan(self, obj: MantaObject) -> Placement | Reason:
        """A destination that is not busy; if all that fit are, one becomes free in time."""
        # A copy that was made before need not be made again, only found there.
        made = [n for n in self._job.fleet.nodes if n.manta_storage_id == obj.earlier]
        if made and isinstance(plan := self._choose(obj, made), Placement):
            return plan
        while True:
            nodes = self._eligible()
            is_avoided = self._job.ledger.is_avoided
            sound = [n for n in nodes if not is_avoided(n.manta_storage_id)]
            # Nodes that failed lately are better than none.
            plan = self._choose(obj, sound)
            if not isinstance(plan, Placement):
                sound, plan = nodes, self._choose(obj, nodes)
            if not isinstance(plan, Placement):
                return plan
            is_busy = self._job.ledger.is_busy
            idle = [n for n in sound if not is_busy(n.manta_storage_id)]
            plan = self._choose(obj, idle)
            if isinstance(plan, Placement):
                return plan
            with trio.move_on_at(self.due_at()):
                await self._job.ledger.wait_change()
            await self.flush(everything=False)

    def _eligible(self) -> list[StorageNode]:
        origin = self._job.action.origin.manta_storage_id
        return placement.eligible(self._job.fleet.nodes, self._job.rules, {origin})

    def _choose(self, obj: MantaObject, nodes: Sequence[StorageNode]) -> Placement | Reason:
        return self._job.action.plan(obj, nodes, self._job.rules, self._room, self._job.rng)

    def _room(self, node: StorageNode) -> int:
        """Bytes the next object for `node` may have."""
        batch = self._batches.get(node.manta_storage_id)
        left = 0 if batch is None else batch.claim_limit - batch.size
        return max(left, self._claim_limit(node))

    def _claim_limit(self, node: StorageNode) -> int:
        # Half, because others write there too.
        claimed = self._job.ledger.claimed(node.manta_storage_id)
        max_fill = self._job.rules.max_fill_percentage
        return placement.free_bytes(node, max_fill=max_fill, claimed=claimed) // 2

    async def _add(self, obj: MantaObject, plan: Placement) -> None:
        name = plan.destination.manta_storage_id
        if name in self._batches and not self._batches[name].fits(obj.size):
            await self._send(name)
        if name not in self._batches:
            limit = self._claim_limit(plan.destination)
            self._batches[name] = Batch(plan.destination, trio.current_time(), limit)
        batch = self._batches[name]
        batch.add(obj, plan.source)
        self._job.ledger.claim(name, obj.size)
        if batch.is_full(self._limits):
            await self._send(name)

    async def _send(self, name: str) -> None:
        batch = self._batches.pop(name)
        destination = batch.destination.shark
        assignment = NewAssignment(
            self._job.new_id(),
            destination,
            tuple(obj.object_id for obj, _ in batch.items),
            batch.size,
        )
        self._job.ledger.posted(name)
        await self._job.store.assign(assignment)
        await self._ready.send(Ready(assignment.id, destination, tuple(batch.items), batch.size))
        log.debug(
            "assignment", id=assignment.id, destination=name, tasks=len(batch.items), state="init"
        )
