"""Counters under stable names: Beam's, and the same numbers for a program that runs its engine itself."""

from __future__ import annotations

import threading
from collections import Counter
from functools import cache
from typing import Any, Final

from apache_beam.metrics import Metrics

NAMESPACE: Final = "tidemark"
_tally: Counter[str] = Counter()
_gauges: dict[str, float] = {}
_lock = threading.Lock()


@cache
def _beam_counter(name: str) -> Any:
    return Metrics.counter(NAMESPACE, name)


def count(name: str, number: int = 1) -> None:
    """Add to a counter, in Beam and in this process."""
    if number:
        _beam_counter(name).inc(number)
        with _lock:
            _tally[name] += number


def gauge(name: str, value: float) -> None:
    """Remember the latest value of something, in this process."""
    with _lock:
        _gauges[name] = value


def tally() -> dict[str, float]:
    """What was counted in this process since it started, and the latest of each gauge."""
    with _lock:
        return {**_tally, **_gauges}
