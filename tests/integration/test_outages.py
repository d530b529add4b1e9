"""Two pipelines on one subscription, each with its settler, while the database and then BigQuery are away."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.integration.points import Feed, Point, Sender, everything_is_right, query
from tidemark.bus.puller import LEASE_S
from tidemark.local.job import Job
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import SUBSCRIPTION, Stack


class Stream(Sender):
    """2,000 points a second."""

    def send(self) -> None:
        now = time.time_ns() // 1_000_000
        points: list[Point] = [
            (("away", f"s{i % 20}", "m"), (now - i // 20 * 7) * 1000 + i % 7, float(i)) for i in range(200)
        ]
        points = [(key, us - us % 1000, value) for key, us, value in points]
        self.feed.points([*points, *points[:5]])


@pytest.mark.timeout(400)
def test_two_pipelines_go_on_by_themselves_after_database_and_bigquery_were_away(
    stack: Stack, environment: dict[str, str], feed: Feed, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    away_s = 20 if pytestconfig.getoption("--long") else 6
    control = Control(environment["PUBSUB_EMULATOR_HOST"])
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    idle = f"--stop_when_idle_s={LEASE_S + 5}"
    forms = ("text", "json")
    jobs = [Job({**environment, "TIDEMARK_LOG_FORMAT": form}, log, idle) for form, log in zip(forms, logs, strict=True)]
    for job in jobs:
        job.wait_ready()
    stream = Stream(feed)
    stream.start()
    time.sleep(4)

    stack.postgres.kill()
    time.sleep(1)  # what was committed just before may still be acknowledged
    before = control.stats()[SUBSCRIPTION].acked
    time.sleep(away_s)
    assert control.stats()[SUBSCRIPTION].acked == before, "nothing is acknowledged while nothing can be stored"
    for job in jobs:
        assert job.latest["oldest_due_mark_s"] >= away_s - 4, "what cannot be looked at is told as what it may be"
    stack.postgres.start()
    time.sleep(4)
    assert control.stats()[SUBSCRIPTION].acked > before

    stack.bigquery.kill()
    time.sleep(1)
    rows = _stored(environment)
    time.sleep(away_s)
    assert _stored(environment) > rows, "points are stored without BigQuery"
    stack.bigquery.start()
    time.sleep(2)

    stream.finish()
    counters = [job.drained() for job in jobs]
    assert all(counter["messages"] for counter in counters), "both had a share"
    assert sum(counter["settled"] for counter in counters) > 0
    oracle = feed.oracle()
    everything_is_right(environment, oracle)
    for log in logs:
        said = log.read_text()
        assert "The database does not answer" in said or "The database cannot serve" in said
        assert "Traceback" not in said
    told = [json.loads(line) for line in logs[1].read_text().splitlines()]
    assert {entry["severity"] for entry in told} == {"WARNING"}
    assert any("nothing is acknowledged meanwhile" in entry["message"] for entry in told)


def _stored(environment: dict[str, str]) -> int:
    return query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*) FROM points")[0][0]
