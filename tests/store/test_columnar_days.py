"""Late points, overwrites, a deletion, retention and a rebuild on columnar days, beside live points."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.store.live import Live
from tests.store.test_many_days import differences
from tidemark.local.postgres import Postgres, find
from tidemark.store.connection import make_engine, single_statement
from tidemark.store.housekeeping import Housekeeping
from tidemark.store.owing import Policy
from tidemark.store.rebuild import Rebuild
from tidemark.store.remove import Deletion
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import BLOCK_POINTS, Block, SeriesKey
from tidemark.wire.summary import POINT

TIERS_S = (60, 3600, 86_400)
DAY_S, DAY_US = 86_400, 86_400_000_000
FIRST_S = 1_420_070_400
DAYS, SERIES = 10, 100
KEYS = [SeriesKey("columns", f"s{i}", "m") for i in range(SERIES)]
LONGEST_S, LONGEST_WAIT_S = 60.0, 5.0

pytestmark = pytest.mark.skipif(not find().has_timescaledb(), reason="this server has no TimescaleDB")


def blocks(points: np.ndarray) -> Iterator[Block]:
    for at in range(0, len(points), BLOCK_POINTS):
        yield Block(KEYS, points[at : at + BLOCK_POINTS])


def size(pool: Engine) -> int:
    with single_statement(pool) as connection:
        return int(
            connection.exec_driver_sql(
                "SELECT sum(total_bytes) FROM chunks_detailed_size('points') c JOIN timescaledb_information.chunks i"
                " USING (chunk_schema, chunk_name) WHERE i.range_end < '2020-01-01Z'::timestamptz"
            ).scalar_one()
        )


@pytest.mark.timeout(900)
def test_columnar_days_take_all_of_it_at_once(server: Postgres, pytestconfig: pytest.Config) -> None:
    whole = pytestconfig.getoption("--long")
    a_day, some = (1_000_000, 50_000) if whole else (30_000, 1_500)
    pool = make_engine(server.url(), 6, 60)
    writer, keeping = Writer(pool, SeriesCache(pool), Policy(60, 0, 0)), Housekeeping(pool)
    rng = np.random.default_rng(11)
    step_us = DAY_US * SERIES // a_day
    points = np.empty(DAYS * a_day, POINT)
    points["series_id"] = np.arange(len(points)) % SERIES
    points["event_time"] = FIRST_S * 1_000_000 + np.arange(len(points)) // SERIES * step_us
    points["publish_time"] = (FIRST_S + DAYS * DAY_S) * 1_000_000
    points["value"] = np.round(rng.normal(25, 2, len(points)) * 4) / 4
    stored = sum(writer.write(block).inserted for block in blocks(points))
    settler = Settler(pool, TIERS_S, 0)

    def settle() -> None:
        while found := list(settler.due(everything=True)):
            for settled in found:
                settler.forget(settled.mark_ids)

    settle()
    assert keeping.compress(FIRST_S + 2 * DAYS * DAY_S) == DAYS
    before = size(pool)

    changed = points[rng.choice(len(points), 2 * some, replace=False)].copy()
    changed["publish_time"] += 1
    late, overwrites = changed[:some], changed[some:]
    late["event_time"] += rng.integers(1, step_us, some)
    live = Live(pool, TIERS_S)
    live.start()
    began = time.monotonic()
    assert sum(writer.write(block).inserted for block in blocks(late)) == some
    assert sum(writer.write(block).overwritten for block in blocks(overwrites)) == some
    ids = SeriesCache(pool).ids(KEYS)
    removed = sum(part.points for part in Deletion(pool, TIERS_S, ids, FIRST_S + 4 * DAY_S, FIRST_S + 5 * DAY_S).run())
    assert removed > 0.99 * a_day
    assert Rebuild(pool, TIERS_S, FIRST_S + 6 * DAY_S, FIRST_S + 7 * DAY_S).mark()
    settle()
    cut = keeping.move_cut(FIRST_S + DAY_S // 2, 3600)
    assert cut.held_back is None
    gone = sum(keeping.remove_points(cut.before_s))
    assert gone > 0.49 * a_day
    settle()
    took_s, waited_s = time.monotonic() - began, live.stop()
    report = differences(pool)
    assert (report.rollups_differ, report.ledger_off_by, report.examples) == (0, 0, [])
    began = time.monotonic()
    assert keeping.compress(FIRST_S + 2 * DAYS * DAY_S) == 0
    after = size(pool)
    print(
        f"{stored:,} points; all within {took_s:.1f} s, live points waited {waited_s:.2f} s at most; compressing again "
        f"{time.monotonic() - began:.1f} s; {before:,} bytes before, {after:,} after"
    )
    assert took_s <= LONGEST_S
    assert waited_s <= LONGEST_WAIT_S
    assert after <= 1.3 * before
    pool.dispose()
