"""Summaries of points: what one series did in one window, from the points or from the summaries of the tier below."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tidemark.wire.quantiles import QUANTILES

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
        *((name, "<f8") for name in QUANTILES),
    ]
)
"""One rollup; times are microseconds since 1970 UTC, `m2` is the sum of squared deviations from the mean, `late_count`
counts the points published after the end of their window of the base tier, in every tier. A preview has revision 0.
Quantiles that nobody asked for are NaN."""

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
        Shape (m,), dtype `ROLLUP`, sorted by (series_id, window_start), with revision 0, not final and without
        quantiles.
    """
    if not len(points):
        return np.zeros(0, ROLLUP)
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
    for name in QUANTILES:
        rows[name] = np.nan
    rows["late_count"] = np.add.reduceat(published > start + tier_s * MICROSECONDS, first, dtype=np.int64)
    return rows


def fold(rows: Rollups, tier_s: int) -> Rollups:
    """Rollups of a tier from those of a tier below: equal to `summarise` of the points, sums within rounding.

    `m2` by Chan, Golub and LeVeque's pairwise formula around the mean of the whole: the textbook difference of squares
    would cancel.

    Args:
        rows: Shape (n,), dtype `ROLLUP`, of one tier whose length divides `tier_s`; each window of a series once.
        tier_s: Length of a window in seconds.

    Returns:
        Shape (m,), dtype `ROLLUP`, sorted by (series_id, window_start), with revision 0, not final and without
        quantiles.
    """
    rows = rows[rows["count"] > 0]
    if not len(rows):
        return np.zeros(0, ROLLUP)
    rows = rows[np.lexsort((rows["window_start"], rows["series_id"]))]
    width = tier_s * MICROSECONDS
    start = rows["window_start"] // width * width
    new = np.ones(len(rows), bool)
    new[1:] = (rows["series_id"][1:] != rows["series_id"][:-1]) | (start[1:] != start[:-1])
    at = np.flatnonzero(new)
    found = np.zeros(len(at), ROLLUP)
    found["series_id"], found["tier_s"], found["window_start"] = rows["series_id"][at], tier_s, start[at]
    for name in QUANTILES:
        found[name] = np.nan
    for name in ("count", "sum", "late_count"):
        found[name] = np.add.reduceat(rows[name], at)
    for name in ("min", "first_publish_time"):
        found[name] = np.minimum.reduceat(rows[name], at)
    for name in ("max", "last_publish_time"):
        found[name] = np.maximum.reduceat(rows[name], at)
    found["first"], found["last"] = rows["first"][at], rows["last"][np.append(at[1:], len(rows)) - 1]
    mean = np.repeat(found["sum"] / found["count"], np.diff(np.append(at, len(rows))))
    apart = rows["sum"] / rows["count"] - mean
    found["m2"] = np.add.reduceat(rows["m2"] + rows["count"] * apart * apart, at)
    return found
