"""Puts the points of a block into their table: those that are there already are merged.

By an optimistic binary COPY straight into the table; where one of them is there already the COPY is rolled back to a
savepoint, and they are staged and merged, the greatest (publish_time, value, attributes) winning. While most blocks have
points that are there already, as in a redelivery or a backfill that overlaps, they are staged at once. Either way leaves
the same state.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from tidemark.store.copy import POINT_COLUMNS, copy_in, points_to_copy
from tidemark.store.errors import DRIVER_ERRORS, UNIQUE_VIOLATION, sqlstate
from tidemark.wire.block import Winners
from tidemark.wire.message import moment
from tidemark.wire.summary import Points

_STAGE: Final = """
CREATE TEMPORARY TABLE IF NOT EXISTS staged_points (
    place integer, series_id integer, event_time timestamptz, value double precision, publish_time timestamptz,
    attributes jsonb
) ON COMMIT DELETE ROWS"""

# Compared as text, whose order is total: jsonb takes 1 and 1.0 for equal, and the first of them would stay.
_GREATER: Final = """
({new}.publish_time, {new}.value, coalesce({new}.attributes::text, '') COLLATE "C")
> ({old}.publish_time, {old}.value, coalesce({old}.attributes::text, '') COLLATE "C")"""

# LATERAL with OFFSET 0: a look into the key for each row, whatever the planner thinks of a table it has no figures of.
# The bounds let a hypertable leave out its other chunks.
_STORED: Final = f"""
SELECT coalesce(string_agg(int4send(s.place), ''), ''), coalesce(bool_or(p.greater), false)
FROM staged_points s CROSS JOIN LATERAL (
    SELECT {_GREATER.format(new="s", old="q")} AS greater FROM points q
    WHERE q.series_id = s.series_id AND q.event_time = s.event_time
    AND q.event_time >= CAST(%s AS timestamptz) AND q.event_time <= CAST(%s AS timestamptz) OFFSET 0
) p"""

_MERGE: Final = f"""
WITH merged AS (
    INSERT INTO points ({POINT_COLUMNS})
    SELECT {POINT_COLUMNS} FROM %s
    ORDER BY series_id, event_time
    ON CONFLICT (series_id, event_time) DO UPDATE
    SET value = excluded.value, publish_time = excluded.publish_time, attributes = excluded.attributes
    WHERE {_GREATER.format(new="excluded", old="points")}
    RETURNING (xmax = 0) AS fresh
)
SELECT count(*) FILTER (WHERE fresh), count(*) FILTER (WHERE NOT fresh) FROM merged"""
_MERGE_STAGED: Final = _MERGE % "staged_points"
_MERGE_TIED: Final = (
    _MERGE
    % """(
        SELECT DISTINCT ON (series_id, event_time) * FROM staged_points
        ORDER BY series_id, event_time, publish_time DESC, value DESC, coalesce(attributes::text, '') COLLATE "C" DESC
    ) AS greatest"""
)


class Habit:
    """Whether blocks lately had points that were stored already: then a COPY would be made for nothing.

    A COPY that succeeds costs about half of a merge, one that fails as much as it costs to reach the row that is there
    already: so the break-even lies near one block in two.
    """

    def __init__(self) -> None:
        self._share = 0.0

    def merges(self) -> bool:
        """Stage and merge at once."""
        return self._share > 0.5

    def saw(self, conflict: bool) -> None:
        """Learn from one block; about the last five count."""
        self._share += 0.2 * (conflict - self._share)


def put_points(connection: Connection, won: Winners, habit: Habit) -> tuple[int, int]:
    """Insert or merge; returns how many points were inserted and overwritten.

    Rows are locked in the order of their key, by one statement: so writers never wait for each other crosswise.
    What an attempt has locked before it failed, its savepoint lets go.
    """
    if not won.tied and not habit.merges() and _copied(connection, won.points, won.attributes):
        habit.saw(conflict=False)
        return len(won.points), 0
    connection.exec_driver_sql(_STAGE)
    places = f"staged_points (place, {POINT_COLUMNS})"
    copy_in(connection, places, points_to_copy(won.points, won.attributes, places=True))
    if won.tied:
        inserted, overwritten = connection.exec_driver_sql(_MERGE_TIED).one()
        return inserted, overwritten
    stored, greater = _stored(connection, won.points)
    habit.saw(conflict=len(stored) > 0)
    if not greater:
        fresh = np.ones(len(won.points), bool)
        fresh[stored] = False
        texts = won.attributes and [won.attributes[i] for i in np.flatnonzero(fresh).tolist()]
        if _copied(connection, won.points[fresh], texts):
            return int(np.count_nonzero(fresh)), 0
    inserted, overwritten = connection.exec_driver_sql(_MERGE_STAGED).one()
    return inserted, overwritten


def _copied(connection: Connection, points: Points, attributes: list[bytes | None] | None) -> bool:
    """COPY points into the table; False, and nothing is changed, where one of them is there already."""
    if not len(points):
        return True
    savepoint = connection.begin_nested()
    try:
        copy_in(connection, f"points ({POINT_COLUMNS})", points_to_copy(points, attributes))
    except DRIVER_ERRORS as error:
        if sqlstate(error) != UNIQUE_VIOLATION:
            raise
        savepoint.rollback()
        return False
    savepoint.commit()
    return True


def _stored(connection: Connection, points: Points) -> tuple[npt.NDArray[np.int32], bool]:
    """The places of the staged points that are there already, and whether any is greater than what is there."""
    times = points["event_time"]
    bounds = (moment(int(times.min())), moment(int(times.max())))
    places, greater = connection.exec_driver_sql(_STORED, bounds).one()
    return np.frombuffer(places, ">i4").astype(np.int32), greater
