from __future__ import annotations

import numpy as np

from tidemark.wire.summary import ROLLUP, Rollups
from transforms import shown
from transforms.shown import Shown


def rows(*some: tuple[int, int, int]) -> Rollups:
    """(series, window, count)"""
    made = np.zeros(len(some), ROLLUP)
    for name, column in zip(("series_id", "window_start", "count"), zip(*some, strict=True), strict=True):
        made[name] = column
    return made


class Quiet(Shown):
    """All panes early."""

    def news(self, rows: Rollups, on_time: np.ndarray | None = None) -> np.ndarray:
        return super().news(rows, np.zeros(len(rows), bool) if on_time is None else on_time)

    def acknowledged(self, rows: Rollups, on_time: np.ndarray | None = None) -> None:
        super().acknowledged(rows, np.zeros(len(rows), bool) if on_time is None else on_time)


def test_the_first_on_time_pane_is_news_whatever_it_shows() -> None:
    known, row, on_time = Quiet(), rows((1, 0, 5)), np.ones(1, bool)
    known.acknowledged(row)
    assert known.news(row, on_time).tolist() == [True]
    known.acknowledged(row, on_time)
    assert known.news(row, on_time).tolist() == [False]
    assert known.news(row).tolist() == [False], "nor is an engine's repeat under another label"
    late = rows((1, 0, 6))
    known.acknowledged(late)
    assert known.news(late).tolist() == [False]


def test_only_what_changed_since_the_acknowledgement_is_news() -> None:
    known = Quiet()
    first = rows((1, 0, 5), (2, 0, 5), (1, 60, 5))
    assert known.news(first).tolist() == [True] * 3
    assert known.news(first).tolist() == [True] * 3, "looking is not acknowledging"
    known.acknowledged(first)
    assert known.news(first).tolist() == [False] * 3
    assert known.news(rows((2, 0, 6), (3, 0, 5), (1, 60, 5), (1, 120, 5))).tolist() == [True, True, False, True]
    known.acknowledged(rows((2, 0, 6), (2, 0, 7)))
    assert known.news(rows((2, 0, 7), (2, 0, 6), (1, 0, 5))).tolist() == [False, True, False]


def test_every_column_counts() -> None:
    known, row = Quiet(), rows((1, 0, 5))
    known.acknowledged(row)
    for name in ROLLUP.names or ():
        if name not in ("series_id", "window_start"):
            other = row.copy()
            other[name] = 1
            assert known.news(other).tolist() == [True], name


def test_it_forgets_the_windows_not_looked_at_for_longest(monkeypatch) -> None:
    monkeypatch.setattr(shown, "ROWS", 3)
    known = Quiet()
    for window in range(4):
        known.acknowledged(rows((1, window, 1)))
    assert [bool(known.news(rows((1, window, 1)))[0]) for window in range(4)] == [True, False, False, False]
