"""This stage finds a destination for each object, and makes assignments of those that share one."""

import math
from collections.abc import Collection, Sequence

import attrs
import trio

from rebalancer.config import ManagerConfig
from rebalancer.domain import candidates, placement, reasons
from rebalancer.domain.batches import Batch, BatchLimits
from rebalancer.domain.candidates import Candidates, Outlook
from rebalancer.domain.objects import MantaObject, StorageNode
from rebalancer.domain.placement import Placement, Rules
from rebalancer.domain.reasons import Reason, Remedy
from rebalancer.domain.states import AssignmentState
from rebalancer.log import get_logger
from rebalancer.manager.fleet import node_list
from rebalancer.manager.pipeline.job import Found, Job, Ready
from rebalancer.manager.store import assignments, unplaced
from rebalancer.manager.store.records import NewAssignment

#: Seconds for which it holds that there is no room for an object: copies settle meanwhile.
FULL_S = 1.0

#: What is waited for, in words, while no destination can be given anything.
DESTINATIONS = "any destination"

log = get_logger()


async def place(
    job: Job,
    found: trio.MemoryReceiveChannel[Found],
    ready: trio.MemorySendChannel[Ready],
) -> None:
    """Turn found objects into recorded assignments; put off or skip those that fit nowhere.

    Once the job is cancelled nothing is placed any more: what has no assignment stays as it is.
    """
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


@attrs.frozen
class _Selection:
    """A selection is the order in which destinations are tried, and what it was made of."""

    candidates: Candidates
    nodes: tuple[StorageNode, ...]
    config: ManagerConfig
    rules: Rules
    limits: BatchLimits
    excluded: frozenset[str]
    made_at: float
    changes: int
    #: Objects for which it holds, if nothing else happens.
    most: int = attrs.field(
        default=attrs.Factory(
            lambda made: made.rules.max_sharks * made.limits.max_tasks, takes_self=True
        )
    )

    def is_of(
        self, nodes: tuple[StorageNode, ...], config: ManagerConfig, excluded: Collection[str]
    ) -> bool:
        return self.nodes is nodes and self.config is config and self.excluded == excluded


class _Placer:
    """A placer fills batches with objects, one batch a destination, and sends those that are due.

    Mutable state: the batches; the order in which destinations are tried, with the objects it has
    served and what each node may take in all; how those stand that were looked at since the placer
    last waited; and when all were away last.
    """

    def __init__(self, job: Job, ready: trio.MemorySendChannel[Ready]) -> None:
        self._job = job
        self._ready = ready
        self._batches: dict[str, Batch] = {}
        self._capacities: dict[str, int] = {}
        self._outlooks: dict[str, Outlook] = {}
        self._served = 0
        self._held_at = -math.inf
        self._selection = self._select()

    def due_at(self) -> float:
        """Return when the oldest batch must be sent however small."""
        limits = self._job.batch_limits
        return min((batch.due_at(limits) for batch in self._batches.values()), default=math.inf)

    async def take(self, objects: Sequence[MantaObject]) -> None:
        """Put each object into a batch; put off or skip those that fit nowhere."""
        refused, deferred = list[tuple[str, Reason]](), list[str]()
        self._look_anew()
        for obj in objects:
            plan = self._choose(obj)
            if plan is None or plan == reasons.DESTINATION_UNREACHABLE:
                plan = await self._wait_for_plan(obj, plan)
            if self._job.cancelled.is_set():
                break
            if isinstance(plan, Placement):
                for batch in self._add(obj, plan):
                    await self._send(batch)
                    self._look_anew()
            elif plan == reasons.DESTINATION_UNREACHABLE and not self._is_given_up():
                self._job.absence.note(self._job.health.returns)
                deferred.append(obj.object_id)
            elif plan is not None:
                refused.append((obj.object_id, plan))
        if deferred:
            await self._job.store.write(unplaced.defer, deferred)
        if refused:
            attempts = self._job.config.max_attempts
            uncopied = await self._job.store.write(unplaced.refuse, refused, max_attempts=attempts)
            for reason, count in uncopied.skipped.items():
                self._job.metrics.skipped(reason, count)

    async def flush(self, *, everything: bool) -> None:
        """Send the batches that are due, or all."""
        now, limits = trio.current_time(), self._job.batch_limits
        for name, batch in list(self._batches.items()):
            # Another one may have been begun while this one waited its turn.
            is_due = everything or batch.due_at(limits) <= now
            if is_due and self._batches.get(name) is batch:
                del self._batches[name]
                await self._send(batch)

    # --- choosing ------------------------------------------------------------------------

    async def _wait_for_plan(
        self, obj: MantaObject, plan: Placement | Reason | None
    ) -> Placement | Reason | None:
        """Return the plan for an object once a destination that fits it is no longer busy.

        `plan` is what there is at first.  None: the job was cancelled meanwhile.
        """
        try:
            while not self._job.cancelled.is_set():
                is_held = plan == reasons.DESTINATION_UNREACHABLE and self._are_all_away()
                if plan is not None and not is_held:
                    return plan
                if is_held:
                    self._note_held()
                # There may be new ones, too.
                look_at = trio.current_time() + node_list.PERIOD_S if is_held else math.inf
                with trio.move_on_at(min(self.due_at(), look_at)):
                    await self._job.ledger.wait_change()
                await self.flush(everything=False)
                self._selection = self._select()
                plan = self._choose(obj)
            return None
        finally:
            self._job.waits.end(DESTINATIONS)

    def _note_held(self) -> None:
        """Show that the job waits for destinations, once it is sure that all are away."""
        known = self._selection.candidates.nodes
        if all(self._job.health.is_away(node.manta_storage_id) for node in known):
            self._held_at = trio.current_time()
            self._job.waits.begin(DESTINATIONS, f"none of {len(known)} answers")

    def _are_all_away(self) -> bool:
        """Tell whether every destination is away: then all objects wait, not each by itself."""
        known = [node.manta_storage_id for node in self._selection.candidates.nodes]
        # All of them are looked at, so that those of which nobody knows are asked at once.
        return not any([self._job.health.is_there(name) for name in known])

    def _is_given_up(self) -> bool:
        """Tell whether every destination that is away has been so for longer than is waited for it.

        While all are away that tells nothing of each, so the time counts from the end of that.
        """
        known = [node.manta_storage_id for node in self._selection.candidates.nodes]
        away = [self._job.health.away_s(name) for name in known if self._job.health.is_away(name)]
        since_held = trio.current_time() - self._held_at
        return min([*away, since_held]) >= self._job.config.agent_timeout

    def _choose(self, obj: MantaObject) -> Placement | Reason | None:
        # Claims change with every object, so the roomiest are not the roomiest for ever.
        if self._served >= self._selection.most:
            self._selection = self._select()
        if obj.earlier is not None:
            plan = self._ask(obj, self._only(obj.earlier))
            if not isinstance(plan, Reason):
                return plan
        plan = self._ask(obj, self._selection.candidates)
        may_pass = isinstance(plan, Reason) and plan.remedy is Remedy.LATER
        if may_pass and self._is_old():
            self._selection = self._select()
            plan = self._ask(obj, self._selection.candidates)
        self._served += 1
        return plan

    def _ask(self, obj: MantaObject, among: Candidates) -> Placement | Reason | None:
        rules = self._selection.rules
        return self._job.action.plan(obj, among, rules, self._look, self._job.rng)

    def _only(self, name: str) -> Candidates:
        """Return the node that has a copy from before, which need only be found there."""
        known = self._selection.candidates.nodes
        return candidates.rank((n for n in known if n.manta_storage_id == name), self._look)

    def _look_anew(self) -> None:
        """Forget how destinations stood before this task waited; choose anew if there are others.

        While it does not wait, nobody but itself can change either.
        """
        self._outlooks.clear()
        if not self._selection.is_of(self._job.node_list.nodes, self._job.config, self._excluded()):
            self._selection = self._select()

    def _is_old(self) -> bool:
        """Tell whether there may be more room by now than when destinations were chosen."""
        selection = self._selection
        age = trio.current_time() - selection.made_at
        return age > FULL_S or selection.changes != self._job.ledger.changes

    def _select(self) -> _Selection:
        job = self._job
        nodes, rules, excluded = job.node_list.nodes, job.rules, self._excluded()
        max_fill = rules.max_fill_percentage
        eligible = placement.eligible(nodes, rules, excluded)
        self._capacities = {
            node.manta_storage_id: placement.capacity_bytes(node, max_fill) for node in eligible
        }
        self._served = 0
        self._outlooks.clear()
        ranked = candidates.rank(eligible, self._look)
        return _Selection(
            ranked,
            nodes,
            job.config,
            rules,
            job.batch_limits,
            excluded,
            trio.current_time(),
            job.ledger.changes,
        )

    def _excluded(self) -> frozenset[str]:
        return frozenset((*self._job.evacuating(), self._job.action.origin.manta_storage_id))

    def _look(self, node: StorageNode) -> Outlook:
        """Return how `node` stands, and the bytes that the next object for it may have."""
        name = node.manta_storage_id
        outlook = self._outlooks.get(name)
        if outlook is None:
            claimed, is_busy = self._job.ledger.look(name)
            is_avoided = self._job.health.is_avoided(name)
            batch = self._batches.get(name)
            left = 0 if batch is None else batch.left
            room = max(left, self._claim_limit(name, claimed))
            is_away = self._job.health.is_away(name)
            outlook = Outlook(room, is_busy, is_avoided, is_away)
            self._outlooks[name] = outlook
        return outlook

    def _claim_limit(self, name: str, claimed: int) -> int:
        # Half, because others write there too.
        return max(0, self._capacities[name] - claimed) // 2

    # --- batches -------------------------------------------------------------------------

    def _add(self, obj: MantaObject, plan: Placement) -> list[Batch]:
        """Claim the object's place before anything else can; returns what is full."""
        name = plan.destination.manta_storage_id
        full = []
        if name in self._batches and not self._batches[name].fits(obj.size):
            full.append(self._batches.pop(name))
        if name not in self._batches:
            limit = self._claim_limit(name, self._job.ledger.claimed(name))
            self._batches[name] = Batch(plan.destination, trio.current_time(), limit)
        claimed = self._job.ledger.claim(name, obj.size)
        batch = self._batches[name]
        batch.add(obj, plan.source)
        if batch.is_full(self._selection.limits):
            full.append(self._batches.pop(name))
        if not full:  # or how they stand is looked at anew
            old = self._outlooks[name]
            room = max(batch.left, self._claim_limit(name, claimed))
            self._outlooks[name] = Outlook(room, old.is_busy, old.is_avoided, old.is_away)
        return full

    async def _send(self, batch: Batch) -> None:
        destination = batch.destination.shark
        if self._job.cancelled.is_set():
            self._job.ledger.unclaim(destination.manta_storage_id, batch.size)
            return
        assignment = NewAssignment(
            self._job.new_id(),
            destination,
            tuple(obj.object_id for obj, _ in batch.items),
            batch.size,
        )
        self._job.ledger.posted(destination.manta_storage_id)
        await self._job.store.write(assignments.assign, assignment)
        await self._ready.send(Ready(assignment.id, destination, tuple(batch.items), batch.size))
        log.debug(
            "assignment",
            id=assignment.id,
            destination=destination.manta_storage_id,
            tasks=len(batch.items),
            state=AssignmentState.INIT,
        )
