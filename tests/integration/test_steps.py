"""The guarantee, step by step: the program dies, or a bundle fails, exactly between two steps."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.integration.points import Feed, Point, everything_is_right, query, stored
from tests.store.corrections import chained
from tidemark.bus.puller import LEASE_S
from tidemark.local.job import Job
from tidemark.local.pubsub.control import Control, Stats
from tidemark.local.stack import DATASET, SUBSCRIPTION
from tidemark.store.connection import make_engine
from tidemark.warehouse.clients import rest

KILLED = -9


class Run:
    """Publishes a little, and runs the program with a failpoint until it dies of it."""

    def __init__(self, environment: dict[str, str], feed: Feed, log: Path) -> None:
        self.environment, self.feed, self.log = environment, feed, log
        self._rng = random.Random(7)
        self._control = Control(environment["PUBSUB_EMULATOR_HOST"])
        self.sent = 0

    def publish(self, number: int = 300) -> None:
        now = time.time_ns() // 1_000_000
        points: list[Point] = []
        for i in range(number):
            key = ("steps", f"s{i % 7}", "m")
            points.append((key, (now - 20_000 - self.sent - i) * 1000, round(self._rng.uniform(-9, 9), 3)))
        self.sent += number
        self.feed.points([*points, *points[:30]])  # some of them twice

    def dies_at(self, place: str) -> None:
        self.publish()
        job = Job({**self.environment, "TIDEMARK_FAILPOINTS": f"{place}=kill"}, self.log)
        until = time.monotonic() + 60
        while job.status() is None and time.monotonic() < until:
            time.sleep(0.05)
        status = job.status()
        if status is None:
            job.kill()
        assert status == KILLED, self.log.read_text()[-2000:]

    def stats(self) -> Stats:
        return self._control.stats()[SUBSCRIPTION]

    def in_store(self, table: str) -> int:
        return query(self.environment["TIDEMARK_DATABASE_URL"], f"SELECT count(*) FROM {table}")[0][0]

    def settled_rows(self) -> int:
        client = rest(DATASET, self.environment["BIGQUERY_EMULATOR_HOST"])
        found = client.query_and_wait(f"SELECT count(*) FROM `{DATASET}.rollups` WHERE pane = 'settled'")
        return next(iter(found))[0]


@pytest.mark.timeout(400)
def test_whatever_step_the_program_dies_after_everything_is_right_in_the_end(
    environment: dict[str, str], feed: Feed, tmp_path: Path
) -> None:
    run = Run(environment, feed, tmp_path / "ingest.log")

    run.dies_at("raw.written")
    assert stored(environment["TIDEMARK_DATABASE_URL"]) == {}, "an open transaction must leave nothing"
    assert run.stats().acked == 0

    run.dies_at("raw.committed")
    assert run.in_store("points") > 0
    assert run.in_store("marks") > 0, "what is stored is owed a settled rollup"
    assert run.stats().acked == 0, "nothing is acknowledged before its bundle is committed by the engine"

    run.dies_at("source.finalize")
    assert run.stats().acked == 0

    before = run.settled_rows()  # a run that died in its source may have settled first
    run.dies_at("settle.committed")
    assert run.in_store("rollups") > 0
    assert run.settled_rows() == before
    assert run.in_store("marks") > 0, "marks outlive a settling that BigQuery has not seen"

    run.dies_at("settle.appended")
    assert run.settled_rows() > before
    assert run.in_store("marks") > 0

    run.dies_at("settle.forgotten")

    # bundles that fail after their work was done are done again, by the same program
    run.publish()
    raising = ",".join(
        f"{place}=raise@{n}"
        for place, n in (("raw.committed", 1), ("raw.written", 3), ("source.finalize", 2), ("settle.appended", 1))
    )
    job = Job({**environment, "TIDEMARK_FAILPOINTS": raising}, run.log, f"--stop_when_idle_s={LEASE_S + 5}")
    counters = job.drained()
    assert counters["restarts"] >= 1
    assert "failpoint" in run.log.read_text()
    oracle = feed.oracle()
    assert len(oracle.winners) == run.sent
    everything_is_right(environment, oracle)
    pool = make_engine(environment["TIDEMARK_DATABASE_URL"], 1, 60)
    try:
        assert chained(pool) > 0, "each change of a final rollup is told once, whatever died when"
    finally:
        pool.dispose()
    left = run.stats()
    assert (left.queued, left.outstanding) == (0, 0)
