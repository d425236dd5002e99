"""This module has what the manager counts and measures."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import attrs
import prometheus_client as prometheus
import trio
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from rebalancer.config import ManagerConfig
from rebalancer.domain.reasons import UNKNOWN, read_word
from rebalancer.domain.states import ObjectStatus
from rebalancer.manager.fleet.ledger import FleetLedger
from rebalancer.manager.fleet.node_list import NodeList
from rebalancer.manager.job_metrics import JobCollector
from rebalancer.manager.store.records import StatusCounts
from rebalancer.metrics import LegacyMetrics, WaitMetrics

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
        self._updaters = self.legacy.md_thread_gauge()
        self._in_force = prometheus.Gauge(
            "md_threads_in_force",
            "Metadata updates in force, of all jobs; fewer while a shard is overloaded.",
            registry=self.registry,
        )
        self._stages = prometheus.Histogram(
            "stage_seconds",
            "Seconds of a stage's work: scan, a window of ids; post, an assignment, with retries;"
            " copy, an assignment, from its acceptance until its end is noticed; update, the"
            " records of an assignment.",
            ("stage",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self._live = _Live()
        self.registry.register(self._live)
        self.jobs = JobCollector()
        self.registry.register(self.jobs)

    def request(self, name: str) -> None:
        """Count a request, named as the predecessor named its routes."""
        self.legacy.request_count.inc(value=name)

    def counted(self, action: str, before: StatusCounts, after: StatusCounts) -> None:
        """Count what of a job of an action came to an end between two readings of its counts."""
        for (status, word), (objects, size) in after.counts.items():
            known, known_size = before.counts.get((status, word), (0, 0))
            if objects <= known:
                continue
            label = (read_word(word) or UNKNOWN).label
            match status:
                case ObjectStatus.COMPLETE:
                    self.legacy.object_count.inc(objects - known, action)
                    self.legacy.bytes_count.inc(max(0, size - known_size))
                case ObjectStatus.SKIPPED:
                    self._skips.inc(objects - known, label)
                case ObjectStatus.ERROR:
                    self.legacy.error_count.inc(objects - known, label)

    def copied(self, seconds: float) -> None:
        """Note that an agent's work on an assignment came to its end after `seconds`."""
        self.took("copy", seconds)
        self.legacy.assignment_time.observe(seconds)

    def show_update_limits(self, limit: int, in_force: int) -> None:
        """Show that operators allow `limit` updates at a time, of which `in_force` may run."""
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

    def watch_fleet(self, ledger: FleetLedger, node_list: NodeList) -> None:
        """Show how all destinations stand, from now on."""
        self._live.ledger, self._live.node_list = ledger, node_list
        self.registry.register(WaitMetrics("manager", lambda: node_list.waits.causes))


@attrs.define(eq=False)
class _Live(Collector):
    """This collector looks up what somebody asks for.  Mutable state: where it looks."""

    queues: list[Mapping[str, Callable[[], int]]] = attrs.field(factory=list)
    ledger: FleetLedger = attrs.field(factory=FleetLedger)
    node_list: NodeList | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield the queues and the destinations as they are now, for the registry."""
        lengths = GaugeMetricFamily("queue_length", "Messages between stages.", labels=["queue"])
        names = {name for queues in self.queues for name in queues}
        for name in sorted(names):
            of_all = sum(queues[name]() for queues in self.queues if name in queues)
            lengths.add_metric([name], of_all)
        yield lengths
        yield from self._nodes()
        yield from self._destinations()

    def _nodes(self) -> Iterator[Metric]:
        age_s = None if self.node_list is None else self.node_list.age_s
        yield GaugeMetricFamily(
            "rebalancer_storinfo_age_seconds",
            "Seconds since storinfo listed the storage nodes; NaN before its first answer.",
            math.nan if age_s is None else age_s,
        )

    def _destinations(self) -> Iterator[Metric]:
        """Yield the families about destinations that have, or had, to do with a job."""

        def family(name: str, text: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"destination_{name}", text, labels=["shark"])

        claimed = family("claimed_bytes", "Bytes promised to objects or not yet reported as used.")
        at_work = family("assignments", "Assignments under way.")
        failures = family("failures", "Assignments that failed in a row by the agent's fault.")
        avoided = family("avoided_seconds", "Seconds for which others are preferred yet.")
        away = family("away", "1 while the agent does not answer, else 0.")
        used = family("used_ratio", "Share of the space in use by storinfo, 0 to 1.")
        room = family("available_bytes", "Bytes that are free by storinfo.")
        nodes = () if self.node_list is None else self.node_list.nodes
        listed = {node.manta_storage_id: node for node in nodes}
        for one in self.ledger.snapshot():
            claimed.add_metric([one.shark], one.claimed)
            at_work.add_metric([one.shark], one.assignments)
            failures.add_metric([one.shark], one.failures)
            avoided.add_metric([one.shark], one.avoided_for_s)
            away.add_metric([one.shark], self.ledger.health.is_away(one.shark))
            if (node := listed.get(one.shark)) is not None:
                used.add_metric([one.shark], node.percent_used / 100)
                room.add_metric([one.shark], node.available_mb << 20)
        yield from (claimed, at_work, failures, avoided, away, used, room)
