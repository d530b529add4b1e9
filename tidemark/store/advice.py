"""What another horizon would do: how much is complete when it is first settled, what is corrected later, how late it is.

From the event and publish times of stored points, as the store would have done it, had each point been stored when it was
published and each mark been settled when it was due. Of a series in a window of the base tier:

    opening          the window's first point, of any series: its mark is of all of them
    first settling   at window end + horizon, and not before opening + debounce; where the opening comes after the horizon,
                     each series by itself, a debounce after its first point
    complete         its points came by then, and the first of them by the horizon: nothing is corrected
    corrections      the first settling, where its first point came after the horizon: it was final, and had nothing; then
                     each settling before which a point came that the one before it lacked. Each late point has a mark, due
                     a debounce after it

Left out is what the store does not know: points that were removed, and that a point which was overwritten had come before;
what points and marks wait for on their way. And what is hardly ever so: a window that a point of another project, or of
none of the sample, opens sooner; and more than 64 series, late in one transaction, which are settled together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Final, NamedTuple

from sqlalchemy import Engine

from tidemark.settings import DAY_S
from tidemark.store.agreement import KEPT, Agreement, kept_as
from tidemark.store.connection import transaction
from tidemark.store.expressions import pyformat
from tidemark.store.horizons import ASKED, advice_sql, chosen
from tidemark.wire.summary import MICROSECONDS

MOST_POINTS: Final = 200_000
MOST_CELLS: Final = 100_000
MOST_SERIES: Final = 50_000
"""Each is looked at, though it may have no points."""
MOST_DAYS: Final = 366
CELLS_S: Final = (600, 3_600, 21_600, DAY_S)
FEW: Final = 8
"""Points of a cell, below which it is hardly worth a look: then cells are longer, and fewer."""
ROUNDS: Final = 5
"""Of so many series at most that each has as many cells."""
SLICES: Final = 200
"""About so many different stretches of time are read: each of more series then, whose points lie on the same pages."""
WORK_MEM: Final = "64MB"
SET_WORK_MEM: Final = f"SELECT set_config('work_mem', '{WORK_MEM}', true)"
_NEWEST: Final = 10_000
"""So many rollups say how long settling takes."""


def ground_sql(place: Callable[[int], str]) -> str:
    """The statement whose only row `ground` reads: what runs, and how much there is.

    Its parameters: the project; names of its sources, or null for all of them; how many days back; how many points and how
    many series are counted at most.

    Args:
        place: How the n-th parameter is written, from 1 on: `pyformat` or `numbered` of `tidemark.store.completeness`.
    """
    us = "(extract(epoch FROM {0}) * {1:d})::bigint".format
    return f"""
        WITH a AS MATERIALIZED (
            SELECT CAST({place(1)} AS text) AS project, CAST({place(2)} AS text[]) AS sources,
                   now() - CAST({place(3)} AS integer) * interval '1 day' AS start,
                   CAST({place(4)} AS integer) AS points, CAST({place(5)} AS bigint) AS series
        ), s AS MATERIALIZED (SELECT s.* FROM a CROSS JOIN LATERAL ({chosen("a.series")}) s)
        SELECT {KEPT}::text, {us("now()", MICROSECONDS)},
               (SELECT {us("nullif(removed_before, '-infinity')", MICROSECONDS)} FROM retention),
               (SELECT count(*) FROM series CROSS JOIN a WHERE {ASKED}), n.points, n.series,
               (SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY date_part('epoch', r.settled_at - r.due)) FROM (
                    SELECT r.*, r.window_start + (k.base_s + k.horizon_s) * interval '1 second' AS due
                    FROM (SELECT tiers_s[1] AS base_s, horizon_s FROM settings LIMIT 1) k CROSS JOIN LATERAL (
                        SELECT * FROM rollups WHERE tier_s = k.base_s ORDER BY window_start DESC LIMIT {_NEWEST:d}
                    ) r
                ) r WHERE r.final AND r.settled_at >= r.due AND r.last_publish_time <= r.due)
        FROM (
            SELECT count(*) AS points, CASE WHEN count(*) < (SELECT points FROM a) THEN (SELECT count(*) FROM s)
                                            ELSE max(place) + 1 END AS series
            FROM (
                SELECT s.place FROM s CROSS JOIN LATERAL (
                    SELECT FROM points q WHERE q.series_id = s.series_id AND q.event_time >= (SELECT start FROM a) OFFSET 0
                ) p LIMIT (SELECT points FROM a)
            ) p
        ) n"""


class Ground(NamedTuple):
    """What runs, and how much there is; times in microseconds since 1970.

    Attributes:
        settings: Of the store.
        now: The database's clock.
        removed_before: Points before it may be gone; None: none are.
        series: How many the project has.
        points, of_series: How many points were counted, and of how many series.
        settling_s: From when the newest windows were due until they were settled, half of them; None: not known.
    """

    settings: Agreement
    now: int
    removed_before: int | None
    series: int
    points: int
    of_series: int
    settling_s: float | None


def ground(row: Sequence[Any]) -> Ground | None:
    """What the row of `ground_sql` means; None: no program has written to this store yet."""
    settings = kept_as(None if row[0] is None else json.loads(row[0]))
    return None if settings is None else Ground(settings, *row[1:])


def counting(project: str, sources: Sequence[str] | None, days: int, effort: float) -> tuple[Any, ...]:
    """The parameters of `ground_sql`; as of `Question`."""
    return (
        project,
        None if sources is None else list(sources),
        days,
        int(MOST_POINTS * effort),
        int(MOST_SERIES * effort),
    )


@dataclass(frozen=True)
class Question:
    """What is looked at.

    Attributes:
        ground: Of the project.
        project: Its name.
        sources: Only these of it; None: all.
        window_s: Length of a window of the base tier in seconds, which divides a day; None: that which runs.
        days: So many, up to now.
        effort: Share of `MOST_POINTS`, `MOST_CELLS` and `MOST_SERIES`.
    """

    ground: Ground
    project: str
    sources: Sequence[str] | None = None
    window_s: int | None = None
    days: int = 7
    effort: float = 1.0

    @property
    def width_s(self) -> int:
        """Length of a window."""
        return self.window_s or self.ground.settings.tiers_s[0]

    @property
    def span(self) -> tuple[int, int]:
        """From which event time until which, in microseconds: whole windows, all of them settled."""
        width, now, settings = self.width_s * MICROSECONDS, self.ground.now, self.ground.settings
        start = max(now - self.days * DAY_S * MICROSECONDS, self.ground.removed_before or 0)
        until = now - round((settings.horizon_s + settings.debounce_s) * MICROSECONDS)
        return -(-start // width) * width, max(-(-start // width), until // width) * width

    @property
    def all_s(self) -> float:
        """How many seconds all series have together."""
        start, until = self.span
        return self.ground.series * (until - start) / MICROSECONDS

    @property
    def a_second(self) -> float:
        """About how many points a series has a second."""
        return max(1, self.ground.points) / max(1, self.ground.of_series) / (self.days * DAY_S)

    @property
    def cell_s(self) -> int:
        """Length of a cell in seconds.

        All of a series, where there are no more points than may be read; else the shortest that has a few. Of much time
        none is short: of a hypertable each look goes through the list of all chunks.
        """
        ground = self.ground
        if ground.points < int(MOST_POINTS * self.effort) and ground.of_series == ground.series:
            return self.span[1] // MICROSECONDS + 1
        least_s = max(FEW / self.a_second, CELLS_S[0] * self.days / 7)
        return next((one for one in CELLS_S if one % self.width_s == 0 and one >= least_s), DAY_S)

    def arguments(self) -> tuple[Any, ...]:
        """The parameters of `advice_sql`."""
        start, until = self.span
        cell = self.cell_s * MICROSECONDS
        first = start // cell
        cells = max(1, -(-until // cell) - first)
        step = next(one for one in range(max(1, round(0.618 * cells)), 2 * cells + 1) if gcd(one, cells) == 1)
        points, most = int(MOST_POINTS * self.effort), int(MOST_SERIES * self.effort)
        wanted = points / (self.a_second * self.cell_s)
        series = max(1, min(self.ground.series, most if cells == 1 else min(most, int(wanted / ROUNDS))))
        rounds = min(cells, -(-int(MOST_CELLS * self.effort) // series))
        groups = max(1, round(SLICES * series / wanted))
        sources = None if self.sources is None else list(self.sources)
        policy = self.width_s, self.ground.settings.horizon_s, self.ground.settings.debounce_s
        order = self.cell_s, first, cells, step, rounds, groups, series, points
        bounds = start, until, self.ground.now, start / MICROSECONDS, until / MICROSECONDS
        return (self.project, sources, *policy, *order, *bounds)


class Step(NamedTuple):
    """What a horizon would give.

    Attributes:
        horizon_s: In seconds.
        complete: Share of the series in windows that are complete when they are first settled.
        corrections_a_day: How often one of them is settled again, and says something else, in all of the project.
        delay_s: From a window's end until it is first settled, half of them; with the time that settling takes, if known.
    """

    horizon_s: float
    complete: float
    corrections_a_day: float
    delay_s: float


@dataclass(frozen=True)
class Advice:
    """What each horizon would give; times in microseconds since 1970.

    Attributes:
        question: What was looked at.
        start, until: The windows that were found lie between them; None: there were none.
        points, series: That were read.
        sampled: Share of the project's time that was read; 1: all of it.
        pairs: Series in windows, each counted for each of its windows.
        steps: By horizon; one of them is that which runs.
        targets: Those of `TARGETS`, each with the least horizon that reaches it.
    """

    question: Question
    start: int | None
    until: int | None
    points: int
    series: int
    sampled: float
    pairs: int
    steps: tuple[Step, ...]
    targets: tuple[Step, ...]

    @property
    def running(self) -> Step | None:
        """What the horizon that runs gives; None: nothing was found."""
        horizon_s = self.question.ground.settings.horizon_s
        return next((step for step in self.steps if step.horizon_s == horizon_s), None)


def advice(question: Question, row: Sequence[Any]) -> Advice:
    """What the row of `advice_sql` means."""
    curve, targets, gathered_s, pairs, points, series, start, until, read_s = row
    if not pairs:
        return Advice(question, None, None, points, series, 1.0, 0, (), ())
    sampled = min(1.0, read_s / question.all_s)
    days = (until - start) / (DAY_S * MICROSECONDS)
    settling_s = question.ground.settling_s or 0.0
    steps = tuple(
        Step(horizon_s, complete / pairs, corrections / sampled / days, max(horizon_s, gathered_s) + settling_s)
        for horizon_s, complete, corrections in json.loads(curve)
    )
    by_horizon = {step.horizon_s: step for step in steps}
    reached = tuple(by_horizon[horizon_s] for horizon_s in json.loads(targets))
    return Advice(question, start, until, points, series, sampled, pairs, steps, reached)


def advice_of(
    pool: Engine, project: str, window_s: int | None = None, days: int = 7, effort: float = 1.0
) -> Advice | None:
    """What each horizon would give a project; arguments as of `Question`.

    Returns:
        None: no program has written to this store yet.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    with transaction(pool) as connection:
        found = ground(connection.exec_driver_sql(ground_sql(pyformat), counting(project, None, days, effort)).one())
        if found is None:
            return None
        question = Question(found, project, None, window_s, days, effort)
        connection.exec_driver_sql(SET_WORK_MEM)
        return advice(question, connection.exec_driver_sql(advice_sql(pyformat), question.arguments()).one())
