"""The log of every process: the logger `tidemark`, whose repeats are held back, as text or as JSON on standard error.

A worker of Dataflow sends what is logged to the service, which keeps severity, time, thread and step beside the text;
what is set up here is for programs that speak for themselves: launchers, local runs, workers of Flink's pool.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final, TextIO

from tidemark.errors import UsageError

EVERY_S: Final = 60.0
FORGOTTEN_S: Final = 600.0
"""How many were held back is not told of an outage so long ago."""
SENTENCES: Final = 1000
_NUMBER: Final = re.compile(r"\d+")
VARIABLE: Final = "TIDEMARK_LOG_FORMAT"
TEXT: Final = "%(asctime)s %(levelname)s %(message)s"


class Repeats(logging.Filter):
    """Lets a record through unless the same sentence, numbers apart, came less than `EVERY_S` ago.

    The next one that passes says how many were held back. Many threads meet the same outage at once, and go on meeting
    it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._said: OrderedDict[tuple[int, str], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        text, now = record.getMessage(), time.monotonic()
        key = (record.levelno, _NUMBER.sub("0", text))
        with self._lock:
            said, held = self._said.pop(key, (-EVERY_S, 0))
            again = now - said < EVERY_S
            self._said[key] = (said, held + 1) if again else (now, 0)
            if len(self._said) > SENTENCES:
                self._said.popitem(last=False)
        if again:
            return False
        if held and now - said < FORGOTTEN_S:
            record.msg, record.args = f"{text} (And {held} more like it since the last one.)", ()
        return True

    def forget(self) -> None:
        """Let everything through once more."""
        with self._lock:
            self._said.clear()


REPEATS: Final = Repeats()
log: Final = logging.getLogger("tidemark")
log.setLevel(logging.INFO)
log.addFilter(REPEATS)
_told: Final = logging.getLogger("tidemark.told")
"""What is said once, whose lines may be alike."""


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


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is when there is something to write."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


_handler: Final = _StandardError()


def set_up() -> None:
    """Log warnings and what is worse to standard error, in the format that `TIDEMARK_LOG_FORMAT` names.

    Handlers of others stay.

    Raises:
        UsageError: it is neither `text`, the default, nor `json`.
    """
    wanted = os.environ.get(VARIABLE, "text")
    if wanted not in ("text", "json"):
        raise UsageError(f"{VARIABLE} needs text or json, not {wanted!r}.")
    _handler.setFormatter(Json() if wanted == "json" else logging.Formatter(TEXT))
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    if _handler not in root.handlers:
        root.addHandler(_handler)


def set_up_worker() -> None:
    """The same in a worker process to which its engine gave no handler, as Flink's pool does not."""
    if not logging.getLogger().handlers:
        set_up()


def as_json() -> bool:
    """Whether this process logs JSON."""
    return _handler in logging.getLogger().handlers and isinstance(_handler.formatter, Json)


def tell(text: object, level: int = logging.ERROR) -> None:
    """Say something to whoever started this program: bare lines in a text log, a record in a JSON one."""
    if as_json():
        _told.log(level, str(text))
    else:
        with contextlib.suppress(OSError):  # the terminal is gone
            print(text, file=sys.stderr, flush=True)  # noqa: T201
