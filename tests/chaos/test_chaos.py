"""Pipeline, database, BigQuery and Pub/Sub are killed while points come late, twice, overwritten, malformed, deleted."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.campaign import DATASET, Plan, run

SEED = int(os.environ.get("TEST_SEED", "20130711"))
EVERYDAY = Plan(SEED, 100_000, 30, {"pipeline": 2, "postgres": 1, "bigquery": 1, "pubsub": 1}, cuts=3)
LONG = Plan(SEED, 1_000_000, 180, {"pipeline": 6, "postgres": 3, "bigquery": 3, "pubsub": 3}, cuts=10)


@pytest.mark.parametrize("plan", [EVERYDAY, pytest.param(LONG, marks=pytest.mark.long)], ids=["1e5", "1e6"])
@pytest.mark.timeout(1800)
def test_every_number_is_right_after_kills_of_everything(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {plan.seed}, {DATASET}")
    outcome = run(plan, tmp_path)
    print(outcome.figures)
    assert not outcome.wrong
    least = (0.1, 0.3) if plan is LONG else (0, 0)
    assert outcome.figures["corrected_share"] > least[0]
    assert outcome.figures["on_time_share"] > least[1]
    assert outcome.figures["points"] == plan.points
    assert outcome.figures["faults"] == {**plan.kills, "cut": plan.cuts, "delete": 1}
