"""Live traffic beside a test: writes what is of now, and measures how long its points wait."""

from __future__ import annotations

import threading
import time

import numpy as np
from sqlalchemy import Engine

from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

SERIES = [SeriesKey("live", f"s{i}", "m") for i in range(10)]


class Live(threading.Thread):
    """A hundred points twenty times a second, settled by a thread of its own."""

    def __init__(self, pool: Engine, tiers_s: tuple[int, ...]) -> None:
        super().__init__(daemon=True)
        self._writer = Writer(pool, SeriesCache(pool), Policy(tiers_s[0], 0, 0))
        self._settler = Settler(pool, tiers_s, 0)
        self._settling = threading.Thread(target=self._settle, daemon=True)
        self._ended = threading.Event()
        self.waits_s: list[float] = []
        self.error: Exception | None = None

    def start(self) -> None:
        super().start()
        self._settling.start()

    def run(self) -> None:
        try:
            while not self._ended.wait(0.05):
                now_us = time.time_ns() // 1000
                points = np.empty(100, POINT)
                points["series_id"] = np.arange(100) % len(SERIES)
                points["event_time"] = now_us - np.arange(100)
                points["publish_time"] = now_us
                points["value"] = 1
                began = time.monotonic()
                self._writer.write(Block(SERIES, points))
                self.waits_s.append(time.monotonic() - began)
        except Exception as error:  # noqa: BLE001  # `stop` raises it
            self.error = error

    def stop(self) -> float:
        """End, and say how long a block waited at most, in seconds."""
        self._ended.set()
        for thread in (self, self._settling):
            thread.join(60)
            assert not thread.is_alive()
        if self.error is not None:
            raise self.error
        return max(self.waits_s)

    def _settle(self) -> None:
        try:
            while not self._ended.is_set():
                found = False
                for settled in self._settler.due():
                    self._settler.forget(settled.mark_ids)
                    found = True
                if not found:
                    self._ended.wait(0.2)
        except Exception as error:  # noqa: BLE001  # `stop` raises it
            self.error = error
