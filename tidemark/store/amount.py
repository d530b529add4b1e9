"""How much a range of windows has, and what is read for it: counted, but no further than one transaction should take."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from tidemark.store.fold import Range, points_of, rollups_of


def is_more(connection: Connection, tiers_s: Sequence[int], scope: Range, rows: int, sources: int) -> bool:
    """Whether the windows of a range have more than `rows` rollups, or more than `sources` to be folded.

    Args:
        connection: For one statement.
        tiers_s: From the base tier to that of the windows.
        scope: Of all series.
        rows: How many rollups are not too many.
        sources: How many points, or rollups of the tier below, are not.
    """
    own = f"SELECT p.window_start FROM {rollups_of(scope, tiers_s[-1])} ORDER BY p.window_start OFFSET {rows:d} LIMIT 1"
    if len(tiers_s) > 1:
        below = rollups_of(scope, tiers_s[-2])
        read = f"SELECT p.window_start FROM {below} ORDER BY p.window_start OFFSET {sources:d} LIMIT 1"
    else:
        # the points have no index by time to be counted in: materialized, so that the limit does not choose the plan
        read = f"WITH p AS MATERIALIZED (SELECT FROM {points_of(scope)}) SELECT true FROM p OFFSET {sources:d} LIMIT 1"
    return bool(connection.exec_driver_sql(f"SELECT ({own}) IS NOT NULL OR ({read}) IS NOT NULL").scalar_one())
