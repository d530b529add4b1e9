"""Says every few seconds that this process reads, and what it has stored, whatever the engine."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from tidemark.bus.frontier import Frontier
from tidemark.errors import TidemarkError
from tidemark.logs import log
from tidemark.store.heartbeats import EVERY_S
from transforms.counters import count
from transforms.resources import Store

HANDED_S: Final = 60.0
"""An engine that works and has handed a process nothing for so long is taken to have had nothing before that."""


class State(NamedTuple):
    """What a process knows of its reading; times in microseconds since 1970."""

    written: int | None
    watermark: int | None
    idle: bool


@dataclass(frozen=True)
class Heart:
    """Whose process it is, and where it says so."""

    store: Store
    job: str

    def start(self, state: Callable[[], State | None]) -> None:
        """Beat beside the work from now on, in a thread of its own, until there is no state any more."""
        threading.Thread(target=self._run, args=(state,), name="heartbeat", daemon=True).start()

    def _run(self, state: Callable[[], State | None]) -> None:
        while (known := state()) is not None:
            self.beat(known)
            time.sleep(random.uniform(0.8, 1) * EVERY_S)  # noqa: S311  # jitter, not a secret

    def beat(self, state: State) -> None:
        """Write it once; a database that does not take it will be told the next time."""
        try:
            self.store.beat(self.job, state.written, state.watermark, idle=state.idle)
        except TidemarkError as error:
            count("heartbeats_missed")
            log.warning("%s That this process reads is not noted.", error)


class Handed:
    """What an engine with a reader of its own has handed this process; safe between threads.

    What the engine has read and not handed on cannot be seen here: of that it is only known that an engine that works
    hands it on within a while.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._frontier = Frontier(clock)
        self._numbers = itertools.count()
        self._unstored: dict[int, int] = {}
        self._last = clock()
        self._beating = False

    def begins(self, heart: Heart) -> None:
        """Beat from the first call on."""
        with self._lock:
            first, self._beating = not self._beating, True
        if first:
            heart.start(self.state)

    def taken(self, least_us: int, greatest_us: int) -> int:
        """Points came that were published in between; returns what `stored` is told."""
        with self._lock:
            number = next(self._numbers)
            self._unstored[number] = least_us
            self._frontier.came(least_us, greatest_us)
            return number

    def stored(self, number: int) -> None:
        """They are committed."""
        with self._lock:
            self._unstored.pop(number, None)
            self._last = self._clock()

    def failed(self, number: int) -> None:
        """They are not: the engine hands them out again."""
        with self._lock:
            self._frontier.gave_back(self._unstored.pop(number))

    def state(self) -> State:
        """What is known now."""
        with self._lock:
            idle = not self._unstored and self._clock() - self._last >= HANDED_S
            if idle:
                self._frontier.nothing_waited(time.time_ns() // 1000 - round(HANDED_S * 1e6))
            return State(self._frontier.stored_before(min(self._unstored.values(), default=None)), None, idle)


HANDED: Final = Handed()
