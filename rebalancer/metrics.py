"""This module has the metrics of both daemons, under the predecessors' names."""

import platform
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

import prometheus_client as prometheus
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rebalancer import __version__, log
from rebalancer.serving.app import Answer, App, Request
from rebalancer.waits import Wait, by_kind

#: The predecessors add a label value that counts all the others.
TOTAL = "total"


class LegacyMetrics:
    """The families of metrics of the deployed programs, with their constant labels."""

    def __init__(
        self, registry: prometheus.CollectorRegistry | None, labels: Mapping[str, str]
    ) -> None:
        """Make the families; without a registry they count, but are not exported."""
        self._labels = {**labels, "zonename": platform.node()}
        self._registry = registry
        self.request_count = self._counter("request_count", "Requests served.", "req")
        self.object_count = self._counter(
            "object_count", "Objects moved, verified or pulled.", "type"
        )
        self.error_count = self._counter("error_count", "Errors met.", "error")
        self.bytes_count = self._counter(
            "bytes_count", "Bytes of objects that came to an end.", None
        )
        self.assignment_time = prometheus.Histogram(
            "assignment_time",
            "Seconds that an agent's work on an assignment took.",
            list(self._labels),
            registry=registry,
        ).labels(**self._labels)

    def _counter(self, name: str, text: str, label: str | None) -> "BareCounter":
        made = BareCounter(name, text, label, self._labels)
        if self._registry is not None:
            self._registry.register(made)
        return made

    def md_thread_gauge(self) -> prometheus.Gauge:
        """Return the gauge that only the manager has."""
        text = "Metadata updates that operators let run at a time, of all jobs that run."
        return prometheus.Gauge(
            "md_thread_gauge", text, list(self._labels), registry=self._registry
        ).labels(**self._labels)

    def skip_count(self) -> "BareCounter":
        """Return the family that only the manager has."""
        return self._counter("skip_count", "Objects skipped.", "reason")


class BareCounter(Collector):
    """A counter of exactly its name: prometheus_client's own would be `<name>_total`.

    It is exported as untyped, because that library knows no counter of such a name.  With a
    label, every step counts for the label's value and for `total`.

    Mutable state: the counts by value of the label.
    """

    def __init__(
        self, name: str, text: str, label: str | None, constant: Mapping[str, str]
    ) -> None:
        self._name, self._text, self._label, self._constant = name, text, label, constant
        self._counts: dict[str, float] = {} if label else {TOTAL: 0}

    def inc(self, amount: float = 1, value: str = TOTAL) -> None:
        """Count `amount`, for `value` of the label."""
        for name in {value, TOTAL}:
            self._counts[name] = self._counts.get(name, 0) + amount

    def collect(self) -> Iterator[Metric]:
        """Yield the counts so far, for the registry."""
        metric = Metric(self._name, self._text, "unknown")
        for value, count in self._counts.items():
            labels = {} if self._label is None else {self._label: value}
            metric.add_sample(self._name, {**labels, **self._constant}, count)
        yield metric


class ProgramMetrics(Collector):
    """A collector of what both programs have: lines of the log that were dropped, and the start."""

    def __init__(self) -> None:
        self._started_s = time.time()

    def collect(self) -> Iterator[Metric]:
        """Yield the families as they are now, for the registry."""
        text = "Lines of the log that could not be written."
        yield CounterMetricFamily("log_lines_dropped", text, log.dropped())
        text = "Unix time at which the program began to serve."
        yield GaugeMetricFamily("rebalancer_start_time_seconds", text, self._started_s)


class WaitMetrics(Collector):
    """A collector of what a program itself waits for, by kinds of causes."""

    def __init__(self, program: str, causes: Callable[[], Iterable[Wait]]) -> None:
        self._program, self._causes = program, causes

    def collect(self) -> Iterator[Metric]:
        """Yield the causes as they are now, for the registry."""
        name, labels = f"rebalancer_{self._program}", ["cause"]
        text = f"Causes that the {self._program} waits for, by kind."
        counts = GaugeMetricFamily(f"{name}_waits", text, labels=labels)
        text = "Seconds since the oldest cause of the kind began."
        seconds = GaugeMetricFamily(f"{name}_waiting_seconds", text, labels=labels)
        for kind, (count, lasts_s) in by_kind(self._causes()).items():
            counts.add_metric([kind], count)
            seconds.add_metric([kind], lasts_s)
        yield from (counts, seconds)


async def _nothing() -> None:
    """Do nothing before a scrape."""


def metrics_app(
    registry: prometheus.CollectorRegistry, refresh: Callable[[], Awaitable[None]] = _nothing
) -> App:
    """Return an application that answers `/metrics`, and `/` as the predecessor did.

    `refresh` is called before each answer; it takes a bounded time.
    """
    registry.register(ProgramMetrics())
    app = App(f"rebalancer {__version__}", 1 << 10)

    @app.get("/")
    @app.get("/metrics")
    async def metrics(_request: Request) -> Answer:
        await refresh()
        content_type = prometheus.CONTENT_TYPE_LATEST
        return Answer(prometheus.generate_latest(registry), content_type=content_type)

    return app
