"""Senders and streams as they are: late, ahead, stuck, skewed, thrice; one run is drained under load, another has other shards."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from tests.integration.points import Feed, Message, Point, Sender, everything_is_right, query
from tidemark.bus.puller import LEASE_S
from tidemark.local.job import Job
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import DATASET
from tidemark.warehouse.clients import rest

HOUR_MS = 3_600_000
DRAIN_S = 30


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Load(Sender):
    """A timely sender, one constantly 40 minutes behind, one 9 minutes ahead: 2,000 points a second."""

    number = 0

    def send(self) -> None:
        now = now_ms()
        for source, shift in (("timely", 0), ("behind", -40 * 60_000), ("ahead", 9 * 60_000)):
            key = ("clocks", source, "m")
            points = [(key, (now + shift - i) * 1000, float(self.number + i)) for i in range(66)]
            self.feed.points(points, of=22)
        self.number += 66


def shapes(rng: random.Random) -> dict[str, list[Point]]:
    """Points by project, so that what is wrong has a name."""
    now = now_ms()

    def some(project: str, times: list[int], series: int = 3) -> list[Point]:
        return [((project, f"s{i % series}", "m"), t * 1000, round(rng.uniform(-9, 9), 3)) for i, t in enumerate(times)]

    spread = [now - rng.randrange(6 * HOUR_MS) for _ in range(1500)]
    return {
        "from 1 s to 6 h": some("spread", spread),
        "two days in a message": some("two days", [now - (i % 2) * 26 * HOUR_MS - i for i in range(40)], series=1),
        "stuck in 1973": some("stuck", [10**11] * 30 + [10**11 + 1] * 30, series=1),
        "two values at once": some("ties", [now - i // 2 for i in range(40)], series=1),
        "90 % on one series": some("skewed", [now - i for i in range(4500)], series=1)
        + [(("skewed", f"t{i % 50}", "m"), (now - i) * 1000, 1.5) for i in range(500)],
    }


@pytest.mark.timeout(400)
def test_streams_of_every_shape_are_right_when_settled(environment: dict[str, str], feed: Feed, tmp_path: Path) -> None:
    environment = {**environment, "TIDEMARK_QUANTILES": "true"}
    rng = random.Random(20130711)
    log = tmp_path / "ingest.log"
    control = Control(environment["PUBSUB_EMULATOR_HOST"])
    control.shuffle(seed=7, span=500)
    job = Job(environment, log, "--shards=16")
    job.wait_ready()
    load = Load(feed)
    load.start()
    for points in shapes(rng).values():
        feed.points(points)
    # the same key again and again: with the shuffle, overwrites come before what they overwrite
    base = now_ms()
    for again in range(8):
        feed.points(
            [(("overwritten", "s", "m"), (base - i) * 1000, float(rng.randrange(100) + again)) for i in range(50)]
        )
    # the whole stream three times, and each message delivered twice
    control.twice()
    thrice: list[Point] = [(("thrice", f"s{i % 4}", "m"), (base - i) * 1000, float(i)) for i in range(300)]
    for _ in range(3):
        feed.points(thrice)
    time.sleep(2)
    control.clear()
    future = int(time.mktime((2099, 1, 1, 0, 0, 0, 0, 0, 0))) * 1000
    broken = [
        json.dumps(
            {"project": "clocks", "source": "2099", "metric": "m", "event_time": future + i, "value": 1}
        ).encode()
        for i in range(10)
    ]
    feed.publish([(Message(data=data, attributes={"event_time": str(future)}), []) for data in broken])
    time.sleep(5)
    behind_s = time.time() - job.latest["watermark"]
    assert 0 <= behind_s < 20, "neither the one behind nor the one ahead moves the watermark"

    began = time.monotonic()
    job.drain()
    counters = job.drained(DRAIN_S)
    assert time.monotonic() - began < DRAIN_S
    assert counters["beyond_previews"] > 0
    assert counters["dead_lettered_event_time_in_future"] == len(broken)
    due = query(
        environment["TIDEMARK_DATABASE_URL"], "SELECT count(*) FROM marks WHERE ready_at < now() - interval '10 s'"
    )
    assert due == [(0,)], "what was due is settled"
    load.finish()

    # idle, then a single message; other shards, while windows of the first run are half done
    job = Job(environment, log, "--shards=7", f"--stop_when_idle_s={LEASE_S + 5}")
    job.wait_ready()
    time.sleep(4)
    feed.points([(("idle", "s", "m"), now_ms() * 1000, 1.0)])
    job.drained()
    everything_is_right(environment, feed.oracle())
    client = rest(DATASET, environment["BIGQUERY_EMULATOR_HOST"])
    previews = f"SELECT countif(p50 IS NULL OR p99 < p50), count(*) FROM `{DATASET}.rollups` WHERE pane != 'settled'"
    without, number = next(iter(client.query_and_wait(previews)))
    assert number > 100
    assert without == 0
    dead = query(environment["TIDEMARK_DATABASE_URL"], "SELECT reason, count(*) FROM dead_letters GROUP BY reason")
    assert [tuple(row) for row in dead] == [("event_time_in_future", len(broken))]
    of = dict(
        tuple(row) for row in query(environment["TIDEMARK_DATABASE_URL"], "SELECT source, most_late_s FROM sources")
    )
    assert of["behind"] > 2400
    assert of["ahead"] < 0
