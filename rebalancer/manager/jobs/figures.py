"""This module gathers what metrics show of jobs, at a cost that no job's size changes."""

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress

import attrs
import trio

from rebalancer.domain.states import AT_WORK
from rebalancer.errors import Unavailable
from rebalancer.manager.job_metrics import JobFigures
from rebalancer.manager.jobs.queries import JobDetails, JobQueries
from rebalancer.manager.jobs.rows import JobRow
from rebalancer.manager.store import views
from rebalancer.manager.store.records import ScanPosition
from rebalancer.progress import scanned_share
from rebalancer.rates import MINUTE_S

#: The most jobs that are shown: of those that have not ended, and of those that ended last.
MOST_LEFT, MOST_ENDED = 50, 10
#: Seconds that a scrape waits for the list of jobs and their files; then it has the figures of an
#: earlier one.
PATIENCE_S = 5.0


def shown(rows: Iterable[JobRow]) -> list[JobRow]:
    """Choose the jobs that are shown, of all on the list, which are oldest first."""
    left, ended = list[JobRow](), list[JobRow]()
    for row in rows:
        (ended if row.has_ended else left).append(row)
    left.sort(key=lambda row: row.state not in AT_WORK)
    ended.sort(key=lambda row: row.finished or "")
    return [*left[:MOST_LEFT], *ended[-MOST_ENDED:]]


def latest(scans: Sequence[ScanPosition]) -> list[ScanPosition]:
    """Return the scans of the latest round that has begun."""
    last = max((scan.round for scan in scans), default=0)
    return [scan for scan in scans if scan.round == last]


@attrs.define(eq=False)
class Figures:
    """This object brings the figures of the jobs' metrics up to date.

    Mutable state: the details of the shown jobs, as they could be read last.
    """

    queries: JobQueries
    _details: dict[str, JobDetails] = attrs.field(factory=dict)
    #: Held while files are read: on a disk that hangs, scrapes take one thread and no more.
    _reading: trio.Lock = attrs.field(factory=trio.Lock)

    async def refresh(self) -> None:
        """Read anew what can have changed, for a bounded time; what cannot be read stays old."""
        with trio.move_on_after(PATIENCE_S), suppress(Unavailable):
            async with self._reading:
                rows = await self.queries.index.all()
                self._details = {row.id: await self._read(row) for row in shown(rows)}
            self._show(rows)

    def _show(self, rows: Iterable[JobRow]) -> None:
        metrics = self.queries.resources.metrics
        metrics.jobs.by_state = Counter(row.state or row.words.state for row in rows)
        metrics.jobs.figures = [self._figures(one) for one in self._details.values()]
        jobs = [running.job for running in self.queries.running.values()]
        limiters = [job.update_limiter for job in jobs if job is not None]
        metrics.show_update_limits(
            sum(one.limit for one in limiters), sum(one.in_force for one in limiters)
        )

    async def _read(self, row: JobRow) -> JobDetails:
        """Return the details of a job, which only a new verdict changes once the job has one."""
        former = self._details.get(row.id)
        if former is not None and former.verdict is not None:
            verdict = await self.queries.verdicts.of(row)
            return former if verdict is None else attrs.evolve(former, verdict=verdict)
        try:
            return await self.queries.details_of(row)
        except Unavailable:
            return JobDetails(row, views.NOTHING if former is None else former.known)

    def _figures(self, details: JobDetails) -> JobFigures:
        row, known = details.row, details.known
        running = self.queries.running.get(row.id)
        return JobFigures(
            job_id=row.id,
            action=row.action,
            node=row.node or "",
            state=row.state or row.words.state,
            status=known.status,
            scanned_share=scanned_share(known.scans, 0),
            scanned_ids=sum(scan.position for scan in known.scans),
            buckets=known.buckets,
            scans=() if running is None else latest(known.scans),
            per_s=None if running is None else running.rates.per_s(MINUTE_S),
            waits=details.waits,
            verdict=None if details.verdict is None else details.verdict.word,
            finished_s=_seconds(row.finished),
        )


def _seconds(time: str | None) -> float | None:
    """Return the seconds since 1970 of a time on the list, which a person may have changed."""
    with suppress(ValueError):
        return None if time is None else datetime.datetime.fromisoformat(time).timestamp()
    return None
