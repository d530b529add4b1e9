"""Marks a range of windows of every tier, and outdoes rows of which BigQuery has a newer revision, or the only one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sqlalchemy import Engine

from tidemark.store.connection import transaction
from tidemark.store.fold import SUMMARY, Range
from tidemark.store.marks import insert_marks
from tidemark.store.series import SeriesCache
from tidemark.wire.block import SeriesKey

AT_ONCE: Final = 5_000
DAY_S: Final = 86_400
Row = tuple[tuple[str, str, str], int, int, int]
"""((project, source, metric), tier in seconds, window start in seconds since 1970, revision)"""

_ZEROS: Final = ", ".join("w.start" if name.endswith("_time") else "0" for name in SUMMARY)
_HIDE: Final = f"""
INSERT INTO rollups AS r (series_id, tier_s, window_start, {", ".join(SUMMARY)}, revision, final)
SELECT w.series_id, w.tier_s, w.start, {_ZEROS}, w.revision + 1, false
FROM (
    SELECT s AS series_id, t AS tier_s, to_timestamp(f) AS start, r AS revision
    FROM unnest(CAST(%s AS integer[]), CAST(%s AS integer[]), CAST(%s AS bigint[]), CAST(%s AS bigint[]))
    AS u(s, t, f, r)
) w LEFT JOIN rollups o ON o.series_id = w.series_id AND o.tier_s = w.tier_s AND o.window_start = w.start
WHERE o.revision IS NULL OR o.revision < w.revision
ORDER BY w.series_id, w.tier_s, w.start
ON CONFLICT (series_id, tier_s, window_start) DO UPDATE SET revision = excluded.revision
WHERE r.revision < excluded.revision - 1
RETURNING series_id, tier_s, extract(epoch FROM window_start)::bigint"""
"""Not final: settling makes it so once the window is closed. The join, since a conflict locks its row even where nothing is
to be done."""
_OF_PROJECT: Final = "SELECT series_id FROM series WHERE project = %s ORDER BY series_id"


@dataclass(frozen=True)
class Rebuild:
    """One range, of all series or of a project's.

    Attributes:
        pool: Of a user that may INSERT into marks and rollups.
        tiers_s: As given to ingest.
        start, end: Seconds since 1970; widened to whole windows of the largest tier.
        project: Only its series; None: all.
    """

    pool: Engine
    tiers_s: tuple[int, ...]
    start: int
    end: int
    project: str | None = None

    @property
    def within(self) -> Range:
        """The range in whole windows of the largest tier."""
        largest_s = self.tiers_s[-1]
        return Range(self.start // largest_s * largest_s, -(-self.end // largest_s) * largest_s)

    def mark(self) -> int:
        """Mark every window of every tier, a day a mark; returns how many marks.

        Upper tiers too, though they follow a tier below that changes: what is the same again is appended again.

        Raises:
            UnavailableError, MisconfiguredError: nothing was marked.
        """
        step = max(DAY_S, self.tiers_s[-1])
        days = [
            (start, min(start + step, self.within.end)) for start in range(self.within.start, self.within.end, step)
        ]
        with transaction(self.pool) as connection:
            owners: Sequence[int | None] = [None]
            if self.project is not None:
                owners = [row[0] for row in connection.exec_driver_sql(_OF_PROJECT, (self.project,)).all()]
            ranges = [Range(start, end, owner) for start, end in days for owner in owners]
            return sum(insert_marks(connection, self.tiers_s, tier_s, ranges) for tier_s in self.tiers_s)

    def hide(self, rows: Iterable[Row]) -> int:
        """Give the store a greater revision of rows that it lacks or has older, marked so that they are appended.

        A row that it lacks becomes an emptied one; of an older one only the revision changes.

        Args:
            rows: Of BigQuery's latest view.

        Returns:
            How many the store lacked or had older.

        Raises:
            UnavailableError, MisconfiguredError: some may be done; do it again.
        """
        series = SeriesCache(self.pool)
        hidden = 0
        wanted = (row for row in rows if self.project is None or row[0][0] == self.project)
        while some := list(islice(wanted, AT_ONCE)):
            ids = series.ids([SeriesKey(*row[0]) for row in some])
            columns = (ids, *([row[i] for row in some] for i in (1, 2, 3)))
            with transaction(self.pool) as connection:
                outdone = connection.exec_driver_sql(_HIDE, columns).all()
                for tier_s in self.tiers_s:
                    starts = [Range(f, f + tier_s, s) for s, t, f in outdone if t == tier_s]
                    insert_marks(connection, self.tiers_s, tier_s, starts)
            hidden += len(outdone)
        return hidden
