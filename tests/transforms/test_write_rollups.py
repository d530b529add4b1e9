"""Appending as the pipeline does it: a real database, and a server that refuses some rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline as pipelines

from tests.warehouse.scripted import refuse, rest_without_tables, serve
from tidemark.errors import UnavailableError
from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, transaction
from tidemark.store.migrate import migrate
from tidemark.wire.block import SeriesKey
from tidemark.wire.summary import ROLLUP
from transforms import resources
from transforms.counters import tally
from transforms.prometheus import NOWHERE
from transforms.resources import Store, Warehouse
from transforms.rollup_batch import RollupBatch
from transforms.settle import _SettleDue
from transforms.write_rollups import _Append, append

STORE = Store(None, 2, (60, 3600), 0, 0)
START_US = 1_767_225_600_000_000


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = Postgres(Path(tmp_path_factory.mktemp("postgres")))
    server.start()
    migrate(server.url())
    yield server.url()
    resources.close()
    server.stop()
    server.purge()


@pytest.fixture(scope="module")
def nobodys() -> Iterator[str]:
    with rest_without_tables() as found:
        yield found


@pytest.fixture
def rows(url: str, nobodys: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[np.ndarray]:
    monkeypatch.setenv("TIDEMARK_DATABASE_URL", url)
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", nobodys)
    resources.close()
    (number,) = STORE.series().ids([SeriesKey("p", "s", "m")])
    made = np.zeros(500, ROLLUP)
    made["series_id"], made["tier_s"], made["count"] = number, 60, 1
    made["window_start"] = START_US + 60_000_000 * np.arange(500)
    made["first_publish_time"] = made["last_publish_time"] = made["window_start"] + 1
    made["revision"] = 7
    yield made
    resources.close()


def dead_letters(url: str) -> list[tuple]:
    pool = make_engine(url, 1, 60)
    with transaction(pool) as connection:
        found = connection.exec_driver_sql("SELECT data, stage, reason, detail FROM dead_letters ORDER BY detail").all()
    pool.dispose()
    return [tuple(row) for row in found]


def test_three_bad_rows_of_500_are_kept_and_the_others_written(url: str, rows: np.ndarray) -> None:
    handler, server, port = serve({1: refuse(3, 44, 499), 3: refuse(3, 44, 499)})
    before = tally().get("rollups_refused", 0)
    try:
        warehouse = Warehouse("tidemark-local.refused", f"127.0.0.1:{port}")
        append(STORE, warehouse, rows, "settled")
        assert handler.kept == 497
        found = dead_letters(url)
        assert [row[1:] for row in found] == [
            ("write_rollups", "refused_by_bigquery", f"bad {i}") for i in (3, 44, 499)
        ]
        told = json.loads(found[0][0])
        assert (told["project"], told["tier_s"], told["revision"]) == ("p", 60, 7)
        assert told["window_start"] == START_US + 3 * 60_000_000
        append(STORE, warehouse, rows, "settled")  # settled once more, since the marks did not die
        assert dead_letters(url) == found
        append(STORE, warehouse, rows[:2], "early")
        assert tally()["rollups_refused"] == before + 6
    finally:
        server.stop(0)


def test_what_waits_for_a_person_is_counted_wherever_it_is_met(url: str, rows: np.ndarray) -> None:
    pool = make_engine(url, 1, 60)

    def rename(old: str, new: str) -> None:
        with transaction(pool) as connection:
            connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")

    def counted(stage: beam.PTransform, source: list) -> tuple[float, float, float]:
        names = ("retries_misconfigured", "settle_failures", "append_failures")
        before = [tally().get(name, 0) for name in names]
        with pipelines.TestPipeline(runner=FnApiRunner()) as pipeline:
            pipeline | beam.Create(source) | stage
        first, second, third = (tally().get(name, 0) - was for name, was in zip(names, before, strict=True))
        return first, second, third

    STORE.settler()
    settle = beam.ParDo(_SettleDue(STORE, NOWHERE))
    assert counted(settle, [0.0]) == (0, 0, 0)
    rename("marks", "marked")
    try:
        assert counted(settle, [0.0]) == (1, 1, 0)
        age_s = tally()["oldest_due_mark_s"]
        assert counted(settle, [0.0]) == (1, 1, 0)
        assert tally()["oldest_due_mark_s"] > age_s, "it cannot be looked at, so it is told as what it may be"
    finally:
        rename("marked", "marks")
    resources.close()  # the names of series are known by now
    rename("series", "serials")
    try:
        append_rows = beam.ParDo(_Append(STORE, Warehouse("tidemark-local.away", "127.0.0.1:9"), NOWHERE))
        assert counted(append_rows, [RollupBatch(rows.tobytes(), "settled", [], 0)]) == (1, 0, 1)
    finally:
        rename("serials", "series")
        pool.dispose()


def test_a_mark_that_may_not_be_forgotten_waits_for_a_person(url: str, rows: np.ndarray) -> None:
    handler, server, port = serve({})
    pool = make_engine(url, 1, 60)
    stage = _Append(STORE, Warehouse("tidemark-local.unforgotten", f"127.0.0.1:{port}"), NOWHERE)
    STORE.settler()
    with transaction(pool) as connection:
        connection.exec_driver_sql("ALTER TABLE marks RENAME TO marked")
    before = tally()
    try:
        stage.start_bundle()
        for _ in range(3):
            list(stage.process(RollupBatch(rows.tobytes(), "settled", [1], 0)))
        now = tally()
        assert now["retries_misconfigured"] == before.get("retries_misconfigured", 0) + 1
        assert now["settled_deferred"] == before.get("settled_deferred", 0) + 3 * len(rows)
        assert handler.kept == len(rows), "what cannot be forgotten is not appended again and again"
    finally:
        with transaction(pool) as connection:
            connection.exec_driver_sql("ALTER TABLE marked RENAME TO marks")
        pool.dispose()
        server.stop(0)


@pytest.mark.parametrize("panes", ["early", ["early", "on_time"] * 250])
def test_numbers_that_the_database_lost_stop_nothing(rows: np.ndarray, panes: str | list[str]) -> None:
    """The engine's state outlived the last seconds of a primary, and the series that were new in them."""
    handler, server, port = serve({})
    warehouse = Warehouse("tidemark-local.lost", f"127.0.0.1:{port}")
    rows["series_id"][::5] = 1_000_000
    before = tally().get("previews_dropped", 0)
    try:
        append(STORE, warehouse, rows, panes)
        assert handler.kept == 400
        assert tally()["previews_dropped"] == before + 100
        with pytest.raises(UnavailableError, match="1000000"):
            append(STORE, warehouse, rows, "settled")
        rows["series_id"] = 1_000_000
        append(STORE, warehouse, rows, panes)
        assert handler.kept == 400
    finally:
        server.stop(0)
