"""This module has the metrics of both daemons, under the predecessors' names."""

import platform
from collections.abc import Iterator, Mapping

import prometheus_client as prometheus
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from rebalancer import __version__, log
from rebalancer.serving.app import Answer, App, Request

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
        self.object_count = self._counter("object_count", "Objects processed.", "type")
        self.error_count = self._counter("error_count", "Errors met.", "error")
        self.bytes_count = self._counter("bytes_count", "Bytes transferred.", None)
        self.assignment_time = prometheus.Histogram(
            "assignment_time", "Seconds an assignment took.", list(self._labels), registry=registry
        ).labels(**self._labels)

    def _counter(self, name: str, text: str, label: str | None) -> "BareCounter":
        made = BareCounter(name, text, label, self._labels)
        if self._registry is not None:
            self._registry.register(made)
        return made

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


class LogMetrics(Collector):
    """A collector of the number of lines that the log could not write."""

    def collect(self) -> Iterator[Metric]:
        """Yield the count so far, for the registry."""
        text = "Lines of the log that could not be written."
        yield CounterMetricFamily("log_lines_dropped", text, log.dropped())


def metrics_app(registry: prometheus.CollectorRegistry) -> App:
    """Return an application that answers `/metrics`, and `/` as the predecessor did."""
    registry.register(LogMetrics())
    app = App(f"rebalancer {__version__}", 1 << 10)

    @app.get("/")
    @app.get("/metrics")
    async def metrics(_request: Request) -> Answer:
        content_type = prometheus.CONTENT_TYPE_LATEST
        return Answer(prometheus.generate_latest(registry), content_type=content_type)

    return app
