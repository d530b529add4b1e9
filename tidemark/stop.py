"""The wish to stop: a first signal asks the program to end in order, a second one ends it at once.

SIGINT, SIGTERM and SIGHUP mean the same; SIGHUP means nothing to a program that was started to outlive its terminal
(`nohup`). Imports nothing that takes long: a program listens before it imports what does.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TOGETHER_S: Final = 1.0
"""Signals so soon after the first one are the same wish: a terminal and what runs the program in it both send one."""
STANDARD_ERROR: Final = 2


class Stop:
    """What a program asks whether to go on.

    Attributes:
        asked: Set once a signal came.
    """

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._came: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._then: list[Callable[[], None]] = []
        self._lock = threading.Lock()
        self._first: float | None = None
        self._said = b""
        self._begun = True

    def listen(self, said: str = "") -> None:
        """From now on a signal is a wish; to be called in the main thread.

        Args:
            said: One line for whoever sent it.
        """
        self._said = f"{said}\n".encode() if said else b""
        threading.Thread(target=self._hand_on, name="stop", daemon=True).start()
        _handle(self._received)

    def then(self, call: Callable[[], None]) -> None:
        """Call this first, in a thread of its own, once a signal came; at once if one has."""
        with self._lock:
            self._then.append(call)
            late = self.asked.is_set()
        if late:
            call()

    @contextlib.contextmanager
    def before_the_work(self) -> Iterator[None]:
        """A context in which there is nothing to end in order: a signal ends the program, whatever it waits for.

        Raises:
            Interrupted: one came, in the main thread.
        """
        self._begun = False
        try:
            if self._first is not None:
                raise Interrupted(128 + signal.SIGINT)
            yield
        finally:
            self._begun = True

    def leave(self) -> None:
        """Signals mean again what they mean to any program.

        Raises:
            SystemExit: one came already.
        """
        for number in SIGNALS:
            if signal.getsignal(number) == self._received:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if self._first is not None:
            raise SystemExit(128 + signal.SIGINT)

    def _received(self, number: int, _frame: Any) -> None:
        """In the middle of whatever the main thread does, so no lock may be taken here."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            if not self._begun:
                raise Interrupted(128 + signal.SIGINT)
            with contextlib.suppress(OSError):
                os.write(STANDARD_ERROR, self._said)
            self._came.put(number)
        elif now - self._first > TOGETHER_S:
            os._exit(128 + number)

    def _hand_on(self) -> None:
        self._came.get()
        with self._lock:
            for call in self._then:
                call()
            self.asked.set()


STOP: Final = Stop()
"""This process's."""


class Interrupted(SystemExit):  # not an error: it ends the program, whose status it carries
    """A signal came to a program that has only to clean up."""


def end_at_once() -> None:
    """From now on a signal ends the program without a word: it has nothing to clean up yet.

    An exception in the middle of an import would be taken for a fault of what is imported.
    """
    _handle(signal.SIG_DFL)


def ignore_signals() -> None:
    """What the program does is done: a signal comes too late to undo it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def end_by_signals(cleaned_at_once: Callable[[], None] = lambda: None) -> None:
    """From now on the first signal raises `Interrupted` in the main thread; a second one, later, ends at once.

    The status is 128 and the signal's number, as a shell has it.

    Args:
        cleaned_at_once: Called first, in the middle of whatever the main thread does: takes no lock that it may hold.
    """
    first: list[float] = []

    def received(number: int, _frame: Any) -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
            cleaned_at_once()
            raise Interrupted(128 + number)
        if now - first[0] > TOGETHER_S:
            os._exit(128 + number)

    _handle(received)


def _handle(handler: Callable[[int, Any], None] | signal.Handlers) -> None:
    """Have signals handled so, but for a SIGHUP that means nothing to this program."""
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
