"""What would hold the event loop, and what needs much memory: so much of it at once, beside the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

from tidemark.query.problems import ProblemError

T = TypeVar("T")
LARGE: Final = 50_000
"""Points or values from which on work is done beside the loop."""
GIANT: Final = 250_000
"""The same, from which on it is done for few requests at once: each may need 150 MB."""
GIANTS: Final = 2
"""So many at once, and so many more that wait and hold a turn each, which others need."""


async def beside(size: int, work: Callable[[], T]) -> T:
    """The result of work, done in a thread where it is large.

    Args:
        size: Of how many points or values.
        work: Touches nothing that others do.
    """
    if size < LARGE:
        return work()
    return await asyncio.get_running_loop().run_in_executor(None, work)


class Giants:
    """A lane for requests of a process that need much memory."""

    def __init__(self) -> None:
        self._lane = asyncio.Semaphore(GIANTS)
        self._waiting = 0

    async def enter(self) -> None:
        """Wait until there is room; the task leaves it at its end.

        Raises:
            ProblemError: others wait already.
        """
        task = asyncio.current_task()
        assert task is not None
        if self._waiting >= GIANTS:
            raise ProblemError("too-many-requests", "Too many large answers are asked for at once.", retry_s=2)
        self._waiting += 1
        try:
            await self._lane.acquire()
        finally:
            self._waiting -= 1
        task.add_done_callback(lambda _: self._lane.release())
