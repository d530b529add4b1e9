"""Where the server has TimescaleDB: chunks, columns, and late points that go into them."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, make_url

from tests.integration.oracle import Oracle
from tidemark import cli
from tidemark.local.postgres import Postgres, find
from tidemark.operate.compare_store import check_ledger
from tidemark.operate.maintain import Maintained, maintain
from tidemark.operate.report import Report
from tidemark.settings import INGEST, MAINTAIN, read
from tidemark.store import preflight
from tidemark.store.connection import make_engine, single_statement, transaction
from tidemark.store.fold import SUMMARY
from tidemark.store.housekeeping import Housekeeping
from tidemark.store.ledger import totals
from tidemark.store.migrate import migrate
from tidemark.store.owing import Policy
from tidemark.store.read import Reader
from tidemark.store.rebuild import Rebuild
from tidemark.store.remove import Deletion
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.snapshot import snapshot
from tidemark.store.write import Writer
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
    assert keeping.hypertable() is not None
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


def fresh(server: Postgres, *before: str) -> str:
    """The URL of a new database, migrated after some statements."""
    name = f"d{time.time_ns()}"
    plain = make_engine(server.url(), 1, 60)
    with single_statement(plain) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    plain.dispose()
    url = make_url(server.url()).set(database=name).render_as_string(False)
    run(url, "CREATE EXTENSION IF NOT EXISTS timescaledb", *before)
    migrate(url)
    return url


def run(url: str, *statements: str) -> list[tuple]:
    made = make_engine(url, 1, 60)
    rows: list[tuple] = []
    try:
        for statement in statements:
            with single_statement(made) as connection:
                found = connection.exec_driver_sql(statement)
                rows = [tuple(row) for row in found.all()] if found.returns_rows else []
    finally:
        made.dispose()
    return rows


def days(
    url: str, first: int, number: int, series: int = 4, value: float = 1.0, publish: int = 0, step_s: int = 600
) -> int:
    """Write some points a series on each of some days, settle them, and say how many were stored."""
    made = make_engine(url, 2, 60)
    keys = [SeriesKey("ts", f"s{i}", "m") for i in range(series)]
    times = np.arange(START_US + first * DAY_US, START_US + (first + number) * DAY_US, step_s * 1_000_000)
    points = np.empty(len(times) * series, POINT)
    points["series_id"] = np.repeat(np.arange(series), len(times))
    points["event_time"] = np.tile(times, series)
    points["publish_time"] = START_US + 100 * DAY_US + publish
    points["value"] = value
    writer = Writer(made, SeriesCache(made), Policy(60, 0, 0))
    try:
        written = [writer.write(Block(keys, points[at : at + 10_000])) for at in range(0, len(points), 10_000)]
        settle(made)
    finally:
        made.dispose()
    return sum(part.inserted for part in written)


def kept(url: str, now_day: float, **settings: str) -> Maintained:
    values = read(MAINTAIN, settings, environment={})
    return maintain(url, values, START_US / 1e6 + now_day * 86_400)


def balanced(url: str) -> bool:
    ((stored, said),) = run(
        url, "SELECT (SELECT count(*) FROM points), (SELECT sum(inserted) - sum(removed) FROM ledger)"
    )
    return int(stored) == int(said)


def test_another_schemas_hypertable_of_the_same_name_is_left_alone(server: Postgres) -> None:
    url = fresh(
        server,
        "CREATE SCHEMA other",
        "CREATE TABLE other.points (event_time timestamptz NOT NULL, x float)",
        "SELECT create_hypertable('other.points', 'event_time')",
        "ALTER TABLE other.points SET (timescaledb.compress)",
        "INSERT INTO other.points SELECT '2026-01-01Z'::timestamptz + n * interval '1 hour', n FROM generate_series(0, 216) n",
    )
    days(url, 0, 3)
    done = kept(url, 40, retention_days="38")
    assert done.failed == {}
    assert done.points_removed == 2 * 4 * 144
    assert balanced(url)
    assert run(url, "SELECT count(*) FROM other.points") == [(217,)]
    packed = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_schema = 'other' AND is_compressed"
    assert run(url, packed) == [(0,)]


def test_a_plain_table_beside_another_schemas_hypertable_stays_plain(server: Postgres) -> None:
    url = fresh(
        server,
        "CREATE SCHEMA other",
        "CREATE TABLE other.points (event_time timestamptz NOT NULL)",
        "SELECT create_hypertable('other.points', 'event_time')",
    )
    run(
        url, "CREATE TABLE plain (LIKE points INCLUDING ALL)", "DROP TABLE points", "ALTER TABLE plain RENAME TO points"
    )
    days(url, 0, 2)
    done = kept(url, 40, retention_days="39")
    assert (done.failed, done.points_removed) == ({}, 4 * 144)
    assert balanced(url)


def test_a_hypertable_that_a_person_made_gets_its_columns(server: Postgres) -> None:
    url = fresh(server)
    run(
        url, "CREATE TABLE plain (LIKE points INCLUDING ALL)", "DROP TABLE points", "ALTER TABLE plain RENAME TO points"
    )
    days(url, 0, 2)
    page = (Path(__file__).parents[2] / "docs" / "operations" / "database.md").read_text()
    (statement,) = re.findall(r"`(SELECT create_hypertable\([^`]*)`", page)
    run(url, statement)
    done = kept(url, 40)
    assert (done.failed, done.chunks_compressed) == ({}, 2)
    assert days(url, 0, 2, publish=1, value=2.0) == 0
    assert balanced(url)


def test_the_apache_edition_is_told_and_everything_else_is_done(
    server: Postgres, capsys: pytest.CaptureFixture[str]
) -> None:
    run(server.url(), "ALTER SYSTEM SET timescaledb.license = 'apache'", "SELECT pg_reload_conf()")
    try:
        url = fresh(server)
        days(url, 0, 2)
        assert cli.main(["maintain", f"--database_url={url}"]) == 0
        assert "Apache edition" in capsys.readouterr().out
        assert kept(url, 40, retention_days="39").points_removed == 4 * 144
        assert balanced(url)
    finally:
        run(server.url(), "ALTER SYSTEM RESET timescaledb.license", "SELECT pg_reload_conf()")


def test_a_step_that_fails_is_told_and_the_next_ones_are_done(server: Postgres) -> None:
    url = fresh(server)
    days(url, 0, 2)
    run(
        url,
        "ALTER TABLE ledger ADD CONSTRAINT not_now CHECK (removed = 0)",
        "INSERT INTO dead_letters (message_id, position, data, attributes, stage, reason, detail, publish_time, first_seen)"
        " VALUES ('m', 0, '', '{}', 's', 'r', '', now(), '2026-01-01Z')",
    )
    done = kept(url, 40, retention_days="39", dead_letter_days="1")
    assert set(done.failed) == {"retention"}
    assert "not_now" in done.failed["retention"]
    assert (done.chunks_compressed, done.dead_letters_removed) == (2, 1)
    run(url, "ALTER TABLE ledger DROP CONSTRAINT not_now")
    assert kept(url, 40, retention_days="39").points_removed == 4 * 144
    assert balanced(url)


def test_columnar_days_take_late_points_overwrites_deletions_retention_and_a_rebuild(server: Postgres) -> None:
    """With a limit of the role that any one of them would break."""
    url = fresh(server)
    run(url, "ALTER ROLE CURRENT_USER SET timescaledb.max_tuples_decompressed_per_dml_transaction = 1000")
    try:
        stored = days(url, 0, 3, series=120, step_s=900)
        assert kept(url, 40).chunks_compressed == 3
        ((before,),) = run(url, "SELECT sum(total_bytes)::bigint FROM chunks_detailed_size('points')")
        assert days(url, 0, 3, series=120, step_s=3600, value=2.0, publish=1) == 0
        assert run(url, "SELECT count(*) FROM points WHERE value = 2") == [(120 * 72,)]
        stored += days(url, 0, 3, series=120, step_s=7000, value=3.0, publish=2)
        made = make_engine(url, 2, 60)
        start_s = START_US // 1_000_000
        removed = sum(
            part.points
            for part in Deletion(made, TIERS_S, list(range(1, 121)), start_s + 86_400, start_s + 129_600).run()
        )
        assert removed > 120 * 48
        stored -= removed
        assert Rebuild(made, TIERS_S, start_s, start_s + 3 * 86_400).mark()
        settle(made)
        # a cut inside a day, as with tiers that end at an hour
        keeping = Housekeeping(made)
        reached = keeping.move_cut(start_s + 3600 * 6, 3600)
        gone = sum(keeping.remove_points(reached.before_s))
        assert gone >= 120 * 24
        assert run(url, "SELECT count(*) FROM points") == [(stored - gone,)]
        assert balanced(url)
        made.dispose()
        assert kept(url, 40).failed == {}
        ((after,),) = run(url, "SELECT sum(total_bytes)::bigint FROM chunks_detailed_size('points')")
        assert after <= 1.3 * before, (before, after)
    finally:
        run(url, "ALTER ROLE CURRENT_USER RESET timescaledb.max_tuples_decompressed_per_dml_transaction")


def test_chunks_that_another_dropped_are_told_and_accounted_for(server: Postgres) -> None:
    url = fresh(server)
    days(url, 0, 3)
    run(
        url,
        "SELECT add_retention_policy('points', interval '400 days')",
        "SELECT drop_chunks('points', '2026-01-02Z'::timestamptz)",
    )
    made = make_engine(url, 3, 60)
    values = read(
        INGEST, {"database_url": url, "rollup_dataset": "proj.d", "subscription": "projects/p/subscriptions/s"}, {}
    )
    (policy,) = [f for f in preflight.database(values, 1, 1) if f.subject == "TimescaleDB policy"]
    assert (policy.level, "remove_retention_policy" in policy.remedy) == ("fail", True)
    run(url, "SELECT remove_retention_policy('points')")
    assert [f for f in preflight.database(values, 1, 1) if f.subject == "TimescaleDB policy"] == []
    report = Report()
    with snapshot(made) as now:
        check_ledger(now, report)
    assert report.ledger_off_by == -576
    assert "576 were removed by another than Tidemark" in report.examples[0]
    arguments = ["maintain", f"--database_url={url}", "--adopt_removed", "--retention_days=39"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: START_US / 1e6 + 40 * 86_400)
        assert cli.main(arguments) == 0
    assert balanced(url)
    # a late point of a dropped day cuts nothing
    rollups = "SELECT tier_s, count(*), sum(count) FROM rollups GROUP BY 1 ORDER BY 1"
    before = run(url, rollups)
    days(url, 0, 1, series=1, publish=5, step_s=43_200)
    assert run(url, rollups) == before
    made.dispose()


def test_the_length_of_a_chunk_is_a_setting_that_preflight_holds_against_the_locks(server: Postgres) -> None:
    url = fresh(server)

    def told(**settings: str) -> list[tuple[str, str, str]]:
        given = {
            "database_url": url,
            "rollup_dataset": "proj.d",
            "subscription": "projects/p/subscriptions/s",
            **settings,
        }
        found = preflight.database(read(INGEST, given, {}), 1, 1)
        return [(f.level, f.said, f.remedy) for f in found if f.subject == "chunks"]

    ((level, *_),) = told(retention_days="365")
    assert level == "pass"
    ((level, said, remedy),) = told(retention_days="3650")
    assert (level, "18,250 locks at once, of 6,400" in said, "--chunk_days=6`" in remedy) == ("warn", True, True)
    assert cli.main(["migrate", f"--database_url={url}", "--chunk_days=6"]) == 0
    ((level, *_),) = told(retention_days="3650")
    assert level == "pass"
    days(url, 0, 60, series=1, step_s=43_200)
    width = "SELECT DISTINCT range_end - range_start FROM timescaledb_information.chunks"
    assert [row[0].total_seconds() for row in run(url, width)] == [6 * 86_400]
    assert balanced(url)
