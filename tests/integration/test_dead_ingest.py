"""What a running ingest says of itself, and what is made of it once it is dead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.integration.points import Feed, query, stored
from tidemark.local.job import Job
from tidemark.store.completeness import Completeness, completeness_of
from tidemark.store.connection import make_engine, transaction
from tidemark.store.heartbeats import COUNTS_S

US = 1_000_000


@pytest.fixture
def pool(environment: dict[str, str]) -> Iterator[Engine]:
    made = make_engine(environment["TIDEMARK_DATABASE_URL"], 2, 60)
    yield made
    made.dispose()


def publish(feed: Feed, number: int = 20) -> None:
    now_us = time.time_ns() // 1_000_000 * 1000
    feed.points([(("p", f"s{i % 3}", "m"), now_us - i * 1000, float(i)) for i in range(number)])


def all_are_stored(environment: dict[str, str], feed: Feed) -> bool:
    sent = {(key, event_us) for points in feed.sent.values() for key, event_us, _ in points}
    return stored(environment["TIDEMARK_DATABASE_URL"]).keys() == sent


def until(pool: Engine, holds: Callable[[Completeness], bool], within_s: float = 60) -> Completeness:
    limit = time.monotonic() + within_s
    while True:
        found = completeness_of(pool, "p")
        if found is not None and holds(found):
            return found
        assert time.monotonic() < limit, found
        time.sleep(0.2)


def of_publish(found: Completeness, since_us: int) -> bool:
    return found.ingested_until is not None and found.ingested_until >= since_us


@pytest.mark.timeout(400)
def test_a_running_ingest_is_live_and_a_dead_one_stays_where_it_was(
    environment: dict[str, str], feed: Feed, pool: Engine, tmp_path: Path
) -> None:
    log = tmp_path / "ingest.log"
    began_us = time.time_ns() // 1000
    publish(feed)
    job = Job(environment, log)
    try:
        job.wait_ready()
        for _ in range(40):
            publish(feed)
            time.sleep(0.2)
        found = until(pool, lambda found: of_publish(found, began_us))
        assert found.ingest == "live"
        (beat,) = found.heartbeats
        assert beat.job == "ingest"
        assert beat.watermark is not None
        quiet_us = time.time_ns() // 1000
        found = until(pool, lambda found: of_publish(found, quiet_us))
        assert found.heartbeats[0].idle
        assert all_are_stored(environment, feed)
        complete = until(
            pool, lambda found: found.complete_until is not None and found.complete_until > quiet_us
        ).complete_until
        assert complete is not None
    finally:
        job.kill()
    dead = until(pool, lambda _: True)
    before = query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*) FROM points")[0][0]
    lost_us = time.time_ns() // 1000
    publish(feed, 2000)
    with transaction(pool) as connection:  # as later
        connection.exec_driver_sql(f"UPDATE heartbeats SET at = at - interval '{COUNTS_S + 1} seconds'")
    silent = until(pool, lambda found: found.ingest.startswith("silent since"))
    assert silent.ingested_until is not None
    assert dead.ingested_until is not None
    assert silent.ingested_until <= dead.ingested_until < lost_us
    assert until(pool, lambda _: True).complete_until == silent.complete_until
    job = Job(environment, log, "--prefetch_messages=5")
    try:
        while True:  # until the backlog is worked off nothing is promised of it
            found = until(pool, lambda found: found.ingested_until is not None)
            points = query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*) FROM points")[0][0]
            if points > before + 1000:
                break
            assert not of_publish(found, lost_us)
        found = until(pool, lambda found: of_publish(found, lost_us + US))
        assert found.ingest == "live"
        assert all_are_stored(environment, feed)
    finally:
        job.kill()
