"""Waits for conditions."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(found: Callable[[], bool], within_s: float = 60) -> None:
    until = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < until
        time.sleep(0.05)
