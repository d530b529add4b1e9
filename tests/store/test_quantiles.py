"""Quantiles of settled rollups: within 1 % of the points' own, whatever came twice, late or was overwritten."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.wire.test_algebra import close, true_quantile
from tidemark.operate.compare_store import check_rollups
from tidemark.operate.report import Report
from tidemark.store.connection import make_engine, transaction
from tidemark.store.fold import Range
from tidemark.store.owing import Policy
from tidemark.store.rebuild import Rebuild
from tidemark.store.remove import Deletion
from tidemark.store.series import SeriesCache
from tidemark.store.settle import NO_NESTED_LOOPS, Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.quantiles import QUANTILES, bins_of
from tidemark.wire.summary import POINT

TIERS_S = (60, 3600, 86_400)
START_S = 1_767_225_600
KEYS = [SeriesKey("p", f"s{i}", "m") for i in range(4)]
RANGE = Range(START_S, START_S + 86_400)


@pytest.fixture
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 4, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, ledger")
    yield made
    made.dispose()


def value(rng: random.Random) -> float:
    return rng.choice(
        [0.0, -0.0, 1e150, -1e150, 1e-305, rng.uniform(-5, 5), rng.lognormvariate(0, 40), rng.gauss(9, 1)]
    )


def write(pool: Engine, rng: random.Random, number: int) -> None:
    rows = []
    for _ in range(number):
        event = START_S * 1_000_000 + rng.randrange(3000) * 7_000_000
        rows.append((rng.randrange(len(KEYS)), event, event + rng.randrange(200_000_000), value(rng) + 0.0))
    Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(Block(KEYS, np.array(rows, POINT)))


def settle(pool: Engine, *, quantiles: bool = True) -> list[np.ndarray]:
    settler, rows = Settler(pool, TIERS_S, 0, quantiles), []
    while found := list(settler.due(everything=True)):
        for settled in found:
            rows.append(settled.rows)
            settler.forget(settled.mark_ids)
    return rows


def rollups(pool: Engine) -> list:
    names = ", ".join(QUANTILES)
    with transaction(pool) as connection:
        return connection.exec_driver_sql(
            f"SELECT series_id, tier_s, extract(epoch FROM window_start)::bigint, count, bins, bin_counts, {names} FROM rollups"
        ).all()


def points(pool: Engine, series_id: int, start: int, end: int) -> list[float]:
    with transaction(pool) as connection:
        rows = connection.exec_driver_sql(
            "SELECT value FROM points WHERE series_id = %s AND event_time >= to_timestamp(%s) AND event_time < to_timestamp(%s)",
            (series_id, start, end),
        ).all()
    return [row[0] for row in rows]


def are_right(pool: Engine) -> int:
    compared = 0
    for series_id, tier_s, start, count, bins, counts, *found in rollups(pool):
        values = points(pool, series_id, start, start + tier_s)
        assert len(values) == count
        if not count:
            assert (bins, counts, *found) == (None,) * 5
            continue
        wanted, numbers = np.unique(bins_of(np.array(values)), return_counts=True)
        assert (bins, counts) == (wanted.tolist(), numbers.tolist()), "the same bins as the stream's"
        for quantile, share in zip(found, QUANTILES.values(), strict=True):
            assert close(quantile, true_quantile(values, share))
            assert min(values) <= quantile <= max(values)
            compared += 1
    return compared


def differs(pool: Engine, *, quantiles: bool) -> int:
    report = Report()
    with transaction(pool) as connection:
        if quantiles:
            connection.exec_driver_sql(NO_NESTED_LOOPS)
        for level in range(len(TIERS_S)):
            check_rollups(connection, report, TIERS_S, level, RANGE, quantiles=quantiles)
    return report.rollups_differ


@pytest.mark.parametrize("seed", [1, 2])
def test_every_tier_has_the_quantiles_of_its_points(pool: Engine, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(3):
        write(pool, rng, 1500)
        rows = settle(pool)
        assert not any(np.isnan(some["p50"][some["count"] > 0]).any() for some in rows)
    assert are_right(pool) > 1000
    assert differs(pool, quantiles=True) == 0

    with transaction(pool) as connection:
        ids = [row[0] for row in connection.exec_driver_sql("SELECT series_id FROM series WHERE source = 's1'").all()]
    list(Deletion(pool, TIERS_S, ids, START_S + 600, START_S + 7300).run())
    settle(pool)
    assert are_right(pool) > 1000
    assert differs(pool, quantiles=True) == 0


def test_nobody_who_does_not_ask_has_them(pool: Engine) -> None:
    write(pool, random.Random(3), 500)
    rows = settle(pool, quantiles=False)
    assert all(np.isnan(some["p99"]).all() for some in rows)
    assert {tuple(row[4:]) for row in rollups(pool)} == {(None,) * 5}


def test_older_windows_get_theirs_by_a_rebuild_and_until_then_no_wrong_ones(pool: Engine) -> None:
    write(pool, random.Random(4), 500)
    settle(pool, quantiles=False)
    with transaction(pool) as connection:
        connection.exec_driver_sql(
            "INSERT INTO points SELECT series_id, event_time + interval '1 ms', 5, publish_time FROM points"
            " ORDER BY 1, 2 LIMIT 1"
        )
        connection.exec_driver_sql(
            "INSERT INTO marks (tier_s, window_from, window_to, ready_at) SELECT 60, date_bin('1 min', event_time, 'epoch'),"
            " date_bin('1 min', event_time, 'epoch') + interval '1 min', now() FROM points ORDER BY series_id, event_time LIMIT 1"
        )
    settle(pool)
    by_tier = {tier_s: [row for row in rollups(pool) if row[1] == tier_s and row[4]] for tier_s in TIERS_S}
    assert by_tier[60]
    assert by_tier[86_400] == [], "a day of minutes without sketches has none, rather than one of a few points"
    assert {tuple(row[6:]) for row in rollups(pool) if not row[4]} == {(None,) * 3}, "nor quantiles"
    assert differs(pool, quantiles=True) > 0
    assert differs(pool, quantiles=False) == 0
    Rebuild(pool, TIERS_S, START_S, START_S + 86_400).mark()
    settle(pool)
    assert are_right(pool) > 500
    assert differs(pool, quantiles=True) == 0


def test_a_minute_newer_than_the_statistics_of_the_table_takes_no_nested_loop(pool: Engine) -> None:
    keys = [SeriesKey("wide", f"s{i}", "m") for i in range(3000)]
    series, writer = SeriesCache(pool), Writer(pool, SeriesCache(pool), Policy(60, 0, 0))

    def minute(number: int) -> None:
        rows = [(i % 3000, (START_S + number * 60) * 1_000_000 + i, 0, float(i % 7)) for i in range(9000)]
        writer.write(Block(keys, np.array(rows, POINT)))

    series.ids(keys)
    minute(0)
    settle(pool)
    with transaction(pool) as connection:
        connection.exec_driver_sql("ANALYZE points, rollups")
    minute(100)
    began = time.monotonic()
    settle(pool)
    assert differs(pool, quantiles=True) == 0
    assert time.monotonic() - began < 15
