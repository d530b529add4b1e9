"""What the edge counts, as data and as it is served to Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidemark.exposition import histogram

NAMESPACE: Final = "tidemark_edge"
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Known(NamedTuple):
    """A metric: its labels and one sentence."""

    labels: tuple[str, ...]
    help: str


COUNTERS: Final[dict[str, Known]] = {
    "requests": Known(("path", "status"), "Requests answered; `protocol`: connections that were answered without one."),
    "points_accepted": Known(("project", "kept"), "Points answered as accepted, kept in the `bus` or in the `spool`."),
    "points_refused": Known(("project", "reason"), "Points answered as refused."),
    "values_filtered": Known(("project",), "Values for which the mapping has no output."),
    "published": Known((), "Messages that Pub/Sub confirmed."),
    "publish_calls": Known((), "Calls to Pub/Sub."),
    "publish_retries": Known((), "Calls repeated, since the one before failed or nobody knows what became of it."),
    "stamped": Known(("project",), "Points of MQTT that had no time of their own and were given that of the edge."),
    "connects": Known(("listener", "outcome"), "Connections of devices that said who they are, or were refused."),
    "disconnects": Known(("listener", "reason"), "Ends of connections of devices, but for those that were lost."),
    "wills": Known(("project",), "Wills of MQTT; none is ever published."),
    "subscriptions_refused": Known((), "Filters that clients of MQTT wanted to subscribe to."),
    "partial_lines": Known((), "Last lines over TCP without a line feed; they are not taken."),
    "datagrams": Known(
        ("project", "outcome"),
        "Datagrams read: `accepted`; `refused`, all or some of its points; `not_kept`, since the bus did not take them; "
        "`not_allowed`, by the address of their sender.",
    ),
    "datagrams_dropped": Known(("project",), "Datagrams that the kernel had no room for."),
    "body_bytes": Known(("project",), "Bytes of bodies as they came."),
}
GAUGES: Final = {
    "connections": "Connections open.",
    "inflight_bytes": "Bytes of bodies taken in and not yet answered.",
    "spool_bytes": "Bytes on the disk that are owed to the bus.",
    "tokens": "Tokens in force.",
    "tokens_stale": "1 while the newest tokens cannot be read and older ones are in force.",
    "ready": "1 while points are taken.",
}
LATENCY: Final = "Seconds from a request's head to the answer that its points are kept."


class Counters:
    """Those of one process."""

    def __init__(self) -> None:
        self._counts: dict[str, defaultdict[tuple[str, ...], int]] = {name: defaultdict(int) for name in COUNTERS}
        self._latency = [0] * (len(BOUNDS_S) + 1)
        self._latency_sum = 0.0

    def count(self, name: str, number: int = 1, *labels: str) -> None:
        """Add to a counter; `labels` are the values of its labels, in order."""
        self._counts[name][labels] += number

    def kept(self, seconds: float) -> None:
        """How long a request took that was answered with points kept."""
        self._latency[bisect_left(BOUNDS_S, seconds)] += 1
        self._latency_sum += seconds

    def families(self) -> Iterator[Metric]:
        """As Prometheus has them."""
        for name, known in COUNTERS.items():
            family = CounterMetricFamily(f"{NAMESPACE}_{name}", known.help, labels=known.labels)
            for labels, number in list(self._counts[name].items()):
                family.add_metric(labels, number)
            yield family
        yield histogram(f"{NAMESPACE}_kept_seconds", LATENCY, BOUNDS_S, list(self._latency), self._latency_sum)


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
