"""Writes down what the store says is complete while everything breaks, and holds it to it afterwards."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Engine

from tests.chaos.oracle import Oracle
from tests.chaos.traffic import Sent, Series
from tests.store.corrections import chained, same
from tidemark.errors import TidemarkError
from tidemark.store.completeness import completeness, completeness_sql
from tidemark.store.connection import transaction
from tidemark.store.expressions import pyformat

US = 1_000_000
Window = tuple[Series, int, int]
"""(series, tier in seconds, start in µs)"""
Numbers = tuple[float, ...]
"""Points, sum, least and greatest value."""
EMPTY: Numbers = (0, 0, 0, 0)
_ROLLUPS = """
SELECT project, source, metric, tier_s, (extract(epoch FROM window_start) * 1000000)::bigint, revision, final,
       count, sum, min, max
FROM rollups JOIN series USING (series_id) WHERE window_start + tier_s * interval '1 second' <= to_timestamp(%s)"""
_CORRECTIONS = """
SELECT project, source, metric, tier_s, (extract(epoch FROM window_start) * 1000000)::bigint, revision,
       was_count, was_sum, was_min, was_max
FROM corrections JOIN series USING (series_id)"""


@dataclass(frozen=True)
class Promise:
    """What a window said when it was complete, and the revision of its row; 0: it had none."""

    revision: int
    numbers: Numbers


class Promises(threading.Thread):
    """Looks every half a second, and remembers of each window each thing that it said while it was complete."""

    def __init__(self, pool: Engine) -> None:
        super().__init__(daemon=True, name="promises")
        self._pool = pool
        self.of: defaultdict[Window, list[Promise]] = defaultdict(list)
        self.until_us = 0
        """The greatest of all complete until."""
        self.looks = self.advances = self.not_final = 0
        self.latest_us = 0
        self._counted = 0
        self.stopping = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopping.wait(0.5):
                try:
                    self._look()
                except TidemarkError:
                    continue  # the database was killed just now
        except BaseException as error:  # noqa: BLE001  # whoever waits asks for it
            self.error = error

    def wait_until(self, us: int, within_s: float) -> None:
        """Wait until everything before a time is complete."""
        limit = time.monotonic() + within_s
        while self.latest_us < us:
            assert self.error is None, self.error
            assert time.monotonic() < limit, (
                f"complete until {self.latest_us / US}, {(us - self.latest_us) / US} s short"
            )
            time.sleep(0.2)

    def wait_for_advances(self, more: int, within_s: float) -> None:
        """Wait until complete until has advanced so many times since the last call."""
        limit = time.monotonic() + within_s
        while self.advances < self._counted + more:
            assert self.error is None, self.error
            assert time.monotonic() < limit, f"{self.advances - self._counted} advances of {more}"
            time.sleep(0.2)
        self._counted = self.advances

    def stop(self) -> None:
        self.stopping.set()
        self.join(30)
        assert self.error is None, self.error

    def _look(self) -> None:
        with transaction(self._pool, "REPEATABLE READ") as connection:
            found = completeness(connection.exec_driver_sql(completeness_sql(pyformat), (None, None, None, None)).one())
            until = None if found is None else found.complete_until
            if until is None:
                return
            rows = connection.exec_driver_sql(_ROLLUPS, (until / US,)).all()
        self.looks += 1
        for row in rows:
            window = ((row[0], row[1], row[2]), row[3], row[4])
            said, one = self.of[window], Promise(row[5], tuple(row[7:]))
            self.not_final += not row[6]
            if not said and window[2] + window[1] * US <= self.until_us:
                said.append(Promise(0, EMPTY))  # it was complete, and not there
            if not said or said[-1].numbers != one.numbers:
                said.append(one)
        self.latest_us = until
        self.advances += until > self.until_us
        self.until_us = max(self.until_us, until)


def settled(pool: Engine) -> dict[Window, Numbers]:
    """What all windows say now."""
    with transaction(pool) as connection:
        rows = connection.exec_driver_sql(_ROLLUPS, (4_000_000_000,)).all()
    return {((row[0], row[1], row[2]), row[3], row[4]): tuple(row[7:]) for row in rows}


def late(
    sent: list[Sent], accepted: dict[str, tuple[str, int]], tiers_s: tuple[int, ...], horizon_s: float
) -> set[Window]:
    """Windows that have a point which was published after their horizon, by what the witness heard."""
    found: set[Window] = set()
    for name, publish_us in accepted.values():
        if not name.isdigit():
            continue
        one = sent[int(name)]
        for tier_s in tiers_s:
            starts = one.event_ms * 1000 // (tier_s * US) * tier_s * US
            behind = publish_us > starts + round((tier_s + horizon_s) * US)
            found.update((one.series, tier_s, int(start)) for start in np.unique(starts[behind]))
    return found


@dataclass
class Kept:
    """What became of the promises."""

    promised: int = 0
    changed: int = 0
    corrections: int = 0
    broken: list[str] | None = None


def kept(pool: Engine, promises: Promises, excused: set[Window], deleted: set[Series]) -> Kept:
    """Hold every promise against what is settled in the end and what the corrections tell.

    Args:
        pool: Of the store.
        promises: As they were written down.
        excused: Windows whose numbers may change: they had points later than the horizon.
        deleted: Series whose points were deleted.
    """
    found = Kept(corrections=chained(pool), broken=[])
    end = settled(pool)
    was: defaultdict[Window, list[tuple[int, Numbers]]] = defaultdict(list)
    with transaction(pool) as connection:
        for row in connection.exec_driver_sql(_CORRECTIONS).all():
            was[(row[0], row[1], row[2]), row[3], row[4]].append((row[5], tuple(row[6:])))
    said: dict[Window, list[Promise]] = dict(promises.of)
    for window in end.keys() - said.keys():
        if window[2] + window[1] * US <= promises.until_us:
            said[window] = [Promise(0, EMPTY)]
    assert found.broken is not None
    for window, some in said.items():
        found.promised += 1
        now = end.get(window, EMPTY)
        old = [one for one in some if not same(one.numbers, now)]
        if not old:
            continue
        found.changed += 1
        if window not in excused and window[0] not in deleted:
            found.broken.append(f"{window} said {old}, says {now}, and no point of it was late")
        for one in old:
            if not any(revision > one.revision and same(numbers, one.numbers) for revision, numbers in was[window]):
                found.broken.append(f"{window} said {one}, says {now}; its corrections: {sorted(was[window])}")
    return found


def wrong(
    end: dict[Window, Numbers], until_us: int, right: Oracle, tiers_s: tuple[int, ...], deleted: set[Series]
) -> list[Any]:
    """Where what is settled of windows that end by then is not what the oracle says."""
    off: list[Any] = []
    for tier_s in tiers_s:
        for (series, start), row in right.rollups(tier_s, tiers_s[0]).items():
            wanted = (row["count"], row["sum"], row["min"], row["max"])
            got = end.get((series, tier_s, start), EMPTY)
            if start + tier_s * US <= until_us and series not in deleted and not same(wanted, got):
                off.append((series, tier_s, start, wanted, got))
    return off
