"""The metrics of this process for Prometheus, over HTTP: `GET /metrics` on the loopback address or all."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tidemark.logs import log
from tidemark.metrics import METRICS, NAMESPACE, Kind
from transforms.counters import distributions, tally

PROCESSES: Final = 32
"""Processes of one machine that find a port: each takes the first that is free."""
_lock: Final = threading.Lock()
_serving: dict[int, int] = {}


def serve(port: int, address: str = "0.0.0.0") -> int | None:  # noqa: S104  # a scraper is elsewhere
    """Serve this process's metrics, once a process however often it is called.

    Args:
        port: The first to try; 0: do not serve.
        address: To listen on.

    Returns:
        The port; None when nothing is served, which is told in the log unless it was asked for: metrics are no reason
        for a pipeline to stop.
    """
    if not port:
        return None
    with _lock:
        if port in _serving:
            return _serving[port]
        registry = CollectorRegistry()
        registry.register(_Collector())
        for candidate in range(port, port + PROCESSES):
            try:
                start_http_server(candidate, address, registry)
            except OSError:
                continue
            _serving[port] = candidate
            return candidate
    log.warning("--metrics_port: none of the ports %d to %d is free, so metrics are not served.", port, candidate)
    return None


class _Collector(Collector):
    def collect(self) -> Iterator[Metric]:
        """Every metric of the list, 0 where nothing was counted; gauges only once they are known."""
        values, seen = tally(), distributions()
        for metric in METRICS.values():
            name = f"{NAMESPACE}_{metric.name}"
            if metric.kind is Kind.COUNTER:
                yield CounterMetricFamily(name, metric.help, value=values.get(metric.name, 0))
            elif metric.kind is Kind.GAUGE:
                if metric.name in values:
                    yield GaugeMetricFamily(name, metric.help, value=values[metric.name])
            elif metric.name in seen:
                of = seen[metric.name]
                bounds = (*map(floatToGoString, metric.bounds), "+Inf")
                buckets = list(zip(bounds, itertools.accumulate(of.buckets), strict=True))
                yield HistogramMetricFamily(name, metric.help, buckets=buckets, sum_value=of.total)
