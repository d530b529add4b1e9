"""Warnings that many threads would repeat: the first at once, then one a minute."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

EVERY_S: Final = 60.0
_said: dict[str, float] = {}
_lock = threading.Lock()
_log = logging.getLogger("tidemark")


def warn(text: str, *arguments: object) -> None:
    """Log a warning, unless this process logged one with the same `text` less than a minute ago.

    Args:
        text: As for `logging`, with places for `arguments`.
        arguments: What may differ from time to time.
    """
    now = time.monotonic()
    with _lock:
        if now - _said.get(text, -EVERY_S) < EVERY_S:
            return
        _said[text] = now
    _log.warning(text, *arguments)
