"""Waiting and trying again: capped exponential back-off with jitter, one sentence a minute."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError
from tidemark.logs import log

FIRST_WAIT_S: Final = 0.1
LONGEST_WAIT_S: Final = 10.0

PAUSES_S: Final = (0.2, 1.0, 5.0)
"""Of `a_few_times`."""

Result = TypeVar("Result")
_waiting: Final[dict[int, str]] = {}
"""What each thread in `until_done` failed with last."""


def waits() -> str:
    """What this process waits for, in the words of one of the threads that do; empty when none does."""
    return next(iter(_waiting.copy().values()), "")


def kind(error: TidemarkError) -> str:
    """How the metrics call it: `retries_unavailable`, `retries_misconfigured`."""
    return "unavailable" if isinstance(error, UnavailableError) else "misconfigured"


def a_few_times(attempt: Callable[[], Result]) -> Result:
    """Call `attempt`, and after each of `PAUSES_S` once more while the service cannot serve it.

    For a command, whose caller may repeat it.

    Raises:
        UnavailableError: that of the last attempt. Others are raised at once.
    """
    for pause in PAUSES_S:
        try:
            return attempt()
        except UnavailableError:
            time.sleep(jittered(pause))
    return attempt()


def until_done(
    attempt: Callable[[], Result],
    *,
    waits_for: tuple[type[TidemarkError], ...] = (UnavailableError, MisconfiguredError),
    give_up: threading.Event | None = None,
    count: Callable[[str], None] = lambda _name: None,
) -> Result:
    """Call `attempt` until it returns, however long the service is away or misconfigured.

    For work whose messages stay unacknowledged meanwhile: nothing is lost by waiting, and it goes on by itself once
    the service is back or mended.

    Args:
        attempt: Must be harmless to repeat.
        waits_for: Other errors are raised at once.
        give_up: When set, the next failure is raised instead of waited out.
        count: Told `retries_unavailable` or `retries_misconfigured` at each failure.

    Raises:
        UnavailableError, MisconfiguredError: one that is not waited for, or any after `give_up` was set.
    """
    try:
        return _until_done(attempt, waits_for, give_up, count)
    finally:
        _waiting.pop(threading.get_ident(), None)


def _until_done(
    attempt: Callable[[], Result],
    waits_for: tuple[type[TidemarkError], ...],
    give_up: threading.Event | None,
    count: Callable[[str], None],
) -> Result:
    wait = FIRST_WAIT_S
    capped = 0
    while True:
        try:
            return attempt()
        except waits_for as error:
            _waiting[threading.get_ident()] = str(error)
            cap = error.cap if isinstance(error, UnavailableError) else None
            capped = 0 if cap is None else capped + 1
            mend = cap is not None and capped >= cap
            count(f"retries_{'misconfigured' if mend else kind(error)}")
            if give_up is not None and give_up.is_set():
                raise
            if mend:
                log.warning(
                    "%s It has failed so %s times in a row and needs a person. Nothing is acknowledged.", error, capped
                )
            else:
                log.warning("%s Waiting; nothing is acknowledged meanwhile.", error)
            pause = jittered(wait)
            if give_up is None:
                time.sleep(pause)
            else:
                give_up.wait(pause)
            wait = min(2 * wait, LONGEST_WAIT_S)


def jittered(pause_s: float) -> float:
    """A pause of this length or up to half less, so that not all try again at once."""
    return random.uniform(pause_s / 2, pause_s)  # noqa: S311  # jitter, not a secret
