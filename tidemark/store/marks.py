"""Makes marks: of what a command or the settler owes, and out of marks that owe much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Final

import numpy as np
from sqlalchemy import Connection

from tidemark.store.agreement import hold
from tidemark.store.fold import Range
from tidemark.store.owing import SERIES_A_WINDOW
from tidemark.store.parts import Mark

_MARK: Final = """
INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at, closing, import_id)
SELECT %s, to_timestamp(f), to_timestamp(t), s,
       greatest(clock_timestamp() + CASE WHEN r = 0 THEN kept ELSE interval '0' END, to_timestamp(r)), %s,
       CASE WHEN r = 0 AND kept > interval '0' THEN (SELECT max(id) FROM imports WHERE finished_at IS NOT NULL) END
FROM (SELECT interval '1 second' * CAST(%s AS float8) AS kept) AS k, unnest(CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS integer[]), CAST(%s AS float8[])) AS m(f, t, s, r)"""
_SERVER: Final = "(SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint & 8388607)"
NUMBER: Final = f"id + ({_SERVER} << 40)"
"""The SQL of a mark's number outside the database: on a server that takes over without the last seconds, or comes back from
a backup, ids begin again, and one that was at work meanwhile must not mistake a new mark for the one it has settled."""
_IDS: Final = f"SELECT n & ((1::bigint << 40) - 1) FROM unnest(CAST(%s AS bigint[])) AS m(n) WHERE n >> 40 = {_SERVER}"
_CUT: Final = f"""
WITH gone AS (
    DELETE FROM marks WHERE id = ANY(ARRAY({_IDS}))
    RETURNING {NUMBER} AS number, tier_s, series_id, ready_at, closing, import_id
)
INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at, closing, import_id)
SELECT g.tier_s, to_timestamp(p.f), to_timestamp(p.t), g.series_id, g.ready_at, g.closing, g.import_id
FROM unnest(CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS bigint[])) AS p(number, f, t) JOIN gone g USING (number)
RETURNING {NUMBER}, extract(epoch FROM window_from)::bigint, extract(epoch FROM window_to)::bigint, series_id"""
OF_LOADED: Final = "import_id IN (SELECT id FROM imports WHERE finished_at IS NOT NULL)"
"""The SQL of marks that archives owe which are loaded: of the load that does not wait until they are due."""
_DELETE: Final = f"DELETE FROM marks WHERE id = ANY(ARRAY({_IDS}))"


def insert_marks(connection: Connection, tiers_s: tuple[int, ...], tier_s: int, ranges: Sequence[Range]) -> int:
    """Owe ranges of windows of one tier a settling, due at once; returns how many marks that takes.

    Args:
        connection: In the transaction of what changed.
        tiers_s: With which the program runs.
        tier_s: The one of them, which is the length of a window.
        ranges: Widened to whole windows.

    Raises:
        MisconfiguredError: the store's tiers were changed since the program started: nobody would take the marks.
    """
    starts = [r.start // tier_s * tier_s for r in ranges]
    ends = [-(-r.end // tier_s) * tier_s for r in ranges]
    connection.exec_driver_sql(
        _MARK, (tier_s, False, 0.0, starts, ends, [r.series_id for r in ranges], [0.0] * len(ranges))
    )
    hold(connection, tiers_s=tiers_s)
    return len(ranges)


def cut_marks(connection: Connection, pieces: Sequence[tuple[int, int, int]]) -> list[Mark]:
    """Replace marks by some that owe a piece each; of a mark that is gone, since another settled it, nothing is made.

    Args:
        connection: In a transaction: all pieces of a mark are there, or the mark is.
        pieces: (number of the mark, from, to), which together are what the mark owes.
    """
    numbers, starts, ends = (list(column) for column in zip(*pieces, strict=True))
    rows = connection.exec_driver_sql(_CUT, (sorted(set(numbers)), numbers, starts, ends)).all()
    return [Mark(*row) for row in rows]


def delete_marks(connection: Connection, numbers: Sequence[int]) -> None:
    """Delete marks by their numbers; those of another server are passed over."""
    connection.exec_driver_sql(_DELETE, (list(numbers),))


def mark_windows(
    connection: Connection,
    tier_s: int,
    windows: np.ndarray,
    series: np.ndarray,
    *,
    whole: bool,
    ready: Callable[[int, int], float],
    closing: bool,
    kept_s: float = 0.0,
) -> None:
    """Mark windows (starts in seconds) of a tier, whole or by series; many series of a window become the whole.

    What would be due at once is left to the load of an archive for `kept_s`, as `OF_LOADED` is.
    """
    starts: list[int] = np.unique(windows).tolist() if whole else []
    owners: list[int | None] = [None] * len(starts)
    pairs = np.unique(np.column_stack((windows, series)), axis=0) if not whole else np.empty((0, 2), np.int64)
    for start, group in groupby(pairs.tolist(), key=lambda pair: pair[0]):
        of_window = [pair[1] for pair in group]
        if len(of_window) > SERIES_A_WINDOW:
            of_window = [None]
        starts += [start] * len(of_window)
        owners += of_window
    if starts:
        ends = [start + tier_s for start in starts]
        due = [ready(start, end) for start, end in zip(starts, ends, strict=True)]
        connection.exec_driver_sql(_MARK, (tier_s, closing, kept_s, starts, ends, owners, due))
