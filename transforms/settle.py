"""Settles what is due: a tick that needs no timer, and the rows that it brings."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
from apache_beam.utils.timestamp import Duration

from tidemark.errors import MisconfiguredError, UnavailableError
from tidemark.logs import log
from transforms.counters import count, count_waiting, gauge
from transforms.prometheus import NOWHERE, Endpoint, serve
from transforms.resources import Store
from transforms.rollup_batch import RollupBatch
from transforms.source import FOR_EVER, READING

FORGOTTEN_S: Final = 300.0


@dataclass(eq=False)
class Settle(beam.PTransform):
    """Due marks to `RollupBatch`es of settled rows, every tier.

    The tick is a splittable DoFn that defers itself: a real-time timer would do, but the local engine has none. No
    state, window or timer of the engine is used, so engines and restarts cannot make a difference.

    Args:
        store: The raw store.
        every_s: Time between two looks.
        metrics: Where the worker serves its own.
    """

    store: Store
    every_s: float
    metrics: Endpoint = NOWHERE

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pbegin: Any) -> Any:
        """Tick, settle."""
        return (
            pbegin
            | "start" >> beam.Create([0])
            | "tick" >> beam.ParDo(_Tick(self.every_s)).with_output_types(float)
            | "settle due" >> beam.ParDo(_SettleDue(self.store, self.metrics)).with_output_types(RollupBatch)
        )


class _Tick(beam.DoFn):
    def __init__(self, every_s: float) -> None:
        self._every_s = every_s

    @beam.DoFn.unbounded_per_element()
    def process(self, _start: int, tracker: Any = beam.DoFn.RestrictionParam(FOR_EVER)) -> Iterator[float]:
        position = tracker.current_restriction().start
        if READING.draining.is_set():
            tracker.try_claim(tracker.current_restriction().stop - 1)
            return
        if tracker.try_claim(position):
            yield time.time()
            tracker.defer_remainder(Duration(seconds=self._every_s))


class _LastAnswer:
    """The age of the oldest due mark as this process heard it last, in whichever thread, and what it may be by now.

    After `FORGOTTEN_S` without a look, in which another process may have looked, it begins anew.
    """

    def __init__(self) -> None:
        self._age_s, self._at, self._looked = 0.0, 0.0, -FORGOTTEN_S

    def answered(self, age_s: float) -> None:
        self._age_s = age_s
        self._at = self._looked = time.monotonic()

    def grown_s(self) -> float:
        now = time.monotonic()
        if now - self._looked >= FORGOTTEN_S:
            self._age_s, self._at = 0.0, now
        self._looked = now
        return self._age_s + now - self._at


_LAST: Final = _LastAnswer()


class _SettleDue(beam.DoFn):
    def __init__(self, store: Store, metrics: Endpoint) -> None:
        self._store, self._metrics = store, metrics

    def setup(self) -> None:
        serve(self._metrics)

    def process(self, _tick: float) -> Iterator[RollupBatch]:
        try:
            settler = self._store.settler()
            age_s = settler.oldest_due_s()
            _LAST.answered(age_s)
            gauge("oldest_due_mark_s", age_s)
            count("settle_looks")
            count("due_age_s", round(age_s))
            for settled in settler.due():
                yield RollupBatch(
                    settled.rows.tobytes(), "settled", settled.mark_ids, settled.corrected, settled.refreshed
                )
        except (UnavailableError, MisconfiguredError) as error:
            # The marks are still there: the next tick tries again, and the age of the oldest one tells.
            count("settle_failures")
            count_waiting(error)
            gauge("oldest_due_mark_s", _LAST.grown_s())
            log.warning("%s Settling waits.", error)
