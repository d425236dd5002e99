"""This module gives the manager the action `verify`: its parameters, its checks and its run."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from rebalancer.actions.evacuate import EVACUATE
from rebalancer.actions.verify import VerifyParams
from rebalancer.config import ManagerConfig
from rebalancer.domain.verdicts import End, Scope, Verdict, of_verification
from rebalancer.errors import BadRequest, Conflict
from rebalancer.manager.actions.action import Known, Plan, PlanLook
from rebalancer.manager.actions.lookup import full_name, look_up_node
from rebalancer.manager.actions.verify.job import VerifyJob
from rebalancer.manager.jobs.assembly import Resources, open_shards
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store.records import Finding

if TYPE_CHECKING:
    from rebalancer.manager.jobs.running import RunningJob


class VerifyAction:
    """Verify jobs compare copies with records; they change nothing but their own files."""

    def params(self, given: VerifyParams, config: ManagerConfig) -> dict[str, Any]:
        """Return the parameters of a request as the list of jobs keeps them."""
        kept = attrs.asdict(given)
        if given.job is not None:
            kept["job"] = given.job.lower()
        if given.shark is not None:
            kept["shark"] = full_name(given.shark, config.domain_name)
        return kept

    async def check(self, params: Mapping[str, Any], _resources: Resources, known: Known) -> None:
        """Check that the job whose objects are to be verified has moved some, and has ended.

        Raises:
          BadRequest: there is no such job, or it moved nothing.
          Conflict: it has not ended.
        """
        if params["job"] is None:
            return
        row = known(params["job"])
        if row is None:
            raise BadRequest(f"Could not find job UUID: {params['job']}")
        if row.action != EVACUATE.name or row.is_broken:
            raise BadRequest(f"Job {row.id} is no evacuation whose objects are known")
        if not row.has_ended:
            raise Conflict(f"Job {row.id} has not ended: what it moves is verified afterwards")

    async def look_up(self, params: Mapping[str, Any], config: ManagerConfig) -> Sequence[Finding]:
        """Look up the node whose objects are to be verified.

        Raises:
          BadRequest: there is no such node.
        """
        return [] if params["shark"] is None else await look_up_node(params["shark"], config)

    def used_jobs(self, params: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the ids of the jobs whose files this job reads, each with the verb for why."""
        used = {params["job"]: "verifies", params.get("retry_of"): "retries"}
        return {job_id: verb for job_id, verb in used.items() if job_id is not None}

    async def retry(self, row: JobRow, known: Known, _resources: Resources) -> dict[str, Any]:
        """Return the parameters of a retry job, which verifies the unconfirmed objects once more.

        Raises:
          BadRequest: the job whose objects are verified was removed.
        """
        if row.params["job"] is not None and known(row.params["job"]) is None:
            raise BadRequest(f"Job {row.params['job']}, whose objects are verified, was removed")
        return {**row.params, "retry_of": row.id}

    def verdict(self, row: JobRow, end: End, config: ManagerConfig) -> Verdict:
        """Return what an ended verification has come to; a job's objects need no scan of shards."""
        node = row.params.get("shark")
        scope = {Scope.SOME_SHARDS} if node is not None and config.bounds_shards else set[Scope]()
        return of_verification(row.id, node or "", row.state, scope, end)

    async def plan(
        self, resources: Resources, params: dict[str, Any], note: Callable[[PlanLook], None]
    ) -> Plan:
        """Refuse a dry run, which the action does not declare.

        Raises:
          BadRequest: always.
        """
        raise BadRequest("verify has no dry run: it changes nothing anyway")

    async def run(self, running: "RunningJob") -> None:
        """Run a verify job; `VerifyJob.run` says what it raises."""
        resources, config = running.resources, running.config
        async with open_shards(config) as shards, running.open_store() as store:
            job = VerifyJob(
                running.row.params,
                config,
                store,
                shards.live,
                resources.http.over("http"),
                running.waits,
                resources.file,
            )
            async with running.measuring(store):
                await job.run(running.cancelled)
