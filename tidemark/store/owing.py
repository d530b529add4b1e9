"""What points owe: the marks that are made in their transaction, and when those become due."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection

from tidemark.settings import Values
from tidemark.store import agreement
from tidemark.wire.summary import MICROSECONDS, Points

SERIES_A_WINDOW: Final = 64
"""Up to this many series of one past window are marked one by one; above, the whole window is."""

_MARK: Final = """
INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at)
SELECT %s, to_timestamp(f), to_timestamp(t), s,
       greatest(to_timestamp(t) + %s * interval '1 second', clock_timestamp() + %s * interval '1 second')
FROM unnest(CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS integer[])) AS m(f, t, s)"""


@dataclass(frozen=True)
class Policy:
    """When windows become due: the base tier's length, the horizon and the debounce, in seconds."""

    base_s: int
    horizon_s: float
    debounce_s: float

    @classmethod
    def of(cls, values: Values) -> Policy:
        """What settings give."""
        return cls(values.tiers_s[0], values.horizon_s, values.debounce_s)

    def check(self, kept: list[Any] | None) -> None:
        """Hold it against what the store keeps, as `agreement.KEPT` gives it.

        Raises:
            MisconfiguredError: it was changed.
        """
        found = agreement.kept_as(kept)
        if found is not None and found.tiers_s[0] != self.base_s:
            agreement.check(kept, tiers_s=(self.base_s,))
        agreement.check(kept, horizon_s=self.horizon_s, debounce_s=self.debounce_s)


Owes = Callable[[Connection, Points, Policy], None]
"""Makes the marks of points, sorted by (series_id, event_time), in their transaction."""


def live_marks(connection: Connection, points: Points, policy: Policy) -> None:
    """Mark the windows of points that have just come, to be due after their horizon, and not before the debounce is over."""
    if len(points):
        starts, ends, series = marks(points, policy.base_s, time.time() - policy.horizon_s)
        connection.exec_driver_sql(_MARK, (policy.base_s, policy.horizon_s, policy.debounce_s, starts, ends, series))


def marks(points: Points, base_s: int, past_s: float) -> tuple[list[int], list[int], list[int | None]]:
    """The windows that points touch, as (from, to, series number or None for all), times in seconds since 1970.

    A window that ended after `past_s` is marked whole. One that ended before was settled already: only the series
    that came late are marked, adjacent windows of one series as one range, unless they are so many that the whole
    window is cheaper.

    Args:
        points: Sorted by (series_id, event_time), dtype `POINT`.
        base_s: Length of a base window in seconds.
        past_s: Windows that end before this second are past their horizon.
    """
    window = points["event_time"] // (base_s * MICROSECONDS)
    new = np.ones(len(points), bool)
    new[1:] = (points["series_id"][1:] != points["series_id"][:-1]) | (window[1:] != window[:-1])
    window, series = window[new], points["series_id"][new]  # each (series, window) once
    distinct, place, counts = np.unique(window, return_inverse=True, return_counts=True)
    whole = ((distinct + 1) * base_s > past_s) | (counts > SERIES_A_WINDOW)
    starts = (distinct[whole] * base_s).tolist()
    ends = [start + base_s for start in starts]
    owners: list[int | None] = [None] * len(starts)
    single = ~whole[place]
    window, series = window[single], series[single]
    if len(window):
        first = np.ones(len(window), bool)
        first[1:] = (series[1:] != series[:-1]) | (window[1:] != window[:-1] + 1)
        last = np.append(first[1:], True)
        starts += (window[first] * base_s).tolist()
        ends += ((window[last] + 1) * base_s).tolist()
        owners += series[first].tolist()
    return starts, ends, owners
