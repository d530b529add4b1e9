"""From what the store gives to what is asked for: aggregations, folding across series, filling; all by numpy.

Arrays have the shape (series, intervals); a place without points is NaN, and no point is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from tidemark.query.columns import Integers, Owed
from tidemark.query.intervals import SECOND_US, Axis

Floats = npt.NDArray[np.float64]
Fields = dict[str, Floats]
PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
FROM_POINTS: Final = frozenset({*PERCENTILES, "rate", "increase"})
"""Aggregations that rollups cannot give."""
NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "avg": ("count", "sum"),
    "sum": ("sum",),
    "min": ("min",),
    "max": ("max",),
    "count": ("count",),
    "first": ("first",),
    "last": ("last",),
    "stddev": ("count", "sum", "m2"),
    "range": ("min", "max"),
}
"""The fields of a rollup that an aggregation is made of."""
AGGREGATIONS: Final = (*NEEDS, "rate", "increase", *PERCENTILES)


def scattered(
    axis: Axis,
    series: Sequence[int],
    series_id: Integers,
    start: Integers,
    fields: Mapping[str, npt.NDArray[np.generic]],
) -> Fields:
    """Columns of the store as arrays of shape (series, intervals).

    Args:
        axis: The intervals.
        series: Numbers of the series, in the order of the rows.
        series_id: Of each row.
        start: Of each row's interval.
        fields: By name, of `tidemark.store.fold.SUMMARY`.
    """
    place = places(axis, series, series_id, start)
    shape = len(series), len(axis)
    size = shape[0] * shape[1]
    found: Fields = {}
    for name, column in fields.items():
        array = np.full(size, np.nan)
        array[place] = column
        found[name] = array.reshape(shape)
    return found


def places(axis: Axis, series: Sequence[int], series_id: Integers, start: Integers) -> Integers:
    """Where each row stands in a flat array of (series, intervals)."""
    if len(series) == 1:
        return np.searchsorted(axis.boundaries, start, side="right") - 1
    order = np.argsort(np.asarray(series, np.int64))
    row = order[np.searchsorted(np.asarray(series, np.int64)[order], series_id)]
    column = np.searchsorted(axis.boundaries, start, side="right") - 1
    found: Integers = row * len(axis) + column
    return found


def aggregated(name: str, fields: Fields) -> Floats:
    """An aggregation of `NEEDS` from its fields."""
    with np.errstate(all="ignore"):
        if name not in _MADE:
            return fields[name]
        found: Floats = _MADE[name](fields)
        return found


_MADE: Final[dict[str, Callable[[Fields], Floats]]] = {
    "avg": lambda fields: fields["sum"] / fields["count"],
    "stddev": lambda fields: np.sqrt(np.maximum(fields["m2"], 0) / fields["count"]),
    "range": lambda fields: fields["max"] - fields["min"],
}


def of_points(
    name: str, axis: Axis, series: Sequence[int], series_id: Integers, time: Integers, value: Floats
) -> Floats:
    """An aggregation of `FROM_POINTS`.

    Percentiles lie between the two points around them, in proportion, as numpy's and PostgreSQL's (`percentile_cont`).
    An increase is the sum of the differences between each point and the one before it, which may lie in an earlier
    interval; where a value is less than the one before, it began again at 0. A rate is that by the second.

    Args:
        name: Which.
        axis: The intervals.
        series: Numbers of the series, in the order of the rows.
        series_id: Of each point, in no order.
        time: Its event time.
        value: Its value.
    """
    order = np.lexsort((time, series_id))
    series_id, time, value = series_id[order], time[order], value[order]
    inside = (time >= axis.start_us) & (time < axis.end_us)
    size = len(series) * len(axis)
    if name in PERCENTILES:
        place = places(axis, series, series_id[inside], time[inside])
        return _percentile(PERCENTILES[name], place, value[inside], size).reshape(len(series), len(axis))
    rises = np.zeros(len(value))
    if len(value):
        rises[1:] = np.where(value[1:] >= value[:-1], value[1:] - value[:-1], value[1:])
    follows = np.zeros(len(value), bool)
    follows[1:] = series_id[1:] == series_id[:-1]
    counted = inside & follows
    place = places(axis, series, series_id[counted], time[counted])
    total: Floats = np.bincount(place, rises[counted], size).astype(np.float64)
    total[np.bincount(place, minlength=size) == 0] = np.nan
    found = total.reshape(len(series), len(axis))
    if name == "rate":
        found = found / (np.diff(axis.boundaries) / SECOND_US)
    return found


def _percentile(share: float, place: Integers, value: Floats, size: int) -> Floats:
    found = np.full(size, np.nan)
    if not len(place):
        return found
    order = np.lexsort((value, place))
    place, value = place[order], value[order]
    at = np.flatnonzero(np.concatenate(([True], place[1:] != place[:-1])))
    number = np.diff(np.append(at, len(place)))
    exact = share * (number - 1)
    below = np.floor(exact).astype(np.int64)
    low, high = value[at + below], value[at + np.minimum(below + 1, number - 1)]
    with np.errstate(all="ignore"):
        found[place[at]] = low + (high - low) * (exact - below)
    return found


def across(how: str, name: str, arrays: Floats, fields: Fields) -> Floats:
    """Fold series into one line, of shape (1, intervals).

    `avg` of averages is the sum of all by the count of all; of other aggregations it is the mean of those series that have
    points.

    Args:
        how: `sum`, `avg`, `min`, `max` or `count`, which is of the series that have points.
        name: The aggregation.
        arrays: Its values, of shape (series, intervals).
        fields: What it was made of.
    """
    there = ~np.isnan(arrays)
    number = there.sum(axis=0, keepdims=True)
    with np.errstate(all="ignore"):
        if how == "count":
            found = number.astype(np.float64)
        elif how == "min":
            found = np.fmin.reduce(arrays, axis=0, keepdims=True)
        elif how == "max":
            found = np.fmax.reduce(arrays, axis=0, keepdims=True)
        elif how == "avg" and name == "avg":
            found = np.nansum(fields["sum"], axis=0, keepdims=True) / np.nansum(fields["count"], axis=0, keepdims=True)
        else:
            found = np.nansum(arrays, axis=0, keepdims=True)
            if how == "avg":
                found = found / number
    return np.where(number > 0, found, np.nan)


PREVIOUS_INTERVALS: Final = 10


def filled(how: str, arrays: Floats, known: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Gaps filled, and where; nothing is filled from the `known`-th interval on, which has not ended.

    Args:
        how: `null`, `previous` (of 10 intervals before at most), `linear`, or a number.
        arrays: Of shape (series, intervals).
        known: How many intervals have ended.
    """
    gaps = np.isnan(arrays)
    gaps[:, known:] = False
    if how in ("null", "none") or not gaps.any():
        return arrays, np.zeros_like(gaps)
    found = arrays.copy()
    if how == "previous":
        at = np.where(np.isnan(arrays), -1, np.arange(arrays.shape[1]))
        at = np.maximum.accumulate(at, axis=1)
        near = (at >= 0) & (np.arange(arrays.shape[1]) - at <= PREVIOUS_INTERVALS)
        rows = np.arange(len(arrays))[:, None]
        gaps &= near
        found[gaps] = arrays[rows, np.maximum(at, 0)][gaps]
    elif how == "linear":
        x = np.arange(arrays.shape[1])
        for number, row in enumerate(found):
            there = np.flatnonzero(~np.isnan(row))
            first, last = (there[0], there[-1]) if len(there) else (0, 0)
            gaps[number] &= (x > first) & (x < last)
            if gaps[number].any():
                row[gaps[number]] = np.interp(x[gaps[number]], there, row[there])
    else:
        found[gaps] = float(how)
    return found, gaps


class States:
    """Of each place: `f`inal, `s`ettled early, `p`rovisional, `o`pen, `-` nothing there.

    An interval is final once the horizon of its windows is over, and no mark owes any of it anything; a provisional one has
    points that were stored since it was settled, or never was; an open one has not ended.
    """

    def __init__(self, axis: Axis, series: Sequence[int], owed: Owed, closed_us: int, as_of_us: int) -> None:
        """What marks say.

        Args:
            axis: The intervals.
            series: Numbers of the series, in the order of the rows.
            owed: Marks that overlap them.
            closed_us: Before it the horizon of every window is over.
            as_of_us: The moment of the snapshot.
        """
        shape = len(series), len(axis)
        self._changed = np.zeros(shape, bool)
        self._early = np.zeros(shape, bool)
        self._closed = axis.boundaries[1:] <= closed_us
        self._ended = axis.boundaries[1:] <= as_of_us
        if len(owed.start):
            self._owe(axis, series, owed)

    def _owe(self, axis: Axis, series: Sequence[int], owed: Owed) -> None:
        row = {number: at for at, number in enumerate(series)}
        first = np.maximum(np.searchsorted(axis.boundaries, owed.start, side="right") - 1, 0)
        last = np.minimum(np.searchsorted(axis.boundaries, owed.end, side="left"), len(axis))
        for number, begin, end, closing in zip(
            owed.series_id.tolist(), first.tolist(), last.tolist(), owed.closing.tolist(), strict=True
        ):
            into = self._early if closing else self._changed
            if number:
                into[row[number], begin:end] = True
            else:
                into[:, begin:end] = True

    @property
    def changed(self) -> int:
        """How many places have points that were stored since they were settled."""
        return int(np.count_nonzero(self._changed))

    @property
    def provisional(self) -> npt.NDArray[np.bool_]:
        """Intervals that may change without a point that comes later than the horizon."""
        found: npt.NDArray[np.bool_] = (self._changed | self._early).any(axis=0) | ~self._closed
        return found

    def letters(self, there: npt.NDArray[np.bool_]) -> list[str]:
        """A text for each series, a letter an interval."""
        found = np.full(there.shape, "f")
        found[self._early] = "s"
        found[:, ~self._closed] = "s"
        found[self._changed] = "p"
        found[:, ~self._ended] = "o"
        found[~there] = "-"
        return ["".join(line) for line in found]
