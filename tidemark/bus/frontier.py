"""Up to which publish time all that one reader of a subscription was handed is stored, and nothing earlier waits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

SPAN_S: Final = 5.0
"""What came in this time tells how far back what comes next may lie."""
GUARD_US: Final = 2_000_000
"""Pub/Sub stamps a message before it hands it out."""
GIVEN_BACK_S: Final = 60.0
"""So long what was given back may take to come again."""


class Frontier:
    """A belief, on the careful side; whoever uses it keeps others out.

    Pub/Sub hands messages out in about the order they came, and does not promise it. What came in the last `SPAN_S` was
    published in some stretch of time, and what still waits is taken to lie no further before it than that stretch is long:
    seconds among messages that are new, hours while a backlog is worked off in no order, so that it then stays where it
    was. Where nothing came for as long, and the subscription was asked and had nothing, all from before then is here.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: int | None = None
        self._given_back: deque[tuple[float, int]] = deque()
        self.begin()

    def begin(self) -> None:
        """Another reader begins; what was known and what was given back still counts."""
        self._began = self._clock()
        self._lately: deque[tuple[float, int, int]] = deque()

    def came(self, least_us: int, greatest_us: int) -> None:
        """Messages came that were published in between, in microseconds since 1970."""
        self._lately.append((self._clock(), least_us, greatest_us))

    def gave_back(self, least_us: int) -> None:
        """Messages were given back that are not stored, the earliest of them published then."""
        self._given_back.append((self._clock() + GIVEN_BACK_S, least_us))

    def nothing_waited(self, at_us: int) -> None:
        """The subscription was asked at this time, in microseconds since 1970, and had nothing."""
        self._advance(at_us - GUARD_US)

    def quiet(self) -> bool:
        """Nothing came lately, and a message would have had the time to."""
        self._forget()
        return not self._lately and self._clock() - self._began >= SPAN_S

    def stored_before(self, unstored_us: int | None) -> int | None:
        """What was published before this, in microseconds since 1970, is stored; None: nothing is known yet.

        Args:
            unstored_us: When the earliest message was published that is held and not stored; None: there is none.
        """
        self._forget()
        if self._lately and self._clock() - self._began >= SPAN_S:
            least = min(one for _, one, _ in self._lately)
            self._advance(2 * least - max(one for _, _, one in self._lately))
        if self._known is None:
            return None
        held = [] if unstored_us is None else [unstored_us]
        return min([self._known, *held, *(least for _, least in self._given_back)])

    def _advance(self, to_us: int) -> None:
        self._known = to_us if self._known is None else max(self._known, to_us)

    def _forget(self) -> None:
        now = self._clock()
        while self._lately and self._lately[0][0] < now - SPAN_S:
            self._lately.popleft()
        while self._given_back and self._given_back[0][0] < now:
            self._given_back.popleft()
