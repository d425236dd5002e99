"""What the agent counts, under the names of both predecessors."""

from collections import Counter
from collections.abc import Iterable

import prometheus_client as prometheus

from rebalancer.agent.messages import Outcome
from rebalancer.config import AgentMetrics as MetricsConfig
from rebalancer.metrics import LegacyMetrics


class AgentMetrics:
    """Both families of metrics, and gauges of the present."""

    def __init__(self, config: MetricsConfig) -> None:
        self.registry = registry = prometheus.CollectorRegistry()
        labels = {
            "service": config.service,
            "server": config.server,
            "datacenter": config.datacenter,
        }
        self._legacy = LegacyMetrics(registry if config.legacy else None, labels)

        def counter(name: str, text: str, *label: str) -> prometheus.Counter:
            return prometheus.Counter(f"rebalancer_agent_{name}", text, label, registry=registry)

        def histogram(name: str, text: str) -> prometheus.Histogram:
            return prometheus.Histogram(f"rebalancer_agent_{name}", text, registry=registry)

        def gauge(name: str, text: str) -> prometheus.Gauge:
            return prometheus.Gauge(f"rebalancer_agent_{name}", text, registry=registry)

        self._bytes = counter("bytes_transferred", "bytes received from other nodes")
        self._processed = counter("objects_processed", "tasks ended", "status")
        self._failed = counter("objects_failed", "tasks failed")
        self._errors = counter("errors", "failures", "type")
        self._assignments = counter("assignments_completed", "assignments done")
        self._assignment_s = histogram("assignment_duration_seconds", "time of an assignment")
        self._download_s = histogram("download_duration_seconds", "time of a download")
        self.cleanup_failures = counter("cleanup_failures", "temporary files not removed")
        self.state_retries = counter("state_write_retries", "state writes tried again")
        self.quarantined = counter("quarantined", "state files that were no assignments")
        self.queued = gauge("queued_assignments", "assignments waiting or running")
        self.running = gauge("running_tasks", "tasks being worked on")
        self.disk_free = gauge("disk_free_bytes", "bytes that may be used")

    def request(self, method: str) -> None:
        """A request came."""
        self._legacy.request_count.inc(value=method)

    def ended(self, outcomes: Iterable[Outcome]) -> None:
        """Tasks have ended: with an object pulled, with one that was there already, or failed."""
        counts, size = Counter[str](), 0
        for outcome in outcomes:
            if outcome.size is not None:
                size += outcome.size
                self._download_s.observe(outcome.seconds)
            if outcome.reason is not None:
                counts["failed"] += 1
                self._errors.labels(type=outcome.reason.column).inc()
                self._legacy.error_count.inc(value=outcome.reason.column)
            else:
                counts["skipped" if outcome.size is None else "completed"] += 1
        for status, count in counts.items():
            self._processed.labels(status=status).inc(count)
        self._failed.inc(counts["failed"])
        self._legacy.object_count.inc(counts.total())
        self._bytes.inc(size)
        self._legacy.bytes_count.inc(size)

    def completed(self, seconds: float) -> None:
        """An assignment was done, `seconds` after it was begun."""
        self._assignments.inc()
        self._assignment_s.observe(seconds)
        self._legacy.assignment_time.observe(seconds)
