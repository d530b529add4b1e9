"""Quantiles of points from a sketch that merges: how many values fall into each of a fixed set of bins.

The bins are those of DDSketch (Masson, Rim, Lee: "DDSketch: a fast and fully-mergeable quantile sketch with
relative-error guarantees", VLDB 2019): logarithmic, so that a quantile is within `ERROR` of itself. Counts of fixed
bins do not depend on the order of the points, and two sketches merge by adding them. `tidemark.store.fold` makes the
same bins in SQL.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

ERROR: Final = 0.01
"""A quantile is off by at most this share of the value it stands for."""
QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
LOG_GAMMA: Final = math.log((1 + ERROR) / (1 - ERROR))
"""Bin k > 0 holds values of (gamma^(k-OFFSET-1), gamma^(k-OFFSET)]; bin -k their negatives; bin 0 what is next to 0."""
MIDDLE: Final = 2 / ((1 + ERROR) / (1 - ERROR) + 1)
"""The value of a bin is this share of its upper end: as far from one end as from the other, in proportion."""
OFFSET: Final = 40_000
LEAST: Final = 1e-300
"""Smaller magnitudes count as 0."""
_BITS: Final = 17
_HALF: Final = 1 << (_BITS - 1)


def bins_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """The bin of each finite value, in the values' own order."""
    size = np.abs(values)
    some = size >= LEAST
    place = np.ceil(np.log(np.where(some, size, 1.0)) / LOG_GAMMA).astype(np.int64) + OFFSET
    return np.where(some, np.where(values < 0, -place, place), 0)


def values_of(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The value that stands for each bin."""
    return np.where(bins == 0, 0.0, np.sign(bins) * MIDDLE * np.exp((np.abs(bins) - OFFSET) * LOG_GAMMA))


class Sketches:
    """The sketches of many series."""

    def __init__(self) -> None:
        self._keys = np.zeros(0, np.int64)
        self._counts = np.zeros(0, np.int64)

    def add(self, series: npt.NDArray[np.int32], values: npt.NDArray[np.float64]) -> None:
        """Count values, each of the series beside it."""
        self._merge(series, values, 1)

    def take(self, series: npt.NDArray[np.int32], values: npt.NDArray[np.float64]) -> None:
        """Count no more values that were added before."""
        self._merge(series, values, -1)

    def quantiles(self) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.float64]]]:
        """The series in order, shape (n,), and each of `QUANTILES` of all of them.

        A quantile q of n values stands for the one with rank floor(q (n - 1)).
        """
        series = self._keys >> _BITS
        first = np.flatnonzero(np.diff(series, prepend=-1))
        if not len(first):
            return series, {name: np.zeros(0) for name in QUANTILES}
        total = np.add.reduceat(self._counts, first)
        up_to = np.cumsum(self._counts)
        before = up_to[first] - self._counts[first]
        found = {}
        for name, share in QUANTILES.items():
            at = np.searchsorted(up_to, before + share * (total - 1), side="right")
            found[name] = values_of((self._keys[at] & ((1 << _BITS) - 1)) - _HALF)
        return series[first], found

    def _merge(self, series: npt.NDArray[np.int32], values: npt.NDArray[np.float64], sign: int) -> None:
        keys: npt.NDArray[np.int64] = (series.astype(np.int64) << _BITS) + bins_of(values) + _HALF
        fresh, counts = np.unique(keys, return_counts=True)
        at: npt.NDArray[np.intp] = np.searchsorted(self._keys, fresh)
        known = np.zeros(len(fresh), bool)
        if len(self._keys):
            known = self._keys[np.minimum(at, len(self._keys) - 1)] == fresh
        self._counts[at[known]] += sign * counts[known]
        if not known.all():
            self._keys = np.insert(self._keys, at[~known], fresh[~known])
            self._counts = np.insert(self._counts, at[~known], sign * counts[~known])
        if sign < 0:
            left = self._counts > 0
            self._keys, self._counts = self._keys[left], self._counts[left]
