"""Loads archives: how far each part of a file is loaded is kept in the transaction of its points.

    imports   a row a part of a file: which places of it are done, and what became of them
    marks     of its points, ranges together; settled when the part is through, or when they have been gathered for a while

So a load may be killed at any instant and begun again: what is done is passed over, and what is not is written once more,
which changes nothing. Its rollups are settled about once a window, however the file is ordered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Engine

from tidemark.errors import RefusedError, UnavailableError, UsageError
from tidemark.settings import DAY_S
from tidemark.store.connection import transaction
from tidemark.store.owing import SERIES_A_WINDOW, Policy
from tidemark.store.reach import in_spans
from tidemark.store.write import Writer, Written
from tidemark.wire.block import Block
from tidemark.wire.summary import MICROSECONDS, Points

_JSON: Final = msgspec.json.Encoder()
RANGES_A_BLOCK: Final = 64
"""Marks that one block makes at most; those that are closest together become one."""
GATHERED: Final = 32
"""After so many blocks the marks of a part become as few as they can be."""

_KNOWN: Final = """
SELECT file, fingerprint, min(started_at), max(finished_at), bool_and(finished_at IS NOT NULL), count(*)::int,
       sum(received)::bigint, sum(inserted)::bigint, sum(overwritten)::bigint, sum(ignored)::bigint,
       sum(dead_lettered)::bigint, sum(filtered)::bigint
FROM imports WHERE file = ANY(ARRAY(SELECT json_array_elements_text(CAST(%s AS json)))) GROUP BY file, fingerprint
"""
_SUMMARIZE: Final = """
SELECT brin_summarize_new_values(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam AND a.amname = 'brin'
WHERE pg_has_role(c.relowner, 'USAGE') AND (i.indrelid = CAST('points' AS regclass) OR i.indrelid IN (
    SELECT inhrelid FROM pg_inherits WHERE inhparent = CAST('points' AS regclass)))"""
_CUT: Final = """
SELECT (extract(epoch FROM removed_before) * 1000000)::bigint FROM retention WHERE removed_before > '-infinity'"""
_BEGIN: Final = """
INSERT INTO imports (file, part, fingerprint) VALUES (%s, %s, %s)
ON CONFLICT (file, part) DO UPDATE SET file = excluded.file
RETURNING id, fingerprint, finished_at IS NOT NULL"""
_DONE: Final = """
SELECT lower(r), upper(r) FROM imports, unnest(done) AS r WHERE id = %s ORDER BY 1"""
_RECORD: Final = """
UPDATE imports SET done = done + int8multirange(int8range(%s, %s)), blocks = blocks + 1, received = received + %s,
    inserted = inserted + %s, overwritten = overwritten + %s, ignored = ignored + %s,
    dead_lettered = dead_lettered + %s, filtered = filtered + %s
WHERE id = %s RETURNING blocks"""
_FINISH: Final = "UPDATE imports SET finished_at = clock_timestamp() WHERE id = %s"
_MARK: Final = """
INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at, import_id)
SELECT %s, to_timestamp(f), to_timestamp(t), s, i.started_at + interval '1 second' * (CAST(%s AS float8)
       * (1 + floor(extract(epoch FROM clock_timestamp() - i.started_at) / CAST(%s AS float8)))), i.id
FROM unnest(CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS integer[])) AS m(f, t, s), imports i WHERE i.id = %s"""
_EVER: Final = "interval '100000 days'"
_JOIN: Final = """
WITH gone AS (
    DELETE FROM marks WHERE import_id = %s AND {which}
    RETURNING tier_s, window_from, window_to, series_id, ready_at
)
INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at, import_id)
SELECT tier_s, greatest(begin, day), least(stop, day + step), series_id, ready_at, CAST(%s AS bigint) FROM (
    SELECT tier_s, series_id, {ready_at} AS ready_at,
           range_agg(tstzrange(window_from, window_to + gap)) AS ranges, gap, {step} AS step
    FROM gone, (SELECT interval '{gap_s} seconds' AS gap) AS g GROUP BY tier_s, series_id, gap
) joined, unnest(ranges) AS r, LATERAL (SELECT lower(r) AS begin, upper(r) - gap AS stop) AS whole,
generate_series(date_bin(step, begin, to_timestamp(0)), stop - interval '1 microsecond', step) AS day"""
"""Ranges closer together than a day become one, as in `marks`: in a file by time each block owes one of its own."""
_JOIN_FOR_LATER: Final = _JOIN.format(
    which="ready_at > clock_timestamp()", ready_at="max(ready_at)", step=_EVER, gap_s=DAY_S
)
_JOIN_THROUGH: Final = _JOIN.format(
    which="true",
    ready_at="clock_timestamp() + interval '1 second' * %s",
    gap_s=DAY_S,
    # days, so that several settlers can take some each; a series is one's own
    step=f"CASE WHEN series_id IS NULL THEN interval '{DAY_S} seconds' ELSE {_EVER} END",
)


_ANEW: Final = (
    "The file is loaded anew by another program, with --again: leave it to that one, or give the same command later."
)


class Known(NamedTuple):
    """What is known of a file that was begun before.

    Attributes:
        file: Its path or address.
        fingerprint: Of its content then.
        started_at: When the first of its parts was begun,
        finished_at: and when the last one was finished, if any was.
        through: All parts that were begun are finished.
        parts: How many were begun.
        received, inserted, overwritten, ignored, dead_lettered: Points.
        filtered: Values of which a mapping made nothing.
    """

    file: str
    fingerprint: str
    started_at: datetime
    finished_at: datetime | None
    through: bool
    parts: int
    received: int
    inserted: int
    overwritten: int
    ignored: int
    dead_lettered: int
    filtered: int


def known(pool: Engine, files: Sequence[str]) -> list[Known]:
    """What is known of these files.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    names = _JSON.encode(list(files)).decode()
    with transaction(pool) as connection:
        return [Known(*row) for row in connection.exec_driver_sql(_KNOWN, (names,)).all()]


def forget(pool: Engine, file: str) -> None:
    """Begin a file anew the next time; its points stay, and so do the marks that they owe.

    Raises:
        UnavailableError, MisconfiguredError: nothing was done.
    """
    with transaction(pool) as connection:
        connection.exec_driver_sql("DELETE FROM imports WHERE file = %s", (file,))


def summarize(pool: Engine) -> None:
    """Bring the index by time up to the points that were just stored, where this user owns it; else autovacuum does so.

    Without it each settling goes through all of them, since what is not summarized may be of any time.

    Raises:
        UnavailableError, MisconfiguredError: it may be done in part, which is harmless.
    """
    with transaction(pool) as connection:
        connection.exec_driver_sql(_SUMMARIZE).all()


def kept_from(pool: Engine) -> int | None:
    """Points before this, in microseconds since 1970, were removed, and are in no rollup; None: none were.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    with transaction(pool) as connection:
        cut = connection.exec_driver_sql(_CUT).scalar()
    return None if cut is None else int(cut)


@dataclass(frozen=True)
class Importing:
    """A part of a file that is being loaded.

    Attributes:
        writer: Of the raw store.
        id: Of the row in `imports`.
        done: Places that were done when it was begun, as (from, to), in order and apart.
        finished: It was through already.
        gather_s: How long marks are gathered, unless the part is through before.
    """

    writer: Writer
    id: int
    done: list[tuple[int, int]]
    finished: bool
    gather_s: float

    @classmethod
    def begin(cls, writer: Writer, file: str, part: int, fingerprint: str, gather_s: float) -> Importing:
        """Begin a part, or go on with it.

        Raises:
            UsageError: the file is not the one with which it was begun.
            UnavailableError, MisconfiguredError: it may have been begun.
        """
        with transaction(writer.pool) as connection:
            number, begun_with, finished = connection.exec_driver_sql(_BEGIN, (file, part, fingerprint)).one()
            if begun_with != fingerprint:
                raise UsageError(f"{file} has changed since it was begun to be loaded: give --again to load it anew.")
            done = [(row[0], row[1]) for row in connection.exec_driver_sql(_DONE, (number,)).all()]
        return cls.of(writer, number, gather_s, done, finished=finished)

    @classmethod
    def of(
        cls,
        writer: Writer,
        number: int,
        gather_s: float,
        done: Sequence[tuple[int, int]] = (),
        *,
        finished: bool = False,
    ) -> Importing:
        """A part that was begun, by the number of its row."""
        made = cls(writer, number, list(done), finished, gather_s)
        return replace(made, writer=replace(writer, owe=made.owe))

    def is_done(self, begin: int, end: int) -> bool:
        """Whether all that lies between two places was stored before."""
        return any(start <= begin and end <= stop for start, stop in self.done)

    def write(self, block: Block, begin: int, end: int, filtered: int = 0) -> Written:
        """Write what stands between two places of the part, and that it is done, in one transaction where it can be.

        Raises:
            UsageError: the file was begun anew by another program; nothing was written that owes nothing.
            UnavailableError, MisconfiguredError: as `Writer.write`.
        """

        def record(connection: Connection, written: Written) -> None:
            self._record(connection, begin, end, written, filtered)

        if len(in_spans(block, self.writer.reach_of.seconds(self.writer.pool))) == 1:
            try:
                return self.writer.write_with(block, record, redriven=False)
            except RefusedError:
                pass  # found and dead-lettered below
            except UnavailableError as error:
                if not error.too_much:
                    raise
        written = self.writer.write(block)
        with transaction(self.writer.pool) as connection:
            record(connection, written)
        return written

    def finish(self, *, through: bool) -> None:
        """No more comes of the part; `through`: all of it is done.

        What it owes is for this load to settle, which takes it at once. Should it not live, any other settler does, when it
        has been gathered as long as before: live windows need not wait for it meanwhile.

        Raises:
            UnavailableError, MisconfiguredError: it may be done; doing it again is harmless.
        """
        with transaction(self.writer.pool) as connection:
            is_finished = through and connection.exec_driver_sql(_FINISH, (self.id,)).rowcount == 1
            whose = (self.id, self.gather_s) if is_finished else (None, 0)
            connection.exec_driver_sql(_JOIN_THROUGH, (self.id, *whose))

    def owe(self, connection: Connection, points: Points, policy: Policy) -> None:
        """Mark the windows of points, in few ranges; see `tidemark.store.owing.Owes`."""
        if len(points):
            starts, ends, series = marks(points, policy.base_s)
            made = connection.exec_driver_sql(
                _MARK, (policy.base_s, self.gather_s, self.gather_s, starts, ends, series, self.id)
            )
            if made.rowcount != len(starts):  # without a row of the part nothing would be owed
                raise UsageError(_ANEW)

    def _record(self, connection: Connection, begin: int, end: int, written: Written, filtered: int) -> None:
        received = written.inserted + written.overwritten + written.ignored + written.dead_lettered
        counts = (received, written.inserted, written.overwritten, written.ignored, written.dead_lettered, filtered)
        blocks = connection.exec_driver_sql(_RECORD, (begin, end, *counts, self.id)).scalar()
        if blocks is None:
            raise UsageError(_ANEW)
        if blocks % GATHERED == 0:
            connection.exec_driver_sql(_JOIN_FOR_LATER, (self.id, self.id))


def marks(points: Points, base_s: int) -> tuple[list[int], list[int], list[int | None]]:
    """What points of an archive owe, as (from, to, series number or None for all), times in seconds since 1970.

    A block of few series owes ranges of each of them, another one ranges of all: windows that lie closer together than a
    day are one range, and no block has more than `RANGES_A_BLOCK`, but for one of each series.

    Args:
        points: Sorted by (series_id, event_time), dtype `POINT`; at least one.
        base_s: Length of a base window in seconds.
    """
    window = points["event_time"] // (base_s * MICROSECONDS)
    series = points["series_id"]
    changes = np.flatnonzero(series[1:] != series[:-1]) + 1
    if len(changes) >= SERIES_A_WINDOW:
        window = np.unique(window)
        changes = np.empty(0, np.int64)
    gaps = np.diff(window)
    borders = _widest(gaps, changes, DAY_S // base_s)
    first = np.concatenate(([0], borders))
    last = np.append(borders, len(window)) - 1
    owners: list[int | None] = [None] * len(first)
    if len(changes) or series[0] == series[-1]:
        owners = series[first].tolist()
    return (window[first] * base_s).tolist(), ((window[last] + 1) * base_s).tolist(), owners


def _widest(gaps: npt.NDArray[np.int64], must: npt.NDArray[np.int64], least: int) -> npt.NDArray[np.int64]:
    """Before which places to cut: those of `must`, and where the widest gaps are, which are no narrower than `least`."""
    gaps = gaps.copy()
    gaps[must - 1] = 0
    wide = np.flatnonzero(gaps > least)
    room = max(0, RANGES_A_BLOCK - 1 - len(must))
    if len(wide) > room:
        wide = wide[np.argsort(gaps[wide], kind="stable")[len(wide) - room :]]
    return np.sort(np.concatenate((must, wide + 1)))


def left(done: Iterable[tuple[int, int]], begin: int) -> int:
    """The first place from `begin` on that is not done."""
    for start, stop in done:
        if start <= begin < stop:
            begin = stop
    return begin
