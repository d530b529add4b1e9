"""Previews: rollups of the base tier, made by the stream from what it has seen.

The policy, all of it:
- The window is the base tier's, aligned to UTC. The key is a shard, a hash of the series, so that the cost of a point
  does not grow with the number of series; the value is a block of points.
- A window fires early, every `early_s` of processing time, as long as it is open, unless that is 0; on time, when the
  watermark passes its end; late, at most every `early_s`, or `LATE_S`, until the allowed lateness has passed. Prism fires
  late ones by the early trigger alone (Beam 2.77): there, a window without early ones has no late ones.
- Each firing shows everything the window has seen (accumulating), duplicates and overwritten points resolved. The
  engine brings all blocks of the window again; a process remembers what it has folded, and sorts only what is new.
- The pane that closes a window for good shows nothing when the clock, too, is past the lateness: the window is past its
  horizon, so its settled row is there. Prism fires it for every window, with all blocks in it, whether anything is new
  or not (Beam 2.77). In a drain, which closes windows early, it shows what came late.
- An early pane after the on-time one is called late: Prism takes late panes for early ones.
- A row whose numbers have not changed since BigQuery acknowledged the last one is not written again (`shown`), but for
  the first on-time pane, which says that the window is complete as far as the watermark knows.
- Later points have no preview. They are counted where their own time is known, before the window, since every engine
  drops them in silence.
- Previews owe nobody anything: a settled row beats every one of them, and nothing but a label rests on the pane.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import apache_beam as beam
import numpy as np
import zstandard
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows
from apache_beam.utils.windowed_value import PaneInfoTiming

from tidemark.logs import log
from tidemark.wire.summary import POINT, Points
from tidemark.wire.window import WindowState
from transforms.counters import count
from transforms.rollup_batch import RollupBatch

BLOCK_NAME: Final = 8
"""Bytes before the points of a block: how they are encoded, then random ones; a firing knows by them what it has seen.
Blocks lie in the engine's state, where another version of the program may find them."""
PLAIN, ZSTD = b"\x01", b"\x02"
"""Encodings: the points as they lie in memory, or those bytes compressed, a half to a quarter of them. Engines keep and
send every block of a window again at each firing."""
FEW_POINTS: Final = 16
"""Up to so many are not worth compressing."""
SWEEP_S: Final = 1.0
LATE_S: Final = 10
"""Between two late firings, where there are no early ones."""
WINDOW_POINTS: Final = 4_000_000
"""Remembered between firings by one process, about 40 bytes each."""
CLOSED_WINDOWS: Final = 10_000
"""Of how many windows of a shard it is remembered for longer that their end was shown."""

PANES: Final = {
    PaneInfoTiming.EARLY: "early",
    PaneInfoTiming.ON_TIME: "on_time",
    PaneInfoTiming.LATE: "late",
    PaneInfoTiming.UNKNOWN: "early",
}


class _Zstd(threading.local):
    """A thread's own: neither may be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_ZSTD: Final = _Zstd()


def block_of(points: Points) -> bytes:
    """Points of one shard and base window, as `Preview` takes them and engines keep them."""
    if len(points) <= FEW_POINTS:
        return PLAIN + os.urandom(BLOCK_NAME - 1) + points.tobytes()
    return ZSTD + os.urandom(BLOCK_NAME - 1) + _ZSTD.compressor.compress(points.tobytes())


def points_of(block: bytes) -> Points:
    """The points of a block, read-only; none, which is counted and told, when another version wrote it.

    An update must not fail for ever on a state of which only previews are made.
    """
    if block[:1] == ZSTD:
        return np.frombuffer(_ZSTD.decompressor.decompress(memoryview(block)[BLOCK_NAME:]), POINT)
    if block[:1] == PLAIN:
        return np.frombuffer(block, POINT, offset=BLOCK_NAME)
    count("preview_blocks_unreadable")
    log.error("Previews leave out blocks in the engine's state that another version wrote: settled rows have them.")
    return np.zeros(0, POINT)


@dataclass(eq=False)
class Preview(beam.PTransform):
    """(shard, `block_of` points of one base window) to `RollupBatch`es of early, on-time and late rows.

    Args:
        base_s: Length of the base tier's windows in seconds.
        early_s: Time between two firings of an open window; whole seconds, Beam cuts the rest off. 0: it has none.
        lateness_s: Allowed lateness.
        quantiles: Rows have p50, p90 and p99.
    """

    base_s: int
    early_s: int
    lateness_s: float
    quantiles: bool = False

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def pause_s(self) -> int:
        """Time between two firings of a window."""
        return self.early_s or LATE_S

    def expand(self, points: Any) -> Any:
        """Window, collect, fold."""
        return (
            points
            | "window"
            >> beam.WindowInto(
                FixedWindows(self.base_s),
                trigger=trigger.AfterWatermark(
                    early=trigger.AfterProcessingTime(self.early_s) if self.early_s else None,
                    late=trigger.AfterProcessingTime(self.pause_s),
                ),
                accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
                allowed_lateness=self.lateness_s,
            )
            | "collect" >> beam.GroupByKey()
            | "fold" >> beam.ParDo(_Fold(self)).with_output_types(RollupBatch)
        )


@dataclass
class _Kept:
    """The state of one window of one shard, the names of the blocks in it, and whether its end has been shown."""

    state: WindowState
    seen: set[bytes] = field(default_factory=set)
    closed: bool = False
    forget_at: float = 0.0


class Windows:
    """The states that this process remembers between firings; what it forgets is folded again from its blocks.

    A state is taken out while it is in use: a second thread with the same window makes another one.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[str, int, int], _Kept] = OrderedDict()
        self._closed: OrderedDict[tuple[str, int, int], None] = OrderedDict()
        self._points = 0
        self._sweep_at = 0.0
        self._lock = threading.Lock()

    def take(self, key: tuple[str, int, int], empty: Callable[[], WindowState]) -> _Kept:
        """The state of (pipeline, shard, window start), or a new one."""
        with self._lock:
            return self._drop(key) or _Kept(empty(), closed=key in self._closed)

    def forget(self, key: tuple[str, int, int]) -> None:
        """Remember a window no longer."""
        with self._lock:
            self._closed.pop(key, None)
            self._drop(key)

    def keep(self, key: tuple[str, int, int], kept: _Kept, for_s: float) -> None:
        """Remember a state for so long, unless it is taken again; beyond the limit, forget those of the longest ago."""
        now = time.monotonic()
        kept.forget_at = now + for_s
        with self._lock:
            self._drop(key)
            self._kept[key] = kept
            self._points += len(kept.state)
            if kept.closed:
                self._closed[key] = None
                if len(self._closed) > CLOSED_WINDOWS:
                    self._closed.popitem(last=False)
            if now >= self._sweep_at:
                self._sweep_at = now + SWEEP_S
                for other in [name for name, held in self._kept.items() if held.forget_at <= now]:
                    self._drop(other)
            while self._points > self._limit and self._kept:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, int, int]) -> _Kept | None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._points -= len(kept.state)
        return kept


_WINDOWS: Final = Windows(WINDOW_POINTS)


class _Fold(beam.DoFn):
    """Everything a window has seen to its rows; sorted is only what this process has not seen yet."""

    def __init__(self, config: Preview) -> None:
        self._config = config
        self._pipeline = uuid.uuid4().hex

    def process(
        self,
        element: tuple[int, Iterable[bytes]],
        window: Any = beam.DoFn.WindowParam,
        pane: Any = beam.DoFn.PaneInfoParam,
    ) -> Iterator[RollupBatch]:
        shard, blocks = element
        config = self._config
        key = (self._pipeline, shard, window.start.micros)
        closing = pane.is_last and pane.timing == PaneInfoTiming.LATE
        if closing and time.time() >= window.end.micros / 1e6 + config.lateness_s:
            _WINDOWS.forget(key)
            return
        kept = _WINDOWS.take(key, lambda: WindowState(config.base_s, quantiles=config.quantiles))
        known = len(kept.seen)
        for block in blocks:
            name = block[:BLOCK_NAME]
            if name not in kept.seen:
                kept.seen.add(name)
                kept.state.add(points_of(block))
        rows = kept.state.rollups()
        label = PANES[pane.timing]
        if kept.closed and label == "early":
            label = "late"
        kept.closed |= pane.timing in (PaneInfoTiming.ON_TIME, PaneInfoTiming.LATE)
        if not kept.closed:
            for_s = config.base_s + config.pause_s + config.lateness_s
        elif len(kept.seen) > known:
            for_s = config.pause_s + config.lateness_s
        else:  # nothing new: the window may be over, and is folded again if it is not
            for_s = 2.0 * config.pause_s
        _WINDOWS.keep(key, kept, for_s)
        if len(rows):
            yield RollupBatch(rows.tobytes(), label, [], 0)
