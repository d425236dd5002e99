"""This module does the work of one job that has its turn.

Pausing a job is cancelling its pipeline, as the end of the process is; going on is recovery.
A job that is cancelled is drained: nothing more begins, and what agents finish is recorded.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio

from rebalancer.config import ManagerConfig
from rebalancer.domain.states import JobEvent, JobState, ObjectStatus
from rebalancer.errors import JobFailed, PeerError, StoreError, leaves
from rebalancer.log import get_logger
from rebalancer.manager.actions.registry import ACTIONS
from rebalancer.manager.jobs.assembly import Resources, read_tuning
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.tuning import reloaded, tuned
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.store.job_store import JobStore, open_store
from rebalancer.rates import HOUR_S, Rates
from rebalancer.retry import pauses
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

    @property
    def config(self) -> ManagerConfig:
        """Return the configuration in force, with what an operator has changed for this job."""
        return tuned(self.base, read_tuning(self.row))

    def _configure(self) -> None:
        if self.job is not None:
            self.job.configure(self.config)

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
        await ACTIONS[self.row.action].run(self)

    # --- what actions are lent ------------------------------------------------------------

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[JobStore]:
        """Open the job's file.  A job on the list has one: one that is gone is not begun anew.

        Raises:
          StoreError: it cannot be opened.
        """
        file = self.resources.file(self.row.id)
        async with open_store(file, waits=self.waits, must_exist=True) as store:
            yield store

    @contextmanager
    def controlling(self, job: Job) -> Iterator[None]:
        """Let operators change and cancel the pipeline `job` in this context."""
        self.job = job
        try:
            self._configure()
            yield
        finally:
            self.job = None

    @asynccontextmanager
    async def measuring(self, store: JobStore) -> AsyncIterator[None]:
        """Measure the job's rates while it works."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_measure, store, self.rates)
            nursery.start_soon(_note_sound, self.waits)
            yield
            nursery.cancel_scope.cancel()


def _causes(job_id: str, group: BaseExceptionGroup[Exception]) -> str:
    """Return why a job broke, for people; what is a mistake of ours is logged."""
    told, ours = group.split((JobFailed, PeerError, StoreError))
    causes = set() if told is None else {str(exc) for exc in leaves(told)}
    if ours is not None:
        log.error("job broke", job=job_id, exc_info=ours)
        causes |= {repr(exc) for exc in leaves(ours)}
    return "; ".join(sorted(causes))


async def _measure(store: JobStore, rates: Rates) -> None:
    while True:
        status = await store.status()
        rates.add(trio.current_time(), status.settled, status.size(ObjectStatus.COMPLETE))
        await trio.sleep(SAMPLE_S)


async def _note_sound(waits: Waits) -> None:
    """Note that what had broken a job is over, once the job has run for a while."""
    await trio.sleep(SOUND_S)
    waits.end(MACHINE)
