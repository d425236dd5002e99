"""This module does the work of one job that has its turn.

Pausing a job is cancelling its pipeline, as the end of the process is; going on is recovery.
A job that is cancelled is drained: nothing more begins, and what agents finish is recorded.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import attrs
import trio

from rebalancer.config import ManagerConfig
from rebalancer.domain.states import JobEvent, JobState, ObjectStatus
from rebalancer.errors import JobFailed, PeerError, StoreError, leaves
from rebalancer.log import get_logger
from rebalancer.manager.jobs.assembly import (
    Opened,
    Resources,
    make_job,
    open_shards,
    read_tuning,
)
from rebalancer.manager.jobs.origin import is_whole, validated_origin
from rebalancer.manager.jobs.preflight import preflight_of
from rebalancer.manager.jobs.retries import read_left
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.tuning import reloaded, tuned
from rebalancer.manager.pipeline import flow
from rebalancer.manager.pipeline.job import Job, unless
from rebalancer.manager.store import job_info, scans
from rebalancer.manager.store.job_store import open_store
from rebalancer.rates import HOUR_S, Rates
from rebalancer.retry import pauses
from rebalancer.threads import Work, run_sync
from rebalancer.transient import is_transient
from rebalancer.waits import Waits

#: A job that broke for a transient cause begins again after pauses in seconds that grow between
#: these.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
#: A job that has run for so many seconds since is taken to be sound again.
SOUND_S = 60.0
#: The subject of the wait meanwhile, in words.
MACHINE = "this machine, or its peers"
#: Seconds between two measurements of how far a job is; they are kept for an hour.
SAMPLE_S = 5.0

log = get_logger()


@attrs.define(eq=False)
class RunningJob:
    """This object does the work of a job that has its turn.

    Mutable state: the job's row as it was last recorded; the configuration it began with, as
    far as the file has not changed; the job itself, once its peers are known; what it waits for;
    whether nothing more of it is to be begun.
    """

    row: JobRow
    resources: Resources
    base: ManagerConfig = attrs.field(
        default=attrs.Factory(lambda self: self.resources.config, takes_self=True)
    )
    job: Job | None = None
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ended: trio.Event = attrs.field(factory=trio.Event)
    cancelled: trio.Event = attrs.field(factory=trio.Event)
    waits: Waits = attrs.field(
        default=attrs.Factory(lambda self: Waits(job=self.row.id), takes_self=True)
    )
    #: Objects settled, and bytes moved.
    rates: Rates = attrs.field(factory=lambda: Rates(HOUR_S + SAMPLE_S))

    # --- what operators change ------------------------------------------------------------

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

    def tune(self, row: JobRow) -> None:
        """Put the settings in force that `row` records."""
        self.row = row
        self._configure()

    def reload(self, config: ManagerConfig) -> None:
        """Take over from a new configuration what is live."""
        self.base = reloaded(self.base, config)
        self._configure()

    def _configure(self) -> None:
        if self.job is not None:
            self.job.configure(tuned(self.base, read_tuning(self.row)))

    # --- the work -------------------------------------------------------------------------

    async def run(self) -> tuple[JobEvent, str | None]:
        """Do the job's work for as long as it is to run; return what became of it, and why."""
        if self.row.state is JobState.DRAINING:
            self.cancelled.set()
        if self.row.state is JobState.PAUSING:
            self.scope.cancel()  # it was paused, and the manager ended before it had stopped
        event, error = JobEvent.FINISHED, None
        try:
            with self.scope:
                await self._work_through()
        except* Exception as group:
            # One that is paused meets again whatever passes, when it is resumed.
            is_paused = self.scope.cancel_called and is_transient(group)
            event = JobEvent.RESTED if is_paused else JobEvent.BROKE
            error = None if is_paused else _causes(self.row.id, group)
        else:
            if self.scope.cancelled_caught:
                event = JobEvent.RESTED
        return event, error

    async def _work_through(self) -> None:
        """Do the job's work; if it breaks for what passes, begin again after a pause.

        That is what a restart of the manager would do, and what it would find is the same.
        """
        pause, begun = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S), trio.current_time()
        while True:
            try:
                await self._work()
            except Exception as exc:
                if not is_transient(exc):
                    raise
                if trio.current_time() - begun > SOUND_S:
                    pause = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
                group = exc if isinstance(exc, ExceptionGroup) else ExceptionGroup("", [exc])
                self.waits.begin(MACHINE, "; ".join(sorted({str(one) for one in leaves(group)})))
                await trio.sleep(next(pause))
                begun = trio.current_time()
            else:
                self.waits.end(MACHINE)
                return

    async def _work(self) -> None:
        config = tuned(self.base, read_tuning(self.row))
        async with self._open(config) as opened:
            if not await self._find_origin(opened):
                return  # it was cancelled, and nothing of it had begun
            job = await make_job(
                self.resources,
                self.row,
                config,
                opened,
                metrics=self.resources.metrics,
                waits=self.waits,
                cancelled=self.cancelled,
            )
            self.job = job
            try:
                self._configure()
                if not job.cancelled.is_set() and not await job.store.read(scans.has_begun):
                    await job.unless_cancelled(partial(self._prepare, job, opened))
                await self._flow(job)
            finally:
                self.job = None

    @asynccontextmanager
    async def _open(self, config: ManagerConfig) -> AsyncIterator[Opened]:
        async with AsyncExitStack() as stack:
            shards = await stack.enter_async_context(open_shards(config))
            file = self.resources.file(self.row.id)
            # A job on the list has a file: one that is gone is not begun anew.
            opening = open_store(file, waits=self.waits, must_exist=True)
            store = await stack.enter_async_context(opening)
            limit = config.options.max_assignments_per_shark
            ledger = stack.enter_context(self.resources.fleet_ledger.open(limit))
            yield Opened(shards, store, ledger)

    async def _find_origin(self, opened: Opened) -> bool:
        """Look the evacuated node up; return whether it is known, as the job was not cancelled."""
        if is_whole(await opened.store.read(job_info.read_origin)):
            return True
        moray = opened.shards.moray
        look_up = partial(validated_origin, opened.store, moray, self.row.node, self.waits)
        await unless(self.cancelled, look_up)
        return not self.cancelled.is_set()

    async def _prepare(self, job: Job, opened: Opened) -> None:
        """Do what comes before a job looks for objects.

        Raises:
          JobFailed: something is amiss, and the job is to be strict.
          StoreError: the file of a job that it retries cannot be read.
        """
        await job.node_list.ready(job.waits)
        findings = await preflight_of(job, opened.shards.clones)
        for finding in findings:
            log.warning("pre-flight", job=job.id, check=finding.check, detail=finding.detail)
        await job.store.write(job_info.write_warnings, findings)
        if findings and self.row.params.get("strict"):
            raise JobFailed("pre-flight: " + "; ".join(finding.detail for finding in findings))
        await self._take_over(job)

    async def _take_over(self, job: Job) -> None:
        """Let a retry job go on where the jobs before it stopped looking.

        Raises:
          StoreError: one of their files cannot be read.
        """
        params = self.row.params
        if "scans" in params:
            positions, shards = await run_sync(Work.VIEWS, read_left, params, self.resources.file)
            shards = shards if job.scans else frozenset()
            await job.store.write(scans.continue_scans, positions, shards)

    async def _flow(self, job: Job) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_measure, job, self.rates)
            nursery.start_soon(_note_sound, self.waits)
            await flow.run(job)
            nursery.cancel_scope.cancel()


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
