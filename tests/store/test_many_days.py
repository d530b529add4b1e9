"""Ten years of days in one burst, beside live points, on a server with PostgreSQL's own number of locks."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.store.live import Live
from tidemark.local.postgres import Postgres
from tidemark.operate.compare_store import check_ledger, check_rollups, extent
from tidemark.operate.report import Report
from tidemark.store.connection import make_engine, single_statement
from tidemark.store.housekeeping import Housekeeping
from tidemark.store.hypertable import hypertable
from tidemark.store.owing import Policy
from tidemark.store.read import Reader
from tidemark.store.rebuild import Rebuild
from tidemark.store.remove import Deletion
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.snapshot import snapshot
from tidemark.store.write import Writer
from tidemark.wire.block import BLOCK_POINTS, Block, SeriesKey
from tidemark.wire.summary import POINT

TIERS_S = (60, 3600, 86_400)
DAY_S, DAY_US = 86_400, 86_400_000_000
FIRST_US = 1_420_070_400_000_000 // DAY_US * DAY_US
"""2015-01-01."""
DAYS = 3650
LONGEST_WAIT_S = 5.0
SERIES = [SeriesKey("archive", f"s{i}", "m") for i in range(100)]


def archive(points_a_day: int, value: float = 1.0, publish: int = 0) -> Iterator[Block]:
    """Blocks as they come of messages that each hold a point of every day of some years."""
    rng = np.random.default_rng(7)
    number = DAYS * points_a_day
    points = np.empty(number, POINT)
    day = np.tile(np.arange(DAYS), points_a_day)
    turn = np.repeat(np.arange(points_a_day), DAYS)
    points["series_id"] = rng.integers(0, len(SERIES), number) if points_a_day < 1000 else turn // 10
    points["event_time"] = FIRST_US + day * DAY_US + turn * 60_000_000 + rng.integers(0, 1_000_000, number) * 7
    points["publish_time"] = FIRST_US + 5000 * DAY_US + publish
    points["value"] = value
    for at in range(0, number, BLOCK_POINTS):
        yield Block(SERIES, points[at : at + BLOCK_POINTS])


def owed(pool: Engine) -> int:
    with single_statement(pool) as connection:
        return int(
            connection.exec_driver_sql(
                "SELECT count(*) FROM marks WHERE window_to < '2025-01-01Z'::timestamptz"
            ).scalar_one()
        )


def differences(pool: Engine) -> Report:
    report = Report()
    with snapshot(pool) as now:
        within = extent(now, DAY_S, FIRST_US // 1_000_000, FIRST_US // 1_000_000 + DAYS * DAY_S, lambda _low, _high: ())
        check_ledger(now, report)
        for level, tier_s in enumerate(TIERS_S):
            for scope in within.slices(tier_s):
                with now.part() as part:
                    check_rollups(part, report, TIERS_S, level, scope, quantiles=False)
    return report


@pytest.mark.timeout(900)
def test_ten_years_of_days_in_a_burst_hold_up_nobody(server: Postgres, pytestconfig: pytest.Config) -> None:
    points_a_day = 1000 if pytestconfig.getoption("--long") else 3
    pool = make_engine(server.url(), 6, 60)
    patient = make_engine(
        server.url(), 2, 3600
    )  # as `verify` has it: a snapshot is held while parts of it are compared
    with single_statement(pool) as connection:
        shown = "SELECT current_setting('max_locks_per_transaction'), current_setting('max_connections')"
        assert connection.exec_driver_sql(shown).one() == ("64", "100")
        is_hypertable = hypertable(connection) is not None
    live = Live(pool, TIERS_S)
    live.start()
    writer = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))
    stored = sum(writer.write(block).inserted for block in archive(points_a_day))
    overwritten = sum(writer.write(block).overwritten for block in archive(points_a_day, 2.0, 1))
    assert stored == overwritten
    assert stored > 0.99 * DAYS * points_a_day, "some fall on the same microsecond"
    until = time.monotonic() + 600
    while owed(pool) and time.monotonic() < until:
        time.sleep(0.2)
    assert live.stop() <= LONGEST_WAIT_S
    assert owed(pool) == 0
    if is_hypertable:
        with single_statement(pool) as connection:
            chunks = connection.exec_driver_sql("SELECT count(*) FROM timescaledb_information.chunks").scalar_one()
        assert chunks > DAYS
    report = differences(patient)
    assert (report.rollups_differ, report.ledger_off_by, report.examples) == (0, 0, [])
    assert report.rollups > 3 * DAYS

    # and what reaches over all of it
    reader = Reader(pool, TIERS_S)
    ids = reader.series("archive")
    assert sum(1 for number in list(ids)[:3] for _ in reader.points(number, 0, 2**53)) > 0
    removed = sum(part.points for part in Deletion(pool, TIERS_S, list(ids)[:2], None, None).run())
    assert removed > 0
    start_s = FIRST_US // 1_000_000
    assert Rebuild(pool, TIERS_S, start_s + 100 * DAY_S, start_s + 160 * DAY_S).mark()
    settler = Settler(pool, TIERS_S, 0)
    while found := list(settler.due(everything=True)):
        for settled in found:
            settler.forget(settled.mark_ids)
    report = differences(patient)
    assert (report.rollups_differ, report.ledger_off_by, report.examples) == (0, 0, [])
    keeping = Housekeeping(pool)
    cut = keeping.move_cut(start_s + 3000 * DAY_S, DAY_S)
    assert cut.held_back is None
    assert sum(keeping.remove_points(cut.before_s)) > 0.7 * stored
    assert keeping.adopt_removed() == 0
    patient.dispose()
    pool.dispose()
