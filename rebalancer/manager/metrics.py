"""This module has what the manager counts and measures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import attrs
import prometheus_client as prometheus
import trio
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rebalancer.config import ManagerConfig
from rebalancer.domain.reasons import Reason
from rebalancer.manager.fleet.ledger import Standing
from rebalancer.manager.store.records import ScanPosition
from rebalancer.metrics import LegacyMetrics

#: From a window of a warm cache to an assignment of large objects.
SECONDS = (0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)


class ManagerMetrics:
    """This object has the predecessor's families, and what else an operator may want to see."""

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
        self._stages = prometheus.Histogram(
            "stage_seconds",
            "scan: a window of ids; post: an assignment, with retries; copy: an assignment, from"
            " its acceptance until its end is noticed; update: the records of an assignment",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._live = _Live()
        self.registry.register(self._live)

    def request(self, name: str) -> None:
        """Count a request, named as the predecessor named its routes."""
        self.legacy.request_count.inc(value=name)

    def completed(self, action: str, objects: int) -> None:
        """Count so many objects of jobs of an action as complete."""
        self.legacy.object_count.inc(objects, action)

    def skipped(self, reason: Reason, objects: int = 1) -> None:
        """Count so many objects that were skipped for `reason`."""
        self._skips.inc(objects, reason.label)

    def failed(self, reason: Reason) -> None:
        """Count an object that ended as an error, for `reason`."""
        self.legacy.error_count.inc(value=reason.word)

    def scanned(self, scan: ScanPosition) -> None:
        """Note how far a scan has come."""
        where = (str(scan.round), str(scan.shard), scan.column)
        self._scan_position.labels(*where).set(scan.position)
        self._scan_until.labels(*where).set(scan.until)

    def show_update_limit(self, limit: int, in_force: int) -> None:
        """Note that the operator allows `limit` updates at a time, of which `in_force` may run."""
        self._updaters.set(limit)
        self._in_force.set(in_force)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure one piece of work of a stage, if it comes to its end."""
        begun = trio.current_time()
        yield
        self.took(stage, trio.current_time() - begun)

    def took(self, stage: str, seconds: float) -> None:
        """Note how long a piece of work of a stage has taken."""
        self._stages.labels(stage).observe(seconds)

    @contextmanager
    def watching(self, queues: Mapping[str, Callable[[], int]]) -> Iterator[None]:
        """Show the lengths of a job's queues meanwhile; those of several jobs add up."""
        self._live.queues.append(queues)
        try:
            yield
        finally:
            self._live.queues.remove(queues)

    def watch_destinations(self, standings: Callable[[], Sequence[Standing]]) -> None:
        """Show how all destinations stand, from now on."""
        self._live.standings = standings


@attrs.define(eq=False)
class _Live(Collector):
    """This collector looks up what somebody asks for.  Mutable state: where it looks."""

    queues: list[Mapping[str, Callable[[], int]]] = attrs.field(factory=list)
    standings: Callable[[], Sequence[Standing]] = list

    def collect(self) -> Iterator[Metric]:
        """Yield the queues and the destinations as they are now, for the registry."""
        lengths = GaugeMetricFamily("queue_length", "messages between stages", labels=["queue"])
        names = {name for queues in self.queues for name in queues}
        for name in sorted(names):
            of_all = sum(queues[name]() for queues in self.queues if name in queues)
            lengths.add_metric([name], of_all)
        yield lengths
        claimed = GaugeMetricFamily(
            "destination_claimed_bytes", "bytes promised or not yet reported", labels=["shark"]
        )
        at_work = GaugeMetricFamily(
            "destination_assignments", "assignments under way", labels=["shark"]
        )
        for standing in self.standings():
            claimed.add_metric([standing.shark], standing.claimed)
            at_work.add_metric([standing.shark], standing.assignments)
        yield from (claimed, at_work)
