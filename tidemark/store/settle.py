"""Settles windows: recomputes what marks say from the raw points, and gives the rows to whoever appends them.

The order is the guarantee. Marks are read; one transaction locks their windows, aggregates in a later statement
(whose snapshot is therefore newer than the lock, and than the marks), replaces the store's rollups and marks the
tier above; it commits; the caller appends the rows to BigQuery; and only then do the marks die (`forget`). Whatever
crashes in between, a mark that is still there makes it happen again, and a greater revision means a newer snapshot.

A transaction is bounded, a mark is not: one that owes more is replaced by marks that owe a part of it each, in a
transaction of its own, before any of it is settled.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine

from tidemark.errors import MisconfiguredError, RefusedError, UnavailableError
from tidemark.failpoints import reach
from tidemark.logs import log
from tidemark.settings import DAY_S, Values
from tidemark.store.agreement import hold
from tidemark.store.amount import share
from tidemark.store.connection import transaction
from tidemark.store.fold import RANGED, SORTED, Range
from tidemark.store.hypertable import CHUNKS_A_TRANSACTION
from tidemark.store.marks import NUMBER, OF_LOADED, cut_marks, delete_marks, mark_windows
from tidemark.store.parts import ANY_SPAN, Mark, Part, cuts, floor2, of_all, of_series
from tidemark.store.replace import Kind, look, replaced
from tidemark.wire.summary import ROLLUP, Rollups

_LOCK: Final = 0x7469_6465  # "tide"
MARKS_A_ROUND: Final = 20_000
ROWS_A_TRANSACTION: Final = 50_000
SOURCES_A_ROW: Final = 2
"""Of points, or rollups of the tier below, a transaction reads so many for each of these rows, but for a single window."""
LOCKS_A_TRANSACTION: Final = 512
"""Windows of the largest tier; a server has room for some thousands of locks (`max_locks_per_transaction`)."""
CELLS: Final = 64
"""Into so many parts a mark is divided at once; the rest stays one mark until these are settled."""
UNTRIED: Final = 1 << 62
TURN_S: Final = 5.0
"""After so long on one tier the next has its turn, and marks are read again: live windows wait no longer for a backlog."""
LOOK_S: Final = 30.0
"""After so long `due` leaves the rest for the next call, which may be the end of a bundle."""
WORK_MEM: Final = "64MB"
"""For the sort of a transaction's points; with less it goes through the disk."""
NO_NESTED_LOOPS: Final = "SELECT set_config('enable_nestloop', 'off', true)"
"""With quantiles a statement joins summaries and sketches. Of a minute that is newer than its statistics PostgreSQL expects
one row, and would make the sketches anew for each of 10,000."""
KEPT_S: Final = 600.0
"""So long other settlers leave to a load what follows from its windows in the tiers above."""
REFRESHES: Final = 10
"""How often an open window of an upper tier is settled over its length."""

_DUE: Final = f"""
SELECT {NUMBER}, extract(epoch FROM window_from)::bigint, extract(epoch FROM window_to)::bigint, series_id
FROM marks WHERE tier_s = %s AND {{which}}{{share}} ORDER BY window_from DESC, id DESC LIMIT %s"""
_AROUND: Final = f"""
SELECT {NUMBER}, extract(epoch FROM window_from)::bigint, extract(epoch FROM window_to)::bigint, series_id
FROM marks WHERE tier_s = %s AND window_from >= to_timestamp(%s) AND window_to <= to_timestamp(%s) LIMIT %s"""

_LOCK_WINDOWS: Final = f"""
SELECT pg_advisory_xact_lock(%s, w), set_config('work_mem', %s, true), {SORTED}{{ranged}}
FROM unnest(CAST(%s AS integer[])) AS u(w)"""


class Settled(NamedTuple):
    """One transaction's rows.

    Attributes:
        rows: Every rollup in the windows of these marks, changed or not: an earlier settler may have died before it
            appended them. Shape (n,), dtype `ROLLUP`.
        changed: How many of them are new or differ from what the store had.
        corrected: How many replace a final row, settled after its horizon, and differ from it.
        refreshed: How many replace a row of a window that was open, and differ from it.
        mark_ids: Numbers of marks, to be forgotten once the rows are durable in BigQuery.
    """

    rows: Rollups
    changed: int
    corrected: int
    refreshed: int
    mark_ids: list[int]


@dataclass
class Settler:
    """Settles what is due; one for a process."""

    pool: Engine
    tiers_s: tuple[int, ...]
    horizon_s: float
    quantiles: bool = False
    share: tuple[int, int] = (0, 1)
    """Of so many settlers beside each other the one with this number, from 0; each takes other days, or other series."""
    archives: bool = False
    """Takes what archives owe at once; others leave it to the load for a while, see `tidemark.store.imports`."""
    _smaller: dict[int, dict[tuple[int, int, int | None], int]] = field(default_factory=dict, init=False)
    """By tier and by what a mark owes: with how many windows at most to try again what could not be settled; those with
    the least come last."""
    _fits: dict[int, int] = field(default_factory=dict, init=False)
    """By tier: with how many windows a part was about as large as a transaction may be; it is divided so at once."""

    @classmethod
    def of(cls, pool: Engine, values: Values) -> Settler:
        """As settings say."""
        return cls(pool, values.tiers_s, values.horizon_s, values.quantiles)

    def due(self, everything: bool = False) -> Iterator[Settled]:
        """Settle what is due now, tier by tier from the narrowest, a transaction at a time.

        Newest windows first, and no tier for much longer than `TURN_S` at once. It ends after about `LOOK_S` even if
        more is due. What cannot be settled does not stop the rest of its tier or another; from then on its turn comes
        last, and it is tried in smaller and smaller parts.

        Args:
            everything: Also what is not due yet, except the closing look at windows that were settled early.

        Yields:
            The rows of each transaction after its commit. Append them, then `forget` their marks.

        Raises:
            UnavailableError, MisconfiguredError: what was yielded so far stands; the rest keeps its marks. The first
                of what failed.
        """
        due = f"(ready_at <= clock_timestamp() OR {OF_LOADED})" if self.archives else "ready_at <= clock_timestamp()"
        which = "NOT closing" if everything else due
        until = time.monotonic() + LOOK_S
        yielded: set[int] = set()
        failures: list[UnavailableError | MisconfiguredError] = []
        more = True
        while more and not failures:
            more = False
            for level in range(len(self.tiers_s)):
                for parts in self._parts(level, which, yielded):
                    left = yield from self._turn(level, parts, yielded, failures)
                    more = more or left
            more = more and time.monotonic() < until
        if failures:
            raise failures[0]

    def forget(self, mark_ids: Sequence[int]) -> None:
        """Delete marks whose rows are durable everywhere; if another server has taken over since, none: they come again."""
        with transaction(self.pool) as connection:
            delete_marks(connection, mark_ids)
        reach("settle.forgotten")

    def oldest_due_s(self) -> float:
        """Age in seconds of the oldest due mark; 0 when none is due. The one alarm that matters."""
        with transaction(self.pool) as connection:
            age = connection.exec_driver_sql(
                "SELECT extract(epoch FROM clock_timestamp() - min(ready_at)) FROM marks"
            ).scalar()
        return max(0.0, float(age)) if age is not None else 0.0

    def owed_by_archives(self) -> bool:
        """Whether archives that are loaded owe anything still."""
        with transaction(self.pool) as connection:
            answer = connection.exec_driver_sql(f"SELECT EXISTS (SELECT FROM marks WHERE {OF_LOADED})")
            return bool(answer.scalar_one())

    def _parts(self, level: int, which: str, yielded: set[int]) -> tuple[list[Part], list[Part]]:
        """What else is due in a tier, of all series and of single ones, in the order in which to settle it."""
        tier_s = self.tiers_s[level]
        with transaction(self.pool) as connection:
            rows = connection.exec_driver_sql(
                _DUE.format(which=which, share=self._shared()), (tier_s, MARKS_A_ROUND)
            ).all()
        groups: dict[int, list[Mark]] = {}
        before = self._smaller.get(tier_s, {})
        for mark in (Mark(*row) for row in rows if row[0] not in yielded):
            groups.setdefault(before.get(mark.what, UNTRIED), []).append(mark)
        self._smaller[tier_s] = {m.what: n for n, marks in groups.items() if n != UNTRIED for m in marks}
        whole: list[Part] = []
        single: list[Part] = []
        for limit, marks in sorted(groups.items(), reverse=True):
            some, left = of_all(marks)
            whole += some
            single += of_series(
                left, tier_s, self._most_windows(level, limit), self.tiers_s[-1], self._most_seconds(level)
            )
        return whole, single

    def _shared(self) -> str:
        number, of = self.share
        if of == 1:
            return ""
        window = f"extract(epoch FROM window_from)::bigint / {self.tiers_s[-1]:d}"
        return f" AND coalesce(series_id::bigint, {window}) %% {of:d} = {number:d}"

    def _turn(
        self, level: int, parts: list[Part], yielded: set[int], failures: list[UnavailableError | MisconfiguredError]
    ) -> Generator[Settled, None, bool]:
        """Settle parts until `TURN_S` is over; returns whether any are left."""
        until = time.monotonic() + TURN_S
        tier_s = self.tiers_s[level]
        smaller = self._smaller[tier_s]
        left = parts[::-1]
        while left:
            part = left.pop()
            try:
                divided = self._divided(level, part)
                if divided is not None:
                    left += divided[::-1]
                    continue
                settled = self._settle(level, part)
            except (UnavailableError, MisconfiguredError, RefusedError) as error:
                # no point is to blame that could become a dead letter: a person has to look
                told = MisconfiguredError(str(error)) if isinstance(error, RefusedError) else error
                failures.append(told)
                log.warning("%s Windows of %d s before %s wait.", error, tier_s, np.datetime64(part.end, "s"))
                windows = part.windows(tier_s)
                for mark in part.marks:
                    # of single windows those that failed least often come first
                    smaller[mark.what] = windows // 2 if windows > 1 else min(1, smaller.get(mark.what, 1)) - 1
            else:
                for mark in part.marks:
                    smaller.pop(mark.what, None)
                yielded.update(settled.mark_ids)
                yield settled
            if time.monotonic() >= until:
                break
        return bool(left)

    def _most_windows(self, level: int, limit: int) -> int:
        locks = LOCKS_A_TRANSACTION * self.tiers_s[-1] / self.tiers_s[level]
        days = self._most_seconds(level) / self.tiers_s[level]
        return floor2(min(ROWS_A_TRANSACTION, locks, days, limit))

    def _most_seconds(self, level: int) -> float:
        """How much event time one transaction reads points of: a hypertable has a chunk a day, and locks for each."""
        return ANY_SPAN if level else max(self.tiers_s[0], CHUNKS_A_TRANSACTION * DAY_S)

    def _divided(self, level: int, part: Part) -> list[Part] | None:
        """Smaller parts, each with marks of its own; None where one transaction can take it."""
        tier_s = self.tiers_s[level]
        windows = part.windows(tier_s)
        if windows <= 1:
            return None
        limit = min(self._smaller[tier_s].get(mark.what, UNTRIED) for mark in part.marks)
        most = self._most_windows(level, limit)
        if windows <= most:
            if not isinstance(part.scope, Range):
                return None
            with transaction(self.pool) as connection:
                rows, sources = ROWS_A_TRANSACTION, SOURCES_A_ROW * ROWS_A_TRANSACTION
                taken = share(connection, self.tiers_s[: level + 1], part.scope, rows, sources)
            if taken <= 1:
                self._fits[tier_s] = floor2(windows / max(taken, 1 / CELLS))
                return None
            most = min(floor2(windows - 1), self._fits.get(tier_s, UNTRIED))
        cell_s = most * tier_s
        begin = (-(-part.end // cell_s) - CELLS) * cell_s
        marks: list[Mark] = []
        pieces: list[tuple[int, int, int]] = []
        for mark in part.marks:
            found = list(cuts(mark, cell_s, begin))
            if len(found) > 1:
                pieces += [(mark.id, start, end) for start, end in found]
            elif mark.end > begin:
                marks.append(mark)
        if pieces:
            with transaction(self.pool) as connection:
                made = cut_marks(connection, pieces)
                self._hold(connection)
            reach("settle.cut")
            self._smaller[tier_s].update({mark.what: limit for mark in made if limit != UNTRIED})
            marks += [mark for mark in made if mark.end > begin]
        smaller, left = of_all(marks, cell_s)
        return smaller + of_series(left, tier_s, most, cell_s, self._most_seconds(level))

    def _settle(self, level: int, part: Part) -> Settled:
        tier_s = self.tiers_s[level]
        scope, marks = part
        with transaction(self.pool) as connection:
            self._lock(connection, scope)
            clock_us, empty = look(connection, tier_s, scope)
            if isinstance(scope, Range):
                # Every mark that is visible now is in the snapshot below as well: one settling serves them all.
                around = connection.exec_driver_sql(_AROUND, (tier_s, scope.start, scope.end, MARKS_A_ROUND)).all()
                marks = [*marks, *(Mark(*row) for row in around)]
            found = replaced(
                connection,
                self.tiers_s[: level + 1],
                scope,
                self.horizon_s,
                clock_us,
                empty=empty,
                quantiles=self.quantiles,
            )
            rows = found[list(ROLLUP.names or ())].astype(ROLLUP)
            if level + 1 < len(self.tiers_s):
                news = rows[found["kind"] != Kind.UNCHANGED]
                self._mark_above(connection, self.tiers_s[level + 1], news, scope, clock_us / 1e6)
            self._mark_open(connection, tier_s, rows, scope)
            self._hold(connection)
        reach("settle.committed")
        changed = int(np.count_nonzero(found["kind"]))
        corrected, refreshed = (
            int(np.count_nonzero(found["kind"] == kind)) for kind in (Kind.CORRECTED, Kind.REFRESHED)
        )
        return Settled(rows, changed, corrected, refreshed, sorted({mark.id for mark in marks}))

    def _lock(self, connection: Connection, scope: Range | list[Range]) -> None:
        """One settler at a time in each window of the largest tier.

        The locks are taken in order, so that two settlers never wait crosswise.
        """
        largest = self.tiers_s[-1]
        ranges = [scope] if isinstance(scope, Range) else scope
        windows = sorted({w for r in ranges for w in range(r.start // largest, -(-r.end // largest))})
        ranged = f", {RANGED}" if isinstance(scope, Range) else ""
        connection.exec_driver_sql(_LOCK_WINDOWS.format(ranged=ranged), (_LOCK, WORK_MEM, windows))
        if self.quantiles:
            connection.exec_driver_sql(NO_NESTED_LOOPS)

    def _hold(self, connection: Connection) -> None:
        """Last in a transaction: settings that were changed while it ran may owe what it has read as settled."""
        hold(connection, tiers_s=self.tiers_s, horizon_s=self.horizon_s, quantiles=self.quantiles)

    def _mark_above(
        self, connection: Connection, tier_s: int, rows: Rollups, scope: Range | list[Range], now: float
    ) -> None:
        """Mark the windows of the tier above that contain these rows; `now` is the database's clock in seconds."""

        def ready(_start: int, end: int) -> float:
            closes = end + self.horizon_s
            if now >= closes:
                return 0.0
            step = tier_s / REFRESHES
            return min(closes, (now // step + 1) * step)

        windows = rows["window_start"] // (tier_s * 1_000_000) * tier_s
        mark_windows(
            connection,
            tier_s,
            windows,
            rows["series_id"],
            whole=isinstance(scope, Range),
            ready=ready,
            closing=False,
            kept_s=KEPT_S if self.archives else 0.0,
        )

    def _mark_open(self, connection: Connection, tier_s: int, rows: Rollups, scope: Range | list[Range]) -> None:
        """Owe windows that were settled before their horizon one more look, at their horizon."""
        early = rows[~rows["final"]]

        def ready(_start: int, end: int) -> float:
            return end + self.horizon_s

        windows = early["window_start"] // 1_000_000
        mark_windows(
            connection, tier_s, windows, early["series_id"], whole=isinstance(scope, Range), ready=ready, closing=True
        )
