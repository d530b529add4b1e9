"""Shows how far a load is: a bar on a terminal, a line now and then where there is none, events for programs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tidemark.allocator import Allocator
from tidemark.logs import tell
from tidemark.program import event
from tidemark.retry import waits
from transforms.counters import tally
from transforms.loading import LOADING

BAR_S: Final = 0.5
LINE_S: Final = 10.0
_OVER_S: Final = 10.0
"""Rates are of the last so many seconds."""
_REASON: Final = "dead_lettered_"


class _At(NamedTuple):
    time: float
    points: float
    text_bytes: float


class Shown:
    """A context in which it is shown how far the load is.

    Args:
        total: Bytes of all files, as stored; None: not known.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._before = tally()
        self._past = [_At(time.monotonic(), 0, 0)]
        self._ended = threading.Event()
        self._allocator = Allocator()
        self._terminal = sys.stderr.isatty()
        self._thread = threading.Thread(
            target=self._bar if self._terminal else self._lines, name="progress", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def counts(self) -> dict[str, float]:
        """What was counted since."""
        return {name: number - self._before.get(name, 0) for name, number in tally().items()}

    def _share(self) -> float | None:
        return min(1.0, LOADING.read / self._total) if self._total else None

    def _rates(self, counts: Mapping[str, float]) -> tuple[float, float]:
        """Points and bytes of text a second, lately."""
        now = _At(time.monotonic(), counts.get("received", 0), counts.get("archive_text_bytes", 0))
        self._past.append(now)
        while len(self._past) > 2 and self._past[1].time < now.time - _OVER_S:
            del self._past[0]
        then = self._past[0]
        took = max(now.time - then.time, 1e-9)
        return (now.points - then.points) / took, (now.text_bytes - then.text_bytes) / took

    def _said(self) -> str:
        counts = self.counts()
        points, read = self._rates(counts)
        share = self._share()
        parts = [f"{counts.get('received', 0):,.0f} points"]
        if share == 1.0 and not points:
            parts.append(f"{counts.get('settled', 0):,.0f} rollups settled")
        else:
            parts.append(f"{points:,.0f} points/s, {read / 1e6:,.1f} MB/s")
        if refused := refusals(counts):
            parts.append(f"refused: {refused}")
        if waiting := waits():
            parts.append(f"it waits: {waiting}")
        return "; ".join(parts)

    def _lines(self) -> None:
        while not self._ended.wait(LINE_S):
            self._allocator.trim()
            share = self._share()
            tell(f"{'' if share is None else f'{share:.0%} read; '}{self._said()}.")
            event("progress", **self.counts())

    def _bar(self) -> None:
        bar = Progress(
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
        )
        with bar:
            task = bar.add_task("", total=self._total)
            while not self._ended.wait(BAR_S):
                self._allocator.trim()
                bar.update(task, completed=min(LOADING.read, self._total or LOADING.read), description=self._said())


def refusals(counts: Mapping[str, float]) -> str:
    """Dead letters by reason, the most frequent first."""
    found = [(number, name.removeprefix(_REASON)) for name, number in counts.items() if name.startswith(_REASON)]
    return ", ".join(f"{number:,.0f} {name}" for number, name in sorted(found, reverse=True) if number)
