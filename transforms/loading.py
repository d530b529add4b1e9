"""What a process that loads archives knows of it: whether to go on, how far it is, what could not be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError
from tidemark.logs import log
from tidemark.retry import until_done
from transforms.archive import ArchivePart
from transforms.counters import count

Result = TypeVar("Result")


@dataclass
class Loading:
    """What this process loads; safe between threads.

    Attributes:
        stopping: No more is read; what was read is stored.
        damage: Sentences, of each place in a file that could not be read.
        read: Bytes of files that were read, as stored.
    """

    stopping: threading.Event = field(default_factory=threading.Event)
    damage: list[str] = field(default_factory=list)
    read: int = 0
    _allowed: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Forget what was loaded before."""
        self.stopping.clear()
        self.damage.clear()
        self.read = 0

    def pace(self, points: int, a_second: float) -> None:
        """Wait as long as `points` take at most so many a second, over all of this process."""
        if not a_second:
            return
        with self._lock:
            now = time.monotonic()
            self._allowed = max(now, self._allowed) + points / a_second
            wait = self._allowed - points / a_second - now
        if wait > 0:
            self.stopping.wait(wait)


LOADING: Final = Loading()


def until_stopped(attempt: Callable[[], Result], counted: Callable[[str], None] = lambda _name: None) -> Result | None:
    """What an attempt gives, which is waited for while a service is away or wrong; None: the load is to stop, and it was left.

    Leaving is no error: what is not noted as done is done the next time.
    """
    try:
        return until_done(attempt, count=counted, give_up=LOADING.stopping)
    except (UnavailableError, MisconfiguredError):
        return None


def tell_damage(of: ArchivePart, error: TidemarkError, then: str = "What comes before it is stored.") -> None:
    """Say once that a part cannot be read, or not be loaded, to its end; other parts go on."""
    told = f"{of.file}: {error}".removesuffix(".")
    if told not in LOADING.damage:
        count("archive_damages")
        LOADING.damage.append(told)
        log.error("%s. %s", told, then)
