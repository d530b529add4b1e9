"""Writes a block: one transaction of points, marks, dead letters and a ledger row, or one for each part of it.

A block may be written any number of times, in any order, by anyone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Engine

from tidemark.errors import MisconfiguredError, RefusedError, UnavailableError
from tidemark.failpoints import reach
from tidemark.settings import Values
from tidemark.store import agreement, dead_letters
from tidemark.store.connection import transaction
from tidemark.store.reach import TransactionReach, in_halves, in_spans
from tidemark.store.series import SeriesCache
from tidemark.store.upsert import Habit, put_points
from tidemark.wire.block import Block, DeadLetter, Winners, winners
from tidemark.wire.summary import MICROSECONDS, POINT, Points

SERIES_A_WINDOW: Final = 64
"""Up to this many series of one past window are marked one by one; above, the whole window is."""

_MARK: Final = """
INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at)
SELECT %s, to_timestamp(f), to_timestamp(t), s,
       greatest(to_timestamp(t) + %s * interval '1 second', clock_timestamp() + %s * interval '1 second')
FROM unnest(CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS integer[])) AS m(f, t, s)"""

_GOOD_SERIES: Final = """
INSERT INTO series (project, source, metric) VALUES ('tidemark', 'good', gen_random_uuid()::text) RETURNING series_id"""

_LEDGER: Final = f"""
INSERT INTO ledger (received, redriven, inserted, overwritten, ignored, dead_lettered) VALUES (%s, %s, %s, %s, %s, %s)
RETURNING (SELECT json_build_array(project, source, metric) FROM series WHERE series_id = %s), {agreement.KEPT}"""


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

    def check(self, kept: list[Any] | None) -> None:
        """Hold it against what the store keeps, as `agreement.KEPT` gives it.

        Raises:
            MisconfiguredError: it was changed.
        """
        found = agreement.kept_as(kept)
        if found is not None and found.tiers_s[0] != self.base_s:
            agreement.check(kept, tiers_s=(self.base_s,))
        agreement.check(kept, horizon_s=self.horizon_s, debounce_s=self.debounce_s)


@dataclass(frozen=True)
class Written:
    """What one block became.

    Attributes:
        points: Every accepted point, with real series numbers; whatever the upsert said of it.
        inserted, overwritten, ignored: Points; with the dead letters their sum is what was received.
        dead_letters: Of this block, with those the database refused.
    """

    points: Points
    inserted: int
    overwritten: int
    ignored: int
    dead_letters: list[DeadLetter]

    @property
    def dead_lettered(self) -> int:
        """As how many points the dead letters count."""
        return sum(letter.points for letter in self.dead_letters)


def together(written: list[Written]) -> Written:
    """What the parts of a block became."""
    if len(written) == 1:
        return written[0]
    return Written(
        np.concatenate([part.points for part in written]),
        sum(part.inserted for part in written),
        sum(part.overwritten for part in written),
        sum(part.ignored for part in written),
        [letter for part in written for letter in part.dead_letters],
    )


class _StaleSeriesError(Exception):
    """A number in the cache is not, or no longer, the database's: the newest go first when seconds are lost."""


@dataclass(frozen=True)
class Writer:
    """Writes blocks; one for a process, safe between threads."""

    pool: Engine
    series: SeriesCache
    policy: Policy
    habit: Habit = field(default_factory=Habit)
    reach_of: TransactionReach = field(default_factory=TransactionReach)

    def write(self, block: Block) -> Written:
        """Write `block`, in one transaction where it can be; find and dead-letter points that the database refuses.

        In a hypertable a transaction writes into so many chunks at most, whose locks it holds; and where it was too much
        for the server, by whatever it counts, in halves.

        Raises:
            UnavailableError: not known to be written; writing it again is harmless.
            MisconfiguredError: not written, or in part; a person has to mend the database.
        """
        parts = in_spans(block, self.reach_of.seconds(self.pool))
        return together([self._write_part(part) for part in parts])

    def write_with(self, block: Block, also: Callable[[Connection], None]) -> Written:
        """Write points out of dead letters, in one transaction with what becomes of those.

        Args:
            block: Without dead letters; or with no points.
            also: Called in the transaction; what it raises undoes all of it.

        Raises:
            RefusedError: the database refuses one of the points; nothing was written.
            UnavailableError, MisconfiguredError: as `write`; with `too_much` a part of it may be written.
        """
        while True:
            try:
                return self._write_once(block, also)
            except _StaleSeriesError:
                self.series.forget()

    def _write_part(self, block: Block) -> Written:
        try:
            return self._write(block)
        except RefusedError:
            return self._without_refused(block)
        except UnavailableError as error:
            halves = in_halves(block) if error.too_much else [block]
            if len(halves) == 1:
                raise
        return together([self._write_part(half) for half in halves])

    def _without_refused(self, block: Block) -> Written:
        """Write what can be written of a block that was refused whole, in some transactions.

        The dead letters that came with it first. Then a binary search for the first refused point, which stores what lies before it; then the rest, whose next trial
        is the smaller the closer together refused points lie. One bad point of n costs about log2(n) + 3 writes, n bad
        ones little more than n.
        """
        written = [self._write_letters(block.dead_letters)]
        letters: list[DeadLetter] = []
        begin, end = 0, len(block.points)
        refused_to = end  # the points from `begin` to here were refused together; `begin`: nothing is known
        stride = end
        while begin < end:
            known = refused_to > begin
            to = begin + max(1, (refused_to - begin) // 2) if known else min(end, begin + stride)
            part = replace(block.take(np.arange(begin, to)), dead_letters=letters)
            try:
                written.append(self._write(part))
            except RefusedError as refused:
                refused_to = to
                if to - begin == 1:
                    letter = dead_letters.of_refused(part, refused)
                    if not letters:
                        self._try_good(part, letter)
                    letters = [*letters, letter]
                    begin = to
                    stride = max(1, stride // 2)
            else:
                letters = []
                begin = to
                stride = stride if known else 2 * stride
        written.append(self._write_letters(letters))
        return together(written)

    def _write_letters(self, letters: list[DeadLetter]) -> Written:
        """Write dead letters alone.

        Raises:
            MisconfiguredError: they are refused, and there is nothing else that could be done with them.
        """
        none = Block([], np.zeros(0, POINT), None, letters)
        if not letters:
            return Written(none.points, 0, 0, 0, [])
        try:
            return self._write(none)
        except RefusedError as refused:
            raise MisconfiguredError(
                f"{refused} These are dead letters: without them nothing is acknowledged."
            ) from None

    def _try_good(self, like: Block, letter: DeadLetter) -> None:
        """Try what was refused with a point that is known to be good, of the same time, and roll it back.

        Raises:
            MisconfiguredError: it is refused as well, so the data is not at fault.
        """
        point = like.points[:1].copy()
        point["value"] = 0.5
        try:
            with transaction(self.pool) as connection:
                point["series_id"] = connection.exec_driver_sql(_GOOD_SERIES).scalar_one()
                won = Winners(point, [b'{"good":true}'], np.zeros(1, np.intp), tied=False)
                for _ in range(2):  # copied in, and then merged
                    put_points(connection, won, Habit())
                self._put_marks(connection, point)
                dead_letters.put(connection, [letter])
                connection.exec_driver_sql(_LEDGER, (2, 0, 1, 0, 0, 1, None))
                connection.get_transaction().rollback()  # type: ignore[union-attr]  # there is one
        except RefusedError as refused:
            raise MisconfiguredError(
                f"{refused} So it does with a point that is known to be good: mend the database; nothing becomes a dead"
                " letter meanwhile."
            ) from None

    def _write(self, block: Block) -> Written:
        while True:
            try:
                return self._write_once(block)
            except _StaleSeriesError:
                self.series.forget()

    def _write_once(self, block: Block, also: Callable[[Connection], None] | None = None) -> Written:
        generation = self.series.generation
        ids = np.array(self.series.ids(block.keys), np.int32)
        numbered = block.points.copy()
        numbered["series_id"] = ids[block.points["series_id"]]
        won = winners(numbered, block.attributes)
        with transaction(self.pool) as connection:
            if self.series.generation != generation:
                raise _StaleSeriesError
            inserted, overwritten = put_points(connection, won, self.habit) if len(won.points) else (0, 0)
            self._put_marks(connection, won.points)
            dead_letters.put(connection, block.dead_letters)
            ignored = len(block.points) - inserted - overwritten
            came = (block.received, 0) if also is None else (0, len(block.points))
            counts = (*came, inserted, overwritten, ignored, block.received - len(block.points))
            newest = int(ids.argmax()) if len(ids) else None
            number = None if newest is None else int(ids[newest])
            name, kept = connection.exec_driver_sql(_LEDGER, (*counts, number)).one()
            self.policy.check(kept)
            if newest is not None and name != list(block.keys[newest]):
                raise _StaleSeriesError
            if also is not None:
                also(connection)
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
