"""Writes a block: one transaction of points, marks, dead letters and a ledger row, or one for each part of it.

A block may be written any number of times, in any order, by anyone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from sqlalchemy import Connection, Engine

from tidemark.errors import MisconfiguredError, RefusedError, UnavailableError
from tidemark.failpoints import reach
from tidemark.store import agreement, dead_letters
from tidemark.store.connection import transaction
from tidemark.store.owing import Owes, Policy, live_marks
from tidemark.store.reach import TransactionReach, in_halves, in_spans
from tidemark.store.series import SeriesCache
from tidemark.store.upsert import Habit, put_points
from tidemark.wire.block import Block, DeadLetter, Winners, winners
from tidemark.wire.summary import POINT, Points

_GOOD_SERIES: Final = """
INSERT INTO series (project, source, metric) VALUES ('tidemark', 'good', gen_random_uuid()::text) RETURNING series_id"""

_LEDGER: Final = f"""
INSERT INTO ledger (received, redriven, inserted, overwritten, ignored, dead_lettered) VALUES (%s, %s, %s, %s, %s, %s)
RETURNING (SELECT json_build_array(project, source, metric) FROM series WHERE series_id = %s), {agreement.KEPT}"""


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
    owe: Owes = live_marks
    """Makes the marks of points in their transaction."""
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

    def write_with(self, block: Block, also: Callable[[Connection, Written], None], *, redriven: bool) -> Written:
        """Write a block in one transaction with something else.

        Args:
            block: It may have no points.
            also: Called last in the transaction; what it raises undoes all of it.
            redriven: The points come out of dead letters, and were received before.

        Raises:
            RefusedError: the database refuses one of the points; nothing was written.
            UnavailableError, MisconfiguredError: as `write`; with `too_much` a part of it may be written.
        """
        while True:
            try:
                return self._write_once(block, also, redriven=redriven)
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
                self.owe(connection, point, self.policy)
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

    def _write_once(
        self, block: Block, also: Callable[[Connection, Written], None] | None = None, *, redriven: bool = False
    ) -> Written:
        generation = self.series.generation
        ids = np.array(self.series.ids(block.keys), np.int32)
        numbered = block.points.copy()
        numbered["series_id"] = ids[block.points["series_id"]]
        won = winners(numbered, block.attributes)
        with transaction(self.pool) as connection:
            if self.series.generation != generation:
                raise _StaleSeriesError
            inserted, overwritten = put_points(connection, won, self.habit) if len(won.points) else (0, 0)
            self.owe(connection, won.points, self.policy)
            dead_letters.put(connection, block.dead_letters)
            ignored = len(block.points) - inserted - overwritten
            came = (0, len(block.points)) if redriven else (block.received, 0)
            counts = (*came, inserted, overwritten, ignored, block.received - len(block.points))
            newest = int(ids.argmax()) if len(ids) else None
            number = None if newest is None else int(ids[newest])
            name, kept = connection.exec_driver_sql(_LEDGER, (*counts, number)).one()
            self.policy.check(kept)
            if newest is not None and name != list(block.keys[newest]):
                raise _StaleSeriesError
            written = Written(won.points, inserted, overwritten, ignored, block.dead_letters)
            if also is not None:
                also(connection, written)
            reach("raw.written")
        reach("raw.committed")
        return written
