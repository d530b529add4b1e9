"""The whole job on a database whose role, database and server are set to what is hostile."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.integration.points import Feed, Point, everything_is_right, message, query
from tests.store.hostile import SCOPES, SETTINGS, impose
from tidemark.local.job import Job
from tidemark.store.connection import make_engine


@pytest.mark.timeout(200)
def test_every_number_is_right_all_the_same(environment: dict[str, str], feed: Feed, tmp_path: Path) -> None:
    assert len(SETTINGS) >= 12
    plain = make_engine(environment["TIDEMARK_DATABASE_URL"], 1, 60)
    for scope in SCOPES:
        impose(plain, scope)
    environment = {**environment, "TIDEMARK_QUANTILES": "true"}
    rng = random.Random(5)
    job = Job(environment, tmp_path / "ingest.log", "--stop_when_idle_s=6")
    job.wait_ready()
    now = time.time_ns() // 1_000_000
    late = [now - rng.randrange(40 * 86_400_000) for _ in range(60)]
    for value in range(3):  # twice overwritten, and redelivered
        points: list[Point] = [
            (("null", f'a\\b"{i % 5}', "m"), at * 1000, round(value + rng.random(), 3))
            for i, at in enumerate([*late, *(now - 7 * i for i in range(1000))])
        ]
        feed.points([*points, *points[:100]])
    feed.publish([(message([(("null", "x\ny", "m"), now * 1000, 1.0)]), [])])
    counters = job.drained()
    assert counters["dead_lettered"] == counters["dead_lettered_bad_name"] == 1
    oracle = feed.oracle()
    everything_is_right(environment, oracle)
    url = environment["TIDEMARK_DATABASE_URL"]
    assert query(url, "SELECT sum(points) FROM sources")[0][0] >= counters["inserted"]

    # whoever is told other windows than the store has does not begin
    log = tmp_path / "other.log"
    other = Job({**environment, "TIDEMARK_TIERS_S": "2,20,60"}, log)
    until = time.monotonic() + 60
    while other.status() is None and time.monotonic() < until:
        time.sleep(0.1)
    assert other.status() == 2
    assert "--tiers_s is 2,20,60, and the programs of this store run with 2,10,60" in log.read_text()
    everything_is_right(environment, oracle)
