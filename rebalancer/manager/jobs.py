"""Jobs: made, listed, changed while they run, and run one after the other."""

import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from rebalancer import wire
from rebalancer.config import ManagerConfig, read_token
from rebalancer.domain.objects import Shark, is_loose_uuid, is_storage_id
from rebalancer.domain.states import JobEvent, JobState, ObjectStatus
from rebalancer.errors import (
    BadRequest,
    Conflict,
    JobFailed,
    PeerError,
    Refused,
    StoreError,
    Unprocessable,
    leaves,
)
from rebalancer.log import get_logger
from rebalancer.manager import pipeline, store, views
from rebalancer.manager.actions import ACTIONS, Action
from rebalancer.manager.actions.evacuate import EvacuateParams
from rebalancer.manager.fleet import Fleet
from rebalancer.manager.index import JobIndex, JobRow
from rebalancer.manager.job import Job
from rebalancer.manager.ledger import Ledgers
from rebalancer.manager.listings import EarlierJob, Listing, ObjectsFile, check
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.preflight import preflight
from rebalancer.manager.updaters import Updaters
from rebalancer.peers import scan
from rebalancer.peers.agents import Agents
from rebalancer.peers.http import HttpClient
from rebalancer.peers.moray.client import MorayClient, open_moray
from rebalancer.peers.postgres import PostgresShard, open_postgres
from rebalancer.retry import insistently

MIN_UPDATERS, MAX_UPDATERS = 1, 250
STORAGE_BUCKET = "manta_storage"
#: Tries to read the evacuated shark's record when a job starts.
TRIES = 8

log = get_logger()


@attrs.frozen
class JobView:
    """A job as the API shows it."""

    row: JobRow
    known: views.Overview


@attrs.define(eq=False)
class Jobs:
    """All jobs of a manager.

    Mutable state: the configuration for the next job, the job that runs, and an event that
    wakes the runner when there is a new one.
    """

    config: ManagerConfig
    index: JobIndex
    fleet: Fleet
    http: HttpClient
    metrics: ManagerMetrics
    ledgers: Ledgers = attrs.field(factory=Ledgers)
    _running: Job | None = None
    _created: trio.Event = attrs.field(factory=trio.Event)

    # --- requests ------------------------------------------------------------------------

    async def create(self, body: Any) -> str:
        """Make a job of the body of POST /jobs; its id.

        Raises:
          Refused, BadRequest, Unprocessable: nothing was made.
        """
        action, params = _read_new_job(body)
        origin = Shark("", _full_name(params.from_shark, self.config.domain_name))
        return await self._add(
            action,
            {
                "from_shark": origin.manta_storage_id,
                "max_objects": params.max_objects or None,
                "objects_file": params.objects_file,
                "strict": params.strict,
            },
        )

    async def retry(self, job_id: str) -> str:
        """Make a job of what an earlier one skipped or could not do; its id.

        Raises:
          Refused, BadRequest: nothing was made.
          Conflict: the earlier job has not ended.
        """
        row = await self._known(job_id)
        # Of a state that nobody knows nothing is known either.
        if row.state not in (JobState.COMPLETE, JobState.FAILED, JobState.STOPPED):
            raise Conflict(
                f"Job {row.id} is still {row.state}: it can be retried when it has ended"
            )
        return await self._add(
            row.action, {"from_shark": row.params["from_shark"], "retry_of": row.id}
        )

    async def _add(self, action: str, params: dict[str, Any]) -> str:
        if self.config.snaplink_cleanup_required:
            raise Refused("Snaplink Cleanup Required")
        if (listing := self._listing(params)) is not None:
            try:
                await trio.to_thread.run_sync(check, listing)
            except (JobFailed, StoreError) as exc:
                raise BadRequest(str(exc)) from exc
        job_id = str(uuid.uuid4())
        # The file first: a job on the list always has one.
        origin = Shark("", params["from_shark"])
        await trio.to_thread.run_sync(store.create, self._file(job_id), origin)
        await self.index.add(job_id, action, params)
        log.info("job", job=job_id, state=JobState.SETUP, action=action, **params)
        self._created.set()
        return job_id

    def _listing(self, params: Mapping[str, Any]) -> Listing | None:
        if (earlier := params.get("retry_of")) is not None:
            return EarlierJob(self._file(earlier))
        if (path := params.get("objects_file")) is not None:
            return ObjectsFile(Path(path))
        return None

    async def list(self) -> list[JobRow]:
        """Every job, oldest first."""
        return await self.index.all()

    async def view(self, job_id: str) -> JobView:
        """One job with its counts.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
        """
        row = await self._known(job_id)
        return JobView(row, await trio.to_thread.run_sync(views.read_job, self._file(row.id)))

    async def _known(self, job_id: str) -> JobRow:
        row = await self.index.get(checked_id(job_id))
        if row is None:
            raise BadRequest(f"Could not find job UUID: {job_id}")
        return row

    async def change(self, job_id: str, body: Any) -> None:
        """Carry out the body of PUT /jobs/{id} on the running job.

        Raises:
          BadRequest, Unprocessable: nothing was changed.
        """
        updaters = _read_change(body)
        row = await self.index.get(checked_id(job_id))
        if row is None:
            raise BadRequest(f"Could not find job {job_id}")
        job = self._running
        if job is None or job.id != row.id:
            raise BadRequest("Attempt to update job that is not running")
        if job.config.options.use_static_md_update_threads:
            raise BadRequest(f"Job ({row.id}) does not support dynamic configuration updates")
        _check_updaters(updaters)
        job.updaters.resize(updaters)
        for shard in job.moray.values():
            shard.resize(updaters)
        log.info("updaters", job=row.id, limit=updaters)

    # --- running -------------------------------------------------------------------------

    async def run(self) -> None:
        """Run jobs, one at a time, for ever; first those that an earlier run left."""
        while True:
            self._created = trio.Event()
            row = await self.index.next()
            if row is None:
                await self._created.wait()
                continue
            await self._run(row)

    async def _run(self, row: JobRow) -> None:
        """Run one job to its end, which is recorded; cancelled, it goes on at the next start."""
        if row.state != JobState.RUNNING:
            await self.index.advance(row.id, JobEvent.STARTED)
        else:
            log.info("job", job=row.id, state=JobState.RUNNING, resumed=True)
        try:
            await self._work(row)
        except* (JobFailed, PeerError, StoreError) as group:
            causes = sorted({str(exc) for exc in leaves(group)})
            await self.index.advance(row.id, JobEvent.BROKE, "; ".join(causes))
        except* Exception as group:
            log.error("job broke", job=row.id, exc_info=group)
            causes = sorted({repr(exc) for exc in leaves(group)})
            await self.index.advance(row.id, JobEvent.BROKE, "; ".join(causes))
        else:
            await self.index.advance(row.id, JobEvent.FINISHED)

    async def _work(self, row: JobRow) -> None:
        config = self.config
        threads = config.options.max_metadata_update_threads
        token = await trio.to_thread.run_sync(read_token, config.agent_token_file)
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            names = {shard.number: shard.host for shard in config.shards}
            shards = await enter(open_moray(names, config.hosts, connections=threads))
            clones: dict[int, PostgresShard] = {}
            if config.discovery == "direct_db":
                clones = await enter(open_postgres(_clones(config), config.hosts))
            scanned: Mapping[int, scan.Shard] = clones or shards
            job_store = await enter(store.open_store(self._file(row.id)))
            origin = await _validated_origin(job_store, shards, row.params["from_shark"])
            job = Job(
                id=row.id,
                action=_action(row.action, origin, config),
                config=config,
                store=job_store,
                fleet=self.fleet,
                agents=Agents(self.http, config.agent_port, token, config.agent_dialects),
                scanned=scanned,
                moray=shards,
                listing=self._listing(row.params),
                metrics=self.metrics,
                ledger=stack.enter_context(
                    self.ledgers.open(config.options.max_assignments_per_shark)
                ),
                updaters=Updaters(threads, config.metadata_timeout, self.metrics.updaters),
                max_objects=row.params.get("max_objects"),
            )
            self._running = job
            try:
                if not await job_store.has_begun():
                    strict = bool(row.params.get("strict"))
                    await _prepare(job, {} if job.listing else clones, strict=strict)
                await pipeline.run(job)
            finally:
                self._running = None

    def _file(self, job_id: str) -> Path:
        return Path(self.config.data_dir) / f"{job_id}.sqlite"


def _action(name: str, origin: Shark, config: ManagerConfig) -> Action:
    return ACTIONS[name](origin, config.exclude_key_prefixes)


def _clones(config: ManagerConfig) -> dict[int, str]:
    domain = config.domain_name
    return {shard.number: f"{shard.number}.rebalancer-postgres.{domain}" for shard in config.shards}


def checked_id(job_id: str) -> str:
    """`job_id` in lower case.

    Raises:
      BadRequest: it is no UUID.
    """
    if not is_loose_uuid(job_id):
        raise BadRequest(f"Invalid UUID: {job_id}")
    return job_id.lower()


def _read_new_job(body: Any) -> tuple[str, EvacuateParams]:
    if not isinstance(body, dict) or not isinstance(body.get("action"), str):
        raise Unprocessable("action: expected the name of one as a string")
    if body["action"] not in ACTIONS:
        raise Unprocessable(f"action: expected one of {', '.join(ACTIONS)}, got {body['action']}")
    try:
        params = wire.structure(body.get("params"), EvacuateParams)
    except BadRequest as exc:
        raise Unprocessable(f"params: {exc}") from exc
    if params.max_objects is not None and params.max_objects < 0:
        raise Unprocessable("params.max_objects: expected a number not below 0")
    if params.objects_file is not None and not Path(params.objects_file).is_absolute():
        raise Unprocessable("params.objects_file: expected the absolute path of a file")
    if not is_storage_id(params.from_shark) or ":" in params.from_shark:
        raise BadRequest(f"params.from_shark: {params.from_shark!r} is no name of a storage node")
    return body["action"], params


def _full_name(name: str, domain: str) -> str:
    return name if name.endswith(f".{domain}") else f"{name}.{domain}"


def _read_change(body: Any) -> int:
    match body:
        case {"action": "set_metadata_threads", "params": int(count)} if count is not True:
            return count
        case {"action": "set_metadata_threads"}:
            raise Unprocessable("params: expected a whole number of threads")
    raise Unprocessable("action: expected set_metadata_threads")


def _check_updaters(count: int) -> None:
    if count < MIN_UPDATERS:
        raise BadRequest(f"Cannot set metadata update threads below {MIN_UPDATERS}")
    if count > MAX_UPDATERS:
        raise BadRequest(f"Cannot set metadata update threads above {MAX_UPDATERS}")


async def _prepare(job: Job, clones: Mapping[int, PostgresShard], *, strict: bool) -> None:
    """Record what the pre-flight finds.

    Raises:
      JobFailed: storinfo lists no nodes, or something was found and the job is `strict`.
    """
    await job.fleet.ready()
    origin = job.action.origin.manta_storage_id
    findings = await preflight(job.config, origin, job.fleet.nodes, job.agents, job.moray, clones)
    for finding in findings:
        log.warning("pre-flight", job=job.id, check=finding.check, detail=finding.detail)
    await job.store.warn(findings)
    if findings and strict:
        raise JobFailed("pre-flight: " + "; ".join(finding.detail for finding in findings))


async def _validated_origin(
    job_store: store.JobStore, shards: dict[int, MorayClient], name: str
) -> Shark:
    """The evacuated shark with its datacenter, from its heartbeat's record on the first shard.

    storinfo cannot tell: it does not list a node that takes no writes.

    Raises:
      JobFailed: SharkNotFound; PeerError: the shard does not answer.
    """
    known = await job_store.origin()
    if known is not None and known.datacenter:
        return known
    first = shards[min(shards)]
    find = partial(first.find_objects, STORAGE_BUCKET, f"(manta_storage_id={name})", 2)
    records = await insistently(find, tries=TRIES, first_s=0.5, longest_s=15.0)
    datacenters = {record.value.get("datacenter") for record in records}
    if len(datacenters) != 1 or not isinstance(datacenter := datacenters.pop(), str):
        raise JobFailed(f"SharkNotFound: {name} is not in {STORAGE_BUCKET} exactly once")
    origin = Shark(datacenter, name)
    await job_store.set_origin(origin)
    return origin


def results(status: store.Status) -> dict[str, int]:
    """The `results` of GET /jobs/{id}."""
    counts = {
        "Unprocessed": status.objects(ObjectStatus.UNPROCESSED),
        "Assigned": status.objects(ObjectStatus.ASSIGNED),
        "Skipped": status.objects(ObjectStatus.SKIPPED),
        "Error": status.objects(ObjectStatus.ERROR),
        "Post Processing": status.objects(ObjectStatus.POST_PROCESSING),
        "Complete": status.objects(ObjectStatus.COMPLETE),
        "Duplicates": status.objects("duplicates"),
    }
    return {"Total": sum(counts.values()), **counts}
