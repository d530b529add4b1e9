"""Points that come as late as points do, and what settling would make of them, played one by one; shares no code with the product."""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import NamedTuple

import numpy as np


class Arrival(NamedTuple):
    """A point: when it was published, whose it is and of when; seconds."""

    published: float
    series: int
    event: float


class Played(NamedTuple):
    """What became of the windows: how many a series had points in, how many of these stayed as they were first settled, and
    how many rows replaced a final one, or the nothing that was."""

    windows: int
    complete: int
    corrections: int


def arrivals(seed: int, series: int, start: float, seconds: float, every_s: float) -> list[Arrival]:
    """Points of series that are mostly a little late, some cut off for minutes, some for most of the time."""
    rng = np.random.default_rng(seed)
    found: list[Arrival] = []
    for number in range(series):
        pace = every_s * (40 if number % 10 == 9 else 1)
        events = np.unique(np.round(start + np.cumsum(rng.exponential(pace, int(seconds / pace))), 6))
        events = events[events < start + seconds]
        late = rng.lognormal(0.5, 1.2, len(events))
        far = rng.random(len(events)) < 0.01
        late[far] += rng.exponential(600, far.sum())
        published = events + late
        if number % 4 == 0:  # the line is cut for some minutes, and then all comes, a little apart
            for begin in rng.uniform(start, start + seconds, 3):
                held = np.flatnonzero((events > begin) & (events < begin + rng.uniform(60, 500)))
                if len(held):
                    published[held] = np.maximum(published[held], events[held[-1]] + 20 + 0.7 * np.arange(len(held)))
        if number % 7 == 3:  # away for long, and then all comes at once
            begin = rng.uniform(start, start + seconds / 2)
            held = (events > begin) & (events < begin + seconds / 3)
            published[held] = begin + seconds / 3 + rng.uniform(0, 900)
        found += [Arrival(float(p), number, float(e)) for p, e in zip(np.round(published, 6), events, strict=True)]
    return sorted(found)


def play(points: list[Arrival], width_s: float, horizon_s: float, debounce_s: float) -> Played:
    """Every point marks its window, of all series while the horizon is not over, of its own after it; every mark is
    settled the moment it is due."""
    came: dict[float, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    said: dict[tuple[float, int], int] = {}
    corrected: dict[tuple[float, int], int] = defaultdict(int)
    due: list[tuple[float, int, float, int | None]] = []
    owed: dict[float, set[int]] = defaultdict(set)

    def settle(window: float, who: int) -> None:
        times = came[window][who]
        key = (window, who)
        if key not in said:
            corrected[key] += times[0] > window + width_s + horizon_s
        else:
            corrected[key] += said[key] != len(times)
        said[key] = len(times)

    def settle_until(moment: float) -> None:
        while due and due[0][0] < moment:
            _, number, window, who = heapq.heappop(due)
            if number not in owed[window]:
                continue
            if who is None:
                for each in came[window]:
                    settle(window, each)
                owed[window].clear()  # whichever marks were there by now
            else:
                settle(window, who)
                owed[window].discard(number)

    for number, (published, series, event) in enumerate(points):
        settle_until(published)
        window = event // width_s * width_s
        closes = window + width_s + horizon_s
        came[window][series].append(published)
        owed[window].add(number)
        whole = published < closes
        heapq.heappush(due, (max(closes, published + debounce_s), number, window, None if whole else series))
    settle_until(float("inf"))
    return Played(len(said), sum(not corrected[key] for key in said), sum(corrected.values()))
