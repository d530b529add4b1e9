"""Marks for windows that a command wants settled again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from tidemark.store.fold import Range

_INSERT: Final = """
INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at)
SELECT %s, to_timestamp(f), to_timestamp(t), s, clock_timestamp()
FROM unnest(CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS integer[])) AS m(f, t, s)"""


def insert_marks(connection: Connection, tier_s: int, ranges: Sequence[Range]) -> int:
    """Owe ranges of windows of one tier a settling, due at once; returns how many marks that takes.

    Args:
        connection: In the transaction of what changed.
        tier_s: Length of a window.
        ranges: Widened to whole windows.
    """
    starts = [r.start // tier_s * tier_s for r in ranges]
    ends = [-(-r.end // tier_s) * tier_s for r in ranges]
    connection.exec_driver_sql(_INSERT, (tier_s, starts, ends, [r.series_id for r in ranges]))
    return len(ranges)
