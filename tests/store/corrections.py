"""What the table of corrections must be whatever has happened: each a step from what was said to what is said now."""

from __future__ import annotations

import math
from itertools import groupby, pairwise

from sqlalchemy import Engine

from tidemark.store.connection import transaction

_CORRECTIONS = """
SELECT series_id, tier_s, window_start, revision, was_count, was_sum, was_min, was_max, is_count, is_sum, is_min, is_max
FROM corrections ORDER BY 1, 2, 3, 4"""
_ROLLUPS = """
SELECT r.series_id, r.tier_s, r.window_start, r.revision, r.count, r.sum, r.min, r.max, r.final FROM rollups r
WHERE EXISTS (SELECT FROM corrections c WHERE (c.series_id, c.tier_s, c.window_start) = (r.series_id, r.tier_s, r.window_start))"""


def same(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Counts, sums, least and greatest values are the same, but for a sum's last digits."""
    size = max(map(abs, (*one[2:], *other[2:])), default=0) * max(one[0], other[0])
    return (one[0], *one[2:]) == (other[0], *other[2:]) and math.isclose(one[1], other[1], abs_tol=1e-8 * size)


def chained(pool: Engine) -> int:
    """Hold every correction of a rollup against the one before it, and the last against the rollup.

    Returns:
        How many there are.
    """
    with transaction(pool, "REPEATABLE READ") as connection:
        found = [tuple(row) for row in connection.exec_driver_sql(_CORRECTIONS).all()]
        rollups = {tuple(row[:3]): tuple(row[3:]) for row in connection.exec_driver_sql(_ROLLUPS).all()}
    for window, some in groupby(found, key=lambda row: row[:3]):
        steps = list(some)
        for one, other in pairwise(steps):
            assert same(one[8:12], other[4:8]), (one, other)
        for one in steps:
            assert not same(one[4:8], one[8:12]) or one[4] == one[8], f"it corrects nothing: {one}"
        revision, *now, final = rollups[window]
        assert final
        assert same(steps[-1][8:12], tuple(now)), (steps[-1], now)
        assert revision >= steps[-1][3]
    return len(found)
