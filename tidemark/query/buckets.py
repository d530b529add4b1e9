"""`/v1/query`: from its parameters to arrays, at one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tidemark.query.beside import GIANT, Giants, beside
from tidemark.query.catalogue import Series
from tidemark.query.database import Database
from tidemark.query.fold import NEEDS, PERCENTILES, Floats, States, across, aggregated, filled
from tidemark.query.intervals import SECOND_US, Axis
from tidemark.query.problems import ProblemError
from tidemark.query.reading import CORRECTED, FIELDS_OF_COLUMNS, SKETCH, Found, read

MOST_INTERVALS: Final = 1_000_000


class Wanted(NamedTuple):
    """What is asked of each interval.

    Attributes:
        aggregations: Of `tidemark.query.fold.AGGREGATIONS`.
        columns: What else.
        across: How series are folded; `none`: they are not.
        fill: What stands where there are no points.
        quantiles: `sketch`: percentiles may be from sketches.
    """

    aggregations: tuple[str, ...]
    columns: tuple[str, ...]
    across: str
    fill: str
    quantiles: str


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
        quantiles: `sketch` or `exact`: what percentiles are of; None: there are none.
    """

    lines: list[Line]
    there: npt.NDArray[np.bool_]
    provisional: npt.NDArray[np.bool_]
    as_of_us: int
    settled_us: int
    tier_s: int | None
    points: int
    cut_us: int | None
    quantiles: str | None


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
    found = await read(store, numbers, axis, wanted, giant=asked >= GIANT)
    return await beside(asked, lambda: _told(store, series, axis, wanted, found))


def _told(store: Store, series: Sequence[Series], axis: Axis, wanted: Wanted, found: Found) -> Buckets:
    numbers = [each.number for each in series]
    base_us = store.tiers_s[0] * SECOND_US
    closed_us = (found.as_of_us - round(store.horizon_s * SECOND_US)) // base_us * base_us
    owing = found.owed.start
    settled_us = min(closed_us, int(owing.min()) // base_us * base_us) if len(owing) else closed_us
    states = States(axis, numbers, found.owed, closed_us, found.as_of_us)
    known = int(np.searchsorted(axis.boundaries[1:], found.as_of_us, side="right"))
    whole = {
        name: aggregated(name, found.fields) if name in NEEDS else found.made[name] for name in wanted.aggregations
    }
    there = ~np.isnan(found.fields["count"])
    letters = states.letters(there) if "state" in wanted.columns else None
    extra = {name: found.fields[field] for name, field in FIELDS_OF_COLUMNS.items() if name in wanted.columns}
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
    quantiles = SKETCH if found.sketched else "exact" if PERCENTILES.keys() & wanted.aggregations else None
    return Buckets(
        lines, there, states.provisional, found.as_of_us, settled_us, found.tier_s, points, found.cut_us, quantiles
    )


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
