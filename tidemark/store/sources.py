"""Keeps, by source, when it was last heard of and how late its points are.

An observation, not an account: it is written beside the points, not with them, every minute or so, less often where
a process sees more than 5,000 sources. What a killed
worker had not written is missing, and points that were delivered twice count twice. The ledger is the account.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from sqlalchemy import Engine

from tidemark.metrics import LATENESS, LATENESS_S
from tidemark.store.connection import transaction
from tidemark.wire.block import Block
from tidemark.wire.message import moment
from tidemark.wire.summary import MICROSECONDS, windows

EVERY_S: Final = 60.0
AT_ONCE: Final = 5_000
COUNTS: Final = ("points", "after_window", "after_horizon", *LATENESS)
_EDGES: Final = np.array(list(LATENESS_S.values()), np.int64) * MICROSECONDS
"""Upper bounds of `LATENESS` in microseconds, the last bucket's left out."""
_TIMES: Final = ("first_seen", "last_seen", "last_event_time")
_NEVER: Final = np.iinfo(np.int64)

_ADD: Final = f"""
INSERT INTO sources (project, source, {", ".join(_TIMES)}, most_late_s, {", ".join(COUNTS)})
SELECT * FROM ROWS FROM (
    json_array_elements_text(CAST(%s AS json)), json_array_elements_text(CAST(%s AS json)),
    {", ".join("unnest(CAST(%s AS timestamptz[]))" for _ in _TIMES)},
    unnest(CAST(%s AS float8[])), {", ".join("unnest(CAST(%s AS bigint[]))" for _ in COUNTS)})
ON CONFLICT (project, source) DO UPDATE SET
    first_seen = least(sources.first_seen, excluded.first_seen),
    last_seen = greatest(sources.last_seen, excluded.last_seen),
    last_event_time = greatest(sources.last_event_time, excluded.last_event_time),
    most_late_s = greatest(sources.most_late_s, excluded.most_late_s),
    {", ".join(f"{name} = sources.{name} + excluded.{name}" for name in COUNTS)}"""


class SourceBook:
    """What one process has seen since it last wrote; safe between threads."""

    def __init__(self, pool: Engine, base_s: int, horizon_s: float, every_s: float = EVERY_S) -> None:
        """Nothing is written before `every_s` has passed."""
        self._pool, self._base_s, self._horizon_us = pool, base_s, round(horizon_s * MICROSECONDS)
        self._every_s = every_s
        self._lock = threading.Lock()
        self._due_at = time.monotonic() + every_s
        self._start()

    def observe(self, block: Block) -> npt.NDArray[np.int64]:
        """Take the points of a block into account, as they were received.

        Returns:
            How many of them are in each class of `LATENESS`.
        """
        points = block.points
        late = points["publish_time"] - points["event_time"]
        classes = np.searchsorted(_EDGES, late)
        numbers = np.bincount(classes, minlength=len(LATENESS))
        if not len(points):
            return numbers
        behind = points["publish_time"] - windows(points, self._base_s) - self._base_s * MICROSECONDS
        with self._lock:
            places = self._places
            place = np.array([places.setdefault(key[:2], len(places)) for key in block.keys], np.int64)
            self._grow(len(places))
            at = place[points["series_id"]]
            np.add.at(self._counts, (at, len(COUNTS) - len(LATENESS) + classes), 1)
            np.add.at(self._counts[:, 0], at, 1)
            np.add.at(self._counts[:, 1], at[behind > 0], 1)
            np.add.at(self._counts[:, 2], at[behind > self._horizon_us], 1)
            np.minimum.at(self._least, at, points["publish_time"])
            np.maximum.at(self._most, (at, 0), points["publish_time"])
            np.maximum.at(self._most, (at, 1), points["event_time"])
            np.maximum.at(self._most, (at, 2), late)
        return numbers

    def due(self) -> bool:
        """It is time to write."""
        return time.monotonic() >= self._due_at

    def write(self) -> None:
        """Add what was seen to the table `sources`.

        Raises:
            UnavailableError, MisconfiguredError: it was not written, and is forgotten.
        """
        with self._lock:
            # many sources are written less often, and processes that started together do not write together
            pause = self._every_s * max(1.0, len(self._places) / AT_ONCE)
            self._due_at = time.monotonic() + random.uniform(0.75, 1.25) * pause  # noqa: S311  # not a secret
            places, counts, least, most = self._places, self._counts, self._least, self._most
            self._start()
        # in order, so that two processes never wait crosswise
        names = sorted(name for name, place in places.items() if counts[place, 0])
        order = np.array([places[name] for name in names], np.int64)
        for start in range(0, len(names), AT_ONCE):
            some, rows = names[start : start + AT_ONCE], order[start : start + AT_ONCE]
            times = (least[rows], most[rows, 0], most[rows, 1])
            columns = (
                *(msgspec.json.encode(column).decode() for column in zip(*some, strict=True)),
                *([moment(t) for t in column.tolist()] for column in times),
                (most[rows, 2] / MICROSECONDS).tolist(),
                *counts[rows].T.tolist(),
            )
            with transaction(self._pool) as connection:
                connection.exec_driver_sql(_ADD, columns)

    def _start(self) -> None:
        self._places: dict[tuple[str, str], int] = {}
        self._counts = np.zeros((0, len(COUNTS)), np.int64)
        self._least = np.zeros(0, np.int64)
        self._most = np.zeros((0, 3), np.int64)

    def _grow(self, number: int) -> None:
        more = max(64, 2 * number) - len(self._least)
        if number > len(self._least):
            self._counts = np.concatenate((self._counts, np.zeros((more, len(COUNTS)), np.int64)))
            self._least = np.concatenate((self._least, np.full(more, _NEVER.max)))
            self._most = np.concatenate((self._most, np.full((more, 3), _NEVER.min)))


class ProjectLateness(NamedTuple):
    """What is known of a project's points; times in seconds since 1970, `histogram` in the order of `LATENESS`."""

    project: str
    sources: int
    points: int
    after_window: int
    after_horizon: int
    most_late_s: float
    last_seen: float
    histogram: list[int]


class SourceLateness(NamedTuple):
    """What is known of a source's points; times in seconds since 1970."""

    project: str
    source: str
    points: int
    after_window: int
    after_horizon: int
    most_late_s: float
    last_seen: float
    last_event_time: float


def projects(pool: Engine, project: str | None = None) -> Iterator[ProjectLateness]:
    """Each project, by name.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    sql = f"""SELECT project, count(*), {", ".join(f"sum({name})::bigint" for name in COUNTS[:3])}, max(most_late_s),
        extract(epoch FROM max(last_seen))::float8, {", ".join(f"sum({name})::bigint" for name in LATENESS)}
        FROM sources WHERE coalesce(project = %s, true) GROUP BY project ORDER BY project"""
    with transaction(pool) as connection:
        for row in connection.exec_driver_sql(sql, (project,)).all():
            yield ProjectLateness._make([*row[:7], list(row[7:])])


def sources(pool: Engine, by: str, most: int, project: str | None = None) -> list[SourceLateness]:
    """The sources silent for longest, or with the greatest share of points after their window's horizon.

    Args:
        pool: Of a user that may read.
        by: silent or late.
        most: How many.
        project: Only its sources.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    order = {"silent": "last_seen", "late": "after_horizon::float8 / points DESC, most_late_s DESC"}[by]
    sql = f"""SELECT project, source, points, after_window, after_horizon, most_late_s,
        extract(epoch FROM last_seen)::float8, extract(epoch FROM last_event_time)::float8
        FROM sources WHERE coalesce(project = %s, true) ORDER BY {order}, project, source LIMIT %s"""
    with transaction(pool) as connection:
        return [SourceLateness(*row) for row in connection.exec_driver_sql(sql, (project, most)).all()]
