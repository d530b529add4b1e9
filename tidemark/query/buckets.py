"""`/v1/query`: from its parameters to arrays, at one snapshot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tidemark.query import columns, statement
from tidemark.query.beside import GIANT, Giants, beside
from tidemark.query.catalogue import Series
from tidemark.query.database import Database
from tidemark.query.fold import (
    FROM_POINTS,
    NEEDS,
    Fields,
    Floats,
    States,
    across,
    aggregated,
    filled,
    of_points,
    places,
    scattered,
)
from tidemark.query.intervals import SECOND_US, Axis
from tidemark.query.problems import ProblemError
from tidemark.query.standing import MOST_POINTS
from tidemark.wire.message import microseconds, moment

MOST_INTERVALS: Final = 1_000_000
_FIELDS_OF_COLUMNS: Final = {
    "count": "count",
    "min": "min",
    "max": "max",
    "late-count": "late_count",
    "revision": statement.REVISION,
}
CORRECTED: Final = "corrected"
_NOT_COUNTED_S: Final = 500_000
"""Series times seconds, below which there are hardly too many points."""


class Wanted(NamedTuple):
    """What is asked of each interval.

    Attributes:
        aggregations: Of `tidemark.query.fold.AGGREGATIONS`.
        columns: What else.
        across: How series are folded; `none`: they are not.
        fill: What stands where there are no points.
    """

    aggregations: tuple[str, ...]
    columns: tuple[str, ...]
    across: str
    fill: str


@dataclass
class Line:
    """One series of an answer, or several folded into one.

    Attributes:
        series: Whose; None: of all.
        values: By aggregation or column, of shape (intervals,).
        state: A letter an interval, if it is asked for.
        filled: Where something was filled in, by aggregation.
    """

    series: Series | None
    values: dict[str, Floats]
    state: str | None
    filled: dict[str, list[int]]


@dataclass
class Buckets:
    """An answer's content.

    Attributes:
        lines: Of the series.
        there: Which intervals have points, for each line.
        provisional: Which may change without a late point.
        as_of_us: The moment of the snapshot.
        settled_us: Before it everything of these series and this range is settled.
        tier_s: Of the rollups that were read; None: points were.
        points: How many intervals were folded from points.
        cut_us: Points before this moment may be gone; None: none are.
    """

    lines: list[Line]
    there: npt.NDArray[np.bool_]
    provisional: npt.NDArray[np.bool_]
    as_of_us: int
    settled_us: int
    tier_s: int | None
    points: int
    cut_us: int | None


@dataclass
class Store:
    """What is known of the store.

    Attributes:
        database: Asked.
        tiers_s: Of its rollups; kept up to date with what the store says.
        horizon_s: After which windows are settled; the same.
        giants: Of what is asked of it.
    """

    database: Database
    tiers_s: tuple[int, ...]
    horizon_s: float
    giants: Giants = field(default_factory=Giants)


class _Found(NamedTuple):
    fields: Fields
    raw: dict[str, Floats]
    owed: columns.Owed
    as_of_us: int
    cut_us: int | None
    tier_s: int | None


async def buckets(store: Store, series: Sequence[Series], axis: Axis, wanted: Wanted) -> Buckets:
    """Read and fold.

    Raises:
        ProblemError: it is more than may be asked.
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    asked = len(series) * len(axis) * len({*wanted.aggregations, *wanted.columns})
    if asked > MOST_INTERVALS:
        raise ProblemError(
            "too-many-intervals", f"That is {asked:,} values, and may be {MOST_INTERVALS:,}: ask for longer intervals."
        )
    numbers = [each.number for each in series]
    if asked >= GIANT:
        await store.giants.enter()
    found = await _read(store, numbers, axis, wanted, giant=asked >= GIANT)
    return await beside(asked, lambda: _told(store, series, axis, wanted, found))


def _told(store: Store, series: Sequence[Series], axis: Axis, wanted: Wanted, found: _Found) -> Buckets:
    numbers = [each.number for each in series]
    base_us = store.tiers_s[0] * SECOND_US
    closed_us = (found.as_of_us - round(store.horizon_s * SECOND_US)) // base_us * base_us
    owing = found.owed.start
    settled_us = min(closed_us, int(owing.min()) // base_us * base_us) if len(owing) else closed_us
    states = States(axis, numbers, found.owed, closed_us, found.as_of_us)
    known = int(np.searchsorted(axis.boundaries[1:], found.as_of_us, side="right"))
    whole = {name: aggregated(name, found.fields) if name in NEEDS else found.raw[name] for name in wanted.aggregations}
    there = ~np.isnan(found.fields["count"])
    letters = states.letters(there) if "state" in wanted.columns else None
    extra = {name: found.fields[field] for name, field in _FIELDS_OF_COLUMNS.items() if name in wanted.columns}
    if CORRECTED in wanted.columns:
        extra[CORRECTED] = found.fields[CORRECTED]
    if "revision" in extra:  # points have none
        extra["revision"] = np.where(extra["revision"] == 0, np.nan, extra["revision"])
    if wanted.across == "none":
        lines = _lines(series, whole, extra, letters, wanted.fill, known)
    else:
        there = np.logical_or.reduce(there, axis=0, keepdims=True)
        one = {name: across(wanted.across, name, values, found.fields) for name, values in whole.items()}
        lines = _lines([None], one, {}, None, wanted.fill, known)
    points = int(np.count_nonzero(there)) if found.tier_s is None else states.changed
    return Buckets(lines, there, states.provisional, found.as_of_us, settled_us, found.tier_s, points, found.cut_us)


def _lines(
    series: Sequence[Series | None],
    whole: dict[str, Floats],
    extra: dict[str, Floats],
    letters: list[str] | None,
    fill: str,
    known: int,
) -> list[Line]:
    done = {name: filled(fill, values, known) for name, values in whole.items()}
    lines = []
    for row, each in enumerate(series):
        values = {name: found[row] for name, (found, _) in done.items()} | {
            name: found[row] for name, found in extra.items() if name not in done
        }
        where = {name: np.flatnonzero(gaps[row]).tolist() for name, (_, gaps) in done.items() if gaps[row].any()}
        lines.append(Line(each, values, letters[row] if letters else None, where))
    return lines


async def _read(store: Store, numbers: list[int], axis: Axis, wanted: Wanted, *, giant: bool) -> _Found:
    needed = {"count"} | {field for name in wanted.aggregations for field in NEEDS.get(name, ())}
    needed |= {field for name, field in _FIELDS_OF_COLUMNS.items() if name in wanted.columns}
    raw = [name for name in wanted.aggregations if name in FROM_POINTS]
    span = moment(axis.start_us), moment(axis.end_us)
    tier_s = statement.widest(store.tiers_s, axis)
    if raw or tier_s is None:
        await _refuse_giants(store, numbers, axis, statement.MOST_TAKEN if raw else MOST_POINTS)
    how = statement.intervals(axis)
    text = partial(
        statement.folded,
        store.tiers_s,
        tier_s,
        tuple(sorted(needed)),
        how.start_of,
        alone=len(numbers) == 1,
        corrected=CORRECTED in wanted.columns,
    )
    arguments = (*span, numbers, *how.arguments)
    made: dict[str, Floats] = {}
    if raw:
        before = "rate" in raw or "increase" in raw
        most = statement.MOST_TAKEN if giant else GIANT
        row, points = await store.database.rows_together(
            (text(owing=True), arguments), (statement.POINTS, (*span, numbers, before, most + 1))
        )
        value = columns.doubles(points["value"])
        if len(value) > most and not giant:
            await store.giants.enter()
            return await _read(store, numbers, axis, wanted, giant=True)
        if len(value) > most:
            raise too_many_points(most)
        ids, times = columns.integers(points["series_id"]), columns.moments(points["event_time"])
        made = await beside(
            len(value), lambda: {name: of_points(name, axis, numbers, ids, times, value) for name in raw}
        )
    else:
        # of what ended long ago hardly anything is owed
        old = tier_s is not None and axis.end_us < time.time_ns() // 1000 - (store.horizon_s + tier_s) * SECOND_US
        row = await store.database.row(text(owing=not old), *arguments)
        if old and columns.Owed(row["owed"]).owes():
            row = await store.database.row(text(owing=True), *arguments)
    arrays = {name: (columns.longs if name in statement.WHOLE else columns.doubles)(row[name]) for name in needed}
    if row["points"] > MOST_POINTS:
        raise too_many_points(MOST_POINTS)
    ids, starts = columns.integers(row["series_id"]), columns.moments(row["start"])
    fields = scattered(axis, numbers, ids, starts, arrays)
    if CORRECTED in wanted.columns:
        of, at, number = columns.numbered(row[CORRECTED])
        often = np.zeros(len(numbers) * len(axis))
        often[places(axis, numbers, of, at)] = number
        fields[CORRECTED] = often.reshape(len(numbers), len(axis))
    cut_us = None if row["cut"] is None else microseconds(row["cut"])
    return _Found(fields, made, columns.Owed(row["owed"]), microseconds(row["as_of"]), cut_us, tier_s)


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
