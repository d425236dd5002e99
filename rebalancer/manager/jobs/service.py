"""This module makes, lists, shows, changes and removes jobs for the API; `runner` runs them."""

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from rebalancer.config import ManagerConfig
from rebalancer.domain.objects import Shark
from rebalancer.domain.states import (
    JOB,
    JobEvent,
    JobState,
    ObjectStatus,
    cancelling_event,
    words_of,
)
from rebalancer.errors import (
    BadRequest,
    Conflict,
    Damaged,
    JobFailed,
    PeerError,
    Refused,
    StoreBusy,
    StoreError,
    Unavailable,
)
from rebalancer.log import get_logger
from rebalancer.manager.http import render
from rebalancer.manager.http.requests import (
    Control,
    NewJob,
    ObjectsQuery,
    Setting,
    check_range,
    checked_id,
)
from rebalancer.manager.jobs.index import JobIndex, JobRow
from rebalancer.manager.jobs.plan import Plan, make_plan
from rebalancer.manager.jobs.retries import params_of_retry
from rebalancer.manager.jobs.scheduler import (
    STORAGE_BUCKET,
    Runner,
    Running,
    is_known,
    read_tuning,
)
from rebalancer.manager.pipeline.listings import check
from rebalancer.manager.store import job_file, views
from rebalancer.manager.store.records import Finding
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Wait

#: A job that is paused has come to rest within this many seconds, or the request says so.
REST_S = 20.0

#: A storage node is looked up within this many seconds, or the job is made unchecked.
LOOK_UP_S = 5.0

T = TypeVar("T")

log = get_logger()


@attrs.frozen
class JobView:
    """A view is a job as the API shows it."""

    row: JobRow
    known: views.Overview
    #: What it waits for at the moment.
    waits: Sequence[Wait] = ()


def _for_requests(index: JobIndex) -> JobIndex:
    return index.for_requests()


@attrs.define(eq=False)
class Jobs:
    """This object has all jobs of a manager.

    Mutable state: the locks of those who make jobs, and plans.
    """

    index: JobIndex = attrs.field(converter=_for_requests)
    runner: Runner
    _making: trio.Lock = attrs.field(factory=trio.Lock)
    _planning: trio.Lock = attrs.field(factory=trio.Lock)

    @property
    def config(self) -> ManagerConfig:
        """Return the configuration of the next job."""
        return self.runner.config

    # --- making ----------------------------------------------------------------------------

    async def create(self, wanted: NewJob) -> str:
        """Make a job; returns its id.

        Raises:
          Refused, BadRequest: nothing was made.
          Conflict: another job empties this node, or will.
        """
        params = self.params(wanted)
        await self.check_params(params)
        await self._refuse_second(params["from_shark"])
        findings = await self._look_up(params["from_shark"])
        async with self._making:
            # Somebody may have made one meanwhile.
            await self._refuse_second(params["from_shark"])
            return await self._add(wanted.action, params, findings)

    async def _refuse_second(self, shark: str) -> None:
        """Refuse a second job for one node, which is a slip; retries are not asked here."""
        for row in await self.index.unfinished():
            if row.params.get("from_shark") == shark:
                raise Conflict(f"Job {row.id}, which is {_shown(row)}, is for {shark} already")

    async def _look_up(self, shark: str) -> list[Finding]:
        """Look the node up; if that cannot be done now, returns a note, and the job does it later.

        Raises:
          BadRequest: there is no such node.
        """
        try:
            with trio.fail_after(LOOK_UP_S):
                found = await is_known(self.config, shark)
        except (trio.TooSlowError, PeerError) as exc:
            why = str(exc) or f"no answer within {LOOK_UP_S:.0f} s"
            log.warning("storage node not looked up", shark=shark, error=why)
            detail = f"{shark} was not looked up when the job was made: {why}"
            return [Finding("storage_record", detail)]
        if not found:
            raise BadRequest(f"SharkNotFound: {shark} is not in {STORAGE_BUCKET}")
        return []

    def params(self, wanted: NewJob) -> dict[str, Any]:
        """Return what is kept of a request for a job."""
        given = wanted.params
        return {
            "from_shark": _full_name(given.from_shark, self.config.domain_name),
            "max_objects": given.max_objects or None,
            "objects_file": given.objects_file,
            "strict": given.strict,
        }

    async def retry(self, job_id: str) -> str:
        """Make a job of what an earlier one skipped or could not do; returns its id.

        Raises:
          Refused, BadRequest: nothing was made.
          Conflict: the earlier job has not ended.
        """
        _, params = await self._retry_of(job_id)
        await self.check_params(params)
        async with self._deciding():
            # An earlier job may have been removed meanwhile, and from now on it cannot be.
            row, params = await self._retry_of(job_id)
            return await self._add(row.action, params)

    async def _retry_of(self, job_id: str) -> tuple[JobRow, dict[str, Any]]:
        """Return a job, and the parameters of its retry.

        Raises:
          BadRequest: there is no such job, or it cannot be retried.
          Conflict: it has not ended.
        """
        row = await self.known(job_id)
        if not row.has_ended:
            raise Conflict(f"Job {row.id} is still {_shown(row)}: it can be retried when it ended")
        _require(row, f"retried: {row.error}", not row.is_broken)
        known = {other.id: other for other in await self.index.all()}
        return row, params_of_retry(row, known.get, await self._taken(row))

    async def _taken(self, row: JobRow) -> int:
        """Return how many objects of a job's limit are done with."""
        if row.params.get("max_objects") is None:
            return 0
        overview = await _look(views.read_job, self.runner.file(row.id))
        return overview.status.objects(ObjectStatus.COMPLETE)

    async def _add(
        self, action: str, params: dict[str, Any], findings: Sequence[Finding] = ()
    ) -> str:
        job_id = str(uuid.uuid4())
        # The file first: a job on the list always has one.
        origin = Shark("", params["from_shark"])
        with _carried_out():
            with _answering():
                await run_sync(
                    Work.STORE, job_file.create, self.runner.file(job_id), origin, findings
                )
            await self.index.add(job_id, action, params)
            state = words_of(JobState.QUEUED).state
            log.info("job", job=job_id, state=state, action=action, **params)
            self.runner.look_again()
        return job_id

    async def plan(self, wanted: NewJob) -> Plan:
        """Tell what a job would do.

        Raises:
          Refused, BadRequest: such a job could not be made, or would fail at once.
          Conflict: another plan is being made.
          Unavailable: a shard or storinfo does not answer.
        """
        params = self.params(wanted)
        await self.check_params(params)
        try:
            self._planning.acquire_nowait()
        except trio.WouldBlock:
            raise Conflict("another dry run is under way") from None
        try:
            return await make_plan(self.runner, wanted.action, params)
        finally:
            self._planning.release()

    async def check_params(self, params: Mapping[str, Any]) -> None:
        """Check what can be known before a job has its turn.

        Raises:
          Refused: no evacuation is allowed at all.
          BadRequest: the listing cannot be read.
        """
        if self.config.snaplink_cleanup_required:
            raise Refused("Snaplink Cleanup Required")
        if (listing := self.runner.listing(params)) is not None:
            try:
                await run_sync(Work.OTHER, check, listing)
            except (JobFailed, StoreError) as exc:
                raise BadRequest(str(exc)) from exc

    # --- showing ---------------------------------------------------------------------------

    async def list(self) -> list[JobRow]:
        """Return every job, oldest first."""
        return await self.index.all()

    async def view(self, job_id: str) -> JobView:
        """Show a job with its counts; if its file is no good, with the reason instead.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
          Unavailable: its file cannot be read now.
        """
        row, known = await self.known(job_id), views.NOTHING
        try:
            known = await _look(views.read_job, self.runner.file(row.id))
        except Damaged as exc:
            row = attrs.evolve(row, error="; ".join(filter(None, (row.error, str(exc)))))
        running = self.runner.running.get(row.id)
        return JobView(row, known, () if running is None else running.waits.causes)

    async def summary(self, job_id: str) -> dict[str, Any]:
        """Summarise how a job is going.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
        """
        view = await self.view(job_id)
        running = self.runner.running.get(view.row.id)
        rates = None if running is None else running.rates
        standings = self.runner.ledgers.snapshot()
        return render.summary(view.row, view.known, rates, standings, view.waits)

    async def status(self) -> dict[str, Any]:
        """Summarise how the manager itself is."""
        runner = self.runner
        return render.status(
            await self.index.all(),
            runner.running,
            runner.ledgers.snapshot(),
            nodes=len(runner.fleet.nodes),
            age_s=runner.fleet.age_s,
            max_concurrent_jobs=runner.config.max_concurrent_jobs,
        )

    async def objects(self, job_id: str, query: ObjectsQuery) -> views.Page:
        """Return a page of a job's objects.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
        """
        row = await self.known(job_id)
        look = partial(
            views.objects_page,
            self.runner.file(row.id),
            query.status,
            query.reason,
            query.after,
            query.limit,
        )
        return await _look(look)

    async def readable(self, job_id: str) -> JobRow:
        """Return a job's row, once it is sure that a report can be made of the job.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
          Damaged, Unavailable: its file cannot be read.
        """
        row = await self.known(job_id)
        await _look(views.read_job, self.runner.file(row.id))
        return row

    async def report(self, row: JobRow) -> AsyncGenerator[bytes, None]:
        """Yield all that is known of a job as lines of JSON: the job, each row, their number.

        It is read a page at a time, so that it holds up nobody and takes no memory.
        """
        file = self.runner.file(row.id)
        known = await run_sync(Work.VIEWS, views.read_job, file)
        yield _line({"type": "job", "id": row.id, **render.job(row, known)})
        lines = 0
        for kind in views.REPORT:
            after, page = await run_sync(Work.VIEWS, views.report_page, file, kind, 0)
            while page:
                lines += len(page)
                yield b"".join(map(_line, page))
                after, page = await run_sync(Work.VIEWS, views.report_page, file, kind, after)
        yield _line({"type": "end", "lines": lines})

    async def known(self, job_id: str) -> JobRow:
        """Return a job's row.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
        """
        row = await self.index.get(checked_id(job_id))
        if row is None:
            raise BadRequest(f"Could not find job UUID: {job_id}")
        return row

    # --- changing --------------------------------------------------------------------------

    async def change(self, job_id: str, wanted: Control | Setting) -> None:
        """Carry out the body of PUT /jobs/{id}.

        Raises:
          BadRequest: there is no such job, or the setting cannot be changed so.
          Conflict: the job is in no state for this.
        """
        row = await self.index.get(checked_id(job_id))
        if row is None:
            raise BadRequest(f"Could not find job {job_id}")
        async with self._deciding():
            row = await self.known(row.id)
            _require(row, f"changed: {row.error}", not row.is_broken)
            with _carried_out():
                await self._decide(row, wanted)
            running = self.runner.running.get(row.id)
        # Others may decide meanwhile: this takes as long as agents and threads do.
        if running is not None:
            await _see_through(running, wanted)

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
    async def _deciding(self) -> AsyncIterator[None]:
        """Let nobody else decide on jobs in this context.

        Raises:
          Unavailable: somebody else decides, and waits for the list of jobs.
        """
        lock = self.runner.deciding
        with trio.move_on_after(REST_S) as waiting:
            await lock.acquire()
        if waiting.cancelled_caught:
            raise Unavailable("others have been deciding on jobs for long: see the log")
        try:
            yield
        finally:
            lock.release()

    async def _set(self, row: JobRow, setting: Setting) -> None:
        running = self.runner.running.get(row.id)
        if running is None or running.job is None:
            raise BadRequest("Attempt to update job that is not running")
        is_threads = setting.name == "max_metadata_update_threads"
        if is_threads and running.base.options.use_static_md_update_threads:
            raise BadRequest(f"Job ({row.id}) does not support dynamic configuration updates")
        check_range(setting)
        tuning = attrs.evolve(read_tuning(row), **{setting.name: setting.value})
        params = {**row.params, "tuning": attrs.asdict(tuning)}
        # First on disk: what was asked for outlives a restart.
        await self.index.set_params(row.id, params)
        running.row = attrs.evolve(running.row, params=params)
        running.apply()
        log.info("job changed", job=row.id, setting=setting.name, value=setting.value)

    async def _pause(self, row: JobRow) -> None:
        is_cancelled = row.state in (JobState.CANCELLING, JobState.DRAINING)
        _require(row, "paused, because it is being cancelled", not is_cancelled)
        can_pause = row.state is not None and JobEvent.PAUSED in JOB[row.state]
        _require(row, "paused", can_pause)
        row = await self.index.advance(row.id, JobEvent.PAUSED)
        if (running := self.runner.running.get(row.id)) is not None:
            running.pause(row)

    async def _resume(self, row: JobRow) -> None:
        _require(row, "resumed, because it is not paused", row.state is JobState.PAUSED)
        await self.index.advance(row.id, JobEvent.RESUMED)
        self.runner.look_again()

    async def _cancel(self, row: JobRow) -> None:
        _require(row, "cancelled, because it has ended", not row.has_ended)
        event = JobEvent.CANCELLED
        if row.state is not None:
            event = cancelling_event(row.state, has_begun=row.started is not None)
        row = await self.index.advance(row.id, event)
        if (running := self.runner.running.get(row.id)) is not None:
            running.cancel(row)
        self.runner.look_again()

    async def delete(self, job_id: str) -> None:
        """Remove a job that has ended, with its file.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
          Conflict: it has not ended.
        """
        async with self._deciding():
            row = await self.known(job_id)
            _require(row, "removed, because it has not ended", row.has_ended)
            for other in await self.index.unfinished():
                needed = row.id in (other.params.get("retry_of"), *other.params.get("chain", ()))
                _require(row, f"removed, because job {other.id} retries it", not needed)
            with _carried_out():
                # The row first: a file without one is only clutter.
                await self.index.remove(row.id)
                await run_sync(Work.STORE, job_file.remove, self.runner.file(row.id))


@contextmanager
def _carried_out() -> Iterator[None]:
    """Do what is recorded, too, though the client may go between the two: both take seconds."""
    with trio.CancelScope(shield=True):  # bounded by the patience of requests
        yield


async def _look(fn: Callable[..., T], *args: Any) -> T:
    """Read something from a job's file for a request.

    Raises:
      Unavailable: it cannot be read now.
      Damaged: it is no good, or gone.
    """
    with _answering():
        return await run_sync(Work.VIEWS, partial(fn, *args))


@contextmanager
def _answering() -> Iterator[None]:
    """Turn what is wrong with a job's file into the answer to a request."""
    try:
        yield
    except StoreBusy as exc:
        raise Unavailable(str(exc)) from exc
    except StoreError as exc:
        raise Damaged(str(exc)) from exc


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


async def _see_through(running: Running, wanted: Control | Setting) -> None:
    """Return when what was decided has been done, or cannot be done at once."""
    match wanted:
        case Setting(name="bandwidth_bytes_per_s") if running.job is not None:
            await running.job.throttle.change(wanted.value, running.job.ledger.at_work)
        case Control.PAUSE:
            with trio.move_on_after(REST_S):
                await running.ended.wait()


def _require(row: JobRow, what: str, allowed: bool) -> None:
    if not allowed:
        raise Conflict(f"Job {row.id} is {_shown(row)}: it cannot be {what}")


def _shown(row: JobRow) -> str:
    """Return a job's state for people: its word in the API, but what has stopped is told apart."""
    if row.state in (JobState.PAUSED, JobState.CANCELLED):
        return row.state
    return row.words.state


def _full_name(name: str, domain: str) -> str:
    return name if name.endswith(f".{domain}") else f"{name}.{domain}"
