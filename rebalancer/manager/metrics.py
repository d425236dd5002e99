"""What the manager counts."""

import prometheus_client as prometheus

from rebalancer.config import ManagerConfig
from rebalancer.domain.reasons import Reason
from rebalancer.manager.records import ScanPosition
from rebalancer.metrics import LegacyMetrics


class ManagerMetrics:
    """The predecessor's families, and the updaters' limit."""

    def __init__(self, config: ManagerConfig) -> None:
        self.registry = prometheus.CollectorRegistry()
        labels = {
            "service": config.service,
            "server": config.server,
            "datacenter": config.datacenter,
        }
        self.legacy = LegacyMetrics(self.registry, labels)
        self._skips = self.legacy.skip_count()
        self._updaters = prometheus.Gauge(
            "md_thread_gauge", "concurrent metadata updates allowed", registry=self.registry
        )
        self._in_force = prometheus.Gauge(
            "md_threads_in_force",
            "concurrent metadata updates in force, fewer while a shard is overloaded",
            registry=self.registry,
        )
        where = ("round", "shard", "id_column")
        self._scan_position = prometheus.Gauge(
            "scan_position", "ids of the running job scanned", where, registry=self.registry
        )
        self._scan_until = prometheus.Gauge(
            "scan_until", "last id of the running job's scan", where, registry=self.registry
        )

    def request(self, name: str) -> None:
        """A request came, named as the predecessor named its routes."""
        self.legacy.request_count.inc(value=name)

    def moved(self, objects: int) -> None:
        """So many objects are complete."""
        self.legacy.object_count.inc(objects, "evacuate")

    def skipped(self, reason: Reason, objects: int = 1) -> None:
        """So many objects were skipped for `reason`."""
        self._skips.inc(objects, reason.label)

    def failed(self, error: str) -> None:
        """An object ended in `error`."""
        self.legacy.error_count.inc(value=error)

    def scanned(self, scan: ScanPosition) -> None:
        """A scan has come so far."""
        where = (str(scan.round), str(scan.shard), scan.column)
        self._scan_position.labels(*where).set(scan.position)
        self._scan_until.labels(*where).set(scan.until)

    def updaters(self, limit: int, in_force: int) -> None:
        """The operator allows `limit` concurrent metadata updates; `in_force` may run."""
        self._updaters.set(limit)
        self._in_force.set(in_force)
