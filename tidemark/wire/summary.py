"""Summaries of points: what one series did in one window, from the points or from the summaries of the tier below."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

MICROSECONDS: Final = 1_000_000

POINT: Final = np.dtype([("series_id", "<i4"), ("event_time", "<i8"), ("publish_time", "<i8"), ("value", "<f8")])
"""One point without its attributes; times are microseconds since 1970 UTC."""

ROLLUP: Final = np.dtype(
    [
        ("series_id", "<i4"),
        ("tier_s", "<i4"),
        ("window_start", "<i8"),
        ("count", "<i8"),
        ("sum", "<f8"),
        ("min", "<f8"),
        ("max", "<f8"),
        ("first", "<f8"),
        ("last", "<f8"),
        ("m2", "<f8"),
        ("first_publish_time", "<i8"),
        ("last_publish_time", "<i8"),
        ("late_count", "<i8"),
        ("revision", "<i8"),
        ("final", "?"),
    ]
)
"""One rollup; times are microseconds since 1970 UTC, `m2` is the sum of squared deviations from the mean, `late_count`
counts the points published after the end of their window of the base tier, in every tier. A preview has revision 0."""

Points = npt.NDArray[np.void]
Rollups = npt.NDArray[np.void]


def windows(points: Points, tier_s: int) -> npt.NDArray[np.int64]:
    """The start of each point's window, in microseconds; windows are aligned to UTC."""
    width = tier_s * MICROSECONDS
    starts: npt.NDArray[np.int64] = points["event_time"] // width * width
    return starts


def summarise(points: Points, tier_s: int) -> Rollups:
    """Rollups of `tier_s` from points.

    Args:
        points: Shape (n,), dtype `POINT`, sorted by (series_id, event_time), each key once (`block.winners`).
        tier_s: Length of a window in seconds.

    Returns:
        Shape (m,), dtype `ROLLUP`, sorted by (series_id, window_start), with revision 0 and not final.
    """
    rows = np.zeros(0, ROLLUP)
    if not len(points):
        return rows
    start = windows(points, tier_s)
    new = np.ones(len(points), bool)
    new[1:] = (points["series_id"][1:] != points["series_id"][:-1]) | (start[1:] != start[:-1])
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(points)) - 1
    count = last - first + 1
    value, published = points["value"], points["publish_time"]
    rows = np.zeros(len(first), ROLLUP)
    rows["series_id"] = points["series_id"][first]
    rows["tier_s"] = tier_s
    rows["window_start"] = start[first]
    rows["count"] = count
    rows["sum"] = np.add.reduceat(value, first)
    rows["min"] = np.minimum.reduceat(value, first)
    rows["max"] = np.maximum.reduceat(value, first)
    rows["first"] = value[first]
    rows["last"] = value[last]
    deviation = value - np.repeat(rows["sum"] / count, count)
    rows["m2"] = np.add.reduceat(deviation * deviation, first)
    rows["first_publish_time"] = np.minimum.reduceat(published, first)
    rows["last_publish_time"] = np.maximum.reduceat(published, first)
    rows["late_count"] = np.add.reduceat(published > start + tier_s * MICROSECONDS, first, dtype=np.int64)
    return rows
