"""A pipeline without previews: settled rows only, and all of them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.integration.points import Feed, everything_is_right
from tidemark.local.job import Job
from tidemark.local.stack import DATASET
from tidemark.warehouse.clients import rest


@pytest.mark.timeout(200)
def test_without_previews_there_are_settled_rows_and_no_others(
    environment: dict[str, str], feed: Feed, tmp_path: Path
) -> None:
    now_us = time.time_ns() // 1_000_000 * 1000
    feed.points([(("p", f"s{number % 7}", "m"), now_us - number * 10_000, float(number)) for number in range(2000)])
    counters = Job(environment, tmp_path / "log", "--previews=false", "--stop_when_idle_s=3").drained()
    everything_is_right(environment, feed.oracle())
    client = rest(DATASET, environment["BIGQUERY_EMULATOR_HOST"])
    panes = {row.pane for row in client.query_and_wait(f"SELECT DISTINCT pane FROM `{DATASET}.rollups`")}
    assert panes == {"settled"}
    assert counters.get("previews", 0) == 0
