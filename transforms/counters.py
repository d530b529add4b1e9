"""Counters, gauges and distributions under the names of `tidemark.metrics`: Beam's, and the same numbers in this process.

Beam brings them to whatever the engine has: Dataflow's custom metrics, Flink's reporters. What a process remembers itself
is for programs that run their engine, and for the Prometheus endpoint.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from apache_beam.metrics import Metrics

from tidemark.errors import MisconfiguredError, TidemarkError
from tidemark.metrics import METRICS, NAMESPACE, OTHER_PROJECTS, PROJECTS_APART, Kind

_tally: Counter[str] = Counter()
_gauges: dict[str, float] = {}
_lock: Final = threading.Lock()


@dataclass
class Distribution:
    """Values seen so far: how many, their sum, and how many in each of the metric's buckets, the last without bound."""

    number: int = 0
    total: float = 0.0
    buckets: list[int] = field(default_factory=list)


_distributions: dict[str, Distribution] = {}
_by_project: dict[str, Counter[tuple[str, str]]] = {}
_projects: Final[set[str]] = set()
"""That are told apart."""


@cache
def _beam(name: str, kind: Kind) -> Any:
    if METRICS[name].kind is not kind:
        raise TypeError(f"{name} is a {METRICS[name].kind}, not a {kind}")
    if METRICS[name].labels:
        raise TypeError(f"{name} has labels")
    make = {Kind.COUNTER: Metrics.counter, Kind.GAUGE: Metrics.gauge, Kind.DISTRIBUTION: Metrics.distribution}[kind]
    return make(NAMESPACE, name)


def count(name: str, number: int = 1) -> None:
    """Add to a counter, in Beam and in this process.

    Raises:
        KeyError, TypeError: there is no such counter.
    """
    counter = _beam(name, Kind.COUNTER)
    if number:
        counter.inc(number)
        with _lock:
            _tally[name] += number


def count_by_project(name: str, number: int, project: str | None, reason: str) -> None:
    """Add to a counter that has labels, in this process.

    Args:
        name: Of the counter.
        number: What to add.
        project: None: nobody knows. The first ones are told apart.
        reason: The other label.

    Raises:
        KeyError, TypeError: there is no such counter.
    """
    if not METRICS[name].labels:
        raise TypeError(f"{name} has no labels")
    with _lock:
        if project and project not in _projects:
            if len(_projects) < PROJECTS_APART:
                _projects.add(project)
            else:
                project = OTHER_PROJECTS
        _by_project.setdefault(name, Counter())[project or "", reason] += number


def count_waiting(error: TidemarkError) -> None:
    """Count a failure that waits for a person, where no loop of `tidemark.retry` does."""
    if isinstance(error, MisconfiguredError):
        count("retries_misconfigured")


def gauge(name: str, value: float) -> None:
    """Remember the latest value of something; Beam's gauges are whole numbers.

    Raises:
        KeyError, TypeError: there is no such gauge.
    """
    _beam(name, Kind.GAUGE).set(round(value))
    with _lock:
        _gauges[name] = value


def observe(name: str, value: float) -> None:
    """Add a value to a distribution; Beam's are of whole numbers.

    Raises:
        KeyError, TypeError: there is no such distribution.
    """
    _beam(name, Kind.DISTRIBUTION).update(round(value))
    bounds = METRICS[name].bounds
    with _lock:
        seen = _distributions.setdefault(name, Distribution(buckets=[0] * (len(bounds) + 1)))
        seen.number += 1
        seen.total += value
        seen.buckets[bisect_left(bounds, value)] += 1


def tally() -> dict[str, float]:
    """What was counted in this process since it started, and the latest of each gauge."""
    with _lock:
        return {**_tally, **_gauges}


def distributions() -> dict[str, Distribution]:
    """What this process has seen of each distribution."""
    with _lock:
        return {name: Distribution(seen.number, seen.total, [*seen.buckets]) for name, seen in _distributions.items()}


def by_project(name: str) -> dict[tuple[str, str], int]:
    """What `count_by_project` has counted, by project and reason."""
    with _lock:
        return dict(_by_project.get(name, ()))
