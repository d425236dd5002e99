"""This module records each event of a job, whether of a request or of its run, and acts on it."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from rebalancer.actions import DECLARED
from rebalancer.api.requests import Control
from rebalancer.config import ManagerConfig
from rebalancer.domain.objects import Shark
from rebalancer.domain.states import (
    AT_WORK,
    JOB,
    JobEvent,
    JobState,
    cancelling_event,
    words_of,
)
from rebalancer.errors import BadRequest, Conflict, IllegalTransition, Unavailable
from rebalancer.log import get_logger
from rebalancer.manager.actions.action import Plan, PlanLook
from rebalancer.manager.actions.registry import ACTIONS
from rebalancer.manager.http.lines import Followed
from rebalancer.manager.http.requests import NewJob, Setting, check_range, checked_id
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.files import answering, made_with_its_row
from rebalancer.manager.jobs.imports import JobImports
from rebalancer.manager.jobs.index import JobIndex
from rebalancer.manager.jobs.listing import JobLister
from rebalancer.manager.jobs.queries import JobQueries
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.running import RunningJob
from rebalancer.manager.jobs.scheduler import Scheduler, to_start
from rebalancer.manager.nodes.checks import NodeChecks
from rebalancer.manager.store import job_file
from rebalancer.manager.store.records import Finding
from rebalancer.retry import retry_while_transient
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Waits

#: Seconds for which a request waits: for a paused job to stop, or for its turn to change a job.
REST_S = 20.0
#: Seconds before the first retry of a call of the list of jobs.
FIRST_PAUSE_S = 1.0
#: Why a dry run is refused: one looks at every object of a node.
_PLANNING = "another dry run is under way"

T = TypeVar("T")

log = get_logger()


@attrs.define(eq=False)
class Jobs:
    """This object owns the jobs of a manager.

    Mutable state: the jobs that have their turn, by id; the lock that is held while the state of
    any job is changed; the lock of requests that create jobs, and the one of dry runs.
    """

    #: The list of jobs.  The run of a job waits for it without end; requests have one of their
    #: own, `queries.index`, which waits for a bounded time.
    index: JobIndex
    resources: Resources
    running: dict[str, RunningJob] = attrs.field(factory=dict)
    state_lock: trio.Lock = attrs.field(factory=trio.Lock)
    scheduler: Scheduler = attrs.field(factory=Scheduler)
    queries: JobQueries = attrs.field(
        default=attrs.Factory(
            lambda self: JobQueries(self.index.for_requests(), self.resources, self.running),
            takes_self=True,
        )
    )
    lister: JobLister = attrs.field(
        default=attrs.Factory(lambda self: JobLister(self.queries), takes_self=True)
    )
    imports: JobImports = attrs.field(
        default=attrs.Factory(
            lambda self: JobImports(self.queries.index, self.resources), takes_self=True
        )
    )
    followed: Followed = attrs.field(factory=Followed)
    checks: NodeChecks = attrs.field(
        default=attrs.Factory(lambda self: NodeChecks(self.queries, self.followed), takes_self=True)
    )
    _creating: trio.Lock = attrs.field(factory=trio.Lock)
    _planning: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def _request_index(self) -> JobIndex:
        return self.queries.index

    def reload(self, config: ManagerConfig) -> None:
        """Use `config` for the next jobs, and its live keys for the running jobs too."""
        self.resources.config = config
        for running in self.running.values():
            running.reload(config)
        self.scheduler.wake()

    # --- turns -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Run jobs for ever; the jobs that an earlier run of the manager left come first."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.followed.run)
            await self.scheduler.run(partial(self._start_due, nursery))

    async def _start_due(self, nursery: trio.Nursery) -> None:
        async with self.state_lock:
            rows = await _ask_job_list(self.index.unfinished)
            self.resources.fleet_ledger.evacuated = {row.node for row in rows if row.node}
            at_work = [running.row for running in self.running.values()]
            for row in to_start(rows, at_work, self.resources.config.max_concurrent_jobs):
                try:
                    running = RunningJob(await self._begin(row), self.resources)
                except IllegalTransition as exc:  # a person has changed the list of jobs
                    log.error("job not begun", job=row.id, error=str(exc))
                    self.scheduler.wake()  # its turn is another job's
                    continue
                self.running[row.id] = running
                nursery.start_soon(self._run, running)

    async def _begin(self, row: JobRow) -> JobRow:
        if row.state not in AT_WORK:
            return await self._record(row.id, JobEvent.STARTED)
        log.info("job", job=row.id, state=words_of(JobState.RUNNING).state, resumed=True)
        return row

    async def _run(self, running: RunningJob) -> None:
        """Run one job until it ends or pauses, and record which.

        If the manager stops meanwhile, nothing is recorded, and its next run resumes the job.
        """
        try:
            event, error = await running.run()
            # A request that changes the job must find it either running or recorded as ended.
            async with self.state_lock:
                await self._record(running.row.id, event, error)
        except IllegalTransition as exc:  # a person has changed the list of jobs
            log.error("state of a job not recorded", job=running.row.id, error=str(exc))
        finally:
            del self.running[running.row.id]
            running.ended.set()
            self.scheduler.wake()

    async def _record(self, job_id: str, event: JobEvent, error: str | None = None) -> JobRow:
        """Record an event of a job, however long the list of jobs does not answer."""
        return await _ask_job_list(partial(self.index.advance, job_id, event, error))

    # --- creating --------------------------------------------------------------------------

    async def create(self, wanted: NewJob) -> str:
        """Create a job, and return its id.

        Raises:
          Refused, BadRequest: no job was created.
          Conflict: another job empties this node, or will.
        """
        action = ACTIONS[wanted.action]
        params = action.params(wanted.params, self.resources.config)
        await self._check(wanted.action, params)
        await self._refuse_second(wanted.action, params)
        findings = await action.look_up(params, self.resources.config)
        async with self._creating:
            # Another request may have created a job for the node during the look-up.
            await self._refuse_second(wanted.action, params)
            if not action.used_jobs(params):
                return await self._add(wanted.action, params, findings)
            async with self._lock_for_request():
                # A job that is used may have been removed meanwhile, and from now on it cannot be.
                await self._check(wanted.action, params)
                return await self._add(wanted.action, params, findings)

    async def _check(self, action: str, params: Mapping[str, Any]) -> None:
        """Check the parameters of a job, as far as that can be done before its turn.

        Raises:
          RequestError: such a job cannot be created.
        """
        known = {row.id: row for row in await self._request_index.all()}
        await ACTIONS[action].check(params, self.resources, known.get)

    async def _refuse_second(self, action: str, params: Mapping[str, Any]) -> None:
        """Refuse a second job for one node, which is an operator's slip.

        A retry job is allowed beside another job for its node: the scheduler runs one at a time.

        Raises:
          Conflict: a job that has not ended is for the same node.
        """
        node = DECLARED[action].node(params)
        for row in await self._request_index.unfinished():
            if node is not None and row.node == node:
                raise Conflict(
                    f"Job {row.id}, which is {_state_word(row)}, is for {row.node} already"
                )

    async def retry(self, job_id: str) -> str:
        """Create the retry job of an ended job, and return the id of the new one.

        Raises:
          Refused, BadRequest: no job was created.
          Conflict: the earlier job has not ended.
        """
        row, params = await self._retry_params(job_id)
        await self._check(row.action, params)
        async with self._lock_for_request():
            # Read again, because only now can nobody remove the earlier job.
            row, params = await self._retry_params(job_id)
            return await self._add(row.action, params)

    async def _retry_params(self, job_id: str) -> tuple[JobRow, dict[str, Any]]:
        """Return an ended job, and the parameters of its retry job.

        Raises:
          BadRequest: there is no such job, or it cannot be retried.
          Conflict: it has not ended.
        """
        row = await self.queries.known(job_id)
        if not row.has_ended:
            raise Conflict(
                f"Job {row.id} is still {_state_word(row)}: it can be retried once it has ended"
            )
        _require(row, f"retried: {row.error}", not row.is_broken)
        known = {other.id: other for other in await self._request_index.all()}
        action = ACTIONS.get(row.action)
        if action is None:
            raise BadRequest(f"Job {row.id}: nothing is known of the action {row.action}")
        return row, await action.retry(row, known.get, self.resources)

    async def _add(
        self, action: str, params: dict[str, Any], findings: Sequence[Finding] = ()
    ) -> str:
        job_id = str(uuid.uuid4())
        file = self.resources.file(job_id)
        node = DECLARED[action].node(params)
        origin = None if node is None else Shark("", node)
        with _uninterrupted():
            async with made_with_its_row(file):
                with answering():
                    await run_sync(Work.STORE, job_file.create, file, origin, findings)
                await self._request_index.add(job_id, action, params)
            state = words_of(JobState.QUEUED).state
            log.info("job", **{**params, "job": job_id, "state": state, "action": action})
            self.scheduler.wake()
        return job_id

    async def plan(
        self, wanted: NewJob, note: Callable[[PlanLook], None] = lambda _look: None
    ) -> Plan:
        """Return what a job would do: the dry run of an action.

        How far its search is, `note` is given every second.

        Raises:
          Refused, BadRequest: such a job could not be created, or would fail at once.
          Conflict: another plan is being made.
          Unavailable: a shard or storinfo does not answer.
        """
        params = await self.plannable(wanted)
        try:
            self._planning.acquire_nowait()
        except trio.WouldBlock:
            raise Conflict(_PLANNING) from None
        try:
            return await ACTIONS[wanted.action].plan(self.resources, params, note)
        finally:
            self._planning.release()

    async def plannable(self, wanted: NewJob) -> dict[str, Any]:
        """Return the parameters of a job whose dry run can begin.

        Raises:
          Refused, BadRequest: such a job could not be created.
          Conflict: another plan is being made.
        """
        params = ACTIONS[wanted.action].params(wanted.params, self.resources.config)
        await self._check(wanted.action, params)
        if self._planning.locked():
            raise Conflict(_PLANNING)
        return params

    # --- changing --------------------------------------------------------------------------

    async def change(self, job_id: str, wanted: Control | Setting) -> None:
        """Carry out the body of PUT /jobs/{id}.

        Raises:
          BadRequest: there is no such job, or the setting cannot be changed so.
          Conflict: the job is in no state for this.
        """
        row = await self._request_index.get(checked_id(job_id))
        if row is None:
            raise BadRequest(f"Could not find job {job_id}")
        async with self._lock_for_request():
            row = await self.queries.known(row.id)
            _require(row, f"changed: {row.error}", not row.is_broken)
            with _uninterrupted():
                await self._decide(row, wanted)
            running = self.running.get(row.id)
        # Without the lock, because waiting for agents and threads must not hold up other requests.
        if running is not None:
            await _await_effect(running, wanted)

    async def _decide(self, row: JobRow, wanted: Control | Setting) -> None:
        match wanted:
            case Setting():
                await self._set(row, wanted)
            case Control.PAUSE:
                await self._pause(row)
            case Control.RESUME:
                await self._resume(row)
            case Control.CANCEL:
                await self._cancel(row)

    @asynccontextmanager
    async def _lock_for_request(self) -> AsyncIterator[None]:
        """Hold the lock for changes of jobs, for a request.

        Raises:
          Unavailable: another holds the lock for long, because the list of jobs does not answer.
        """
        lock = self.state_lock
        with trio.move_on_after(REST_S) as waiting:
            await lock.acquire()
        if waiting.cancelled_caught:
            raise Unavailable("another change of a job takes too long: see the log")
        try:
            yield
        finally:
            lock.release()

    async def _set(self, row: JobRow, setting: Setting) -> None:
        running = self.running.get(row.id)
        if not self.queries.can_change_limits(row):
            raise BadRequest("Attempt to update job that is not running")
        base = self.resources.config if running is None else running.base
        is_threads = setting.name == "max_metadata_update_threads"
        if is_threads and base.options.use_static_md_update_threads:
            raise BadRequest(f"Job ({row.id}) does not support dynamic configuration updates")
        check_range(setting)
        tuning = {**row.params.get("tuning", {}), setting.name: setting.value}
        params = {**row.params, "tuning": tuning}
        # Recorded before it is in force, so that it outlives a restart.
        await self._request_index.set_params(row.id, params)
        if running is not None:
            running.tune(attrs.evolve(running.row, params=params))
        log.info("job changed", job=row.id, setting=setting.name, value=setting.value)

    async def _pause(self, row: JobRow) -> None:
        is_cancelled = row.state in (JobState.CANCELLING, JobState.DRAINING)
        _require(row, "paused, because it is being cancelled", not is_cancelled)
        can_pause = row.state is not None and JobEvent.PAUSED in JOB[row.state]
        _require(row, "paused", can_pause)
        row = await self._request_index.advance(row.id, JobEvent.PAUSED)
        if (running := self.running.get(row.id)) is not None:
            running.pause(row)

    async def _resume(self, row: JobRow) -> None:
        _require(row, "resumed, because it is not paused", row.state is JobState.PAUSED)
        await self._request_index.advance(row.id, JobEvent.RESUMED)
        self.scheduler.wake()

    async def _cancel(self, row: JobRow) -> None:
        _require(row, "cancelled, because it has ended", not row.has_ended)
        event = JobEvent.CANCELLED
        if row.state is not None:
            event = cancelling_event(row.state, has_begun=row.started is not None)
        row = await self._request_index.advance(row.id, event)
        if (running := self.running.get(row.id)) is not None:
            running.cancel(row)
        self.scheduler.wake()

    async def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with its file.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
          Conflict: it has not ended.
        """
        async with self._lock_for_request():
            row = await self.queries.known(job_id)
            _require(row, "removed, because it has not ended", row.has_ended)
            for other in await self._request_index.unfinished():
                action = ACTIONS.get(other.action)
                used = {} if action is None else action.used_jobs(other.params)
                why = f"removed, because job {other.id} {used.get(row.id)} it"
                _require(row, why, row.id not in used)
            ids = [None, *(other.id for other in await self._request_index.all())]
            with _uninterrupted():
                # The row first: a file without one is only clutter.
                await self._request_index.remove(row.id)
                self.lister.note_removed(row.id, ids[ids.index(row.id) - 1])
                self.queries.verdicts.forget(row.id)
                await run_sync(Work.STORE, job_file.remove, self.resources.file(row.id))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let no cancellation come between two steps that belong together, here and on disk.

    A request is cancelled when its client hangs up, which may happen between the steps.
    """
    with trio.CancelScope(shield=True):  # its steps wait for a bounded time, as requests do
        yield


async def _await_effect(running: RunningJob, wanted: Control | Setting) -> None:
    """Wait until a change that was recorded is in force, for a bounded time."""
    match wanted:
        case Setting(name="bandwidth_bytes_per_s") if running.job is not None:
            await running.job.bandwidth.announce_change(running.job.ledger.at_work)
        case Control.PAUSE:
            with trio.move_on_after(REST_S):
                await running.ended.wait()


def _require(row: JobRow, what: str, allowed: bool) -> None:
    if not allowed:
        raise Conflict(f"Job {row.id} is {_state_word(row)}: it cannot be {what}")


def _state_word(row: JobRow) -> str:
    """Return the word of a job's state for people.

    The API has one word for several states; a person is told whether a job is paused or cancelled.
    """
    if row.state in (JobState.PAUSED, JobState.CANCELLED):
        return row.state
    return row.words.state


async def _ask_job_list(ask: Callable[[], Awaitable[T]]) -> T:
    """Retry a call of the list of jobs without end: without it the manager can do nothing."""
    return await retry_while_transient(
        ask, waits=Waits(), subject="the list of jobs", first_s=FIRST_PAUSE_S
    )
