"""What the service counts, as data and as it is served to Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidemark.exposition import histogram

NAMESPACE: Final = "tidemark_query"
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COUNTERS: Final = {
    "requests": (
        ("path", "status"),
        "Requests answered; `protocol`: connections that were answered without one; `other`: paths that are none.",
    )
}
GAUGES: Final = {
    "connections": "Connections open.",
    "running": "Queries that are executed, or wait for their turn.",
    "tokens": "Tokens in force.",
    "tokens_stale": "1 while the newest tokens cannot be read and older ones are in force.",
    "ready": "1 while the database answers.",
}
LATENCY: Final = "Seconds from a request's head to its answer."


class Counters:
    """Those of one process."""

    def __init__(self) -> None:
        self._counts: dict[str, defaultdict[tuple[str, ...], int]] = {name: defaultdict(int) for name in COUNTERS}
        self._latency = [0] * (len(BOUNDS_S) + 1)
        self._latency_sum = 0.0

    def count(self, name: str, number: int = 1, *labels: str) -> None:
        """Add to a counter; `labels` are the values of its labels, in order."""
        self._counts[name][labels] += number

    def took(self, seconds: float) -> None:
        """How long an answer took."""
        self._latency[bisect_left(BOUNDS_S, seconds)] += 1
        self._latency_sum += seconds

    def families(self) -> Iterator[Metric]:
        """As Prometheus has them."""
        for name, (labels, help_) in COUNTERS.items():
            family = CounterMetricFamily(f"{NAMESPACE}_{name}", help_, labels=labels)
            for values, number in list(self._counts[name].items()):
                family.add_metric(values, number)
            yield family
        yield histogram(f"{NAMESPACE}_seconds", LATENCY, BOUNDS_S, list(self._latency), self._latency_sum)


class Shown(Collector):
    """Counters and gauges together, for a registry."""

    def __init__(self, counters: Counters, gauges: dict[str, Callable[[], float]]) -> None:
        assert gauges.keys() == GAUGES.keys()
        self._counters, self._gauges = counters, gauges

    def collect(self) -> Iterator[Metric]:
        """Asked for by each scrape."""
        yield from self._counters.families()
        for name, value in self._gauges.items():
            yield GaugeMetricFamily(f"{NAMESPACE}_{name}", GAUGES[name], value())
