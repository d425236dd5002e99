"""This module runs jobs: which may run now, what each is made of, and how it ends.

Pausing a job is cancelling its pipeline, as the end of the process is; going on is recovery.
Cancelling lets it drain: nothing more begins, and what agents still finish is recorded.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import attrs
import trio

from rebalancer import wire
from rebalancer.config import ManagerConfig, read_token
from rebalancer.domain.objects import Shark
from rebalancer.domain.states import AT_WORK, JobEvent, JobState, ObjectStatus, words_of
from rebalancer.errors import (
    ConfigError,
    IllegalTransition,
    JobFailed,
    PeerError,
    PeerUnreachable,
    StoreError,
    leaves,
)
from rebalancer.log import get_logger
from rebalancer.manager.actions import ACTIONS, Action
from rebalancer.manager.fleet.ledger import Ledger, Ledgers
from rebalancer.manager.fleet.nodes import Fleet
from rebalancer.manager.fleet.throttle import Throttle
from rebalancer.manager.fleet.update_limiter import Updaters
from rebalancer.manager.jobs.index import JobIndex, JobRow
from rebalancer.manager.jobs.preflight import preflight
from rebalancer.manager.jobs.retries import listing_of, read_left, scans_shards
from rebalancer.manager.jobs.tuning import Tuning, reloaded, tuned
from rebalancer.manager.metrics import ManagerMetrics
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job, unless
from rebalancer.manager.pipeline.listings import Listing
from rebalancer.manager.store import job_info, scans
from rebalancer.manager.store.job_store import JobStore, open_store
from rebalancer.peers.agents import Agents
from rebalancer.peers.http import HttpClient
from rebalancer.peers.moray.client import MorayClient, Record, open_moray
from rebalancer.peers.postgres import PostgresShard, open_postgres
from rebalancer.rates import HOUR_S, Rates
from rebalancer.retry import is_transient, pauses, retry_while_transient
from rebalancer.threads import Work, run_sync
from rebalancer.tokens import Token
from rebalancer.waits import Waits

STORAGE_BUCKET = "manta_storage"
#: A job that broke for what passes begins again after pauses in seconds that grow between these.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
#: One that has run for so many seconds since is taken to be sound again.
SOUND_S = 60.0
#: What is waited for then, in words.
MACHINE = "this machine, or its peers"
#: What is waited for, in words, if the agents' token cannot be read.
TOKEN = "the agents' token"
#: Seconds between two measurements of how far a job is; they are kept for an hour.
SAMPLE_S = 5.0

T = TypeVar("T")

log = get_logger()


@attrs.define(eq=False)
class Running:
    """A job that has its turn.

    Mutable state: the job's row as it was last recorded; the configuration it began with, as
    far as the file has not changed; the job itself, once its peers are known; what it waits for;
    whether nothing more of it is to be begun.
    """

    row: JobRow
    base: ManagerConfig
    job: Job | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    cancelled: trio.Event = attrs.field(factory=trio.Event)
    waits: Waits = attrs.field(
        default=attrs.Factory(lambda running: Waits(job=running.row.id), takes_self=True)
    )
    #: Objects settled, and bytes moved.
    rates: Rates = attrs.field(factory=lambda: Rates(HOUR_S + SAMPLE_S))

    @property
    def shark(self) -> str:
        """Return the one it empties."""
        return str(self.row.params["from_shark"])

    @property
    def tuning(self) -> Tuning:
        """Return what the operator has changed."""
        return read_tuning(self.row)

    def pause(self, row: JobRow) -> None:
        """Stop the job as it is; `row` records that."""
        self.row = row
        self.scope.cancel()

    def cancel(self, row: JobRow) -> None:
        """Let the job begin nothing more; `row` records that."""
        self.row = row
        self.cancelled.set()
        if self.job is not None:
            self.job.cancel()

    def apply(self) -> None:
        """Put the configuration and the operator's changes in force."""
        if self.job is not None:
            self.job.configure(tuned(self.base, self.tuning))


def read_tuning(row: JobRow) -> Tuning:
    """Return what an operator has changed of a job."""
    return wire.structure(row.params.get("tuning", {}), Tuning)


@attrs.define(eq=False)
class Runner:
    """The jobs that run.

    Mutable state: the configuration for the next job; the jobs that have their turn, by id; the
    names of all sharks that jobs have yet to empty; the lock of whoever decides on the state of a
    job that does not run; an event that makes `run` look again.
    """

    config: ManagerConfig
    index: JobIndex
    fleet: Fleet
    http: HttpClient
    metrics: ManagerMetrics
    #: What agents want to see; the jobs that run have it read again too.
    agent_token: Token = attrs.field(factory=Token)
    ledgers: Ledgers = attrs.field(factory=Ledgers)
    running: dict[str, Running] = attrs.field(factory=dict)
    deciding: trio.Lock = attrs.field(factory=trio.Lock)
    _evacuating: frozenset[str] = frozenset()
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def look_again(self) -> None:
        """A job was added or changed: see what may run now."""
        self._changed.set()

    def file(self, job_id: str) -> Path:
        """Return the file of a job."""
        return Path(self.config.data_dir) / f"{job_id}.sqlite"

    def listing(self, params: Mapping[str, Any]) -> Listing | None:
        """Return the records that a job reads anew, before it scans or instead."""
        return listing_of(params, self.file)

    def reload(self, config: ManagerConfig) -> None:
        """Take a new configuration: for the next job, and what is live for those that run."""
        self.config = config
        for running in self.running.values():
            running.base = reloaded(running.base, config)
            running.apply()
        self.look_again()

    async def run(self) -> None:
        """Run jobs for ever; first those that an earlier run of the manager left."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                async with self.deciding:
                    rows = await _surely(self.index.unfinished)
                    self._evacuating = frozenset(row.params["from_shark"] for row in rows)
                    for row in rows:
                        if self._may_start(row):
                            begun = await self._begin(row)
                            running = self.running[row.id] = Running(begun, self.config)
                            nursery.start_soon(self._run, running)
                await self._changed.wait()

    def _may_start(self, row: JobRow) -> bool:
        if row.id in self.running or row.state is JobState.PAUSED:
            return False
        if any(other.shark == row.params["from_shark"] for other in self.running.values()):
            return False
        # What only drains takes no turn.
        drains = (JobState.CANCELLING, JobState.DRAINING)
        busy = sum(other.row.state not in drains for other in self.running.values())
        return row.state in drains or busy < self.config.max_concurrent_jobs

    async def _run(self, running: Running) -> None:
        """Run one job to its end, which is recorded; cut off, it goes on at the next start."""
        if running.row.state is JobState.DRAINING:
            running.cancelled.set()
        if running.row.state is JobState.PAUSING:
            running.scope.cancel()  # it was asked for when there was no time to
        try:
            event, error = await self._attempt(running)
            # An operator may have decided something of the job meanwhile, as of one that runs.
            async with self.deciding:
                await self._end(running, event, error)
        finally:
            del self.running[running.row.id]
            running.ended.set()
            self.look_again()

    async def _begin(self, row: JobRow) -> JobRow:
        if row.state not in AT_WORK:
            return await self._record(row.id, JobEvent.STARTED)
        log.info("job", job=row.id, state=words_of(JobState.RUNNING).state, resumed=True)
        return row

    async def _attempt(self, running: Running) -> tuple[JobEvent, str | None]:
        """Do the job's work for as long as it is to run; what became of it, and why."""
        event, error = JobEvent.FINISHED, None
        try:
            with running.scope:
                await self._work_through(running)
        except* Exception as group:
            # One that is paused meets again whatever passes, when it is resumed.
            is_paused = running.scope.cancel_called and is_transient(group)
            event = JobEvent.RESTED if is_paused else JobEvent.BROKE
            error = None if is_paused else _causes(running.row.id, group)
        else:
            if running.scope.cancelled_caught:
                event = JobEvent.RESTED
        return event, error

    async def _end(self, running: Running, event: JobEvent, error: str | None) -> None:
        """Record what became of a job."""
        try:
            await self._record(running.row.id, event, error)
        except IllegalTransition as exc:  # a person has changed the list of jobs
            log.error("state of a job not recorded", job=running.row.id, error=str(exc))

    async def _record(self, job_id: str, event: JobEvent, error: str | None = None) -> JobRow:
        """Record what has happened to a job, as soon as this machine can."""
        return await _surely(partial(self.index.advance, job_id, event, error))

    async def _work_through(self, running: Running) -> None:
        """Do the job's work; if it breaks for what passes, begin again after a pause.

        That is what a restart of the manager would do, and what it would find is the same.
        """
        pause, begun = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S), trio.current_time()
        while True:
            try:
                await self._work(running)
            except Exception as exc:
                if not is_transient(exc):
                    raise
                if trio.current_time() - begun > SOUND_S:
                    pause = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
                group = exc if isinstance(exc, ExceptionGroup) else ExceptionGroup("", [exc])
                running.waits.begin(MACHINE, "; ".join(sorted({str(one) for one in leaves(group)})))
                await trio.sleep(next(pause))
                begun = trio.current_time()
            else:
                running.waits.end(MACHINE)
                return

    async def _work(self, running: Running) -> None:
        row, config = running.row, tuned(running.base, running.tuning)
        async with AsyncExitStack() as stack:
            shards = await stack.enter_async_context(open_shards(config))
            job_store = await stack.enter_async_context(
                # A job on the list has a file: one that is gone is not begun anew.
                open_store(self.file(row.id), waits=running.waits, must_exist=True)
            )
            limit = config.options.max_assignments_per_shark
            ledger = stack.enter_context(self.ledgers.open(limit))
            look_up = partial(
                validated_origin, job_store, shards.moray, running.shark, running.waits
            )
            if not _is_whole(await job_store.read(job_info.read_origin)):
                await unless(running.cancelled, look_up)
                if running.cancelled.is_set():
                    return  # nothing had begun
            job = await self.make_job(
                row,
                config,
                shards,
                job_store,
                ledger,
                self.metrics,
                waits=running.waits,
                cancelled=running.cancelled,
            )
            stack.callback(setattr, running, "job", None)
            running.job = job
            running.apply()
            if not job.cancelled.is_set() and not await job_store.read(scans.has_begun):
                await job.unless_cancelled(partial(self._prepare, job, shards, row.params))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_measure, job, running.rates)
                nursery.start_soon(_note_sound, running.waits)
                await flow.run(job)
                nursery.cancel_scope.cancel()

    async def _prepare(self, job: Job, shards: "Shards", params: Mapping[str, Any]) -> None:
        """Do what comes before a job looks for objects.

        Raises:
          JobFailed: something is amiss, and the job is to be strict.
          StoreError: the file of a job that it retries cannot be read.
        """
        await _prepare(job, shards, strict=bool(params.get("strict")))
        await self._take_over(job, params)

    async def _take_over(self, job: Job, params: Mapping[str, Any]) -> None:
        """Let a retry go on where the jobs before it stopped looking.

        Raises:
          StoreError: one of their files cannot be read.
        """
        if "scans" in params:
            positions, shards = await run_sync(Work.VIEWS, read_left, params, self.file)
            shards = shards if job.scans else frozenset()
            await job.store.write(scans.continue_scans, positions, shards)

    async def make_job(
        self,
        row: JobRow,
        config: ManagerConfig,
        shards: "Shards",
        job_store: JobStore,
        ledger: Ledger,
        metrics: ManagerMetrics,
        *,
        waits: Waits,
        cancelled: trio.Event,
        patience_s: float = math.inf,
    ) -> Job:
        """Put a job's parts together.

        What does not answer is waited for, `patience_s` seconds each.

        Raises:
          JobFailed: the evacuated shark is unknown.
          PeerError: the first shard does not answer.
          ConfigError: the agents' token cannot be read.
        """
        token = await _read_token(config.agent_token_file, waits, patience_s)
        self.agent_token.value = token
        shark = row.params["from_shark"]
        origin = await validated_origin(job_store, shards.moray, shark, waits, patience_s)
        threads = config.options.max_metadata_update_threads
        http = self.http.over("https" if config.agent_tls else "http")
        agents = Agents(http, config.agent_port, self.agent_token, config.agent_dialects)
        return Job(
            id=row.id,
            action=make_action(row.action, origin, config),
            config=config,
            store=job_store,
            fleet=self.fleet,
            agents=agents,
            throttle=Throttle(agents, read_tuning(row).bandwidth_bytes_per_s),
            scanned=shards.clones or shards.moray,
            moray=shards.moray,
            listing=self.listing(row.params),
            scans=scans_shards(row.params),
            metrics=metrics,
            ledger=ledger,
            updaters=Updaters(threads, config.metadata_timeout, metrics.updaters, waits),
            waits=waits,
            cancelled=cancelled,
            patience_s=patience_s,
            max_objects=row.params.get("max_objects"),
            evacuating=lambda: self._evacuating,
        )


async def _surely(ask: Callable[[], Awaitable[T]]) -> T:
    """Use the list of jobs, without which the manager can do nothing, however long that takes."""
    return await retry_while_transient(
        ask, waits=Waits(), subject="the list of jobs", first_s=FIRST_PAUSE_S
    )


def _causes(job_id: str, group: BaseExceptionGroup[Exception]) -> str:
    """Return why a job broke, for people; what is a mistake of ours is logged."""
    told, ours = group.split((JobFailed, PeerError, StoreError))
    causes = set() if told is None else {str(exc) for exc in leaves(told)}
    if ours is not None:
        log.error("job broke", job=job_id, exc_info=ours)
        causes |= {repr(exc) for exc in leaves(ours)}
    return "; ".join(sorted(causes))


async def _measure(job: Job, rates: Rates) -> None:
    while True:
        status = await job.store.status()
        rates.add(trio.current_time(), status.settled, status.size(ObjectStatus.COMPLETE))
        await trio.sleep(SAMPLE_S)


async def _note_sound(waits: Waits) -> None:
    """Note that what had broken a job is over, once the job has run for a while."""
    await trio.sleep(SOUND_S)
    waits.end(MACHINE)


async def _read_token(path: str, waits: Waits, patience_s: float) -> str | None:
    """Read the agents' token; a file that is not there may be on its way.

    Raises:
      ConfigError: it cannot be read for `patience_s` seconds.
    """

    async def ask() -> str | None:
        try:
            return await run_sync(Work.OTHER, read_token, path)
        except ConfigError as exc:
            raise PeerUnreachable(str(exc)) from exc

    return await retry_while_transient(ask, waits=waits, subject=TOKEN, bound_s=patience_s)


@attrs.frozen
class Shards:
    """The metadata of a region: live, and the clones of it that are scanned, if there are any."""

    moray: Mapping[int, MorayClient]
    clones: Mapping[int, PostgresShard]


@asynccontextmanager
async def open_shards(config: ManagerConfig) -> AsyncIterator[Shards]:
    """The configured shards.  Nothing is connected yet."""
    threads = config.options.max_metadata_update_threads
    names = {shard.number: shard.host for shard in config.shards}
    async with open_moray(names, config.hosts, connections=threads) as moray:
        if config.discovery != "direct_db":
            yield Shards(moray, {})
            return
        async with open_postgres(_clones(config), config.hosts) as clones:
            yield Shards(moray, clones)


def make_action(name: str, origin: Shark, config: ManagerConfig) -> Action:
    """Return what a job of this kind decides."""
    return ACTIONS[name](origin, config.exclude_key_prefixes)


def _clones(config: ManagerConfig) -> dict[int, str]:
    domain = config.domain_name
    return {shard.number: f"{shard.number}.rebalancer-postgres.{domain}" for shard in config.shards}


async def _prepare(job: Job, shards: Shards, *, strict: bool) -> None:
    """Record what the pre-flight finds.

    Raises:
      JobFailed: something was found and the job is `strict`.
    """
    await job.fleet.ready(job.waits)
    clones = shards.clones if job.scans else {}
    origin = job.action.origin.manta_storage_id
    findings = await preflight(job.config, origin, job.fleet.nodes, job.agents, job.moray, clones)
    for finding in findings:
        log.warning("pre-flight", job=job.id, check=finding.check, detail=finding.detail)
    await job.store.write(job_info.write_warnings, findings)
    if findings and strict:
        raise JobFailed("pre-flight: " + "; ".join(finding.detail for finding in findings))


async def storage_records(first: MorayClient, name: str) -> list[Record]:
    """Read what the first shard knows of a storage node: no record, one, or two if more.

    Raises:
      PeerError: it does not answer.
    """
    return await first.find_objects(STORAGE_BUCKET, f"(manta_storage_id={name})", 2)


async def is_known(config: ManagerConfig, name: str) -> bool:
    """Ask whether the first shard knows a storage node called `name`.

    Raises:
      PeerError: it does not answer.
    """
    first = min(config.shards, key=lambda shard: shard.number)
    names = {first.number: first.host}
    async with open_moray(names, config.hosts, connections=1) as moray:
        try:
            return bool(await storage_records(moray[first.number], name))
        except PeerError as exc:
            failure = exc  # outside of the nursery, which would make a group of it
    raise failure


def _is_whole(origin: Shark | None) -> TypeGuard[Shark]:
    """Tell whether more of the evacuated shark is known than its name, from the request."""
    return origin is not None and bool(origin.datacenter)


async def validated_origin(
    job_store: JobStore,
    shards: Mapping[int, MorayClient],
    name: str,
    waits: Waits,
    patience_s: float = math.inf,
) -> Shark:
    """The evacuated shark with its datacenter, from its heartbeat's record on the first shard.

    storinfo cannot tell: it does not list a node that takes no writes.

    Raises:
      JobFailed: SharkNotFound; PeerError: the shard does not answer, or not what it should.
    """
    known = await job_store.read(job_info.read_origin)
    if _is_whole(known):
        return known
    number = min(shards)
    find = partial(storage_records, shards[number], name)
    records = await retry_while_transient(
        find, waits=waits, subject=f"shard {number}", bound_s=patience_s
    )
    datacenters = {record.value.get("datacenter") for record in records}
    if len(datacenters) != 1 or not isinstance(datacenter := datacenters.pop(), str):
        raise JobFailed(f"SharkNotFound: {name} is not in {STORAGE_BUCKET} exactly once")
    origin = Shark(datacenter, name)
    await job_store.write(job_info.write_origin, origin)
    return origin
