"""This module answers questions about jobs, and changes nothing."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import attrs

from rebalancer.actions import DECLARED
from rebalancer.api.jobs import Summary
from rebalancer.api.status import Status
from rebalancer.converter import unstructure
from rebalancer.domain.states import JobState
from rebalancer.domain.verdicts import Verdict
from rebalancer.errors import BadRequest, Damaged
from rebalancer.manager.fleet.standings import NodeStanding, node_standings
from rebalancer.manager.http import render
from rebalancer.manager.http.requests import ObjectsQuery, checked_id
from rebalancer.manager.jobs.assembly import Resources
from rebalancer.manager.jobs.files import read_job_file
from rebalancer.manager.jobs.index import JobIndex
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.running import RunningJob
from rebalancer.manager.jobs.scheduler import ahead_of, why_queued
from rebalancer.manager.jobs.tuning import read_tuning, tuned
from rebalancer.manager.jobs.verdicts import Verdicts
from rebalancer.manager.pipeline.job import rules_of
from rebalancer.manager.store import views
from rebalancer.rates import Rates
from rebalancer.threads import Work, run_sync
from rebalancer.waits import Wait

#: What operators read that a queued job waits for.
TURN = "its turn"


@attrs.frozen
class JobDetails:
    """This object has what the API shows of a job."""

    row: JobRow
    known: views.Overview
    #: What it waits for at the moment.
    waits: Sequence[Wait] = ()
    verdict: Verdict | None = None
    #: The ids of the running jobs that keep it queued.
    behind: Sequence[str] = ()


@attrs.frozen
class JobQueries:
    """This object answers from the list of jobs, the jobs' files and the jobs that run."""

    index: JobIndex
    resources: Resources
    running: Mapping[str, RunningJob]
    verdicts: Verdicts = attrs.field(
        default=attrs.Factory(lambda self: Verdicts(self.resources), takes_self=True)
    )

    async def details(self, job_id: str) -> JobDetails:
        """Return a job with its counts; if its file cannot be used, with the error instead.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
          Unavailable: its file cannot be read now.
        """
        return await self.details_of(await self.known(job_id))

    async def details_of(self, row: JobRow) -> JobDetails:
        """Return the details of the job of a row.

        Raises:
          Unavailable: its file cannot be read now.
        """
        known = views.NOTHING
        try:
            known = await read_job_file(views.read_job, self.resources.file(row.id))
        except Damaged as exc:
            row = attrs.evolve(row, error="; ".join(filter(None, (row.error, str(exc)))))
        verdict = await self.verdicts.of(row)
        return JobDetails(row, known, await self._waits(row), verdict, self._behind(row))

    async def _waits(self, row: JobRow) -> Sequence[Wait]:
        """Return what a job waits for: something that its work needs, or its turn."""
        if (running := self.running.get(row.id)) is not None:
            return running.waits.causes
        if row.state is not JobState.QUEUED:
            return ()
        limit = self.resources.config.max_concurrent_jobs
        why = why_queued(row, await self.index.unfinished(), self._at_work(), limit)
        # When a job was resumed is noted nowhere.
        since = row.created if row.started is None and row.finished is None else None
        return () if why is None else (Wait(TURN, why, since),)

    def _behind(self, row: JobRow) -> Sequence[str]:
        if row.state is not JobState.QUEUED or row.id in self.running:
            return ()
        ahead = ahead_of(row, self._at_work(), self.resources.config.max_concurrent_jobs)
        return [other.id for other in ahead]

    def _at_work(self) -> Sequence[JobRow]:
        return [other.row for other in self.running.values()]

    async def summary(self, job_id: str) -> Summary:
        """Return counts, rates and destinations of a job.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
        """
        return self.summarize(await self.details(job_id))

    def summarize(self, details: JobDetails) -> Summary:
        """Return the summary of a job with these details."""
        rates = self.rates(details.row.id)
        return render.summary(
            details.row, details.known, rates, self._node_standings(), details.waits
        )

    def rates(self, job_id: str) -> Rates | None:
        """Return the rates of a job, if it runs."""
        running = self.running.get(job_id)
        return None if running is None else running.rates

    def _node_standings(self) -> Sequence[NodeStanding]:
        shared = self.resources
        rules = rules_of(shared.config)
        return node_standings(shared.fleet_ledger, shared.node_list.nodes, rules)

    def can_change_limits(self, row: JobRow) -> bool:
        """Tell whether an operator can change the limits of a job: it runs, or will.

        Its state alone decides, as shown: a running job may still wait for its peers, or, after a
        start of the manager, for its turn.  It has its limits as soon as it works.
        """
        declared = DECLARED.get(row.action)
        has_limits = declared is not None and declared.has_limits
        return has_limits and row.state is not None and not row.has_ended

    def limits(self, row: JobRow) -> Mapping[str, int | None] | None:
        """Return the limits of a job by their names; None if they cannot be changed."""
        if not self.can_change_limits(row):
            return None
        running, tuning = self.running.get(row.id), read_tuning(row)
        base = self.resources.config if running is None else running.base
        options = tuned(base, tuning).options
        return {name: getattr(options, name, value) for name, value in attrs.asdict(tuning).items()}

    async def status(self) -> Status:
        """Return the numbers of jobs and nodes, and how the destinations stand."""
        shared = self.resources
        return render.status(
            await self.index.all(),
            self.running,
            self._node_standings(),
            nodes=len(shared.node_list.nodes),
            age_s=shared.node_list.age_s,
            max_concurrent_jobs=shared.config.max_concurrent_jobs,
        )

    async def objects(self, job_id: str, query: ObjectsQuery) -> views.Page:
        """Return a page of a job's objects.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
        """
        row = await self.known(job_id)
        return await read_job_file(
            views.objects_page,
            self.resources.file(row.id),
            query.status,
            query.reason,
            query.after,
            query.limit,
        )

    async def readable(self, job_id: str) -> JobRow:
        """Return a job's row, once it is sure that a report can be made of the job.

        Raises:
          BadRequest: the id is no UUID, or there is no such job.
          Damaged, Unavailable: its file cannot be read.
        """
        row = await self.known(job_id)
        await read_job_file(views.read_job, self.resources.file(row.id))
        return row

    async def report(self, row: JobRow) -> AsyncGenerator[bytes, None]:
        """Yield a job as lines of JSON: its description, each row of its file, and their number.

        The file is read a page at a time, which blocks no other reader and takes little memory.
        """
        file = self.resources.file(row.id)
        known = await run_sync(Work.VIEWS, views.read_job, file)
        shown = render.job(row, known, await self._waits(row), await self.verdicts.of(row))
        yield _line({"type": "job", "id": row.id, **unstructure(shown)})
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


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
