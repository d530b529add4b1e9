"""Writes a block: one transaction of points, marks, dead letters and a ledger row.

The points go in by an optimistic binary COPY straight into the table; where one of them is there already the COPY is
rolled back to a savepoint and the block is staged and merged, the greatest (publish_time, value, attributes) winning.
Both leave the same state, so a block may be written any number of times, in any order, by anyone.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
from sqlalchemy import Connection, Engine

from tidemark.errors import RefusedError
from tidemark.failpoints import reach
from tidemark.settings import Values
from tidemark.store.connection import transaction
from tidemark.store.copy import POINT_COLUMNS, copy_in, points_to_copy
from tidemark.store.errors import DRIVER_ERRORS, sqlstate
from tidemark.store.series import SeriesCache
from tidemark.wire.block import Block, DeadLetter, SeriesKey, Winners, winners
from tidemark.wire.message import moment
from tidemark.wire.reasons import Reason
from tidemark.wire.summary import MICROSECONDS, Points

UNIQUE_VIOLATION: Final = "23505"
SERIES_A_WINDOW: Final = 64
"""Up to this many series of one past window are marked one by one; above, the whole window is."""

_STAGE: Final = """
CREATE TEMPORARY TABLE IF NOT EXISTS stage (
    series_id integer, event_time timestamptz, value double precision, publish_time timestamptz, attributes jsonb
) ON COMMIT DELETE ROWS"""

# Compared as text, whose order is total: jsonb takes 1 and 1.0 for equal, and the first of them would stay.
_GREATER: Final = """
(excluded.publish_time, excluded.value, coalesce(excluded.attributes::text, '') COLLATE "C")
> (points.publish_time, points.value, coalesce(points.attributes::text, '') COLLATE "C")"""

_MERGE: Final = f"""
WITH merged AS (
    INSERT INTO points ({POINT_COLUMNS})
    SELECT {POINT_COLUMNS} FROM %s
    ORDER BY series_id, event_time
    ON CONFLICT (series_id, event_time) DO UPDATE
    SET value = excluded.value, publish_time = excluded.publish_time, attributes = excluded.attributes
    WHERE {_GREATER}
    RETURNING (xmax = 0) AS fresh
)
SELECT count(*) FILTER (WHERE fresh), count(*) FILTER (WHERE NOT fresh) FROM merged"""
_MERGE_STAGE: Final = _MERGE % "stage"
_MERGE_TIED: Final = (
    _MERGE
    % """(
        SELECT DISTINCT ON (series_id, event_time) * FROM stage
        ORDER BY series_id, event_time, publish_time DESC, value DESC, coalesce(attributes::text, '') COLLATE "C" DESC
    ) AS greatest"""
)

_MARK: Final = """
INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at)
SELECT %s, to_timestamp(f), to_timestamp(t), s,
       greatest(to_timestamp(t) + %s * interval '1 second', clock_timestamp() + %s * interval '1 second')
FROM unnest(CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS integer[])) AS m(f, t, s)"""

_DEAD_LETTER: Final = """
INSERT INTO dead_letters (message_id, position, data, attributes, stage, reason, detail, publish_time)
VALUES (%s, %s, %s, CAST(%s AS json), %s, %s, %s, %s)
ON CONFLICT DO NOTHING"""

_LEDGER: Final = """
INSERT INTO ledger (received, inserted, overwritten, ignored, dead_lettered) VALUES (%s, %s, %s, %s, %s)"""


@dataclass(frozen=True)
class Policy:
    """When windows become due: the base tier's length, the horizon and the debounce, in seconds."""

    base_s: int
    horizon_s: float
    debounce_s: float

    @classmethod
    def of(cls, values: Values) -> Policy:
        """What settings give."""
        return cls(values.tiers_s[0], values.horizon_s, values.debounce_s)


@dataclass(frozen=True)
class Written:
    """What one block became.

    Attributes:
        points: Every accepted point, sorted, with real series numbers; whatever the upsert said of it.
        inserted, overwritten, ignored, dead_lettered: Points; their sum is what was received.
        dead_letters: Of this block, with those the database refused.
    """

    points: Points
    inserted: int
    overwritten: int
    ignored: int
    dead_letters: list[DeadLetter]

    @property
    def dead_lettered(self) -> int:
        """Dead letters written."""
        return len(self.dead_letters)


@dataclass(frozen=True)
class Writer:
    """Writes blocks; one for a process, safe between threads."""

    pool: Engine
    series: SeriesCache
    policy: Policy

    def write(self, block: Block) -> Written:
        """Write `block` in one transaction; where the database refuses some of its points, find and dead-letter them.

        Raises:
            UnavailableError: not known to be written; writing it again is harmless.
            MisconfiguredError: not written; a person has to mend the database.
        """
        try:
            return self._write(block)
        except RefusedError as refused:
            if len(block.points) <= 1:
                letters = [_refused(block, refused)] if len(block.points) else []
                if not letters:
                    raise
                return self._write(replace(_without_points(block), dead_letters=[*block.dead_letters, *letters]))
        middle = len(block.points) // 2
        left = replace(block.take(np.arange(middle)), dead_letters=block.dead_letters)
        right = block.take(np.arange(middle, len(block.points)))
        first, second = self.write(left), self.write(right)
        return Written(
            np.concatenate((first.points, second.points)),
            first.inserted + second.inserted,
            first.overwritten + second.overwritten,
            first.ignored + second.ignored,
            first.dead_letters + second.dead_letters,
        )

    def _write(self, block: Block) -> Written:
        ids = np.array(self.series.ids(block.keys), np.int32)
        numbered = block.points.copy()
        numbered["series_id"] = ids[block.points["series_id"]]
        won = winners(numbered, block.attributes)
        with transaction(self.pool) as connection:
            inserted, overwritten = _put_points(connection, won) if len(won.points) else (0, 0)
            self._put_marks(connection, won.points)
            _put_dead_letters(connection, block.dead_letters)
            ignored = len(block.points) - inserted - overwritten
            connection.exec_driver_sql(
                _LEDGER, (block.received, inserted, overwritten, ignored, len(block.dead_letters))
            )
            reach("raw.written")
        reach("raw.committed")
        return Written(won.points, inserted, overwritten, ignored, block.dead_letters)

    def _put_marks(self, connection: Connection, points: Points) -> None:
        if len(points):
            past = time.time() - self.policy.horizon_s
            starts, ends, series = marks(points, self.policy.base_s, past)
            connection.exec_driver_sql(
                _MARK,
                (self.policy.base_s, self.policy.horizon_s, self.policy.debounce_s, starts, ends, series),
            )


def marks(points: Points, base_s: int, past_s: float) -> tuple[list[int], list[int], list[int | None]]:
    """The windows that points touch, as (from, to, series number or None for all), times in seconds since 1970.

    A window that ended after `past_s` is marked whole. One that ended before was settled already: only the series
    that came late are marked, adjacent windows of one series as one range, unless they are so many that the whole
    window is cheaper.

    Args:
        points: Sorted by (series_id, event_time), dtype `POINT`.
        base_s: Length of a base window in seconds.
        past_s: Windows that end before this second are past their horizon.
    """
    window = points["event_time"] // (base_s * MICROSECONDS)
    new = np.ones(len(points), bool)
    new[1:] = (points["series_id"][1:] != points["series_id"][:-1]) | (window[1:] != window[:-1])
    window, series = window[new], points["series_id"][new]  # each (series, window) once
    distinct, place, counts = np.unique(window, return_inverse=True, return_counts=True)
    whole = ((distinct + 1) * base_s > past_s) | (counts > SERIES_A_WINDOW)
    starts = (distinct[whole] * base_s).tolist()
    ends = [start + base_s for start in starts]
    owners: list[int | None] = [None] * len(starts)
    single = ~whole[place]
    window, series = window[single], series[single]
    if len(window):
        first = np.ones(len(window), bool)
        first[1:] = (series[1:] != series[:-1]) | (window[1:] != window[:-1] + 1)
        last = np.append(first[1:], True)
        starts += (window[first] * base_s).tolist()
        ends += ((window[last] + 1) * base_s).tolist()
        owners += series[first].tolist()
    return starts, ends, owners


def _put_points(connection: Connection, won: Winners) -> tuple[int, int]:
    """Insert or merge; returns how many points were inserted and overwritten."""
    stream = points_to_copy(won.points, won.attributes)
    if not won.tied:
        savepoint = connection.begin_nested()
        try:
            copy_in(connection, f"points ({POINT_COLUMNS})", stream)
        except DRIVER_ERRORS as error:
            if sqlstate(error) != UNIQUE_VIOLATION:
                raise
            savepoint.rollback()
        else:
            savepoint.commit()
            return len(won.points), 0
    connection.exec_driver_sql(_STAGE)
    copy_in(connection, f"stage ({POINT_COLUMNS})", stream)
    inserted, overwritten = connection.exec_driver_sql(_MERGE_TIED if won.tied else _MERGE_STAGE).one()
    return inserted, overwritten


def _put_dead_letters(connection: Connection, letters: list[DeadLetter]) -> None:
    for letter in letters:
        connection.exec_driver_sql(
            _DEAD_LETTER,
            (
                letter.message_id,
                letter.position,
                letter.data,
                msgspec.json.encode(letter.attributes).decode(),
                letter.stage,
                letter.reason.value,
                letter.detail.replace("\x00", "\\0"),
                moment(letter.publish_time),
            ),
        )


def _without_points(block: Block) -> Block:
    return block.take(np.arange(0))


def _refused(block: Block, refused: RefusedError) -> DeadLetter:
    """The dead letter of the one point of `block`, written out again, since its bytes are not kept this far."""
    point = block.points[0]
    key = SeriesKey(*block.keys[int(point["series_id"])])
    attributes = block.attributes[0] if block.attributes else None
    body = {
        "project": key.project,
        "source": key.source,
        "metric": key.metric,
        "event_time": moment(int(point["event_time"])),
        "value": float(point["value"]),
    }
    if attributes is not None:
        body["attributes"] = msgspec.Raw(attributes)
    data = msgspec.json.encode(body)
    identity = f"{key.project}/{key.source}/{key.metric}@{int(point['event_time'])}/{int(point['publish_time'])}"
    return DeadLetter(
        identity, 0, data, {}, "write_raw", Reason.REFUSED_BY_DATABASE, str(refused), int(point["publish_time"])
    )
