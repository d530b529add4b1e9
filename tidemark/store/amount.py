"""How much a range of windows has, and what is read for it: counted, but no further than one transaction should take."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from tidemark.store.fold import RANGED, Range, points_of, rollups_of


def share(connection: Connection, tiers_s: Sequence[int], scope: Range, rows: int, sources: int) -> float:
    """How much of a bound the windows of a range have: more than 1 is too much, however much it is.

    Args:
        connection: In a transaction.
        tiers_s: From the base tier to that of the windows.
        scope: Of all series.
        rows: How many rollups are not too many.
        sources: How many points, or rollups of the tier below, to be folded are not.
    """
    connection.exec_driver_sql(f"SELECT {RANGED}")
    own = f"SELECT FROM {rollups_of(scope, tiers_s[-1])} LIMIT {rows + 1:d}"
    below = rollups_of(scope, tiers_s[-2]) if len(tiers_s) > 1 else points_of(scope)
    read = f"SELECT FROM {below} LIMIT {sources + 1:d}"
    found = connection.exec_driver_sql(
        f"SELECT greatest((SELECT count(*) FROM ({own}) q)::float8 / {rows:d},"
        f" (SELECT count(*) FROM ({read}) q)::float8 / {sources:d})"
    )
    return float(found.scalar_one())
