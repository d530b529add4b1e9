"""The laws of blocks, summaries and tiers, and that a window folded step by step is the window folded at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemark.wire import block as blocks
from tidemark.wire.block import winners
from tidemark.wire.quantiles import ERROR, LEAST, QUANTILES, Sketches, bins_of, values_of
from tidemark.wire.summary import POINT, ROLLUP, Points, Rollups, fold, summarise
from tidemark.wire.window import RUNS, WindowState

BASE_S = 60
START_US = 1_767_225_600_000_000
EXACT = [name for name in ROLLUP.names or () if name not in ("sum", "m2")]

one_point = st.tuples(
    st.sampled_from([1, 2, 2**31 - 1]),
    st.one_of(st.integers(0, 5), st.integers(0, BASE_S * 1_000_000 - 1)),
    st.one_of(st.integers(0, 2), st.integers(0, 200_000_000)),
    st.one_of(st.integers(-3, 3).map(float), st.floats(-1e150, 1e150).map(lambda v: v + 0.0)),
)
of_a_window = st.lists(one_point, max_size=30)


def points(rows: list[tuple[int, int, int, float]]) -> Points:
    return np.array([(s, START_US + e, START_US + p, v) for s, e, p, v in rows], POINT)


def merge(*some: Points) -> Points:
    return winners(np.concatenate(some)).points


def assert_same(found: Rollups, wanted: Rollups) -> None:
    """Exact but for sums, which may differ by rounding, as large as their terms make it."""
    assert len(found) == len(wanted)
    for name in EXACT:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    size = np.maximum(np.abs(wanted["min"]), np.abs(wanted["max"]))
    assert (np.abs(found["sum"] - wanted["sum"]) <= 1e-9 * size * wanted["count"]).all()
    assert (np.abs(found["m2"] - wanted["m2"]) <= 1e-9 * wanted["m2"] + wanted["count"] * (1e-7 * size) ** 2).all()


@given(of_a_window, of_a_window, of_a_window)
def test_merging_is_associative_commutative_and_idempotent(a: list, b: list, c: list) -> None:
    x, y, z = points(a), points(b), points(c)
    whole = merge(x, y, z)
    np.testing.assert_array_equal(merge(merge(x, y), z), whole)
    np.testing.assert_array_equal(merge(x, merge(y, z)), whole)
    np.testing.assert_array_equal(merge(z, y, x), whole)
    np.testing.assert_array_equal(merge(whole, whole, y), whole)


@given(of_a_window)
def test_the_greatest_publish_time_then_value_wins(rows: list) -> None:
    wanted: dict[tuple[int, int], tuple[int, float]] = {}
    for series, event, published, value in rows:
        wanted[series, event] = max(wanted.get((series, event), (published, value)), (published, value))
    found = winners(points(rows)).points
    assert [(int(p["series_id"]), int(p["event_time"]) - START_US) for p in found] == sorted(wanted)
    assert {
        (int(p["series_id"]), int(p["event_time"]) - START_US): (int(p["publish_time"]) - START_US, float(p["value"]))
        for p in found
    } == wanted


@given(of_a_window)
def test_one_integer_sorts_as_four_columns_do(rows: list) -> None:
    some = points(rows)
    wanted = some[np.lexsort((some["value"], some["publish_time"], some["event_time"], some["series_id"]))]
    np.testing.assert_array_equal(some[blocks._order(some)], wanted)


def test_what_fits_no_integer_is_sorted_all_the_same() -> None:
    some = np.array([(2**31 - 1, 2**62, 0, 1.0), (1, -(2**62), 0, 1.0), (1, 2**62, 0, 1.0)], POINT)
    np.testing.assert_array_equal(some[blocks._order(some)], some[[1, 2, 0]])


@given(st.lists(st.tuples(st.integers(0, 47 * 3_600_000_000), one_point), max_size=40))
def test_folding_tiers_is_summarising_the_points(rows: list) -> None:
    some = winners(points([(s, e + far, p, v) for far, (s, e, p, v) in rows])).points
    minutes = summarise(some, 60)
    hours, days = fold(minutes, 3600), fold(fold(minutes, 3600), 86400)
    for found, tier_s in ((hours, 3600), (days, 86400), (fold(minutes, 86400), 86400)):
        wanted = summarise(some, tier_s)
        # late is late after the window of the base tier, whatever the tier
        late = points_late(some)
        starts = some["event_time"] // (tier_s * 1_000_000) * (tier_s * 1_000_000)
        for row in wanted:
            of_row = (some["series_id"] == row["series_id"]) & (starts == row["window_start"])
            row["late_count"] = int(late[of_row].sum())
        assert_same(found, wanted)
    assert fold(minutes, 60).tobytes() == minutes.tobytes()


def points_late(some: Points) -> np.ndarray:
    width = BASE_S * 1_000_000
    return some["publish_time"] > some["event_time"] // width * width + width


def test_a_fold_leaves_out_windows_without_points() -> None:
    rows = summarise(points([(1, 0, 0, 4.0)]), 60)
    gone = rows.copy()
    gone["window_start"] += 60_000_000
    gone["count"] = 0
    gone["min"] = -1e9
    np.testing.assert_array_equal(fold(np.concatenate((gone, rows)), 3600)["min"], [4.0])
    assert len(fold(gone, 3600)) == 0


@given(st.lists(st.tuples(of_a_window, st.booleans()), max_size=12), st.sampled_from([60, 86400]))
def test_a_window_asked_often_says_what_one_asked_once_says(parts: list, base_s: int) -> None:
    state, seen = WindowState(base_s), np.zeros(0, POINT)
    for rows, ask in parts:
        state.add(points(rows))
        seen = np.concatenate((seen, points(rows)))
        if ask:
            assert_same(state.rollups(), summarise(winners(seen).points, base_s))
    assert_same(state.rollups(), summarise(winners(seen).points, base_s))


@pytest.mark.parametrize("again", [0, 7])
def test_a_window_of_more_parts_than_it_keeps_apart(again: int) -> None:
    rng = np.random.default_rng(1)
    state, seen = WindowState(BASE_S), np.zeros(0, POINT)
    for _ in range(3 * RUNS):
        rows = [(int(rng.integers(5)), int(rng.integers(2000)), int(rng.integers(9)), rng.normal()) for _ in range(20)]
        for _ in range(1 + again):
            state.add(points(rows))
        seen = np.concatenate((seen, points(rows)))
        assert_same(state.rollups(), summarise(winners(seen).points, BASE_S))


def test_m2_does_not_cancel() -> None:
    values = [1e9 + i for i in range(100)]
    rows = fold(summarise(points([(1, i * 400_000, 0, v) for i, v in enumerate(values)]), 60), 3600)
    mean = math.fsum(values) / 100
    assert rows["m2"][0] == pytest.approx(math.fsum((v - mean) ** 2 for v in values), rel=1e-9)


finite = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e150, 1e150))


def true_quantile(values: list[float], share: float) -> float:
    return sorted(values)[math.floor(share * (len(values) - 1))]


def close(found: float, wanted: float) -> bool:
    return abs(found - wanted) <= ERROR * (1 + 1e-9) * abs(wanted) if abs(wanted) >= LEAST else abs(found) < LEAST


@given(st.lists(finite, min_size=1, max_size=60))
def test_a_bin_stands_for_its_values_and_keeps_their_order(values: list[float]) -> None:
    some = np.sort(np.array(values))
    bins = bins_of(some)
    assert (np.diff(bins) >= 0).all()
    assert all(close(found, value) for found, value in zip(values_of(bins).tolist(), some.tolist(), strict=True))


@given(st.lists(st.tuples(st.sampled_from([1, 7, 2**31 - 1]), finite), min_size=1, max_size=60), st.randoms())
def test_quantiles_are_within_their_error_in_any_order_and_any_split(rows: list, random: object) -> None:
    series, values = np.array([s for s, _ in rows], np.int32), np.array([v for _, v in rows])
    whole, parts = Sketches(), Sketches()
    whole.add(series, values)
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    for at in np.array_split(np.array(order), 3):
        parts.add(series[at], values[at])
    parts.add(series[:2], values[:2])
    parts.take(series[:2], values[:2])
    names, found = whole.quantiles()
    again, same = parts.quantiles()
    assert names.tolist() == sorted(set(series.tolist())) == again.tolist()
    for name, share in QUANTILES.items():
        np.testing.assert_array_equal(found[name], same[name])
        for one, value in zip(names.tolist(), found[name].tolist(), strict=True):
            assert close(value, true_quantile([v for s, v in rows if s == one], share))


@given(st.lists(of_a_window, max_size=6), st.sampled_from([BASE_S, 86_400]))
def test_a_window_keeps_the_quantiles_of_what_won(parts: list[list], base_s: int) -> None:
    state = WindowState(base_s, quantiles=True)
    for part in parts:
        state.add(points(part))
        rows = state.rollups()
    left = merge(*(points(part) for part in parts)) if parts else points([])
    rows = state.rollups()
    for row in rows:
        values = left["value"][left["series_id"] == row["series_id"]].tolist()
        assert all(close(row[name], true_quantile(values, share)) for name, share in QUANTILES.items())
