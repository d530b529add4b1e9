"""The log of every process: the logger `tidemark`, whose repeats are held back, as text or as JSON on standard error.

A Beam worker sends what is logged to its engine, which keeps severity, time, thread and step beside the text; what is
set up here is for programs that speak for themselves: launchers, local runs, servers.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Final

from tidemark.errors import UsageError

EVERY_S: Final = 60.0
VARIABLE: Final = "TIDEMARK_LOG_FORMAT"
TEXT: Final = "%(asctime)s %(levelname)s %(message)s"


class Repeats(logging.Filter):
    """Lets a record through unless one with the same text before its arguments came less than `EVERY_S` ago.

    The next one that passes says how many were held back. Many threads meet the same outage at once, and go on meeting
    it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._said: dict[tuple[int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        key, now = (record.levelno, str(record.msg)), time.monotonic()
        with self._lock:
            said, held = self._said.get(key, (-EVERY_S, 0))
            if now - said < EVERY_S:
                self._said[key] = (said, held + 1)
                return False
            self._said[key] = (now, 0)
        if held:
            record.msg, record.args = f"{record.getMessage()} (And {held} more like it since the last one.)", ()
        return True

    def forget(self) -> None:
        """Let everything through once more."""
        with self._lock:
            self._said.clear()


REPEATS: Final = Repeats()
log: Final = logging.getLogger("tidemark")
log.setLevel(logging.INFO)
log.addFilter(REPEATS)


class Json(logging.Formatter):
    """One JSON object a line, with the names that Google's log agents read."""

    def format(self, record: logging.LogRecord) -> str:
        """Severity, time, message; the traceback apart."""
        entry = {
            "severity": record.levelname,
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "message": record.getMessage(),
            "logger": record.name,
            "thread": record.threadName,
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def set_up() -> None:
    """Log warnings and what is worse to standard error, in the format that `TIDEMARK_LOG_FORMAT` names.

    Raises:
        UsageError: it is neither `text`, the default, nor `json`.
    """
    wanted = os.environ.get(VARIABLE, "text")
    if wanted not in ("text", "json"):
        raise UsageError(f"{VARIABLE} needs text or json, not {wanted!r}.")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json() if wanted == "json" else logging.Formatter(TEXT))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def tell(text: object, level: int = logging.ERROR) -> None:
    """Say something to whoever started this program: bare lines in a text log, a record in a JSON one."""
    if any(isinstance(handler.formatter, Json) for handler in logging.getLogger().handlers):
        log.log(level, str(text))
    else:
        print(text, file=sys.stderr)  # noqa: T201
