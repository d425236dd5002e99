"""Prometheus metrics that both daemons have, under the predecessors' names."""

import platform
from collections.abc import Mapping

import prometheus_client as prometheus
from quart import Response
from quart_trio import QuartTrio

#: The predecessors add a label value that counts all the others.
TOTAL = "total"


class LegacyMetrics:
    """The families of the deployed programs, with their constant labels."""

    def __init__(self, registry: prometheus.CollectorRegistry, labels: Mapping[str, str]) -> None:
        self._labels = {**labels, "zonename": platform.node()}
        self._registry = registry
        self.request_count = self._counter("request_count", "requests served", "req")
        self.object_count = self._counter("object_count", "objects processed", "type")
        self.error_count = self._counter("error_count", "errors met", "error")
        self.bytes_count = prometheus.Counter(
            "bytes_count", "bytes transferred", list(self._labels), registry=registry
        ).labels(**self._labels)
        self.assignment_time = prometheus.Histogram(
            "assignment_time", "seconds an assignment took", list(self._labels), registry=registry
        ).labels(**self._labels)

    def _counter(self, name: str, text: str, label: str) -> "TotalledCounter":
        family = prometheus.Counter(name, text, [label, *self._labels], registry=self._registry)
        return TotalledCounter(family, label, self._labels)

    def skip_count(self) -> "TotalledCounter":
        """The family that only the manager has."""
        return self._counter("skip_count", "objects skipped", "reason")


class TotalledCounter:
    """A counter with one label, which counts every step under `total` too."""

    def __init__(self, family: prometheus.Counter, label: str, constant: Mapping[str, str]) -> None:
        self._family, self._label, self._constant = family, label, constant

    def inc(self, value: str, amount: float = 1) -> None:
        """Count `amount` for label value `value`."""
        for name in (value, TOTAL):
            self._family.labels(**{self._label: name}, **self._constant).inc(amount)


def metrics_app(registry: prometheus.CollectorRegistry) -> QuartTrio:
    """An application that answers `/metrics`, and `/` as the predecessor did."""
    app = QuartTrio(__name__)

    @app.get("/")
    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(
            prometheus.generate_latest(registry), content_type=prometheus.CONTENT_TYPE_LATEST
        )

    return app
