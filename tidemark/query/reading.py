"""What is read of the store for `/v1/query`, at one snapshot: fields of rollups, sketches, points."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from tidemark.query import columns, statement
from tidemark.query.beside import GIANT, beside
from tidemark.query.fold import FROM_POINTS, NEEDS, PERCENTILES, Fields, Floats, of_points, places, scattered
from tidemark.query.intervals import SECOND_US, Axis
from tidemark.query.problems import ProblemError
from tidemark.query.sketches import percentiles, sketched
from tidemark.query.standing import MOST_POINTS
from tidemark.wire.message import microseconds, moment

if TYPE_CHECKING:
    from tidemark.query.buckets import Store, Wanted

FIELDS_OF_COLUMNS: Final = {
    "count": "count",
    "min": "min",
    "max": "max",
    "late-count": "late_count",
    "revision": statement.REVISION,
}
CORRECTED: Final = "corrected"
SKETCH: Final = "sketch"
_NOT_COUNTED_S: Final = 500_000
"""Series times seconds, below which there are hardly too many points."""


class Found(NamedTuple):
    """What was read.

    Attributes:
        fields: Of rollups, or of points folded like them, and how often windows were corrected.
        made: Aggregations that `fields` do not give.
        owed: Marks.
        as_of_us: The moment of the snapshot.
        cut_us: Points before this moment may be gone; None: none are.
        tier_s: Of the rollups; None: points were read.
        sketched: Whether percentiles are from sketches.
    """

    fields: Fields
    made: dict[str, Floats]
    owed: columns.Owed
    as_of_us: int
    cut_us: int | None
    tier_s: int | None
    sketched: bool


class _Asked(NamedTuple):
    """What a request reads.

    Attributes:
        numbers: Of the series.
        axis: The intervals.
        tier_s: Of the rollups; None: points are read.
        merged: Percentiles that are from sketches.
        raw: Aggregations that are from points.
        fields: Of rollups.
        corrected: Also how often windows were corrected.
    """

    numbers: list[int]
    axis: Axis
    tier_s: int | None
    merged: list[str]
    raw: list[str]
    fields: tuple[str, ...]
    corrected: bool

    @property
    def span(self) -> tuple[datetime, datetime]:
        """The range."""
        return moment(self.axis.start_us), moment(self.axis.end_us)


async def read(store: Store, numbers: list[int], axis: Axis, wanted: Wanted, *, giant: bool) -> Found:
    """Read it.

    Args:
        store: Asked.
        numbers: Of the series.
        axis: The intervals.
        wanted: Of each.
        giant: The request has entered the lane for those that need much memory.

    Raises:
        ProblemError: it is more than may be read.
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    asked = _asked(store, numbers, axis, wanted)
    if asked.raw or asked.tier_s is None:
        await _refuse_giants(store, numbers, axis, statement.MOST_TAKEN if asked.raw else MOST_POINTS)
    if not asked.raw and not asked.merged:
        row, owed = await _row(store, asked)
        return _found(asked, row, owed, {})
    most = statement.MOST_TAKEN if giant else GIANT
    row, points, sketches = await _together(store, asked, most)
    if sketches is not None and sketches["lacks"]:
        return await read(store, numbers, axis, wanted._replace(quantiles="exact"), giant=giant)
    taken = (0 if points is None else len(points["value"]) // 8) + (0 if sketches is None else int(sketches["size"]))
    if taken > most and giant:
        raise too_many_points(most)
    if taken > most:
        await store.giants.enter()
        return await read(store, numbers, axis, wanted, giant=True)
    made = {} if points is None else await beside(taken, partial(_of_points, asked, points))
    found = _found(asked, row, columns.Owed(row["owed"]), made)
    if sketches is not None:
        fields = found.fields["min"], found.fields["max"]
        made |= await beside(taken, lambda: percentiles(asked.merged, axis, numbers, sketches, *fields))
    return found


def _asked(store: Store, numbers: list[int], axis: Axis, wanted: Wanted) -> _Asked:
    tier_s = statement.widest(store.tiers_s, axis)
    sketches = wanted.quantiles == SKETCH and tier_s is not None
    merged = [name for name in wanted.aggregations if name in PERCENTILES and sketches]
    raw = [name for name in wanted.aggregations if name in FROM_POINTS and name not in merged]
    needed = {"count"} | {field for name in wanted.aggregations for field in NEEDS.get(name, ())}
    needed |= {field for name, field in FIELDS_OF_COLUMNS.items() if name in wanted.columns}
    needed |= {"min", "max"} if merged else set()
    return _Asked(numbers, axis, tier_s, merged, raw, tuple(sorted(needed)), CORRECTED in wanted.columns)


def _folded(store: Store, asked: _Asked, *, owing: bool) -> tuple[str, tuple[Any, ...]]:
    """The statement that gives the fields, and its arguments."""
    how = statement.intervals(asked.axis)
    text = statement.folded(
        store.tiers_s,
        asked.tier_s,
        asked.fields,
        how.start_of,
        alone=len(asked.numbers) == 1,
        corrected=asked.corrected,
        owing=owing,
    )
    return text, (*asked.span, asked.numbers, *how.arguments)


async def _row(store: Store, asked: _Asked) -> tuple[Any, columns.Owed]:
    # of what ended long ago hardly anything is owed
    old = (
        asked.tier_s is not None
        and asked.axis.end_us < time.time_ns() // 1000 - (store.horizon_s + asked.tier_s) * SECOND_US
    )
    text, arguments = _folded(store, asked, owing=not old)
    row = await store.database.row(text, *arguments)
    owed = columns.Owed(row["owed"])
    if old and owed.owes():
        text, arguments = _folded(store, asked, owing=True)
        row = await store.database.row(text, *arguments)
        owed = columns.Owed(row["owed"])
    return row, owed


async def _together(store: Store, asked: _Asked, most: int) -> tuple[Any, Any, Any]:
    """Fields; points, where they are needed, one more than `most` of them at most; sketches, where those are."""
    text, arguments = _folded(store, asked, owing=True)
    statements = [(text, arguments)]
    if asked.raw:
        before = "rate" in asked.raw or "increase" in asked.raw
        statements.append((statement.POINTS, (*asked.span, asked.numbers, before, most + 1)))
    if asked.merged and asked.tier_s is not None:
        start_of = statement.intervals(asked.axis).start_of
        statements.append((sketched(store.tiers_s, asked.tier_s, start_of), (*arguments, most)))
    row, *more = await store.database.rows_together(*statements)
    return row, more[0] if asked.raw else None, more[-1] if asked.merged else None


def _found(asked: _Asked, row: Any, owed: columns.Owed, made: dict[str, Floats]) -> Found:
    if row["points"] > MOST_POINTS:
        raise too_many_points(MOST_POINTS)
    axis, numbers = asked.axis, asked.numbers
    arrays = {name: (columns.longs if name in statement.WHOLE else columns.doubles)(row[name]) for name in asked.fields}
    ids, starts = columns.integers(row["series_id"]), columns.moments(row["start"])
    fields = scattered(axis, numbers, ids, starts, arrays)
    if asked.corrected:
        of, at, number = columns.numbered(row[CORRECTED])
        often = np.zeros(len(numbers) * len(axis))
        often[places(axis, numbers, of, at)] = number
        fields[CORRECTED] = often.reshape(len(numbers), len(axis))
    cut_us = None if row["cut"] is None else microseconds(row["cut"])
    return Found(fields, made, owed, microseconds(row["as_of"]), cut_us, asked.tier_s, bool(asked.merged))


def _of_points(asked: _Asked, row: Any) -> dict[str, Floats]:
    ids, times = columns.integers(row["series_id"]), columns.moments(row["event_time"])
    value = columns.doubles(row["value"])
    return {name: of_points(name, asked.axis, asked.numbers, ids, times, value) for name in asked.raw}


async def _refuse_giants(store: Store, numbers: list[int], axis: Axis, most: int) -> None:
    """Where it may be a great many points, count them by rollups first, so that they are not read in vain."""
    seconds = (axis.end_us - axis.start_us) // SECOND_US
    if seconds * len(numbers) < _NOT_COUNTED_S:
        return
    span = moment(axis.start_us), moment(axis.end_us)
    for tier_s in reversed(store.tiers_s):
        if seconds >= 2 * tier_s:
            row = await store.database.row(statement.HOW_MANY, *span, numbers, tier_s)
            if row[0] > most:
                raise too_many_points(most)
            return


def too_many_points(most: int) -> ProblemError:
    """More than may be read."""
    return ProblemError(
        "too-many-points",
        f"That reads more than {most:,} points: ask for less of it, or for intervals and aggregations that rollups give.",
    )
