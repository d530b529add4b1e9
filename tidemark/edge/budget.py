"""How many bytes may be in flight, over all listeners, so that no sender takes what others need."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

GROUP_BYTES: Final = 1 << 10
"""Beside its text, of what waits for one confirmation."""
_WOKEN: Final = 8
"""Of those that wait, in a turn of the loop; where none of so many finds room, the others are not asked before there is more."""


@dataclass
class Budget:
    """Bytes that were taken in and not yet answered.

    A project may hold as many as are free: alone it gets half of all, of two each a third, and a newcomer always finds
    room. (Dynamic thresholds, as switches share their buffers: Choudhury and Hahne, 1998.)

    Attributes:
        most: Of all projects together.
    """

    most: int
    used: int = 0
    _by_project: dict[str, int] = field(default_factory=dict)
    _waiting: deque[Callable[[], bool]] = field(default_factory=deque)
    _wakes: bool = False

    def fits(self, project: str, size: int) -> bool:
        """Whether there is room. What is the project's only request may take all that is free."""
        free = self.most - self.used
        held = self._by_project.get(project, 0)
        return size <= free and not (held and held + size > free)

    def take(self, project: str, size: int) -> bool:
        """Reserve; whether there is room."""
        if not self.fits(project, size):
            return False
        self.add(project, size)
        return True

    def add(self, project: str, size: int) -> None:
        """Reserve more for what is there already, whether there is room or not."""
        self.used += size
        self._by_project[project] = self._by_project.get(project, 0) + size

    def give_back(self, project: str, size: int) -> None:
        """Give back what was reserved."""
        if not size:
            return
        self.used -= size
        left = self._by_project[project] - size
        if left:
            self._by_project[project] = left
        else:
            del self._by_project[project]
        self._wake_soon()

    def wait(self, again: Callable[[], bool]) -> None:
        """Have it called once when there may be room: it tries again, and says whether it has to wait once more."""
        self._waiting.append(again)

    def _wake_soon(self) -> None:
        if self._waiting and not self._wakes:
            self._wakes = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._wakes = False
        asked = min(_WOKEN, len(self._waiting))
        without = sum(self._waiting.popleft()() for _ in range(asked))
        if (
            without < asked
        ):  # there may be more; who is gone meanwhile, or waits for something else, takes nobody's turn
            self._wake_soon()
