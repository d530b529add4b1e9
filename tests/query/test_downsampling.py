"""Few points that keep the shape of many."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemark.query.samples import lttb, m4

SECOND = 1_000_000
YEAR_9999 = 253_402_300_799_999_999
Chooser = Callable[..., np.ndarray]


@st.composite
def lines(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int, int]:
    """Times, values, the range's start and end, and how many points are wanted."""
    number = draw(st.integers(0, 300))
    span = draw(st.sampled_from([1000, 3600 * SECOND, 28 * 86_400 * SECOND, YEAR_9999]))
    start = draw(st.integers(0, max(0, YEAR_9999 - span)))
    times = draw(
        st.lists(
            st.integers(start, start + span - 1), min_size=min(number, span), max_size=min(number, span), unique=True
        )
    )
    values = st.sampled_from([0.0, 1.0, -1.0, 1e150, -1e150, 5e-324, 3.5]) | st.floats(-9, 9)
    many = draw(st.lists(values, min_size=len(times), max_size=len(times)))
    return np.array(sorted(times), np.int64), np.array(many, float), start, start + span, draw(st.integers(4, 60))


def slow_m4(times: list[int], values: list[float], start: int, end: int, most: int) -> list[tuple[int, ...]]:
    """The indices of each stretch of time; of a stretch any of those with the least and the greatest value will do."""
    stretches: dict[int, list[int]] = {}
    length = -(-(end - start) // (most // 4))
    for at, time in enumerate(times):
        stretches.setdefault((time - start) // length, []).append(at)
    return [tuple(group) for _, group in sorted(stretches.items())]


@given(lines())
def test_m4_keeps_the_first_last_least_and_greatest_of_each_stretch(
    line: tuple[np.ndarray, np.ndarray, int, int, int],
) -> None:
    times, values, start, end, most = line
    chosen = m4(*line).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= max(most, 0)
    if len(times) <= most:
        assert chosen == list(range(len(times)))
        return
    kept = set(chosen)
    for group in slow_m4(times.tolist(), values.tolist(), start, end, most):
        mine = sorted(kept & set(group))
        assert mine[0] == group[0]
        assert mine[-1] == group[-1]
        assert len(mine) <= 4
        of_group = [values[at] for at in group]
        of_mine = [values[at] for at in mine]
        assert (min(of_mine), max(of_mine)) == (min(of_group), max(of_group))


def slow_lttb(times: list[int], values: list[float], most: int) -> list[int]:
    """Steinarsson's, with areas as exact as doubles are."""
    number = len(times)
    edges = [1 + (number - 2) * at // (most - 2) for at in range(most - 1)]
    chosen = [0]
    for at in range(most - 2):
        begin, end = edges[at], edges[at + 1]
        beyond = edges[at + 2] if at + 2 < len(edges) else number
        following = range(end, beyond)
        mean_x = math.fsum(times[one] - times[0] for one in following) / len(following)
        mean_y = math.fsum(values[one] for one in following) / len(following)
        x, y = times[chosen[-1]] - times[0], values[chosen[-1]]
        areas = [
            abs((x - mean_x) * (values[one] - y) - (x - (times[one] - times[0])) * (mean_y - y))
            for one in range(begin, end)
        ]
        chosen.append(begin + areas.index(max(areas)))
    return [*chosen, number - 1]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", [4, 5, 17, 100, 499])
def test_lttb_takes_the_points_of_the_largest_triangles(seed: int, most: int) -> None:
    chance = np.random.default_rng(seed)
    times = np.sort(chance.choice(3600 * SECOND, 500, replace=False)).astype(np.int64)
    values = np.cumsum(chance.normal(size=500))
    assert lttb(times, values, 0, 3600 * SECOND, most).tolist() == slow_lttb(times.tolist(), values.tolist(), most)


@given(lines())
def test_lttb_gives_as_many_as_are_wanted_with_both_ends(
    line: tuple[np.ndarray, np.ndarray, int, int, int],
) -> None:
    times, _, _, _, most = line
    chosen = lttb(*line).tolist()
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(len(times), most)
    if len(times):
        assert chosen[0] == 0
        assert chosen[-1] == len(times) - 1


@pytest.mark.parametrize("choose", [m4, lttb])
def test_the_peak_of_many_stays(choose: Chooser) -> None:
    times = np.arange(80_000, dtype=np.int64) * 30 * SECOND
    values = np.sin(np.arange(80_000) / 900)
    values[54_321] = 1e150
    chosen = choose(times, values, 0, int(times[-1]) + 1, 500)
    assert 54_321 in chosen
    assert len(chosen) <= 500
