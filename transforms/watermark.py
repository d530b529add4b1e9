"""How far event time has come, by what our own reader was given."""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from tidemark.wire.messages import Messages, Micros


class EventTimeWatermark:
    """The least of min(event time, publish time) pulled in the last while.

    Messages that came into Pub/Sub later than the allowed lateness are left out, so that one slow or broken device, or
    what a publisher had to keep for long, cannot hold it. Idle: the clock less the idle allowance. Never beyond the clock, never back. It steers previews only.
    """

    def __init__(self, span_s: float, idle_timeout_s: float, max_lateness_s: float) -> None:
        self._span_s = span_s
        self._idle_s = idle_timeout_s
        self._max_lateness_us = round(max_lateness_s * 1e6)
        self._minima: deque[tuple[float, int]] = deque()
        self._heard = time.monotonic()
        self._value = 0

    @property
    def last(self) -> int:
        """What `micros` said last."""
        return self._value

    def observe(self, messages: Messages, published: Micros) -> None:
        """Take the messages of one pull into account.

        Args:
            messages: As delivered.
            published: When Pub/Sub accepted each, in microseconds since 1970.
        """
        times = np.minimum(messages.earliest(), messages.publish_time)
        timely = times[published - times <= self._max_lateness_us]
        now = time.monotonic()
        self._heard = now
        if len(timely):
            self._minima.append((now, int(timely.min())))
        while self._minima and self._minima[0][0] < now - self._span_s:
            self._minima.popleft()

    def micros(self) -> int:
        """The watermark in microseconds since 1970; 0 before anything is known."""
        clock = time.time_ns() // 1000
        if time.monotonic() - self._heard >= self._idle_s:
            self._minima.clear()
            estimate = clock - round(self._idle_s * 1e6)
        elif self._minima:
            estimate = min(least for _, least in self._minima)
        else:
            estimate = 0
        self._value = max(self._value, min(estimate, clock))
        return self._value
