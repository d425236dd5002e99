"""This module is the dry run of an evacuation: it finds out what a job would do.

Objects are discovered and placed as in a job, but in a file that is thrown away, and no agent is
asked to work.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer.actions.evacuate import EVACUATE
from rebalancer.domain.assignments import Assignment
from rebalancer.domain.objects import Shark
from rebalancer.domain.states import JobState
from rebalancer.errors import BadRequest, JobFailed, PeerError, StoreError, Unavailable, leaves
from rebalancer.manager.actions.action import Plan, PlanLook
from rebalancer.manager.actions.evacuate.job import Opened, make_job
from rebalancer.manager.actions.evacuate.preflight import preflight_of
from rebalancer.manager.fleet.ledger import FleetLedger
from rebalancer.manager.jobs.assembly import Resources, open_shards
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.scratch import scratch_folder
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline.job import Feed, Job
from rebalancer.manager.pipeline.stages.discover import run_discovery
from rebalancer.manager.pipeline.stages.place import place
from rebalancer.manager.pipeline.stages.probe import probe
from rebalancer.manager.store import counts, scans, tier_counts
from rebalancer.manager.store.job_store import open_store
from rebalancer.waits import Waits

#: Peers that do not answer are waited for so many seconds: a person waits for the plan.
PATIENCE_S = 60.0
#: Assignments never end in a dry run, so no destination may be taken for busy.
UNLIMITED = 1 << 62
#: Seconds between two looks at how far the search is.
LOOK_S = 1.0


async def make_plan(
    resources: Resources, params: dict[str, Any], note: Callable[[PlanLook], None]
) -> Plan:
    """Make the plan of a job with these parameters; `note` is given a look at it every second.

    Raises:
      BadRequest: it would fail at once, and why.
      Unavailable: a shard or storinfo does not answer.
    """
    try:
        return await _make(resources, params, note)
    except* JobFailed as group:
        raise BadRequest("; ".join(str(exc) for exc in leaves(group))) from group
    except* (PeerError, StoreError) as group:
        raise Unavailable("; ".join(str(exc) for exc in leaves(group))) from group


async def _make(
    resources: Resources, params: dict[str, Any], note: Callable[[PlanLook], None]
) -> Plan:
    # Nothing comes back from agents, so what cannot be placed now never can.
    config = attrs.evolve(resources.config, max_attempts=1)
    row = JobRow("plan", EVACUATE.name, JobState.QUEUED, params, "", None, None, None)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        folder = await enter(scratch_folder(Path(config.data_dir)))
        shards = await enter(open_shards(config))
        job_store = await enter(open_store(folder / f"{row.id}.sqlite"))
        ledger = stack.enter_context(FleetLedger().open(UNLIMITED))
        job = await make_job(
            resources,
            row,
            config,
            Opened(shards, job_store, ledger),
            metrics=ManagerMetrics(config),
            waits=Waits(plan_of=row.node or ""),
            cancelled=trio.Event(),
            patience_s=PATIENCE_S,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_look, job, note)
            # Agents say whether they take bucket objects: until then, these have no destination.
            nursery.start_soon(probe, job)
            await job.node_list.ready(job.waits, PATIENCE_S)
            warnings = await preflight_of(job, shards)
            destinations = await _place_all(job)
            nursery.cancel_scope.cancel()
        failures = list(map(str, job.failed_scans))
        buckets = await job_store.read(tier_counts.read_bucket_counts)
        return Plan(await job_store.status(), destinations, warnings, failures, buckets)


async def _look(job: Job, note: Callable[[PlanLook], None]) -> None:
    """Give `note` a look at the search every second, until cancelled."""
    shards = job.scanned.keys() if job.scans_shards else ()
    while True:
        found = await job.store.read(counts.read_counts)
        positions = await job.store.read(scans.read_scans)
        note(PlanLook(found.status, positions, shards, frozenset(job.ended_scans)))
        await trio.sleep(LOOK_S)


async def _place_all(job: Job) -> dict[Shark, tuple[int, int]]:
    objects, sizes = Counter[Shark](), Counter[Shark]()

    async def count(placed: trio.MemoryReceiveChannel[Assignment]) -> None:
        async with placed:
            async for assignment in placed:
                objects[assignment.destination] += len(assignment.object_ids)
                sizes[assignment.destination] += assignment.size

    to_place, feeds = trio.open_memory_channel[Feed](1)
    to_count, placed = trio.open_memory_channel[Assignment](1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count, placed)
        nursery.start_soon(place, job, feeds, to_count)
        async with to_place:
            await run_discovery(job, to_place)
    return {shark: (objects[shark], sizes[shark]) for shark in sorted(objects, key=str)}
