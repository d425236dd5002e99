"""This module has what the agent counts, under the names of both predecessors."""

from collections import Counter
from collections.abc import Iterable, Sequence

import prometheus_client as prometheus

from rebalancer.agent.transfer.messages import Finished
from rebalancer.config import AgentExporter
from rebalancer.domain import reasons
from rebalancer.metrics import LegacyMetrics

#: Seconds, of the rewrite's histograms: of an assignment, and of the download of an object.
ASSIGNMENT_BUCKETS = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
DOWNLOAD_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)
#: The rewrite's names of failures, by those of the reasons.
ERROR_TYPES = {
    reasons.NETWORK_ERROR.name: "network",
    reasons.MD5_MISMATCH.name: "md5_mismatch",
    reasons.HTTP_STATUS_CODE: "http_error",
    reasons.AGENT_FS_ERROR.name: "fs_error",
    reasons.AGENT_ASSIGNMENT_NO_ENT.name: "assignment_not_found",
    reasons.AGENT_BUSY.name: "agent_busy",
    reasons.ASSIGNMENT_ERROR.name: "assignment_error",
    reasons.ASSIGNMENT_MISMATCH.name: "assignment_mismatch",
    reasons.ASSIGNMENT_REJECTED.name: "assignment_rejected",
    reasons.DESTINATION_INSUFFICIENT_SPACE.name: "insufficient_space",
    reasons.DESTINATION_UNREACHABLE.name: "destination_unreachable",
    reasons.OBJECT_ALREADY_ON_DEST_SHARK.name: "already_on_dest",
    reasons.OBJECT_ALREADY_IN_DATACENTER.name: "already_in_dc",
    reasons.SOURCE_OTHER_ERROR.name: "source_error",
    reasons.SOURCE_IS_EVAC_SHARK.name: "source_is_evac",
}
#: The names of errors of requests, by status.  The deployed agent counts a malformed one
#: under its parser's whole message, of which there is no end.
REFUSALS = {400: "malformed", 409: "conflict", 413: "malformed"}


class AgentMetrics:
    """This object has both families of metrics, and gauges of the present."""

    def __init__(self, config: AgentExporter) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        labels = {
            "service": config.service,
            "server": config.server,
            "datacenter": config.datacenter,
        }
        self._legacy = LegacyMetrics(registry if config.legacy else None, labels)

        def counter(name: str, text: str, *label: str) -> prometheus.Counter:
            return prometheus.Counter(f"rebalancer_agent_{name}", text, label, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float]) -> prometheus.Histogram:
            return prometheus.Histogram(
                f"rebalancer_agent_{name}", text, registry=registry, buckets=buckets
            )

        def gauge(name: str, text: str) -> prometheus.Gauge:
            return prometheus.Gauge(f"rebalancer_agent_{name}", text, registry=registry)

        self._bytes = counter("bytes_transferred", "Bytes of objects received from other nodes.")
        self._processed = counter("objects_processed", "Tasks that ended, by how.", "status")
        self._failed = counter("objects_failed", "Tasks that failed.")
        self._errors = counter("errors", "Failures of tasks, by type.", "error_type")
        self._assignments = counter("assignments_completed", "Assignments that were done.")
        self._assignment_s = histogram(
            "assignment_duration_seconds",
            "Seconds from the begin of an assignment until all of it is stored.",
            ASSIGNMENT_BUCKETS,
        )
        self._download_s = histogram(
            "download_duration_seconds", "Seconds of a download.", DOWNLOAD_BUCKETS
        )
        self.cleanup_failures = counter(
            "cleanup_failures", "Temporary files that could not be removed."
        )
        self.state_retries = counter(
            "state_write_retries", "Writes of state files that failed and were tried again."
        )
        self.quarantined = counter(
            "quarantined", "State files that were no assignments and were put aside."
        )
        self.queued = gauge("queued_assignments", "Assignments that wait or run.")
        self.running = gauge("running_tasks", "Tasks that are worked on now.")
        self.disk_free = gauge(
            "disk_free_bytes",
            "Bytes of the disk that objects may use; NaN while it does not answer.",
        )

    def request(self, method: str) -> None:
        """Count a request."""
        self._legacy.request_count.inc(value=method)

    def refused(self, status: int) -> None:
        """Count an assignment that was posted and refused."""
        if (label := REFUSALS.get(status)) is not None:
            self._legacy.error_count.inc(value=label)

    def ended(self, events: Iterable[Finished]) -> None:
        """Count tasks that ended: with an object pulled, with one that was there, or failed."""
        counts, size = Counter[str](), 0
        for event in events:
            if event.size is not None:
                size += event.size
                self._download_s.observe(event.seconds)
            if event.reason is not None:
                counts["failed"] += 1
                error_type = ERROR_TYPES.get(event.reason.name, reasons.UNKNOWN.word)
                self._errors.labels(error_type=error_type).inc()
                self._legacy.error_count.inc(value=event.reason.label)
            else:
                counts["skipped" if event.size is None else "completed"] += 1
        for status, count in counts.items():
            self._processed.labels(status=status).inc(count)
        self._failed.inc(counts["failed"])
        self._legacy.object_count.inc(counts.total())
        self._bytes.inc(size)
        self._legacy.bytes_count.inc(size)

    def completed(self, seconds: float) -> None:
        """Count an assignment that was done `seconds` after it was begun."""
        self._assignments.inc()
        self._assignment_s.observe(seconds)
        self._legacy.assignment_time.observe(seconds)
