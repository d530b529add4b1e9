from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemark.wire.block import winners
from tidemark.wire.summary import POINT, Points, summarise

rows = st.lists(
    st.tuples(
        st.integers(1, 3),  # series
        st.integers(0, 12).map(lambda s: s * 500_000),  # event time
        st.integers(0, 3).map(lambda s: s * 1_000_000),  # publish time
        st.sampled_from([-2.5, 0.0, 1.0, 7.25]),
    ),
    max_size=30,
)

few_rows = st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 1), st.sampled_from([0.0, 1.0]))
"""With many ties."""


def points(of: list[Any]) -> Points:
    return np.array(of, POINT)


def by_dictionary(of: list[tuple[int, int, int, float]]) -> dict[tuple[int, int], tuple[int, float]]:
    best: dict[tuple[int, int], tuple[int, float]] = {}
    for series, event, published, value in of:
        best[series, event] = max(best.get((series, event), (-1, -math.inf)), (published, value))
    return best


@given(rows)
def test_the_greatest_of_each_key_wins(given_rows: list[Any]) -> None:
    won = winners(points(given_rows)).points
    assert {(int(p["series_id"]), int(p["event_time"])): (int(p["publish_time"]), float(p["value"])) for p in won} == (
        by_dictionary(given_rows)
    )
    keys = [(int(p["series_id"]), int(p["event_time"])) for p in won]
    assert keys == sorted(set(keys))


@given(rows, rows, rows)
def test_merging_is_associative_commutative_and_idempotent(a: list[Any], b: list[Any], c: list[Any]) -> None:
    def merge(*parts: Points) -> Points:
        return winners(np.concatenate(parts)).points

    x, y, z = points(a), points(b), points(c)
    whole = merge(x, y, z).tolist()
    for order in itertools.permutations((x, y, z)):
        assert merge(merge(*order[:2]), order[2]).tolist() == whole
    assert merge(merge(x, y, z), y, x).tolist() == whole


def test_equal_points_with_other_attributes_are_left_for_the_database() -> None:
    same = points([(1, 5, 5, 1.0)] * 4)
    assert not winners(same, [b"{}", b"{}", b"{}", b"{}"]).tied
    won = winners(same, [b"1", b"2", b"1", None])
    assert won.tied
    assert set(won.attributes or ()) == {b"1", b"2", None}


@pytest.mark.parametrize("three", list(itertools.combinations_with_replacement((None, b'{"x":1}', b'{"x":2}'), 3)))
def test_ties_are_left_for_the_database_in_every_order(three: tuple[bytes | None, ...]) -> None:
    for order in itertools.permutations(three):
        won = winners(points([(1, 5, 5, 1.0)] * 3), list(order))
        assert set(won.attributes or ()) == set(three)
        assert len(won.points) == len(set(three))
        assert won.tied == (len(set(three)) > 1)


@given(st.lists(st.tuples(few_rows, st.sampled_from([None, b"1", b"2", b"3"])), max_size=30), st.randoms())
def test_any_order_leaves_the_same_points_and_attributes(given_rows: list[Any], random: Any) -> None:
    def left(of: list[Any]) -> tuple[list[Any], bool]:
        won = winners(points([row for row, _ in of]), [attributes for _, attributes in of])
        return sorted(zip(won.points.tolist(), won.attributes or (), strict=True), key=repr), won.tied

    best = by_dictionary([row for row, _ in given_rows])
    wanted = {(row, attributes) for row, attributes in given_rows if best[row[:2]] == row[2:]}
    found, tied = left(given_rows)
    assert found == sorted(wanted, key=repr)
    assert tied == (len(wanted) > len(best))
    random.shuffle(given_rows)
    assert left(given_rows) == (found, tied)


def test_a_greater_point_settles_a_tie_below_it() -> None:
    won = winners(points([(1, 5, 5, 1.0), (1, 5, 5, 1.0), (1, 5, 6, 0.0)]), [b"1", b"2", b"3"])
    assert not won.tied
    assert won.attributes == [b"3"]


@given(rows)
def test_a_summary_is_what_a_loop_says(given_rows: list[Any]) -> None:
    won = winners(points(given_rows)).points
    groups: dict[tuple[int, int], list[tuple[int, int, int, float]]] = {}
    for p in won.tolist():
        groups.setdefault((p[0], p[1] // 2_000_000 * 2_000_000), []).append(p)
    rollups = summarise(won, 2)
    assert [(int(r["series_id"]), int(r["window_start"])) for r in rollups] == sorted(groups)
    for r in rollups:
        group = groups[int(r["series_id"]), int(r["window_start"])]
        values = [p[3] for p in group]
        published = [p[2] for p in group]
        end = int(r["window_start"]) + 2_000_000
        mean = math.fsum(values) / len(values)
        assert (r["count"], r["min"], r["max"]) == (len(group), min(values), max(values))
        assert (r["first"], r["last"]) == (values[0], values[-1])
        assert math.isclose(r["sum"], math.fsum(values), abs_tol=1e-9)
        assert math.isclose(r["m2"], math.fsum((v - mean) ** 2 for v in values), abs_tol=1e-9)
        assert (r["first_publish_time"], r["last_publish_time"]) == (min(published), max(published))
        assert r["late_count"] == sum(p > end for p in published)
        assert (r["tier_s"], r["revision"], bool(r["final"])) == (2, 0, False)
