"""The page on sizes says what its model says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODEL = runpy.run_path(str(ROOT / "bench" / "sizing.py"))


@pytest.mark.parametrize("part", ["table", "previews", "inputs"])
def test_the_page_has_what_the_model_says(part: str) -> None:
    page = (ROOT / "docs" / "operations" / "sizing.md").read_text()
    assert "\n" + "\n".join(MODEL[part]()) + "\n" in page


def test_more_points_need_more_of_everything_and_fewer_previews_less() -> None:
    size = MODEL["size"]
    small, large = (size(rate, 500, 10, 10, 30) for rate in (1_000, 1_000_000))
    for name in ("series", "rows_a_second", "worker_cpus", "database_cpus", "disk_tb", "appended_gb_a_day"):
        assert getattr(large, name) == pytest.approx(1000 * getattr(small, name))
    assert large.workers * 2 * 0.6 >= large.worker_cpus
    assert size(1_000_000, 500, 10, 60, 30).rows_a_second < large.rows_a_second / 2
    assert size(1_000_000, 1, 10, 10, 30).workers > large.workers


def test_a_series_that_sends_seldom_settles_seldom() -> None:
    size = MODEL["size"]
    often, seldom = size(1_000, 500, 60, 10, 30), size(1_000, 500, 300, 10, 30)
    upper = sum(times / length for length, times in MODEL["UPPER"])
    assert seldom.settled_a_second == pytest.approx(1_000 + seldom.series * upper)
    assert seldom.settled_a_second < 5 * often.settled_a_second
