"""This module lists jobs with how far each is, and keeps what no ended job's file changes."""

import attrs

from rebalancer.api.jobs import JobListed
from rebalancer.errors import Unavailable
from rebalancer.manager.http import render
from rebalancer.manager.http.requests import JobsQuery
from rebalancer.manager.jobs.queries import JobDetails, JobQueries
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store import views

#: Ended jobs whose entries are kept, and removed jobs whose places are.
MOST = 10_000


@attrs.define(eq=False)
class JobLister:
    """This object makes the list of jobs.

    Mutable state: the entries of ended jobs, so that each file is read once; and by the id of each
    job that was removed, the one before it, so that whoever reads pages meanwhile misses none.
    """

    queries: JobQueries
    _ended: dict[str, JobListed] = attrs.field(factory=dict)
    _removed: dict[str, str | None] = attrs.field(factory=dict)

    async def list(self, query: JobsQuery) -> list[JobListed]:
        """Return the jobs that a query selects, oldest first.

        Raises:
          BadRequest: the job to list from is not there.
        """
        rows = await self.queries.index.all()
        ids, after = {row.id for row in rows}, query.after
        while after is not None and after not in ids and after in self._removed:
            after = self._removed[after]
        return [await self._listed(row) for row in attrs.evolve(query, after=after).select(rows)]

    def note_removed(self, job_id: str, before: str | None) -> None:
        """Keep the place of a job that is removed: behind the job `before`, or at the beginning."""
        if len(self._removed) >= MOST:
            del self._removed[next(iter(self._removed))]
        self._removed[job_id] = before
        self._ended.pop(job_id, None)  # its id may come again, with an import

    async def _listed(self, row: JobRow) -> JobListed:
        kept = self._ended.get(row.id)
        if kept is not None:
            verdict = await self.queries.verdicts.of(row)
            if verdict is None or verdict.word == kept.verdict:
                return kept
        try:
            details = await self.queries.details_of(row)
        except Unavailable as exc:
            details = JobDetails(attrs.evolve(row, error=row.error or str(exc)), views.NOTHING)
        made = render.listed(
            details.row,
            details.known,
            self.queries.rates(row.id),
            details.waits,
            details.verdict,
            details.behind,
        )
        if details.verdict is not None and details.known is not views.NOTHING:
            if len(self._ended) >= MOST:
                del self._ended[next(iter(self._ended))]
            self._ended[row.id] = made
        return made
