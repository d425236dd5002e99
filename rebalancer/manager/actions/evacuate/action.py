"""This module is what evacuations are to the manager: their parameters, and the flow of a job."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from rebalancer.actions.evacuate import EvacuateParams
from rebalancer.config import ManagerConfig
from rebalancer.domain.states import ObjectStatus
from rebalancer.domain.tiers import Tier, read_tiers, tier_of
from rebalancer.domain.verdicts import End, Scope, Verdict, of_evacuation
from rebalancer.errors import BadRequest, Conflict, JobFailed, Refused, StoreError
from rebalancer.log import get_logger
from rebalancer.manager.actions.action import Known, Plan, PlanLook
from rebalancer.manager.actions.evacuate.job import Opened, make_job
from rebalancer.manager.actions.evacuate.origin import is_whole, validated_origin
from rebalancer.manager.actions.evacuate.plan import make_plan
from rebalancer.manager.actions.evacuate.preflight import preflight_of
from rebalancer.manager.actions.evacuate.retries import (
    is_imported,
    listing_of,
    params_of_retry,
    read_left,
    scans_shards,
)
from rebalancer.manager.actions.lookup import full_name, look_up_node
from rebalancer.manager.jobs.assembly import Resources, open_shards
from rebalancer.manager.jobs.files import read_job_file
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job, unless
from rebalancer.manager.pipeline.listings import check
from rebalancer.manager.store import destinations, job_info, scans, views
from rebalancer.manager.store.records import Finding
from rebalancer.threads import Work, run_sync

if TYPE_CHECKING:
    from rebalancer.manager.jobs.running import RunningJob

log = get_logger()


class EvacuateAction:
    """Evacuations empty the storage node `from_shark` of their parameters."""

    def params(self, given: EvacuateParams, config: ManagerConfig) -> dict[str, Any]:
        """Return what is kept of the parameters of a request."""
        return {
            "from_shark": full_name(given.from_shark, config.domain_name),
            "max_objects": given.max_objects or None,
            "objects_file": given.objects_file,
            "strict": given.strict,
            "tiers": None if given.tiers is None else sorted(given.tiers),
        }

    async def check(self, params: Mapping[str, Any], resources: Resources, _known: Known) -> None:
        """Check what can be known before a job has its turn.

        Raises:
          Refused: no evacuation is allowed at all.
          BadRequest: the listing cannot be read.
          Conflict: it is to take bucket objects, at which the manager does not look.
        """
        if resources.config.snaplink_cleanup_required:
            raise Refused("Snaplink Cleanup Required")
        if Tier.BUCKETS in (params.get("tiers") or ()) and not resources.config.looks_at_buckets:
            why = "the manager looks at no bucket objects without buckets_primary"
            raise Conflict(f"params.tiers: {why}")
        if (listing := listing_of(params, resources.file)) is not None:
            try:
                await run_sync(Work.OTHER, check, listing)
            except (JobFailed, StoreError) as exc:
                raise BadRequest(str(exc)) from exc

    async def look_up(self, params: Mapping[str, Any], config: ManagerConfig) -> Sequence[Finding]:
        """Look the evacuated node up; if that cannot be done now, the job does it.

        Raises:
          BadRequest: there is no such node.
        """
        return await look_up_node(params["from_shark"], config)

    def used_jobs(self, params: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the ids of the jobs that a retry job goes on with, each with the verb for that."""
        earlier = (params.get("retry_of"), *params.get("chain", ()))
        return {job_id: "retries" for job_id in earlier if job_id is not None}

    async def retry(self, row: JobRow, known: Known, resources: Resources) -> dict[str, Any]:
        """Return the parameters of a job that retries `row`, as `params_of_retry` does.

        Raises:
          BadRequest: something of the earlier jobs is missing that cannot be found anew.
          Unavailable, Damaged: how many of a limited number of objects it moved cannot be read.
        """
        taken = 0
        if row.params.get("max_objects") is not None:
            overview = await read_job_file(views.read_job, resources.file(row.id))
            taken = overview.status.objects(ObjectStatus.COMPLETE)
        return params_of_retry(row, known, taken)

    def verdict(self, row: JobRow, end: End, config: ManagerConfig) -> Verdict:
        """Return whether an ended evacuation has emptied its node.

        A shard that `config` has now may have been left out, or not there, when the job ran.
        """
        params, scope = row.params, set[Scope]()
        if is_imported(params):
            scope.add(Scope.IMPORTED)
        if params.get("max_objects") is not None:
            scope.add(Scope.MAX_OBJECTS)
        if params.get("objects_file") is not None:
            scope.add(Scope.OBJECTS_FILE)
        if not scope and not scans_shards(params):
            scope.add(Scope.RETRIED)
        if not scope and end.remaining is None:
            scope.add(Scope.NO_FINAL_SCAN)
        tiers = read_tiers(params.get("tiers"))
        has_both = config.has_bucket_objects or config.looks_at_buckets
        if Tier.DIRECTORY not in tiers or (has_both and Tier.BUCKETS not in tiers):
            scope.add(Scope.TIERS_LEFT_OUT)
        wanted = {number for number in config.shard_numbers if tier_of(number) in tiers}
        is_scanned = wanted <= set(end.shards)
        is_bounded = config.bounds_shards and not is_imported(params)
        if is_bounded or (end.remaining is not None and not is_scanned):
            scope.add(Scope.SOME_SHARDS)
        has_buckets = config.has_unseen_buckets and Tier.BUCKETS in tiers
        node = params["from_shark"]
        return of_evacuation(row.id, node, row.state, scope, end, has_buckets=has_buckets)

    async def plan(
        self, resources: Resources, params: dict[str, Any], note: Callable[[PlanLook], None]
    ) -> Plan:
        """Tell what a job would do, as `make_plan` does."""
        return await make_plan(resources, params, note)

    async def run(self, running: "RunningJob") -> None:
        """Run the pipeline of an evacuation."""
        async with _open(running) as opened:
            if not await _find_origin(running, opened):
                return  # it was cancelled, and nothing of it had begun
            job = await make_job(
                running.resources,
                running.row,
                running.config,
                opened,
                metrics=running.resources.metrics,
                waits=running.waits,
                cancelled=running.cancelled,
            )
            with running.controlling(job):
                if not job.cancelled.is_set() and not await job.store.read(scans.has_begun):
                    await job.unless_cancelled(partial(_prepare, running, job, opened))
                limited = await _limited(running, job)
                async with running.measuring(job.store), job.bandwidth.in_force(limited):
                    await flow.run(job)


@asynccontextmanager
async def _open(running: "RunningJob") -> AsyncIterator[Opened]:
    config = running.config
    async with AsyncExitStack() as stack:
        shards = await stack.enter_async_context(open_shards(config))
        store = await stack.enter_async_context(running.open_store())
        limit = config.options.max_assignments_per_shark
        yield Opened(shards, store, stack.enter_context(running.resources.fleet_ledger.open(limit)))


async def _find_origin(running: "RunningJob", opened: Opened) -> bool:
    """Look the evacuated node up; return False if the job was cancelled before that was done."""
    if is_whole(await opened.store.read(job_info.read_origin)):
        return True
    node = running.row.params["from_shark"]
    moray = opened.shards.moray
    await unless(
        running.cancelled, partial(validated_origin, opened.store, moray, node, running.waits)
    )
    return not running.cancelled.is_set()


async def _limited(running: "RunningJob", job: Job) -> list[str]:
    """Return the destinations whose agents an earlier run may have announced a limit to."""
    if "bandwidth_bytes_per_s" not in running.row.params.get("tuning", {}):
        return []
    return [row["shark"] for row in await job.store.read(destinations.read_destinations)]


async def _prepare(running: "RunningJob", job: Job, opened: Opened) -> None:
    """Do what comes before an evacuation looks for objects.

    Raises:
      JobFailed: something is amiss, and the job is to be strict.
      StoreError: the file of a job that it retries cannot be read.
    """
    await job.node_list.ready(job.waits)
    findings = await preflight_of(job, opened.shards)
    for finding in findings:
        log.warning("pre-flight", job=job.id, check=finding.check, detail=finding.detail)
    await job.store.write(job_info.write_warnings, findings)
    if findings and running.row.params.get("strict"):
        raise JobFailed("pre-flight: " + "; ".join(finding.detail for finding in findings))
    await _take_over(running, job)


async def _take_over(running: "RunningJob", job: Job) -> None:
    """Let a retry job go on where the jobs before it stopped looking.

    Raises:
      StoreError: one of their files cannot be read.
    """
    params = running.row.params
    if "scans" in params:
        positions, shards = await run_sync(Work.VIEWS, read_left, params, running.resources.file)
        if not job.scans_shards:
            shards = frozenset()
        await job.store.write(scans.continue_scans, positions, shards)
