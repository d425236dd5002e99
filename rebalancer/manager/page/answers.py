"""This module asks for what the page's templates show: a name of a template, and its values."""

import time
from collections.abc import Mapping
from typing import Any

import attrs
import trio

from rebalancer.api.jobs import JobShown
from rebalancer.errors import BadRequest, NotFound, Unavailable
from rebalancer.manager.http import render
from rebalancer.manager.http.requests import ObjectsQuery, checked_id
from rebalancer.manager.jobs.queries import JobDetails
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.jobs.service import Jobs
from rebalancer.manager.page import shown
from rebalancer.manager.store import views

Values = Mapping[str, Any]


@attrs.frozen
class Answers:
    """This object answers for the page; nothing is changed by it."""

    jobs: Jobs

    async def list_jobs(self, at: int) -> Values:
        """Return what the list of jobs shows, from the job with the number `at` on."""
        queries = self.jobs.queries
        rows = await queries.index.all()
        part = shown.JobList(at=at, total=len(rows))
        return {
            "status": await queries.status(),
            "lines": [self._line(await self._details_of(row)) for row in part.of(rows)],
            "newer": part.newer,
            "older": part.older,
        }

    async def _details_of(self, row: JobRow) -> JobDetails:
        """Return the details of a job; one whose file is held by somebody hides no other job."""
        try:
            return await self.jobs.queries.details_of(row)
        except Unavailable as exc:
            return JobDetails(attrs.evolve(row, error=str(exc)), views.NOTHING)

    async def job(self, job_id: str) -> Values:
        """Return what the page of a job shows.

        Raises:
          NotFound: there is no such job.
        """
        details, queries = await self.details(job_id), self.jobs.queries
        page = shown.job_page(
            details.row,
            _body(details),
            queries.summarize(details),
            nodes=self.jobs.resources.node_list.nodes,
            limits=queries.limits(details.row),
        )
        return {"job": page}

    async def objects(self, job_id: str, query: ObjectsQuery) -> Values:
        """Return what a page of a job's objects shows.

        Raises:
          NotFound: there is no such job.
        """
        details, queries = await self.details(job_id), self.jobs.queries
        page = await queries.objects(details.row.id, query)
        return {
            "line": self._line(details),
            "objects": page.objects,
            "filter": shown.object_filter(query, queries.summarize(details).counts),
            "next": None if page.after is None else shown.objects_url(job_id, query, page.after),
            "first": shown.objects_url(job_id, query) if query.after else None,
        }

    def samples(self, job_id: str) -> list[shown.Sample]:
        """Return how far a job was at times of the last hour, if it runs."""
        running = self.jobs.running.get(job_id)
        rates = None if running is None else running.rates
        since_epoch = time.time() - trio.current_time()
        kept = () if rates is None else rates.samples
        return [(at + since_epoch, objects, size) for at, objects, size in kept]

    async def line(self, job_id: str) -> shown.JobLine:
        """Return how a job stands.

        Raises:
          NotFound: there is no such job.
        """
        return self._line(await self.details(job_id))

    async def details(self, job_id: str) -> JobDetails:
        """Return the details of a job.

        Raises:
          NotFound: there is no such job.
        """
        try:
            return await self.jobs.queries.details(checked_id(job_id))
        except BadRequest as exc:
            raise NotFound(str(exc)) from None

    def _line(self, details: JobDetails) -> shown.JobLine:
        rates = self.jobs.queries.rates(details.row.id)
        return shown.job_line(details.row, _body(details), *render.pace(details.known, rates))


def _body(details: JobDetails) -> JobShown:
    return render.job(details.row, details.known, details.waits, details.verdict)
