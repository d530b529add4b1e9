"""Which preview rows BigQuery has already, so that a firing does not write again what has not changed.

Known only after the append was acknowledged; forgetting is harmless: a row is then written once more.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tidemark.wire.summary import ROLLUP, Rollups

ROWS: Final = 2_000_000
"""Remembered at most, 13 bytes each; the windows that were not looked at for longest go first."""
_WORDS: Final = -(-ROLLUP.itemsize // 8)
_FACTORS: Final = np.random.default_rng(0x7469_6465).integers(1, 2**63, _WORDS, np.uint64) * 2 + 1


class _Known(NamedTuple):
    """Of one window: series in order, the digest of each row, and whether an on-time pane has shown it."""

    series: npt.NDArray[np.int32]
    digests: npt.NDArray[np.uint64]
    on_time: npt.NDArray[np.bool_]


class Shown:
    """Digests of the rows last acknowledged, by window; one for a process, safe between threads."""

    def __init__(self) -> None:
        self._windows: OrderedDict[int, _Known] = OrderedDict()
        self._rows = 0
        self._lock = threading.Lock()

    def news(self, rows: Rollups, on_time: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Which rows differ from what was last acknowledged of the same series and window.

        The same numbers are news once more when an on-time pane shows them first: the window is complete, as far as
        the watermark knows.

        Args:
            rows: Shape (n,), dtype `ROLLUP`.
            on_time: Shape (n,); which of them are of an on-time pane.
        """
        new = np.ones(len(rows), bool)
        for start in np.unique(rows["window_start"]).tolist():
            with self._lock:
                known = self._windows.get(start)
                if known is None:
                    continue
                self._windows.move_to_end(start)
            here = np.flatnonzero(rows["window_start"] == start)
            at = np.minimum(np.searchsorted(known.series, rows["series_id"][here]), len(known.series) - 1)
            same = (known.series[at] == rows["series_id"][here]) & (known.digests[at] == _digest(rows[here]))
            same &= known.on_time[at] | ~on_time[here]
            new[here[same]] = False
        return new

    def acknowledged(self, rows: Rollups, on_time: npt.NDArray[np.bool_]) -> None:
        """Remember rows that are durable; of a series twice in a window, the last."""
        for start in np.unique(rows["window_start"]).tolist():
            here = rows["window_start"] == start
            news = _Known(rows["series_id"][here], _digest(rows[here]), on_time[here])
            with self._lock:
                known = self._windows.pop(start, None)
                if known is not None:
                    self._rows -= len(known.series)
                    news = _Known(
                        np.concatenate((known.series, news.series)),
                        np.concatenate((known.digests, news.digests)),
                        np.concatenate((known.on_time, news.on_time)),
                    )
                # of each series the last of the reversed is the last that came
                found, at = np.unique(news.series[::-1], return_index=True)
                self._windows[start] = _Known(found, news.digests[::-1][at], news.on_time[::-1][at])
                self._rows += len(found)
                while self._rows > ROWS and len(self._windows) > 1:
                    _, oldest = self._windows.popitem(last=False)
                    self._rows -= len(oldest.series)


def _digest(rows: Rollups) -> npt.NDArray[np.uint64]:
    """64 bits a row, of everything in it."""
    padded = np.zeros((len(rows), 8 * _WORDS), np.uint8)
    padded[:, : ROLLUP.itemsize] = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    words = padded.view(np.uint64)
    words = (words ^ (words >> np.uint64(32))) * _FACTORS
    mixed: npt.NDArray[np.uint64] = (words ^ (words >> np.uint64(29))).sum(axis=1, dtype=np.uint64)
    return mixed
