"""`tidemark verify` passes when everything follows from the points, and names each kind of damage."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from tests.operate.product import START_US, TIERS_S, Product
from tidemark.local.stack import DATASET, Stack
from tidemark.operate import compare_warehouse
from tidemark.operate.compare_store import SLICE_WINDOWS, Extent
from tidemark.operate.compare_warehouse import WarehouseComparison
from tidemark.operate.report import Report, text
from tidemark.operate.verify import verify
from tidemark.store.connection import make_engine, transaction
from tidemark.store.fold import Range
from tidemark.store.rebuild import Rebuild
from tidemark.store.remove import Deletion
from tidemark.store.settle import Settler
from tidemark.warehouse import read
from tidemark.warehouse.clients import rest
from tidemark.warehouse.read import Rollup, latest, occupied
from tidemark.warehouse.tables import ensure
from tidemark.wire.block import SeriesKey


@pytest.fixture
def product(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Product]:
    environment = stack.environment()
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", environment["BIGQUERY_EMULATOR_HOST"])
    made = Product(environment)
    made.damage("TRUNCATE points, rollups, marks, ledger")
    client = rest(DATASET)
    client.delete_dataset(DATASET, delete_contents=True, not_found_ok=True)
    ensure(client, DATASET, "US")
    made.write(0, 300)
    made.settle()
    yield made
    made.rollups.close()
    made.pool.dispose()


def check(product: Product, start: int | None = None, end: int | None = None, grace_s: int = 0):
    return verify(product.environment["TIDEMARK_DATABASE_URL"], DATASET, TIERS_S, start, end, grace_s)


def test_what_was_settled_passes(product: Product) -> None:
    report = check(product)
    assert report.passed, report
    assert report.points == 300
    assert report.rollups > 300
    assert report.warehouse_rows == report.rollups


DAMAGES: dict[str, tuple[str, Callable[[Report], int], str]] = {
    "a point that nobody marked": (
        "INSERT INTO points SELECT series_id, event_time + interval '1 second', 1, publish_time FROM points LIMIT 1",
        lambda report: report.rollups_differ,
        r"tier 60 s, verify/s\d/m, .*: count is 1, should be 2, sum is [\d.]+, should be",
    ),
    "a base rollup": (
        "UPDATE rollups SET sum = sum + 1 WHERE tier_s = 60 AND window_start = (SELECT min(window_start) FROM rollups)",
        lambda report: report.rollups_differ,
        r"tier 60 s, verify/s0/m, .*: sum is 1, should be 0$",
    ),
    "an upper rollup": (
        "UPDATE rollups SET max = 1e9 WHERE tier_s = 86400",
        lambda report: report.rollups_differ,
        r"tier 86400 s, verify/s0/m, .*: max is 1000000000, should be 297$",
    ),
    "a rollup that is gone": (
        "DELETE FROM rollups WHERE tier_s = 3600",
        lambda report: report.rollups_differ,
        r"tier 3600 s, verify/s\d/m, .*: it is missing; the points are \d+$",
    ),
    "a rollup of nothing": (
        "UPDATE rollups SET window_start = window_start + interval '400 days' WHERE tier_s = 60 AND series_id = 1 AND window_start = '2026-01-01T00:00Z'",
        lambda report: report.rollups_differ,
        r"it counts 1 points where there are none$",
    ),
    "BigQuery under the same revision": (
        "UPDATE rollups SET last = last + 1 WHERE tier_s = 86400",
        lambda report: report.warehouse_differ,
        r"BigQuery, tier 86400 s, verify/s0/m, .*: under the same revision last is 297.0, the store has 298.0$",
    ),
    "the store ahead of BigQuery": (
        "UPDATE rollups SET revision = revision + 1 WHERE tier_s = 86400",
        lambda report: report.warehouse_differ,
        r"BigQuery, tier 86400 s, verify/s0/m, .*: shows revision \d+, the store has \d+$",
    ),
    "the ledger": (
        "UPDATE ledger SET inserted = inserted + 1",
        lambda report: report.ledger_unbalanced,
        r"1 ledger rows do not balance",
    ),
    "points that vanished": (
        "WITH gone AS (DELETE FROM points WHERE event_time = (SELECT max(event_time) FROM points)) DELETE FROM marks",
        lambda report: report.ledger_off_by,
        r"the ledger says 300 points, the table has 299",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_every_kind_of_damage_is_found(product: Product, what: str) -> None:
    statement, count, told = DAMAGES[what]
    product.damage(statement)
    report = check(product)
    assert not report.passed
    assert count(report) != 0
    assert any(re.search(told, example) for example in report.examples), report.examples


def test_why_there_are_fewer_rows_than_rollups_is_said_in_a_word(product: Product) -> None:
    assert "more are" not in text(check(product))
    first_s = START_US // 1_000_000
    ids = product.series.ids([SeriesKey("verify", f"s{i}", "m") for i in range(3)])
    assert sum(removed.points for removed in Deletion(product.pool, TIERS_S, ids, first_s, first_s + 60).run()) == 3
    product.settle()
    report = check(product)
    assert report.passed, report
    assert report.rollups_empty == 3
    assert "3 more have lost their points, so not shown" in text(report)
    product.write(10, 3, horizon_s=time.time())
    report = check(product)
    assert report.passed, report
    assert report.rollups_pending > 0
    assert f"{report.rollups_pending} more are owed a settling, so not compared" in text(report)
    assert report.rollups == report.warehouse_rows + report.rollups_pending + report.rollups_empty


def test_a_due_mark_fails_and_one_that_is_not_due_is_pending(product: Product) -> None:
    product.write(1000, 3, horizon_s=time.time())
    report = check(product)
    assert report.passed, report
    assert report.pending_marks > 0
    product.damage("UPDATE marks SET ready_at = now() - interval '1 second'")
    assert check(product).due_marks > 0
    assert check(product, grace_s=30).passed, "ingest is about to settle it"


def meanwhile(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Let others work between verify's first snapshot and its first look at BigQuery, and after that look."""
    looks = iter([(before, after)])

    def looking(*arguments: Any) -> Iterator[Rollup]:
        ahead, behind = next(looks, (lambda: None, lambda: None))
        ahead()
        rows = list(latest(*arguments))
        behind()
        return iter(rows)

    monkeypatch.setattr(compare_warehouse, "latest", looking)


def test_a_preview_is_read_and_its_window_settled_after_the_snapshot(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    product.write(1000, 3)
    product.preview(1000, 3)
    meanwhile(monkeypatch, after=product.settle)
    report = check(product, grace_s=30)
    assert report.passed, report
    assert check(product).passed


def test_points_come_are_previewed_and_settled_all_after_the_snapshot(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come() -> None:
        product.write(310, 3)
        product.write(1, 3)  # late ones, which are there already
        product.preview(310, 3)

    meanwhile(monkeypatch, come, product.settle)
    report = check(product, grace_s=30)
    assert report.passed, report
    assert check(product).warehouse_rows > report.warehouse_rows


def test_a_window_is_settled_again_between_the_snapshot_and_the_look(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    def come() -> None:
        product.write(301, 3)
        product.settle()

    meanwhile(monkeypatch, come)
    report = check(product)
    assert report.passed, report


def test_previews_that_are_owed_a_settling_cost_no_transaction_each(product: Product) -> None:
    product.write(1000, 300, horizon_s=time.time())
    product.preview(1000, 300)
    pool = make_engine(product.environment["TIDEMARK_DATABASE_URL"], 3, 60)
    begun: list[Any] = []
    event.listen(pool, "begin", begun.append)
    scope = Range(START_US // 1_000_000, START_US // 1_000_000 + 86_400)
    report = Report()
    with transaction(pool, "REPEATABLE READ") as connection:
        comparison = WarehouseComparison(connection, pool, rest(DATASET), DATASET, 0, report)
        comparison.compare(TIERS_S[:1], Extent(scope.start, scope.end, 86_400, [scope.start]))
    pool.dispose()
    assert report.passed, report
    assert len(begun) < 5


def test_a_preview_that_nobody_owes_a_settling_is_found(product: Product) -> None:
    product.preview(1000, 3)
    report = check(product)
    assert report.warehouse_differ == 3, report
    assert "shows revision 0" in report.examples[0]


def test_verify_passes_beside_an_ingest(product: Product) -> None:
    stopping = threading.Event()
    failed: list[BaseException] = []

    def ingest() -> None:
        try:
            for first in itertools.count(300, 6):
                product.write(first, 6)
                product.preview(first, 6)
                product.settle()
                if stopping.is_set():
                    return
        except BaseException as error:  # noqa: BLE001  # told below
            failed.append(error)

    thread = threading.Thread(target=ingest)
    thread.start()
    try:
        reports = [check(product, grace_s=30) for _ in range(4)]
    finally:
        stopping.set()
        thread.join()
    assert not failed
    assert all(report.passed for report in reports), reports
    assert reports[-1].points > reports[0].points


AGAINST_THE_STORE: dict[str, str] = {
    "an empty store": "TRUNCATE points, rollups, marks, ledger",
    "a last day that the store lost": f"""
        DELETE FROM points WHERE event_time >= to_timestamp({START_US // 1_000_000 + 86_400});
        DELETE FROM rollups WHERE window_start >= to_timestamp({START_US // 1_000_000 + 86_400});
        INSERT INTO ledger (removed) VALUES (3)""",
    "a first day that the store lost": f"""
        DELETE FROM points WHERE event_time < to_timestamp({START_US // 1_000_000 + 86_400});
        DELETE FROM rollups WHERE window_start < to_timestamp({START_US // 1_000_000 + 86_400});
        INSERT INTO ledger (removed) VALUES (300)""",
}


@pytest.mark.parametrize("what", AGAINST_THE_STORE)
def test_bigquery_is_looked_at_where_the_store_has_nothing(product: Product, what: str) -> None:
    product.write(5000, 3)
    product.settle()
    assert check(product).passed
    for statement in AGAINST_THE_STORE[what].split(";"):
        product.damage(statement)
    report = check(product)
    assert not report.ledger_off_by
    assert not report.rollups_differ
    assert report.warehouse_differ > 0, report


YEARS_S = 20 * 365 * 86_400


def test_open_windows_are_compared_though_they_owe_a_last_look(product: Product) -> None:
    product.write(10_000, 30, horizon_s=YEARS_S)
    product.settle(horizon_s=YEARS_S, everything=True)
    report = check(product)
    assert report.passed, report
    assert report.pending_marks > 0, "last looks"
    assert report.warehouse_rows == report.rollups
    product.warehouse("DELETE FROM {rollups} WHERE tier_s = 86400 AND window_start > TIMESTAMP '2026-01-02'")
    report = check(product, grace_s=30)
    assert report.warehouse_differ == 3, report
    assert "lacks revision" in report.examples[0]


def test_a_last_look_may_be_on_its_way_and_one_that_is_overdue_is_told(product: Product) -> None:
    product.write(10_000, 30, horizon_s=YEARS_S)
    product.settle(horizon_s=YEARS_S, everything=True)

    def day_due(seconds: int) -> None:
        product.damage(f"UPDATE marks SET ready_at = now() - interval '{seconds} seconds' WHERE tier_s = 86400")

    day_due(3600)
    report = check(product, grace_s=30)
    assert report.passed, report
    assert report.overdue_looks == 1
    assert "last look" in report.examples[0]
    settled = list(Settler(product.pool, TIERS_S, 0).due())  # committed; BigQuery has not got them yet
    assert sum(len(one.rows) for one in settled) == 3
    day_due(1)
    report = check(product, grace_s=30)
    assert report.passed, report
    assert not report.overdue_looks
    day_due(3600)
    report = check(product, grace_s=30)
    assert report.warehouse_differ == 3, report
    day_due(1)
    open_day = "tier_s = 86400 AND window_start > TIMESTAMP '2026-01-02'"
    product.warehouse("UPDATE {rollups} SET count = count - 1 WHERE " + open_day)
    assert check(product, grace_s=30).warehouse_differ == 3, "not what a last look changes"


def test_marks_do_not_become_due_by_a_comparison_that_takes_long(
    product: Product, monkeypatch: pytest.MonkeyPatch
) -> None:
    product.write(1000, 3)

    def slow(*arguments: Any) -> list[int]:
        long_due = "SELECT min(ready_at) < clock_timestamp() - interval '2 seconds' FROM marks"
        deadline = time.monotonic() + 10
        due = False
        while not due:
            assert time.monotonic() < deadline
            with transaction(product.pool) as connection:
                due = connection.exec_driver_sql(long_due).scalar_one()
        return occupied(*arguments)

    monkeypatch.setattr(read, "occupied", slow)
    report = check(product, grace_s=2)
    assert report.passed, report
    assert report.pending_marks > 0


def test_only_a_range_is_compared_when_asked(product: Product) -> None:
    day_s = START_US // 1_000_000
    product.damage("UPDATE rollups SET sum = sum + 1")
    assert not check(product, day_s, day_s + 86_400).passed
    assert check(product, day_s + 86_400, day_s + 2 * 86_400).passed


def test_the_command_has_an_exit_status_for_each_outcome(product: Product, tmp_path: Path) -> None:
    def run(**more: str) -> tuple[int, dict]:
        environment = {**product.environment, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **more}
        command = [sys.executable, "-m", "tidemark", "verify", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
        assert done.stderr == ""
        return done.returncode, json.loads(done.stdout)

    status, said = run()
    assert (status, said["verify"]) == (0, "PASS")
    product.damage("UPDATE rollups SET sum = sum + 1 WHERE tier_s = 86400")
    status, said = run()
    assert (status, said["verify"]) == (1, "FAIL")
    assert said["examples"]
    status, said = run(TIDEMARK_DATABASE_URL="postgresql://nobody:x@127.0.0.1:9/nothing")
    assert (status, said["verify"]) == (2, "ERROR")
    assert "The database does not answer" in said["error"]


def test_quantiles_are_compared_in_both_stores(product: Product) -> None:
    def ask() -> Report:
        url = product.environment["TIDEMARK_DATABASE_URL"]
        return verify(url, DATASET, TIERS_S, quantiles=True)

    assert not ask().passed, "these were settled without"
    day_s = START_US // 1_000_000
    Rebuild(product.pool, TIERS_S, day_s, day_s + 86_400).mark()
    product.settle(quantiles=True)
    report = ask()
    assert report.passed, report
    assert check(product).passed, "who does not ask still finds the summaries right"
    days = list(latest(rest(DATASET), DATASET, START_US, START_US + 1, 86_400))
    assert len(days) == 3
    for day in days:
        first = int(day.source[1:])
        values = [float(v) for v in range(first, 300, 3)]
        for found, share in ((day.p50, 0.5), (day.p90, 0.9), (day.p99, 0.99)):
            assert found == pytest.approx(values[int(share * (len(values) - 1))], rel=0.01)

    product.damage("UPDATE rollups SET bin_counts[1] = bin_counts[1] + 1 WHERE tier_s = 86400")
    assert ask().rollups_differ == 3
    product.damage("UPDATE rollups SET bin_counts[1] = bin_counts[1] - 1, p99 = p99 + 1 WHERE tier_s = 86400")
    report = ask()
    assert (report.rollups_differ, report.warehouse_differ) == (3, 3)


@given(st.lists(st.integers(0, 20_000), unique=True), st.sampled_from(TIERS_S))
def test_slices_cover_the_range_once_and_cost_no_more_than_what_is_there(days: list[int], tier_s: int) -> None:
    largest = TIERS_S[-1]
    occupied = sorted(day * largest for day in days)
    start, end = 0, 20_001 * largest
    slices = list(Extent(start, end, largest, occupied).slices(tier_s))
    assert [slices[0].start, *(one.end for one in slices)] == [*(one.start for one in slices), end]
    assert slices[0].start == start
    assert len(slices) <= max(1, len(occupied))
    for one in slices:
        inside = [window for window in occupied if one.start <= window < one.end]
        assert not inside or inside[-1] + largest - inside[0] <= max(largest, SLICE_WINDOWS * tier_s)
