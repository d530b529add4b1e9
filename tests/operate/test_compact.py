"""Compaction on the stand-in: what the view shows stays, beside appends, in two programs at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import numpy as np
import pytest
from google.cloud import bigquery

from tidemark import cli
from tidemark.errors import UsageError
from tidemark.local.bigquery import BigQuery
from tidemark.operate.compact import closed_days
from tidemark.settings import COMPACT, read
from tidemark.warehouse.clients import rest
from tidemark.warehouse.compact import remove_superseded, superseded
from tidemark.warehouse.read import latest
from tidemark.warehouse.tables import TABLE, ensure
from tidemark.warehouse.writer import RollupWriter
from tidemark.wire.summary import ROLLUP

DATASET = "tidemark-local.compact"
DAY = date(2026, 1, 1)
START_US = 1_767_225_600_000_000
WINDOWS = 50


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    made = BigQuery(tmp_path_factory.mktemp("bigquery"), "tidemark-local")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def client(server: BigQuery, monkeypatch: pytest.MonkeyPatch) -> bigquery.Client:
    address = f"http://127.0.0.1:{server.ports()[0]}"
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", address)
    made = rest(DATASET, address)
    ensure(made, DATASET, "US")
    made.query_and_wait(f"DELETE FROM `{DATASET}.{TABLE}` WHERE TRUE")
    return made


@pytest.fixture
def writer(server: BigQuery) -> Iterator[RollupWriter]:
    made = RollupWriter(DATASET, f"127.0.0.1:{server.ports()[1]}")
    yield made
    made.close()


def put(
    writer: RollupWriter, pane: str, revision: int, count: int, start_us: int = START_US, series: str = "s"
) -> None:
    rows = np.zeros(WINDOWS, ROLLUP)
    rows["tier_s"], rows["count"], rows["revision"] = 60, count, revision
    rows["window_start"] = start_us + 60_000_000 * np.arange(WINDOWS)
    assert writer.append(rows, [("p", series, "m")] * WINDOWS, pane) == []


def shown(client: bigquery.Client) -> list[tuple]:
    rows = latest(client, DATASET, 0, 2 * START_US)
    return sorted((r.source, r.window_start, r.revision, r.count, r.pane) for r in rows)


def number(client: bigquery.Client) -> int:
    return next(iter(client.query_and_wait(f"SELECT count(*) FROM `{DATASET}.{TABLE}`")))[0]


def test_what_was_replaced_goes_and_the_view_stays(client: bigquery.Client, writer: RollupWriter) -> None:
    put(writer, "early", 0, 3)
    put(writer, "on_time", 0, 5)
    put(writer, "settled", 7, 6)
    put(writer, "settled", 9, 8)
    put(writer, "settled", 9, 8)  # the same once more: its answer was lost
    put(writer, "late", 0, 99)
    put(writer, "early", 0, 3, series="previews only")
    put(writer, "on_time", 0, 4, series="previews only")
    put(writer, "settled", 3, 1, series="emptied")
    put(writer, "settled", 4, 0, series="emptied")
    put(writer, "early", 0, 1, START_US + 86_400_000_000)
    put(writer, "settled", 1, 1, START_US + 86_400_000_000)
    before, rows = shown(client), number(client)
    assert superseded(client, DATASET, DAY) == 6 * WINDOWS
    assert number(client) == rows, "counting removes nothing"
    assert remove_superseded(client, DATASET, DAY) == 6 * WINDOWS
    assert number(client) == rows - 6 * WINDOWS
    assert shown(client) == before
    assert remove_superseded(client, DATASET, DAY) == 0


def test_beside_appends_and_another_compaction(client: bigquery.Client, writer: RollupWriter) -> None:
    done = threading.Event()

    def compact() -> int:
        removed = 0
        while not done.is_set():
            removed += remove_superseded(client, DATASET, DAY)
        return removed

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(compact) for _ in range(2)]
        for revision in range(1, 31):
            put(writer, "early", 0, 100 + revision)
            put(writer, "settled", revision, revision)
        done.set()
        removed = sum(one.result() for one in both)
    assert {row[2:] for row in shown(client)} == {(30, 30, "settled")}
    assert len(shown(client)) == WINDOWS
    assert removed > 0
    remove_superseded(client, DATASET, DAY)
    assert number(client) == WINDOWS


def test_the_command(
    client: bigquery.Client, writer: RollupWriter, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMARK_ROLLUP_DATASET", DATASET)
    put(writer, "early", 0, 3)
    put(writer, "settled", 7, 6)
    what = ["compact", "--from=2026-01-01T00:00:00Z", "--to=2026-01-02T00:00:00Z"]
    assert cli.main([*what, "--dry_run"]) == 0
    said = f"2026-01-01: {WINDOWS} superseded rows would be removed.\n"
    assert capsys.readouterr().out == f"{said}{WINDOWS} superseded rows of 1 days would be removed.\n"
    assert cli.main([*what, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": True, "rows": WINDOWS, "days": {"2026-01-01": WINDOWS}}
    assert cli.main([*what[:2], "--to=2026-01-01T00:00:00Z"]) == 2
    assert cli.main(["compact"]) == 0, "the last seven days, none of which has rows"


def test_only_closed_days_are_compacted() -> None:
    values = read(COMPACT, {"horizon_s": "3600", "debounce_s": "60"}, environment={})
    noon = datetime(2026, 1, 10, 12, tzinfo=UTC).timestamp()
    assert closed_days(None, None, values, noon) == [date(2026, 1, day) for day in range(3, 10)]
    at_half_past_midnight = datetime(2026, 1, 10, 0, 30, tzinfo=UTC).timestamp()
    assert closed_days(None, None, values, at_half_past_midnight)[-1] == date(2026, 1, 8)
    assert closed_days(int(noon) - 86_400, int(noon) + 9 * 86_400, values, noon) == [date(2026, 1, 9)]
    with pytest.raises(UsageError, match="before 2026-01-10"):
        closed_days(int(noon), None, values, noon)
