"""`delete`, `maintain` and `rebuild` through the command line, on the real store; rollups and `verify` follow."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from tidemark import cli, retry
from tidemark.local.stack import DATASET, Stack
from tidemark.operate.maintain import Maintained, maintain
from tidemark.operate.verify import verify
from tidemark.settings import AGREED, MAINTAIN, read
from tidemark.store import housekeeping
from tidemark.store.agreement import agreed
from tidemark.store.connection import make_engine, transaction
from tidemark.store.ledger import totals
from tidemark.store.owing import Policy
from tidemark.store.remove import Deletion
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.warehouse.clients import rest
from tidemark.warehouse.read import latest
from tidemark.warehouse.writer import RollupWriter
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.message import moment
from tidemark.wire.summary import POINT, ROLLUP

TIERS_S = (60, 3600, 86_400)
DAY_US = 86_400_000_000
TODAY_US = time.time_ns() // 1000 // DAY_US * DAY_US
KEYS = [SeriesKey("a", "one", "m"), SeriesKey("a", "two", "m"), SeriesKey("b", "one", "m")]


class Product:
    def __init__(self, environment: dict[str, str]) -> None:
        self.pool: Engine = make_engine(environment["TIDEMARK_DATABASE_URL"], 4, 60)
        self.series = SeriesCache(self.pool)
        self.writer = Writer(self.pool, self.series, Policy(60, 0, 0))
        self.rollups = RollupWriter(DATASET, environment["TIDEMARK_BIGQUERY_STORAGE_ENDPOINT"])

    def write(self, days_ago: int, number: int = 300, series: tuple[int, ...] = (0, 1, 2)) -> None:
        start = TODAY_US - days_ago * DAY_US
        rows = [(s, start + i * 20_000_000, TODAY_US + i, float(i + s)) for s in series for i in range(number)]
        self.writer.write(Block(KEYS, np.array(rows, POINT)))

    def settle(self) -> None:
        settler = Settler(self.pool, TIERS_S, 0)
        while found := list(settler.due(everything=True)):
            for settled in found:
                ids = settled.rows["series_id"].tolist()
                names = self.series.names(sorted(set(ids)))
                self.rollups.append(settled.rows, [names[i] for i in ids], "settled")
                settler.forget(settled.mark_ids)

    def one(self, query: str) -> Any:
        with transaction(self.pool) as connection:
            return connection.exec_driver_sql(query).scalar_one()

    def number(self, query: str) -> int:
        return int(self.one(query))

    def until(self, query: str) -> None:
        """Wait until it says true."""
        deadline = time.monotonic() + 20
        while not self.one(query):
            assert time.monotonic() < deadline, query
            time.sleep(0.02)

    def shown(self, tier_s: int = 86_400) -> dict[tuple[str, str, int], int]:
        """Counts in BigQuery by project, source and days ago."""
        rows = latest(rest(DATASET), DATASET, 0, TODAY_US + DAY_US, tier_s)
        return {(r.project, r.source, (TODAY_US - r.window_start) // DAY_US): r.count for r in rows}


@pytest.fixture
def product(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Product]:
    environment = stack.environment()
    for name in ("BIGQUERY_EMULATOR_HOST", "TIDEMARK_DATABASE_URL", "TIDEMARK_ROLLUP_DATASET"):
        monkeypatch.setenv(name, environment[name])
    made = Product(environment)
    with transaction(made.pool) as connection:
        connection.exec_driver_sql(
            "TRUNCATE points, rollups, marks, dead_letters, ledger, corrections, series, settings"
        )
        connection.exec_driver_sql("UPDATE retention SET removed_before = '-infinity'")
    agreed(made.pool, read(AGREED, {"horizon_s": "0", "debounce_s": "0"}, environment={}), keep=True)
    made.series.forget()
    _empty_warehouse()
    yield made
    made.rollups.close()
    made.pool.dispose()


def _empty_warehouse() -> None:
    rest(DATASET).query(f"DELETE FROM `{DATASET}.rollups` WHERE true").result()


def command(capsys: pytest.CaptureFixture[str], *argv: str) -> dict:
    assert cli.main([*argv, "--json"]) == 0
    found: dict = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def right(product: Product) -> None:
    report = verify(product.pool.url.set(drivername="postgresql").render_as_string(False), DATASET, TIERS_S)
    assert report.passed, report
    with transaction(product.pool) as connection:
        assert totals(connection).unbalanced == 0


def day(days_ago: int) -> str:
    return moment(TODAY_US - days_ago * DAY_US).isoformat()


def test_delete_counts_first_and_rollups_follow(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    for days_ago in (1, 2, 3):
        product.write(days_ago)
    product.settle()
    what = ("delete", "--series_project=a", "--source=one", f"--from={day(2)}", f"--to={day(1)}")
    assert command(capsys, *what) == {"series": 1, "points": 300, "dead_letters": 0, "removed": False}
    assert product.number("SELECT count(*) FROM points") == 2700
    assert command(capsys, *what, "--yes") == {"series": 1, "points": 300, "dead_letters": 0, "removed": True}
    assert product.number("SELECT count(*) FROM points") == 2400
    product.settle()
    right(product)
    assert product.shown() == {(p, s, d): 300 for p, s, _ in KEYS for d in (1, 2, 3) if (p, s, d) != ("a", "one", 2)}
    assert command(capsys, "delete", "--series_project=a", "--yes")["points"] == 1500
    product.settle()
    right(product)
    assert product.shown() == {("b", "one", d): 300 for d in (1, 2, 3)}


def test_a_clock_decades_off_makes_no_work_for_the_days_between(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    for days_ago in (1, 20_000):
        product.write(days_ago)
    product.settle()
    began = time.monotonic()
    right(product)
    assert command(capsys, "delete", "--series_project=a", "--yes")["points"] == 1200
    assert time.monotonic() - began < 20, "20,000 transactions, and as many queries to BigQuery, take minutes"
    product.settle()
    right(product)
    assert product.shown() == {("b", "one", d): 300 for d in (1, 20_000)}


def test_part_of_a_window_can_be_deleted(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    product.write(1)
    product.settle()
    begin = (moment(TODAY_US - DAY_US) + timedelta(seconds=30)).isoformat()
    assert (
        command(capsys, "delete", "--series_project=b", f"--from={begin}", f"--to={day(0)}", "--yes")["points"] == 298
    )
    product.settle()
    right(product)
    assert product.shown()["b", "one", 1] == 2


def test_a_preview_of_deleted_points_is_hidden(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    product.write(1)
    ids = product.series.ids(KEYS)
    previews = np.zeros(6, ROLLUP)
    previews["series_id"], previews["tier_s"], previews["count"] = np.repeat(ids, 2), 60, 3
    previews["window_start"] = TODAY_US - DAY_US + np.tile([0, 60_000_000], 3)
    product.rollups.append(previews, [KEYS[i // 2] for i in range(6)], "on_time")
    command(capsys, "delete", "--series_project=a", "--source=one", "--yes")
    product.settle()
    assert {key[:2] for key in product.shown(60)} == {("a", "two"), ("b", "one")}
    right(product)


def test_rollups_outlive_their_points(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    for days_ago in (1, 40, 50):
        product.write(days_ago)
    product.settle()
    before = product.shown()
    done = command(capsys, "maintain", "--retention_days=30")
    assert done["points_removed"] == 1800
    assert product.number("SELECT count(*) FROM points") == 900
    product.write(40, number=1)  # a straggler that another worker let through
    assert command(capsys, "rebuild", f"--from={day(60)}", f"--to={day(0)}")["hidden"] == 0
    product.settle()
    assert product.shown() == before, "what is settled stays, straggler or not"
    right(product)
    assert command(capsys, "maintain", "--retention_days=30")["points_removed"] == 3
    right(product)


def test_retention_waits_for_windows_that_are_owed_a_settling(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    for days_ago in (1, 35, 40, 50):
        product.write(days_ago)
    product.settle()
    product.write(40, number=400)  # 100 late ones of each series, acknowledged
    due_at = product.one("SELECT min(ready_at) FROM marks").isoformat()
    done = command(capsys, "maintain", "--retention_days=30")
    assert done["points_removed"] == 900, "50 days ago nothing is owed"
    assert done["held_back"] == {"start": day(40), "end": day(30), "marks": 3, "due_at": due_at}
    assert cli.main(["maintain", "--retention_days=30"]) == 0
    assert f"Kept points from {day(40)} to {day(30)}" in capsys.readouterr().out
    product.settle()
    done = command(capsys, "maintain", "--retention_days=30")
    assert (done["points_removed"], done["held_back"]) == (900 + 1200, None)
    right(product)
    assert {key[2]: count for key, count in product.shown().items()} == {1: 300, 35: 300, 40: 400, 50: 300}


def test_what_owes_no_points_does_not_hold_retention_back(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    for days_ago in (1, 40):
        product.write(days_ago)
    product.settle()
    assert command(capsys, "maintain", "--retention_days=39")["points_removed"] == 900
    product.write(40, number=1)  # a straggler: its window stays as it stands
    with transaction(product.pool) as connection:
        connection.exec_driver_sql(
            """INSERT INTO marks (tier_s, window_from, window_to, ready_at, closing)
               VALUES (86400, to_timestamp(%s), to_timestamp(%s), now() + interval '1 day', true)""",
            ((TODAY_US - 35 * DAY_US) // 1_000_000, (TODAY_US - 34 * DAY_US) // 1_000_000),
        )
    done = command(capsys, "maintain", "--retention_days=30")
    assert (done["points_removed"], done["held_back"]) == (3, None)


def test_retention_waits_for_a_writer_that_has_not_committed(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    for days_ago in (1, 40):
        product.write(days_ago)
    product.settle()
    done: list[Maintained] = []
    url = product.pool.url.set(drivername="postgresql").render_as_string(False)
    values = read(MAINTAIN, {"retention_days": "30"}, environment={})
    threads = [
        threading.Thread(target=product.write, args=(40, 400)),
        threading.Thread(target=lambda: done.append(maintain(url, values, time.time()))),
    ]
    with transaction(product.pool) as connection:
        connection.exec_driver_sql("LOCK TABLE ledger IN SHARE MODE")
        for waiting, thread in enumerate(threads, 1):  # the writer first: its points and marks are there, unseen
            thread.start()
            product.until(f"SELECT count(DISTINCT pid) = {waiting} FROM pg_locks WHERE NOT granted")
    for thread in threads:
        thread.join()
    assert [(d.points_removed, d.held_back is not None) for d in done] == [(0, True)]
    product.settle()
    assert command(capsys, "maintain", "--retention_days=30")["points_removed"] == 1200
    right(product)
    assert product.shown()["a", "one", 40] == 400


def test_writers_do_not_wait_for_a_retention_that_waits(
    product: Product, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "LOCK_TIMEOUT_S", 0.2)
    monkeypatch.setattr(retry, "PAUSES_S", (0.1, 0.1))
    product.write(1)
    with transaction(product.pool) as connection:
        connection.exec_driver_sql("LOCK TABLE marks IN ROW EXCLUSIVE MODE")
        writer = threading.Thread(target=lambda: [product.write(1, number=n) for n in range(300, 350)])
        writer.start()
        assert cli.main(["maintain", "--retention_days=30"]) == 1
        assert "55P03" in capsys.readouterr().err
        writer.join()
    assert product.number("SELECT count(*) FROM points") == 3 * 349
    product.settle()
    assert command(capsys, "maintain", "--retention_days=30")["held_back"] is None
    right(product)


def test_retention_does_not_keep_what_was_deleted(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    for days_ago in (1, 40):
        product.write(days_ago)
    product.settle()
    assert command(capsys, "delete", "--series_project=a", f"--to={day(39)}", "--yes")["points"] == 600
    assert command(capsys, "maintain", "--retention_days=30")["points_removed"] == 0
    product.settle()
    assert command(capsys, "maintain", "--retention_days=30")["points_removed"] == 300
    right(product)
    assert product.shown() == {(p, s, d): 300 for p, s, _ in KEYS for d in (1, 40) if (p, d) != ("a", 40)}


def test_a_delete_hides_what_retention_takes_meanwhile(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    for days_ago in (1, 40, 41, 42):
        product.write(days_ago)
    product.settle()
    ids = product.series.ids(KEYS)
    deletion = Deletion(product.pool, TIERS_S, ids[:2], None, None).run()
    assert next(deletion).points == 600
    product.settle()
    assert command(capsys, "maintain", "--retention_days=30")["points_removed"] == 300 + 900 + 900
    assert [removed.points for removed in deletion] == [600]
    product.settle()
    right(product)
    assert product.shown() == {("b", "one", d): 300 for d in (1, 40, 41, 42)}


def test_what_retention_took_can_still_be_deleted_from_the_rollups(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    for days_ago in (1, 40):
        product.write(days_ago)
    product.settle()
    command(capsys, "maintain", "--retention_days=30")
    within = (moment(TODAY_US - 40 * DAY_US) + timedelta(seconds=30)).isoformat()
    assert cli.main(["delete", "--series_project=a", f"--from={within}", "--yes"]) == 2
    assert "whole windows" in capsys.readouterr().err
    assert command(capsys, "delete", "--series_project=a", "--yes")["points"] == 600
    product.settle()
    right(product)
    assert product.shown() == {("b", "one", 1): 300, ("b", "one", 40): 300}


def test_a_source_whose_points_all_went_by_retention_can_be_deleted(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    product.write(1, series=(2,))
    product.write(40, number=5, series=(0, 2))
    product.settle()
    command(capsys, "maintain", "--retention_days=30")
    assert command(capsys, "delete", "--series_project=a", "--yes")["points"] == 0
    product.settle()
    right(product)
    assert product.shown() == {("b", "one", 1): 300, ("b", "one", 40): 5}


def test_rebuild_gives_bigquery_everything_again(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    product.write(1)
    product.settle()
    shown = product.shown()
    _empty_warehouse()
    assert not product.shown()
    product.settle()
    assert not product.shown(), "nothing is marked"
    assert command(capsys, "rebuild", f"--from={day(1)}", f"--to={day(0)}")["marks"] == 3
    product.settle()
    assert product.shown() == shown
    right(product)


def test_rebuild_hides_what_only_bigquery_has(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    product.write(1)
    product.settle()
    with transaction(product.pool) as connection:  # as a fail-over would that lacks the last seconds
        connection.exec_driver_sql("DELETE FROM points WHERE series_id = (SELECT max(series_id) FROM series)")
        connection.exec_driver_sql("DELETE FROM rollups WHERE series_id = (SELECT max(series_id) FROM series)")
        connection.exec_driver_sql("INSERT INTO ledger (removed) VALUES (300)")
        connection.exec_driver_sql("DELETE FROM series WHERE series_id = (SELECT max(series_id) FROM series)")
    product.series.forget()
    report = verify(product.pool.url.set(drivername="postgresql").render_as_string(False), DATASET, TIERS_S)
    assert report.warehouse_differ
    hidden = command(capsys, "rebuild", f"--from={day(1)}", f"--to={day(0)}", "--series_project=b")["hidden"]
    assert hidden == 100 + 2 + 1
    product.settle()
    right(product)
    assert product.shown() == {("a", "one", 1): 300, ("a", "two", 1): 300}


def test_rebuild_outdoes_what_bigquery_has_newer(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    product.write(1)
    product.settle()
    lost = "SELECT * FROM rollups WHERE window_start >= to_timestamp(0) ORDER BY series_id, tier_s, window_start"
    with transaction(product.pool) as connection:
        before = connection.exec_driver_sql(lost).all()
        connection.exec_driver_sql("CREATE TABLE points_before AS SELECT * FROM points")
        connection.exec_driver_sql("CREATE TABLE rollups_before AS SELECT * FROM rollups")
    one_more = [(0, TODAY_US - DAY_US + 1, TODAY_US, 7.0)]
    product.writer.write(Block(KEYS, np.array(one_more, POINT)))
    product.settle()
    with transaction(product.pool) as connection:  # a fail-over loses the last point, and nobody sends it again
        for table in ("points", "rollups"):
            connection.exec_driver_sql(f"TRUNCATE {table}")
            connection.exec_driver_sql(f"INSERT INTO {table} SELECT * FROM {table}_before")
            connection.exec_driver_sql(f"DROP TABLE {table}_before")
        connection.exec_driver_sql("TRUNCATE ledger")
        connection.exec_driver_sql("INSERT INTO ledger (received, inserted) VALUES (900, 900)")
    report = verify(product.pool.url.set(drivername="postgresql").render_as_string(False), DATASET, TIERS_S)
    assert report.warehouse_differ == 3
    told = ("rebuild", f"--from={day(1)}", f"--to={day(0)}")
    assert command(capsys, *told) == {"marks": 3, "hidden": 3}
    assert command(capsys, *told)["hidden"] == 0, "once is enough"
    product.settle()
    right(product)
    assert product.shown()["a", "one", 1] == 300
    with transaction(product.pool) as connection:
        after = connection.exec_driver_sql(lost).all()
    assert len(after) == len(before)
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 3, "the rest is as it was"


def test_rebuild_does_not_make_an_open_window_final(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    ids = product.series.ids(KEYS)
    open_us = TODAY_US + 2 * DAY_US
    rows = [(s, open_us + 1, TODAY_US, 1.0) for s in range(3)]
    product.writer.write(Block(KEYS, np.array(rows, POINT)))
    previews = np.zeros(3, ROLLUP)
    previews["series_id"], previews["tier_s"], previews["window_start"], previews["count"] = ids, 60, open_us, 1
    product.rollups.append(previews, KEYS, "early")
    told = ("rebuild", f"--from={day(-2)}", f"--to={day(-3)}")
    assert command(capsys, *told)["hidden"] == 3
    for _ in range(2):
        product.settle()
        with transaction(product.pool) as connection:
            finals = connection.exec_driver_sql("SELECT tier_s, final, count FROM rollups ORDER BY tier_s").all()
        assert [tuple(row) for row in finals] == [(t, False, 1) for t in TIERS_S for _ in range(3)]
        shown = list(latest(rest(DATASET), DATASET, open_us, open_us + DAY_US, 60))
        assert [(row.count, row.final) for row in shown] == [(1, False)] * 3
        command(capsys, *told)
    assert product.number("SELECT count(*) FROM marks WHERE closing AND tier_s = 60") > 0


def test_maintain_beside_writers(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    product.write(40)
    product.settle()
    stopping = threading.Event()
    failed: list[Exception] = []

    def write() -> None:
        turn = 0
        while not stopping.is_set():
            try:
                product.write(turn % 3, number=200 + turn % 50)
            except Exception as error:  # noqa: BLE001  # told below
                failed.append(error)
                return
            turn += 1

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        removed = 0
        for _ in range(4):
            removed += command(capsys, "maintain", "--retention_days=30")["points_removed"]
            time.sleep(0.3)
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert removed == 900
    product.settle()
    right(product)


def test_the_ledger_is_folded_by_day_and_stays_balanced(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    for days_ago in (1, 2, 3):
        product.write(days_ago)
        product.write(days_ago)
    with transaction(product.pool) as connection:
        before = totals(connection)
        connection.exec_driver_sql(
            """UPDATE ledger SET written_at = written_at - interval '10 days'
               WHERE id IN (SELECT id FROM ledger ORDER BY id LIMIT 4)"""
        )
        connection.exec_driver_sql(
            "INSERT INTO ledger (written_at, received, inserted) VALUES (now() - interval '10 days', 5, 4)"
        )
    assert command(capsys, "maintain")["ledger_rows_folded"] == 3
    with transaction(product.pool) as connection:
        after = totals(connection)
    assert after.unbalanced == 1, "evidence is kept"
    assert (after.received, after.inserted, after.ignored) == (before.received + 5, before.inserted + 4, before.ignored)
    assert product.number("SELECT count(*) FROM ledger") == 2 + 1 + 1


def test_dead_letters_go_when_they_are_told_to(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    with transaction(product.pool) as connection:
        connection.exec_driver_sql(
            """INSERT INTO dead_letters (message_id, position, data, attributes, stage, reason, detail, publish_time,
                first_seen) SELECT i, -1, 'x', '{}', 'decode', 'not_json', '', now(), now() - i * interval '1 day'
               FROM generate_series(1, 10) i"""
        )
    assert command(capsys, "maintain")["dead_letters_removed"] == 0
    assert command(capsys, "maintain", "--dead_letter_days=5")["dead_letters_removed"] == 6


def test_corrections_go_after_a_quarter_of_a_year(
    product: Product, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "_DELETE_AT_ONCE", 7)
    with transaction(product.pool) as connection:
        connection.exec_driver_sql(
            """INSERT INTO corrections SELECT 1, 60, now(), i, 1, 1, 1, 1, 2, 2, 2, 2, now(), now() - i * interval '1 day'
               FROM generate_series(1, 100) i"""
        )
    assert command(capsys, "maintain", "--corrections_days=0")["corrections_removed"] == 0
    assert command(capsys, "maintain")["corrections_removed"] == 11
    assert command(capsys, "maintain", "--corrections_days=10")["corrections_removed"] == 80
    assert product.number("SELECT count(*) FROM corrections") == 9


def test_heartbeats_of_long_ago_go_and_the_last_ones_stay(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    with transaction(product.pool) as connection:
        connection.exec_driver_sql(
            """INSERT INTO heartbeats SELECT 'p' || i, 'job', now() - interval '1 year' - i * interval '1 hour', true
               FROM generate_series(0, 30) i"""
        )
    assert command(capsys, "maintain")["heartbeats_removed"] == 6
    assert command(capsys, "maintain")["heartbeats_removed"] == 0


def test_a_table_with_dead_rows_is_vacuumed(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    with transaction(product.pool) as connection:
        connection.exec_driver_sql("ALTER TABLE ledger SET (autovacuum_enabled = false)")
        connection.exec_driver_sql("INSERT INTO ledger (received, inserted) SELECT 1, 1 FROM generate_series(1, 20000)")
        connection.exec_driver_sql("DELETE FROM ledger")
    until = time.monotonic() + 10
    done: list[str] = []
    while "ledger" not in done and time.monotonic() < until:  # the statistics arrive after a while
        done = command(capsys, "maintain")["vacuumed"]
    assert "ledger" in done
    with transaction(product.pool) as connection:
        connection.exec_driver_sql("ALTER TABLE ledger RESET (autovacuum_enabled)")


def test_only_one_maintains(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    with product.pool.connect() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_lock(1953064038)")
        assert cli.main(["maintain"]) == 1
        assert "Another" in capsys.readouterr().err
        connection.exec_driver_sql("SELECT pg_advisory_unlock_all()")


def test_a_name_that_no_series_has_is_said_with_what_is_like_it(
    product: Product, capsys: pytest.CaptureFixture[str]
) -> None:
    product.write(1, 3)
    for argv, told in (
        (["--series_project=aa"], "no series whose project is 'aa'. 'a' is there."),
        (["--series_project=zzz"], "no series whose project is 'zzz'.\n"),
        (["--series_project=a", "--source=tow"], "no series whose source is 'tow'. 'two' is there."),
        (["--series_project=b", "--source=one", "--metric=n"], "no series whose metric is 'n'.\n"),
        (["--series_project='; DROP TABLE points; --"], "no series whose project is"),
    ):
        assert cli.main(["delete", "--yes", *argv]) == 2
        assert told in capsys.readouterr().err
    assert product.number("SELECT count(*) FROM points") == 9


def test_compressing_what_is_still_corrected_is_refused(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["settings", "--horizon_s=864000", "--yes"]) == 0
    assert cli.main(["maintain"]) == 2
    assert "--compress_after_days=7 is within" in capsys.readouterr().err


def test_old_chunks_become_columnar(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    if not product.number("SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"):
        pytest.skip("this server has no TimescaleDB")
    for days_ago in (1, 20, 40):
        product.write(days_ago)
    assert command(capsys, "maintain")["chunks_compressed"] == 2
    product.write(20)
    product.write(20, number=400)
    product.settle()
    right(product)
    assert command(capsys, "maintain", "--retention_days=30") == {
        "points_removed": 900,
        "held_back": None,
        "chunks_compressed": 0,
        "ledger_rows_folded": 0,
        "dead_letters_removed": 0,
        "corrections_removed": 0,
        "heartbeats_removed": 0,
        "vacuumed": [],
        "not_columnar": None,
        "points_adopted": 0,
        "failed": {},
    }
    right(product)


def test_times_without_a_zone_are_refused(product: Product, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rebuild", "--from=2026-01-01T00:00:00", "--to=2026-01-02T00:00:00Z"]) == 2
    assert "no zone" in capsys.readouterr().err
    assert cli.main(["rebuild", "--from=2026-01-02T00:00:00Z", "--to=2026-01-02T00:00:00Z"]) == 2
