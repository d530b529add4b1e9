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
counts the points published after the window's end. A preview has revision 0."""

Points = npt.NDArray[np.void]
Rollups = npt.NDArray[np.void]
