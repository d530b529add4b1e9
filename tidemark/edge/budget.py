"""How many bytes may be in flight, over all listeners, so that no sender takes what others need."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_WOKEN: Final = 8
"""Of those that wait, when something is given back: each of them gives back in turn."""


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
    _waiting: deque[Callable[[], None]] = field(default_factory=deque)

    def take(self, project: str, size: int) -> bool:
        """Reserve; whether there is room. What is the project's only request may take all that is free."""
        free = self.most - self.used
        held = self._by_project.get(project, 0)
        if size > free or (held and held + size > free):
            return False
        self.used += size
        self._by_project[project] = held + size
        return True

    def give_back(self, project: str, size: int) -> None:
        """Give back what was reserved."""
        self.used -= size
        left = self._by_project[project] - size
        if left:
            self._by_project[project] = left
        else:
            del self._by_project[project]
        if self._waiting:
            for _ in range(min(_WOKEN, len(self._waiting))):
                self._waiting.popleft()()

    def wait(self, again: Callable[[], None]) -> None:
        """Have it called once, soon after something is given back; it tries again then, and may find no room."""
        self._waiting.append(again)
