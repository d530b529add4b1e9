"""What final rollups said before they were corrected is kept, exactly and once; on a real PostgreSQL."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.integration.oracle import Key, Oracle
from tests.store.corrections import chained, same
from tidemark.errors import UnavailableError
from tidemark.store.connection import make_engine, transaction
from tidemark.store.owing import Policy
from tidemark.store.remove import Deletion
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

TIERS_S = (60, 3600, 86_400)
HORIZON_S = 120
START_US = 1_700_000_000_000_000
KEYS = [SeriesKey("p", f"s{i}", "m") for i in range(4)]
Said = dict[tuple[int, Key, int], tuple[float, ...]]
"""(tier, series, window start) to count, sum, least and greatest value."""


@pytest.fixture
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 4, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, corrections, series")
    yield made
    made.dispose()


def settle_all(pool: Engine, *, quantiles: bool = False, forget: bool = True) -> None:
    settler = Settler(pool, TIERS_S, HORIZON_S, quantiles)
    while found := list(settler.due(everything=True)):
        for settled in found:
            if forget:
                settler.forget(settled.mark_ids)
        if not forget:
            return


def write(pool: Engine, oracle: Oracle, rows: list[tuple[int, int, int, float]]) -> None:
    for key, event, published, value in rows:
        oracle.publish(tuple(KEYS[key]), event, published, value)
    Writer(pool, SeriesCache(pool), Policy(60, HORIZON_S, 0)).write(Block(KEYS, np.array(rows, POINT)))


def said(oracle: Oracle) -> tuple[Said, set[tuple[int, Key, int]]]:
    """What the rollups are; and which have no point from before their horizon."""
    found: Said = {}
    late = set()
    for tier_s in TIERS_S:
        for (key, start), row in oracle.rollups(tier_s, TIERS_S[0]).items():
            found[tier_s, key, start] = (row["count"], row["sum"], row["min"], row["max"])
            if row["first_publish_time"] > start + (tier_s + HORIZON_S) * 1_000_000:
                late.add((tier_s, key, start))
    return found, late


def corrections(pool: Engine) -> list[tuple]:
    with transaction(pool) as connection:
        return connection.exec_driver_sql(
            """SELECT tier_s, project, source, metric, (extract(epoch FROM window_start) * 1000000)::bigint,
                      was_count, was_sum, was_min, was_max, is_count, is_sum, is_min, is_max,
                      (extract(epoch FROM last_publish_time) * 1000000)::bigint
               FROM corrections JOIN series USING (series_id) ORDER BY revision"""
        ).all()


@pytest.mark.parametrize("quantiles", [False, True])
@pytest.mark.parametrize("seed", [1, 2])
def test_each_says_what_was_and_what_is(pool: Engine, seed: int, quantiles: bool) -> None:
    rng = random.Random(seed)
    oracle = Oracle()
    before: Said = {}
    told = 0
    for turn in range(6):
        rows = []
        for _ in range(150):
            event = START_US + rng.randrange(600) * 7_000_000
            late = rng.choice((1, 50, 300, 4000)) * 1_000_000 if turn else 1_000_000
            rows.append((rng.randrange(4), event, event + late + turn, rng.uniform(-5, 5)))
        write(pool, oracle, rows)
        settle_all(pool, quantiles=quantiles)
        now, all_late = said(oracle)
        wanted = {}
        for window, is_ in now.items():
            was = before.get(window)
            if was is None:
                if window in all_late:
                    wanted[window] = ((0, 0, 0, 0), is_)
            elif was != is_:
                wanted[window] = (was, is_)
        new = corrections(pool)[told:]
        told += len(new)
        got = {(row[0], tuple(row[1:4]), row[4]): (tuple(row[5:9]), tuple(row[9:13])) for row in new}
        assert len(got) == len(new)
        # the same points folded in another order may differ in the last digit of a sum
        changed = {w for w, (was, is_) in wanted.items() if not same(was, is_)}
        assert changed <= got.keys() <= wanted.keys()
        assert changed or not turn
        for window, (was, is_) in got.items():
            assert same(was, wanted[window][0])
            assert same(is_, wanted[window][1])
        before = now
    assert chained(pool) == told > 100


def test_an_open_window_that_fills_is_not_corrected(pool: Engine) -> None:
    with transaction(pool) as connection:
        now_us = connection.exec_driver_sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").scalar()
    oracle = Oracle()
    for turn in range(3):
        write(pool, oracle, [(0, now_us - turn * 1000, now_us, 1.0)])
        settle_all(pool)
    assert corrections(pool) == []


def test_what_was_deleted_was_there(pool: Engine) -> None:
    oracle = Oracle()
    write(
        pool, oracle, [(0, START_US, START_US, 3.0), (0, START_US + 1, START_US + 1, 5.0), (1, START_US, START_US, 1)]
    )
    settle_all(pool)
    with transaction(pool) as connection:
        number = connection.exec_driver_sql("SELECT series_id FROM series WHERE source = 's0'").scalar_one()
    list(Deletion(pool, TIERS_S, [number], None, None).run())
    settle_all(pool)
    assert [tuple(row[5:13]) for row in corrections(pool)] == [(2, 8, 3, 5, 0, 0, 0, 0)] * 3
    assert {row[2] for row in corrections(pool)} == {"s0"}


def test_a_settling_that_is_repeated_or_fails_tells_nothing_twice(
    pool: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = Oracle()
    write(pool, oracle, [(0, START_US, START_US, 3.0)])
    settle_all(pool)
    late_us = START_US + 600_000_000
    write(pool, oracle, [(0, START_US + 1, late_us, 5.0)])
    with monkeypatch.context() as patched:

        def fails(*_: object) -> None:
            raise UnavailableError("It was killed before its commit.")

        patched.setattr(Settler, "_hold", fails)
        with pytest.raises(UnavailableError):
            settle_all(pool)
    assert corrections(pool) == []
    for _ in range(3):  # killed after its commit
        settle_all(pool, forget=False)
        assert [row[0] for row in corrections(pool)][:1] == [60]
    settle_all(pool)
    found = corrections(pool)
    assert [tuple(row[5:13]) for row in found] == [(1, 3, 3, 3, 2, 8, 3, 5)] * 3
    assert {row[13] for row in found} == {late_us}
    assert chained(pool) == 3
