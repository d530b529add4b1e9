"""One window of many series, folded as its points come.

    add ──▶ waiting ──rollups()──▶ runs of points, each key once      kept, for what may still be overwritten
                               └─▶ a row a series                     merged with what is new

Points that no earlier one shares a key with are summarised by themselves and merged into the rows (Chan, Golub and
LeVeque); an overwritten point has its series summarised afresh. So asking often costs little more than asking once:
what is new is sorted, not all there is.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tidemark.wire.block import winners
from tidemark.wire.quantiles import Sketches
from tidemark.wire.summary import MICROSECONDS, ROLLUP, Points, Rollups, summarise

RUNS: Final = 64
"""More runs than this are merged into one."""
_WIDEST_S: Final = 4000
"""Series and time within a window of this length fit one integer."""
_ROW: Final = np.dtype([*ROLLUP.descr, ("first_time", "<i8"), ("last_time", "<i8")])
"""A rollup and the event times of its first and last point."""
_NAMES: Final = list(ROLLUP.names or ())


class WindowState:
    """The points of one window of the base tier, and their rollups. The order of `add` makes no difference."""

    def __init__(self, base_s: int, *, quantiles: bool = False) -> None:
        """An empty window, `base_s` seconds long, whose rows have quantiles when asked for."""
        self._base_s = base_s
        self._sketches = Sketches() if quantiles else None
        self._waiting: list[Points] = []
        self._runs: list[Points] = []
        self._rows = np.zeros(0, _ROW)
        self._keys = np.zeros(0, np.int64)

    def __len__(self) -> int:
        """How many points are held, those that wait included."""
        return sum(map(len, self._runs)) + sum(map(len, self._waiting))

    def add(self, points: Points) -> None:
        """Keep points, shape (n,), dtype `POINT`, of this window until the next look."""
        self._waiting.append(points)

    def rollups(self) -> Rollups:
        """A row of every series, sorted by series; shape (m,), dtype `ROLLUP`, as `summarise` of all points."""
        if self._waiting:
            fresh = winners(np.concatenate(self._waiting)).points
            self._waiting = []
            self._fold(fresh)
        rows = self._rows[_NAMES].astype(ROLLUP)
        if self._sketches is not None:
            _, found = self._sketches.quantiles()
            for name, values in found.items():
                rows[name] = np.clip(values, rows["min"], rows["max"])
        return rows

    def _fold(self, fresh: Points) -> None:
        if self._base_s > _WIDEST_S:
            self._runs = [winners(np.concatenate([*self._runs, fresh])).points]
            self._rows = _rows_of(self._runs[0], self._base_s)
            if self._sketches is not None:
                self._sketches = Sketches()
                self._sketches.add(self._runs[0]["series_id"], self._runs[0]["value"])
            return
        keys = self._keys_of(fresh)
        at = np.searchsorted(self._keys, keys)
        overwritten = np.zeros(0, np.int32)
        if len(self._keys):
            held = self._keys[np.minimum(at, len(self._keys) - 1)] == keys
            if held.any():
                overwritten = self._overwrite(fresh[held], keys[held])
                fresh, keys, at = fresh[~held], keys[~held], at[~held]
        if len(fresh):
            self._keys = np.insert(self._keys, at, keys)
            self._runs.append(fresh)
            if len(self._runs) > RUNS:
                self._runs = [winners(np.concatenate(self._runs)).points]
            self._merge(_rows_of(fresh, self._base_s))
            if self._sketches is not None:
                self._sketches.add(fresh["series_id"], fresh["value"])
        if len(overwritten):
            again = np.concatenate([run[np.isin(run["series_id"], overwritten)] for run in self._runs])
            rows = _rows_of(winners(again).points, self._base_s)
            self._rows[np.searchsorted(self._rows["series_id"], rows["series_id"])] = rows

    def _keys_of(self, points: Points) -> npt.NDArray[np.int64]:
        """Series and time of points as integers of the same order."""
        width = self._base_s * MICROSECONDS
        keys: npt.NDArray[np.int64] = points["series_id"].astype(np.int64) * width + points["event_time"] % width
        return keys

    def _overwrite(self, points: Points, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Put the points that win in the place of those that are held; returns their series."""
        overwritten = [np.zeros(0, np.int32)]
        for run in self._runs:
            there = self._keys_of(run)
            at = np.minimum(np.searchsorted(there, keys), len(run) - 1)
            here = np.flatnonzero(there[at] == keys)
            old, new = run[at[here]], points[here]
            wins = (new["publish_time"] > old["publish_time"]) | (
                (new["publish_time"] == old["publish_time"]) & (new["value"] > old["value"])
            )
            if self._sketches is not None and wins.any():
                self._sketches.add(new["series_id"][wins], new["value"][wins])
                self._sketches.take(old["series_id"][wins], old["value"][wins])
            run[at[here[wins]]] = new[wins]
            overwritten.append(new["series_id"][wins])
        return np.unique(np.concatenate(overwritten))

    def _merge(self, rows: npt.NDArray[np.void]) -> None:
        """Merge rows of points none of which is held under another row."""
        at = np.searchsorted(self._rows["series_id"], rows["series_id"])
        known = np.zeros(len(rows), bool)
        if len(self._rows):
            known = self._rows["series_id"][np.minimum(at, len(self._rows) - 1)] == rows["series_id"]
        if known.any():
            self._rows[at[known]] = _joined(self._rows[at[known]], rows[known])
        if not known.all():
            every = np.concatenate((self._rows, rows[~known]))
            self._rows = every[np.argsort(every["series_id"], kind="stable")]


def _rows_of(points: Points, base_s: int) -> npt.NDArray[np.void]:
    """Rows of points of one window, sorted, each key once."""
    summary = summarise(points, base_s)
    rows = np.zeros(len(summary), _ROW)
    rows[_NAMES] = summary
    last = np.cumsum(summary["count"]) - 1
    rows["first_time"] = points["event_time"][last - summary["count"] + 1]
    rows["last_time"] = points["event_time"][last]
    return rows


def _joined(a: npt.NDArray[np.void], b: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Rows of the same series, of points that share no key: pair by pair, the row of both."""
    both = a.copy()
    for name in ("count", "sum", "late_count"):
        both[name] = a[name] + b[name]
    for name in ("min", "first_publish_time", "first_time"):
        both[name] = np.minimum(a[name], b[name])
    for name in ("max", "last_publish_time", "last_time"):
        both[name] = np.maximum(a[name], b[name])
    both["first"] = np.where(a["first_time"] < b["first_time"], a["first"], b["first"])
    both["last"] = np.where(a["last_time"] > b["last_time"], a["last"], b["last"])
    apart = b["sum"] / b["count"] - a["sum"] / a["count"]
    both["m2"] = a["m2"] + b["m2"] + apart * apart * (a["count"] / both["count"] * b["count"])
    return both
