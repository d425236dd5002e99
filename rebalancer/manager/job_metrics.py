"""This module has what metrics show of each job: its state, counts, rates, waits and verdict."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import attrs
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rebalancer.domain.reasons import read_word
from rebalancer.domain.states import OPEN_OBJECTS, ObjectStatus
from rebalancer.domain.tiers import tier_of
from rebalancer.manager.store.records import ScanPosition, StatusCounts
from rebalancer.waits import Wait, by_kind

#: The families about single jobs: the text of each, and its labels beside those of the job.
_FAMILIES: Mapping[str, tuple[str, ...]] = {
    "state": ("1 for the state that the job is in.", "state"),
    "objects": ("Objects of the job, by status and reason.", "status", "reason"),
    "bytes": ("Bytes of the job's objects, by status.", "status"),
    "bucket_objects": ("Bucket objects of the job, by status.", "status"),
    "settled_objects": ("Objects that have come to an end.",),
    "open_objects": ("Objects found so far that have not come to an end.",),
    "scanned_ratio": ("Share of the shards' ids that discovery has looked at, 0 to 1.",),
    "scanned_ids": ("Ids looked at, in discovery and all final scans.",),
    "scan_position": (
        "Id up to which a scan under way has stored what it looks for.",
        *("round", "tier", "shard", "id_column"),
    ),
    "scan_until": (
        "Last id that a scan under way has to look at.",
        *("round", "tier", "shard", "id_column"),
    ),
    "objects_per_second": ("Objects that come to an end a second, in the last minute.",),
    "bytes_per_second": ("Bytes of objects moved a second, in the last minute.",),
    "waits": ("Causes that the job waits for, by kind.", "cause"),
    "waiting_seconds": ("Seconds since the oldest cause of the kind began.", "cause"),
    "verdict": ("1 for the verdict of the ended job.", "verdict"),
    "finished_timestamp_seconds": ("Unix time at which the job ended or was paused.",),
}
#: The labels of a job.  Not `job`: a scraping server calls what it scrapes so.
_OF_JOB = ("job_id", "action", "node")


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
    #: Bucket objects and their bytes by status, which are in `status` too.
    buckets: Mapping[str, tuple[int, int]] = attrs.field(factory=dict)
    #: The scans under way, of a job that runs.
    scans: Sequence[ScanPosition] = ()
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
        self._by_name = {
            name: GaugeMetricFamily(f"rebalancer_job_{name}", text, labels=[*_OF_JOB, *labels])
            for name, (text, *labels) in _FAMILIES.items()
        }

    @property
    def all(self) -> Iterable[GaugeMetricFamily]:
        """Return the families with all samples."""
        return self._by_name.values()

    def add(self, job: JobFigures) -> None:
        """Add the samples of a job."""
        status = job.status

        def add(name: str, value: float, *labels: str) -> None:
            self._by_name[name].add_metric([job.job_id, job.action, job.node, *labels], value)

        add("state", 1, job.state)
        for labels, objects in _objects(status).items():
            add("objects", objects, *labels)
        for one in ObjectStatus:
            add("bytes", status.size(one), one)
        for one in ObjectStatus:
            add("bucket_objects", job.buckets.get(one, (0, 0))[0], one)
        add("settled_objects", status.settled)
        add("open_objects", sum(map(status.objects, OPEN_OBJECTS)))
        add("scanned_ratio", job.scanned_share)
        add("scanned_ids", job.scanned_ids)
        for scan in job.scans:
            tier = tier_of(scan.shard) if scan.shard else ""
            where = str(scan.round), tier, str(abs(scan.shard)), scan.column
            add("scan_position", scan.position, *where)
            add("scan_until", scan.until, *where)
        if job.per_s is not None:
            add("objects_per_second", job.per_s[0])
            add("bytes_per_second", job.per_s[1])
        for kind, (count, lasts_s) in by_kind(job.waits).items():
            add("waits", count, kind)
            add("waiting_seconds", lasts_s, kind)
        if job.verdict is not None:
            add("verdict", 1, job.verdict)
        if job.finished_s is not None:
            add("finished_timestamp_seconds", job.finished_s)


def _objects(status: StatusCounts) -> Mapping[tuple[str, str], int]:
    """Count objects by status and label of the reason, of which there are few."""
    counted = Counter[tuple[str, str]]({(one, ""): 0 for one in ObjectStatus})
    for (name, word), (objects, _) in status.counts.items():
        if name in _STATUSES:
            reason = read_word(word or None)
            counted[name, "" if reason is None else reason.label] += objects
    return counted


_STATUSES: Iterable[str] = frozenset(map(str, ObjectStatus))
