"""Where the server has TimescaleDB: chunks, columns, and late points that go into them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.integration.oracle import Oracle
from tidemark.local.postgres import find
from tidemark.store.connection import make_engine, transaction
from tidemark.store.fold import SUMMARY
from tidemark.store.housekeeping import Housekeeping
from tidemark.store.ledger import totals
from tidemark.store.read import Reader
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Policy, Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

TIERS_S = (60, 3600, 86_400)
DAY_US = 86_400_000_000
START_US = 1_767_225_600_000_000
KEYS = [SeriesKey("ts", f"s{i}", "m") for i in range(4)]

pytestmark = pytest.mark.skipif(not find().has_timescaledb(), reason="this server has no TimescaleDB")


@pytest.fixture(scope="module")
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 2, 60)
    yield made
    made.dispose()


def settle(pool: Engine) -> None:
    settler = Settler(pool, TIERS_S, 0)
    while found := list(settler.due(everything=True)):
        for settled in found:
            settler.forget(settled.mark_ids)


def test_late_points_go_into_columnar_chunks(pool: Engine) -> None:
    oracle, rng = Oracle(), random.Random(1)
    series = SeriesCache(pool)
    writer = Writer(pool, series, Policy(60, 0, 0))

    def write(number: int, publish_from: int) -> None:
        rows = []
        for _ in range(number):
            key, event = rng.randrange(4), START_US + rng.randrange(3 * 2880) * 30_000_000
            published, value = START_US + publish_from + rng.randrange(1000), float(rng.randrange(100))
            rows.append((key, event, published, value))
            oracle.publish(tuple(KEYS[key]), event, published, value)
        writer.write(Block(KEYS, np.array(rows, POINT)))

    def right() -> None:
        with transaction(pool) as connection:
            rows = connection.exec_driver_sql(
                """SELECT project, source, metric, (extract(epoch FROM event_time) * 1000000)::bigint,
                          (extract(epoch FROM publish_time) * 1000000)::bigint, value
                   FROM points JOIN series USING (series_id)"""
            ).all()
            ledger = totals(connection)
        assert {((r[0], r[1], r[2]), r[3]): (r[4], r[5]) for r in rows} == oracle.winners
        assert ledger.unbalanced == 0
        assert ledger.inserted == len(rows)

    def buckets() -> list[float]:
        reader = Reader(pool, TIERS_S)
        ids = series.ids(KEYS)
        whole = [reader.buckets(ids, START_US, START_US + 3 * DAY_US, s, SUMMARY) for s in (60, 90, 3600, 86_400)]
        return [number for rows in whole for row in rows.tolist() for number in row]

    write(5000, 10_000)
    settle(pool)
    before = buckets()
    keeping = Housekeeping(pool)
    assert keeping.is_hypertable()
    assert keeping.compress(START_US // 1_000_000 + 10 * 86_400) == 3
    right()
    assert buckets() == pytest.approx(before, rel=1e-9, abs=1e-9)
    write(3000, 20_000)  # overwrites
    write(3000, 0)  # older: some new, the rest ignored
    right()
    settle(pool)
    right()
    with transaction(pool) as connection:
        counts = connection.exec_driver_sql("SELECT tier_s, sum(count) FROM rollups GROUP BY tier_s").all()
    assert {tier_s: int(number) for tier_s, number in counts} == dict.fromkeys(TIERS_S, len(oracle.winners))
    after = buckets()
    assert after != before
    assert keeping.compress(START_US // 1_000_000 + 10 * 86_400) == 0
    right()
    assert buckets() == pytest.approx(after, rel=1e-9, abs=1e-9)


def test_chunks_are_days(pool: Engine) -> None:
    with transaction(pool) as connection:
        width = connection.exec_driver_sql(
            "SELECT time_interval FROM timescaledb_information.dimensions WHERE hypertable_name = 'points'"
        ).scalar_one()
    assert width.total_seconds() == 86_400
