"""The pipeline, the database and BigQuery are killed while points come late, twice, overwritten and malformed."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.integration.points import Feed, Message, Point, everything_is_right, message, query
from tidemark.bus.puller import LEASE_S
from tidemark.local.job import Job
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import Stack

SEED = int(os.environ.get("TEST_SEED", "20130711"))
HORIZON_S = 5
POINTS, SECONDS, BATCH = 200_000, 60, 500
SERIES = [("chaos", f"s{i}", "m") for i in range(100)]
MALFORMED = [b"\xff\xfe", b"{", b'{"project":"chaos"}', b"[1"]


class Chaos(threading.Thread):
    """Publishes: 10 % up to 5 horizons late, 5 % published again, 1 % overwritten, 0.1 % as many malformed."""

    def __init__(self, feed: Feed, seed: int) -> None:
        super().__init__(daemon=True)
        self._feed, self._rng = feed, random.Random(seed)
        self._past: list[tuple[tuple[str, str, str], int]] = []
        self.malformed = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            start = time.time()
            for number in range(0, POINTS, BATCH):
                time.sleep(max(0.0, start + number * SECONDS / POINTS - time.time()))
                self._feed.publish(self._batch(number))
        except Exception as error:  # noqa: BLE001  # the test asks for it
            self.error = error

    def _batch(self, number: int) -> list[tuple[Message, list[Point]]]:
        made: list[tuple[Message, list[Point]]] = []
        for i in range(number, number + BATCH, 10):
            points = [self._point(j) for j in range(i, i + 10)]
            made.append((message(points), points))
            if self._rng.random() < 0.05:  # published again, with an id and a publish time of its own
                made.append((message(points), points))
            if self._rng.random() < 0.01:
                made.append((Message(data=self._rng.choice(MALFORMED)), []))
                self.malformed += 1
        return made

    def _point(self, number: int) -> Point:
        value = round(self._rng.uniform(-1000, 1000), 3)
        if self._past and self._rng.random() < 0.01:
            key, event_us = self._rng.choice(self._past[-20_000:])
            return key, event_us, value
        key = SERIES[number % len(SERIES)]
        event_us = time.time_ns() // 1_000_000 * 1000 - number % 1000 * 1000
        if self._rng.random() < 0.1:
            event_us -= int(self._rng.uniform(0, 5 * HORIZON_S) * 1000) * 1000
        self._past.append((key, event_us))
        return key, event_us, value


@pytest.mark.timeout(600)
def test_every_number_is_right_after_kills_of_everything(
    stack: Stack, environment: dict[str, str], feed: Feed, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    kills = [(rng.uniform(3, SECONDS), "pipeline") for _ in range(5)]
    kills += [(rng.uniform(5, SECONDS), "postgres"), (rng.uniform(5, SECONDS), "bigquery")]
    environment["TIDEMARK_HORIZON_S"] = str(HORIZON_S)
    log = tmp_path / "ingest.log"
    job = Job(environment, log)
    job.wait_ready()
    chaos = Chaos(feed, SEED)
    began = time.monotonic()
    chaos.start()
    with Control(environment["PUBSUB_EMULATOR_HOST"]) as control:
        for at, what in sorted(kills):
            # 5 % of the messages come again, beside those that a kill brings back
            control.drop_acks(ids=POINTS // 10 // 20 // len(kills))
            time.sleep(max(0.0, began + at - time.monotonic()))
            if what == "pipeline":
                job.kill()
                job = Job(environment, log)
            else:
                server = getattr(stack, what)
                server.kill()
                server.start()
        chaos.join(300)
        control.clear()
    assert chaos.error is None
    assert not chaos.is_alive()
    job.kill()
    job = Job(environment, log, f"--stop_when_idle_s={LEASE_S + 5}")
    job.drained(240)

    everything_is_right(environment, feed.oracle())
    dead = query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*) FROM dead_letters")[0][0]
    assert dead == chaos.malformed
