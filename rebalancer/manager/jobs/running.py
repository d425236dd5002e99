"""This module does the work of one job that has its turn.

Pausing a job cancels its tasks, as the end of the process does; resuming it goes on from its rows,
as the next start of the manager does.  A cancelled job is drained: it begins nothing more, and
records what its agents still finish.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import attrs
import trio

from rebalancer.config import ManagerConfig
from rebalancer.domain.states import JobEvent, JobState, ObjectStatus
from rebalancer.errors import JobFailed, PeerError, StoreError, leaves
from rebalancer.log import get_logger
from rebalancer.manager.actions.registry import ACTIONS
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.tuning import read_tuning, reloaded, tuned
from rebalancer.manager.pipeline.job import Job
from rebalancer.manager.store.job_store import JobStore, open_store
from rebalancer.rates import HOUR_S, Rates
from rebalancer.retry import pauses
from rebalancer.transient import is_transient
from rebalancer.waits import Waits

#: Seconds from a transient failure of a job until its work begins again: the first pause, and the
#: longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
#: A job that runs for so many seconds after a failure has recovered from it.
SOUND_S = 60.0
#: What operators read that a job waits for after a transient failure.
MACHINE = "this machine, or its peers"
#: Seconds between two measurements of how far a job is; they are kept for an hour.
SAMPLE_S = 5.0

log = get_logger()


@attrs.define(eq=False)
class RunningJob:
    """This object does the work of a job that has its turn.

    Mutable state: the job's row as it was last recorded; the configuration of the job, with the
    live keys of the latest reload; the pipeline, while there is one; what the job waits for;
    whether it is cancelled; its rates.
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
    #: The rates at which objects come to an end, and bytes are moved.
    rates: Rates = attrs.field(factory=lambda: Rates(HOUR_S + SAMPLE_S))

    # --- what operators change ------------------------------------------------------------

    def pause(self, row: JobRow) -> None:
        """Stop the job where it is; `row` is its row as paused."""
        self.row = row
        self.scope.cancel()

    def cancel(self, row: JobRow) -> None:
        """Let the job begin nothing more; `row` is its row as cancelled."""
        self.row = row
        self.cancelled.set()
        if self.job is not None:
            self.job.cancel()

    def tune(self, row: JobRow) -> None:
        """Put the limits that `row` records in force."""
        self.row = row
        self._configure()

    def reload(self, config: ManagerConfig) -> None:
        """Take over the live keys of a new configuration."""
        self.base = reloaded(self.base, config)
        self._configure()

    @property
    def config(self) -> ManagerConfig:
        """Return the configuration in force, with what an operator has changed for this job."""
        return tuned(self.base, read_tuning(self.row))

    def _configure(self) -> None:
        if self.job is not None:
            self.job.configure(self.config)
            self.job.bandwidth.value = read_tuning(self.row).bandwidth_bytes_per_s

    # --- the work -------------------------------------------------------------------------

    async def run(self) -> tuple[JobEvent, str | None]:
        """Do the job's work until it ends or is paused; return the event, and why the job broke."""
        if self.row.state is JobState.DRAINING:
            self.cancelled.set()
        if self.row.state is JobState.PAUSING:
            self.scope.cancel()  # it was paused, and the manager ended before it had stopped
        event, error = JobEvent.FINISHED, None
        try:
            with self.scope:
                await self._work_through()
        except* Exception as group:
            # A paused job is not broken by a transient failure: it can be resumed.
            is_paused = self.scope.cancel_called and is_transient(group)
            event = JobEvent.RESTED if is_paused else JobEvent.BROKE
            error = None if is_paused else _causes(self.row.id, group)
        else:
            if self.scope.cancelled_caught:
                event = JobEvent.RESTED
        return event, error

    async def _work_through(self) -> None:
        """Do the job's work; after each transient failure, begin again after a pause.

        A restart of the manager would do the same, from the same rows.
        """
        pause, begun = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S), trio.current_time()
        while True:
            try:
                await ACTIONS[self.row.action].run(self)
            except Exception as exc:
                if not is_transient(exc):
                    raise
                if trio.current_time() - begun > SOUND_S:
                    pause = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
                group = exc if isinstance(exc, ExceptionGroup) else ExceptionGroup("", [exc])
                details = sorted({str(leaf) for leaf in leaves(group)})
                self.waits.begin(MACHINE, "; ".join(details))
                await trio.sleep(next(pause))
                begun = trio.current_time()
            else:
                self.waits.end(MACHINE)
                return

    # --- what actions are lent ------------------------------------------------------------

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[JobStore]:
        """Open the job's file.  Every job on the list has one, so a missing file is a failure.

        Raises:
          StoreError: the file is missing, or cannot be opened.
        """
        file = self.resources.file(self.row.id)
        async with open_store(file, waits=self.waits, must_exist=True) as store:
            store.counted = partial(self.resources.metrics.counted, self.row.action)
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
            nursery.start_soon(_note_recovery, self.waits)
            yield
            nursery.cancel_scope.cancel()


def _causes(job_id: str, group: BaseExceptionGroup[Exception]) -> str:
    """Return why a job broke, for people; log the traces of bugs."""
    expected, bugs = group.split((JobFailed, PeerError, StoreError))
    causes = set() if expected is None else {str(exc) for exc in leaves(expected)}
    if bugs is not None:
        log.error("job broke", job=job_id, exc_info=bugs)
        causes |= {repr(exc) for exc in leaves(bugs)}
    return "; ".join(sorted(causes))


async def _measure(store: JobStore, rates: Rates) -> None:
    while True:
        status = await store.status()
        rates.add(trio.current_time(), status.settled, status.size(ObjectStatus.COMPLETE))
        await trio.sleep(SAMPLE_S)


async def _note_recovery(waits: Waits) -> None:
    """End the wait that a transient failure began, once the job has run for a while after it."""
    await trio.sleep(SOUND_S)
    waits.end(MACHINE)
