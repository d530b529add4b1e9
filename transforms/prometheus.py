"""The metrics of this process for Prometheus, over HTTP: `GET /metrics`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidemark.exposition import PROCESSES, histogram, serve_registry
from tidemark.metrics import METRICS, NAMESPACE, Kind
from tidemark.settings import Values
from transforms.counters import by_project, distributions, tally


@dataclass(frozen=True)
class Endpoint:
    """Where metrics are served.

    Attributes:
        port: The first to try; 0: nowhere.
        address: To listen at.
    """

    port: int = 0
    address: str = "127.0.0.1"

    @classmethod
    def of(cls, values: Values) -> Endpoint:
        """As settings say."""
        return cls(values.metrics_port, values.metrics_address)


NOWHERE: Final = Endpoint()
_lock: Final = threading.Lock()
_serving: Final[dict[Endpoint, int]] = {}


def serve(endpoint: Endpoint) -> int | None:
    """Serve this process's metrics, once a process however often it is called.

    Returns:
        The port; None when nothing is served, which is told in the log unless it was asked for: metrics are no reason
        for a pipeline to stop.
    """
    port = endpoint.port
    if not port:
        return None
    with _lock:
        if endpoint in _serving:
            return _serving[endpoint]
        registry = CollectorRegistry()
        registry.register(_Collector())
        found = serve_registry(registry, port, endpoint.address, PROCESSES)
        if found is not None:
            _serving[endpoint] = found
        return found


class _Collector(Collector):
    def collect(self) -> Iterator[Metric]:
        """Every metric of the list, 0 where nothing was counted; gauges, and what has labels, only once they are known."""
        values, seen = tally(), distributions()
        for metric in METRICS.values():
            name = f"{NAMESPACE}_{metric.name}"
            if metric.labels:
                family = CounterMetricFamily(name, metric.help, labels=metric.labels)
                for labels, number in by_project(metric.name).items():
                    family.add_metric(labels, number)
                yield family
            elif metric.kind is Kind.COUNTER:
                yield CounterMetricFamily(name, metric.help, value=values.get(metric.name, 0))
            elif metric.kind is Kind.GAUGE:
                if metric.name in values:
                    yield GaugeMetricFamily(name, metric.help, value=values[metric.name])
            elif metric.name in seen:
                of = seen[metric.name]
                yield histogram(name, metric.help, metric.bounds, of.buckets, of.total)
