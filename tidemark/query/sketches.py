"""Percentiles from the sketches of rollups, which merge by adding what is in each bin.

They lie between the two points around them, as those of points do, and are off by `tidemark.wire.quantiles.ERROR` of these at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from tidemark.query.columns import Integers, numbered
from tidemark.query.fold import PERCENTILES, Floats, places
from tidemark.query.intervals import REMEMBERED, Axis
from tidemark.query.standing import owed, standing
from tidemark.store.fold import BIN
from tidemark.wire.quantiles import values_of

_HEADER: Final = 5
"""Words before the elements of an array that is sent; each element has its length before it."""
_BITS: Final = 17
_HALF: Final = 1 << (_BITS - 1)


@lru_cache(maxsize=REMEMBERED)
def sketched(tiers_s: tuple[int, ...], tier_s: int, start_of: str) -> str:
    """The statement: parameters are those of `tidemark.query.statement`, and $5, how many bins are sent at most.

    One row: series, interval and number of bins of each sketch; bins and counts, one sketch after the other; how many bins there
    are in all; and whether there is a rollup without a sketch.
    """
    rows = standing(tiers_s, tier_s, ("bins", "bin_counts"), _of_points)
    return f"""
        WITH {owed(tiers_s, tier_s, standing=True)}
        SELECT coalesce(string_agg(int4send(r.series_id) || timestamptz_send(r.start) || int8send(r.size), ''), '') AS sketches,
               coalesce(string_agg(array_send(r.bins), '') FILTER (WHERE r.up_to <= $5), '') AS bins,
               coalesce(string_agg(array_send(r.bin_counts), '') FILTER (WHERE r.up_to <= $5), '') AS bin_counts,
               coalesce(max(r.up_to), 0) AS size, coalesce(bool_or(r.bins IS NULL), false) AS lacks
        FROM (
            SELECT p.series_id, {start_of.format("p.window_start")} AS start, p.bins, p.bin_counts, cardinality(p.bins) AS size,
                   sum(cardinality(p.bins)) OVER (ROWS UNBOUNDED PRECEDING) AS up_to
            FROM ({rows}) p
        ) r"""


def _of_points(start: str, source: str) -> str:
    return f"""
        SELECT p.series_id, p.start, sum(p.n)::integer AS points, array_agg(p.bin) AS bins, array_agg(p.n) AS bin_counts
        FROM (SELECT p.series_id, {start} AS start, {BIN} AS bin, count(*) AS n FROM {source} GROUP BY 1, 2, 3) p
        GROUP BY p.series_id, p.start"""


def percentiles(
    names: Sequence[str], axis: Axis, series: Sequence[int], row: Mapping[str, Any], least: Floats, greatest: Floats
) -> dict[str, Floats]:
    """Some of `PERCENTILES`, of shape (series, intervals).

    Args:
        names: Which.
        axis: The intervals.
        series: Numbers of the series, in the order of the rows.
        row: What `sketched` gave: all of its bins.
        least: The least point of each interval.
        greatest: The greatest.
    """
    found = {name: np.full(least.shape, np.nan) for name in names}
    ids, start, size = numbered(row["sketches"])
    if not len(size):
        return found
    # that bins of the same number are apart does no harm
    key = (np.repeat(places(axis, series, ids, start), size) << _BITS) + _bins(row["bins"], size) + _HALF
    order = np.argsort(key)
    key, number = key[order], _counts(row["bin_counts"], size)[order]
    place, value = key >> _BITS, values_of((key & ((1 << _BITS) - 1)) - _HALF)
    first = np.flatnonzero(np.concatenate(([True], place[1:] != place[:-1])))
    place = place[first]
    up_to, total = np.cumsum(number), np.add.reduceat(number, first)
    before = up_to[first] - number[first]

    def of_rank(rank: Integers) -> Floats:
        at = np.searchsorted(up_to, before + rank, side="right")
        return np.clip(value[at], least.flat[place], greatest.flat[place])

    for name in names:
        exact = PERCENTILES[name] * (total - 1)
        below = np.floor(exact).astype(np.int64)
        low, high = of_rank(below), of_rank(np.minimum(below + 1, total - 1))
        found[name].flat[place] = low + (high - low) * (exact - below)
    return found


def _bins(data: bytes, size: Integers) -> Integers:
    words, at = _elements(data, size, 2)
    return words[at].astype(np.int64)


def _counts(data: bytes, size: Integers) -> Integers:
    words, at = _elements(data, size, 3)
    found: Integers = (words[at].astype(np.int64) << 32) + (words[at + 1].astype(np.int64) & 0xFFFF_FFFF)
    return found


def _elements(data: bytes, size: Integers, width: int) -> tuple[np.ndarray[Any, Any], Integers]:
    """Arrays of so many elements as `array_send` writes them, in words of 4 bytes, and where each element's value begins.

    Args:
        data: One array after the other.
        size: How many elements each of them has.
        width: Words of an element and its length.
    """
    headers = np.repeat(np.arange(1, len(size) + 1) * _HEADER, size)
    return np.frombuffer(data, ">i4"), headers + np.arange(len(headers)) * width + 1
