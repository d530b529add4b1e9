"""What programs that serve metrics to Prometheus share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.utils import floatToGoString

from tidemark.logs import log

PROCESSES: Final = 32
"""Processes of one machine that find a port: each takes the first that is free."""


def serve_registry(registry: CollectorRegistry, port: int, address: str, processes: int = PROCESSES) -> int | None:
    """Serve it over HTTP, at the first port from this one on that is free.

    Returns:
        The port; None when none of so many can be had, which is told in the log: metrics are no reason to stop.
    """
    for candidate in range(port, port + processes):
        try:
            start_http_server(candidate, address, registry)
        except OSError:
            continue
        return candidate
    log.warning(
        "--metrics_port: none of the ports %d to %d of %s can be had, so metrics are not served.",
        port,
        port + processes - 1,
        address,
    )
    return None


def histogram(
    name: str, said: str, bounds: Sequence[float], numbers: Iterable[int], total: float
) -> HistogramMetricFamily:
    """A distribution.

    Args:
        name: Its own.
        said: What it is of.
        bounds: Of its buckets, upper and inclusive.
        numbers: How many values are in each, and above the last bound.
        total: The sum of all values.
    """
    names = (*map(floatToGoString, bounds), "+Inf")
    buckets = list(zip(names, itertools.accumulate(numbers), strict=True))
    return HistogramMetricFamily(name, said, buckets=buckets, sum_value=total)
