"""This module has what metrics show of each job: its state, counts, rates, waits and verdict."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rebalancer.domain.reasons import read_word
from rebalancer.domain.states import OPEN_OBJECTS, ObjectStatus
from rebalancer.manager.store.records import StatusCounts
from rebalancer.waits import Wait, by_kind


@attrs.frozen
class JobFigures:
    """This object has what metrics show of a job."""

    job_id: str
    action: str
    node: str
    state: str
    status: StatusCounts
    #: Of the ids that discovery has to look at, and how many ids all rounds have looked at.
    scanned_share: float = 0.0
    scanned_ids: int = 0
    #: Objects and bytes a second, of a job that runs.
    per_s: tuple[float, float] | None = None
    waits: Sequence[Wait] = ()
    verdict: str | None = None
    #: Seconds since 1970 at which the job ended, or was paused.
    finished_s: float | None = None


@attrs.define(eq=False)
class JobCollector(Collector):
    """This collector shows jobs.  Mutable state: the figures that it was given last."""

    #: How many jobs there are in each state, those without figures too.
    by_state: Mapping[str, int] = attrs.field(factory=dict)
    figures: Sequence[JobFigures] = ()

    def collect(self) -> Iterator[Metric]:
        """Yield the families of all jobs, for the registry."""
        jobs = GaugeMetricFamily("rebalancer_jobs", "Jobs on the list, by state.", labels=["state"])
        for state, count in self.by_state.items():
            jobs.add_metric([state], count)
        families = _Families()
        for job in self.figures:
            families.add(job)
        yield from (jobs, *families.all)


class _Families:
    """The families about single jobs, of one scrape."""

    def __init__(self) -> None:
        self.all: list[GaugeMetricFamily] = []
        self._state = self._family("state", "1 for the state that the job is in.", "state")
        self._objects = self._family(
            "objects", "Objects of the job, by status and reason.", "status", "reason"
        )
        self._bytes = self._family("bytes", "Bytes of the job's objects, by status.", "status")
        self._settled = self._family("settled_objects", "Objects that have come to an end.")
        self._remaining = self._family(
            "remaining_objects", "Objects found so far that have not come to an end."
        )
        self._share = self._family(
            "scanned_ratio", "Share of the shards' ids that discovery has looked at, 0 to 1."
        )
        self._ids = self._family("scanned_ids", "Ids looked at, in discovery and all final scans.")
        self._objects_per_s = self._family(
            "objects_per_second", "Objects that come to an end a second, in the last minute."
        )
        self._bytes_per_s = self._family(
            "bytes_per_second", "Bytes of objects moved a second, in the last minute."
        )
        self._waits = self._family("waits", "Causes that the job waits for, by kind.", "cause")
        self._waiting = self._family(
            "waiting_seconds", "Seconds since the oldest cause of the kind began.", "cause"
        )
        self._verdict = self._family("verdict", "1 for the verdict of the ended job.", "verdict")
        self._finished = self._family(
            "finished_timestamp_seconds", "Unix time at which the job ended or was paused."
        )

    def _family(self, name: str, text: str, *labels: str) -> GaugeMetricFamily:
        # Not `job`: a scraping server calls that by its own name of what it scrapes.
        labels = ("job_id", "action", "node", *labels)
        made = GaugeMetricFamily(f"rebalancer_job_{name}", text, labels=labels)
        self.all.append(made)
        return made

    def add(self, job: JobFigures) -> None:
        """Add the samples of a job."""
        of_job, status = [job.job_id, job.action, job.node], job.status
        self._state.add_metric([*of_job, job.state], 1)
        for (name, reason), objects in _objects(status).items():
            self._objects.add_metric([*of_job, name, reason], objects)
        for one in ObjectStatus:
            self._bytes.add_metric([*of_job, one], status.size(one))
        self._settled.add_metric(of_job, status.settled)
        self._remaining.add_metric(of_job, sum(map(status.objects, OPEN_OBJECTS)))
        self._share.add_metric(of_job, job.scanned_share)
        self._ids.add_metric(of_job, job.scanned_ids)
        if job.per_s is not None:
            self._objects_per_s.add_metric(of_job, job.per_s[0])
            self._bytes_per_s.add_metric(of_job, job.per_s[1])
        for kind, (count, lasts_s) in by_kind(job.waits).items():
            self._waits.add_metric([*of_job, kind], count)
            self._waiting.add_metric([*of_job, kind], lasts_s)
        if job.verdict is not None:
            self._verdict.add_metric([*of_job, job.verdict], 1)
        if job.finished_s is not None:
            self._finished.add_metric(of_job, job.finished_s)


def _objects(status: StatusCounts) -> Mapping[tuple[str, str], int]:
    """Count objects by status and label of the reason, of which there are few."""
    counted = Counter[tuple[str, str]]({(one, ""): 0 for one in ObjectStatus})
    for (name, word), (objects, _) in status.counts.items():
        if name in _STATUSES:
            reason = read_word(word or None)
            counted[name, "" if reason is None else reason.label] += objects
    return counted


_STATUSES: Iterable[str] = frozenset(map(str, ObjectStatus))
