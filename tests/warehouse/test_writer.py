"""Appending: to the real stand-in, and to a server that answers as BigQuery does on its bad days."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import types
from google.protobuf import duration_pb2
from google.rpc import code_pb2, error_details_pb2

from tests.warehouse.scripted import CLOSE, Request, Response, Scripted, in_band, refuse, serve
from tidemark.errors import MisconfiguredError, UnavailableError
from tidemark.local.bigquery import BigQuery
from tidemark.warehouse.clients import rest
from tidemark.warehouse.read import Rollup, history, latest
from tidemark.warehouse.rows import Row
from tidemark.warehouse.tables import TABLE, VIEW, ensure, view_sql
from tidemark.warehouse.writer import ROWS_A_REQUEST, STREAMS, RefusedRow, RollupWriter, _Rows
from tidemark.wire.summary import ROLLUP

DATASET = "tidemark-local.writer"
KEY = ("p", "s", "m")
START_US = 1_767_225_600_000_000


def rows(number: int, **values: float) -> np.ndarray:
    made = np.zeros(number, ROLLUP)
    made["tier_s"], made["window_start"], made["count"] = 60, START_US + 60_000_000 * np.arange(number), 1
    made["first_publish_time"] = made["last_publish_time"] = made["window_start"]
    for name, value in values.items():
        made[name] = value
    return made


def of_series(client: bigquery.Client) -> list[Rollup]:
    return [row for row in latest(client, DATASET, START_US, START_US + 1, 60) if row.project == KEY[0]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BigQuery]:
    made = BigQuery(tmp_path_factory.mktemp("bigquery"), "tidemark-local")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def client(server: BigQuery) -> bigquery.Client:
    made = rest(DATASET, f"http://127.0.0.1:{server.ports()[0]}")
    ensure(made, DATASET, "US")
    return made


def test_the_greatest_revision_wins_then_the_preview_that_has_seen_most(
    server: BigQuery, client: bigquery.Client
) -> None:
    writer = RollupWriter(DATASET, f"127.0.0.1:{server.ports()[1]}")
    try:
        assert writer.append(rows(1, count=5), [KEY], "early") == []
        writer.append(rows(1, count=3), [KEY], "on_time")
        assert [row.count for row in of_series(client)] == [5]
        writer.append(rows(1, count=4, revision=7, final=True, sum=-0.5), [KEY], "settled")
        writer.append(rows(1, count=9, revision=6), [KEY], "settled")
        writer.append(rows(1, count=99), [KEY], "late")
        (row,) = of_series(client)
        assert (row.count, row.revision, row.pane, row.sum, row.final) == (4, 7, "settled", -0.5, True)
        assert row.window_end - row.window_start == 60_000_000
        assert len(history(client, DATASET, KEY, 60, START_US)) == 5
        writer.append(rows(1, count=0, revision=8), [KEY], "settled")
        assert of_series(client) == [], "a window without points is hidden"
    finally:
        writer.close()


def test_many_threads_share_a_few_streams_and_lose_nothing(server: BigQuery, client: bigquery.Client) -> None:
    writer = RollupWriter(DATASET, f"127.0.0.1:{server.ports()[1]}")
    with ThreadPoolExecutor(4 * STREAMS) as pool:
        jobs = [pool.submit(writer.append, rows(3), [("many", str(i), "m")] * 3, "early") for i in range(100)]
        assert [job.result() for job in jobs] == [[]] * 100
    writer.close()
    found = client.query_and_wait(f"SELECT count(*) FROM `{DATASET}.{TABLE}` WHERE project = 'many'")
    assert next(iter(found))[0] == 300


def test_making_the_tables_again_changes_nothing_and_a_wrong_table_is_named(client: bigquery.Client) -> None:
    ensure(client, DATASET, "US")
    other = DATASET + "_wrong"
    client.create_dataset(other)
    client.create_table(
        bigquery.Table(f"{other}.{TABLE}", schema=[bigquery.SchemaField("tier_s", "STRING")]), timeout=20
    )
    with pytest.raises(MisconfiguredError, match="column tier_s is STRING and must be INTEGER"):
        ensure(client, other, "US")


def test_a_missing_table_waits_for_a_person(server: BigQuery, client: bigquery.Client) -> None:
    client.create_dataset(DATASET + "_empty", exists_ok=True)
    writer = RollupWriter(DATASET + "_empty", f"127.0.0.1:{server.ports()[1]}")
    with pytest.raises(MisconfiguredError, match="NOT_FOUND"):
        writer.append(rows(1), [KEY], "early")
    writer.close()


def test_a_server_that_is_away_or_frozen_is_told_after_the_deadline() -> None:
    writer = RollupWriter(DATASET, "127.0.0.1:9", deadline_s=1)
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        writer.append(rows(1), [KEY], "early")
    assert time.monotonic() - began < 3
    writer.close()


@pytest.fixture
def scripted() -> Iterator[Callable[[dict], tuple[Scripted, RollupWriter]]]:
    opened = []

    def start(script: dict, deadline_s: float = 3) -> tuple[Scripted, RollupWriter]:
        handler, server, port = serve(script)
        writer = RollupWriter(DATASET, f"127.0.0.1:{port}", deadline_s)
        opened.append((server, writer))
        return handler, writer

    yield start
    for server, writer in opened:
        writer.close()
        server.stop(0)


@pytest.mark.parametrize(
    "failure",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.ABORTED,
        in_band(code_pb2.INTERNAL),
        in_band(code_pb2.RESOURCE_EXHAUSTED),
        CLOSE,
    ],
)
def test_what_was_not_acknowledged_is_sent_again(scripted: Callable, failure: object) -> None:
    handler, writer = scripted({2: failure})
    number = 3 * ROWS_A_REQUEST
    assert writer.append(rows(number), [KEY] * number, "early") == []
    # what followed the failed request on the same stream may be there twice
    assert number <= handler.kept <= number + ROWS_A_REQUEST


def test_three_failures_in_a_row_are_waited_out(scripted: Callable) -> None:
    handler, writer = scripted(dict.fromkeys((1, 2, 3), grpc.StatusCode.UNAVAILABLE))
    assert writer.append(rows(500), [KEY] * 500, "settled") == []
    assert (handler.seen, handler.kept) == (4, 500)


def test_the_pause_that_the_service_asks_for_is_kept(scripted: Callable) -> None:
    info = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=700_000_000))
    _, writer = scripted({1: in_band(code_pb2.RESOURCE_EXHAUSTED, info)})
    began = time.monotonic()
    writer.append(rows(1), [KEY], "early")
    assert time.monotonic() - began >= 0.7


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT])
def test_what_retrying_cannot_mend_is_told_at_once(scripted: Callable, code: grpc.StatusCode) -> None:
    handler, writer = scripted({1: code})
    with pytest.raises(MisconfiguredError, match=code.name):
        writer.append(rows(1), [KEY], "early")
    assert handler.seen == 1


def test_refused_rows_are_named_and_their_neighbours_written(scripted: Callable) -> None:
    handler, writer = scripted({1: refuse(1, 4)})
    refused = writer.append(rows(6), [KEY] * 6, "settled")
    assert [(one.row, one.message) for one in refused] == [(1, "bad 1"), (4, "bad 4")]
    assert handler.kept == 4


def test_what_waits_goes_together_and_each_hears_of_its_own_rows(scripted: Callable) -> None:
    waiting = threading.Event()

    def slow(_request: Request, _number: int) -> Response:
        waiting.wait(10)
        return Response(append_result=types.AppendRowsResponse.AppendResult.pb()())

    def picky(request: Request, number: int) -> Response:
        sent = request.proto_rows.rows.serialized_rows
        return refuse(*(i for i, row in enumerate(sent) if Row.FromString(row).project == "bad"))(request, number)

    handler, writer = scripted({**dict.fromkeys(range(1, STREAMS + 1), slow), STREAMS + 1: picky}, 30)

    def append(number: int) -> list[RefusedRow]:
        names = [KEY] * number
        if number % 2:
            names[number - 1] = ("bad", "s", "m")
        return writer.append(rows(number), names, "early")

    with ThreadPoolExecutor(STREAMS + 6) as threads:
        first = _holding(threads, handler, lambda: append(2))
        others = {number: threads.submit(append, number) for number in range(3, 9)}
        _until(lambda: len(writer._waiting) == len(others))
        waiting.set()
        assert [one.result() for one in first] == [[]] * STREAMS
        for number, other in others.items():
            assert [one.row for one in other.result()] == ([number - 1] if number % 2 else [])
    assert handler.seen == STREAMS + 2, "one request for all of them, and one for what was not to blame"
    assert handler.kept == 3 + 4 + 5 + 6 + 7 + 8 - 3


@pytest.mark.parametrize("refused", [[0], [1], [0, 1, 2, 3, 4], [4, 7]])
@pytest.mark.parametrize("breaks", [grpc.StatusCode.UNAVAILABLE, CLOSE])
def test_a_stream_that_breaks_after_rows_were_refused_loses_no_neighbour(
    scripted: Callable, monkeypatch: pytest.MonkeyPatch, refused: list[int], breaks: object
) -> None:
    monkeypatch.setattr("tidemark.warehouse.writer.ROWS_A_REQUEST", 5)
    kept: list[int] = []

    def picky(request: Request, number: int) -> Response:
        tiers = [Row.FromString(row).tier_s for row in request.proto_rows.rows.serialized_rows]
        bad = [i for i, tier in enumerate(tiers) if tier in refused]
        if not bad:
            kept.extend(tiers)
            return Response(append_result=types.AppendRowsResponse.AppendResult.pb()())
        return refuse(*bad)(request, number)

    script = {**dict.fromkeys(range(1, 50), picky), 2: breaks, 4: breaks}
    _, writer = scripted(script)
    some = rows(12)
    some["tier_s"] = np.arange(12)
    assert sorted(one.row for one in writer.append(some, [KEY] * 12, "settled")) == refused
    assert sorted(kept) == [i for i in range(12) if i not in refused]


def test_all_that_went_together_hear_that_it_failed_and_nobody_else(scripted: Callable) -> None:
    waiting = threading.Event()

    def slow(_request: Request, _number: int) -> Response:
        waiting.wait(10)
        return Response(append_result=types.AppendRowsResponse.AppendResult.pb()())

    def by_pane(request: Request, number: int) -> Response:
        if Row.FromString(request.proto_rows.rows.serialized_rows[0]).pane == "early":
            return in_band(code_pb2.PERMISSION_DENIED)(request, number)
        return Response(append_result=types.AppendRowsResponse.AppendResult.pb()())

    script = {**dict.fromkeys(range(1, STREAMS + 1), slow), **dict.fromkeys(range(STREAMS + 1, 50), by_pane)}
    handler, writer = scripted(script, 30)
    with ThreadPoolExecutor(STREAMS + 8) as threads:
        first = _holding(threads, handler, lambda: writer.append(rows(1), [KEY], "early"))
        previews = [threads.submit(writer.append, rows(1), [KEY], "early") for _ in range(4)]
        _until(lambda: len(writer._waiting) == 4)
        settled = [threads.submit(writer.append, rows(1), [KEY], "settled") for _ in range(4)]
        _until(lambda: len(writer._waiting) == 8)
        waiting.set()
        assert [one.result() for one in first] == [[]] * STREAMS
        assert {type(one.exception()) for one in previews} == {MisconfiguredError}
        assert [one.result() for one in settled] == [[]] * 4, "settled rows do not go with previews"
    assert handler.seen == STREAMS + 2


def test_no_more_than_a_bound_goes_together(scripted: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemark.warehouse.writer.ROWS_TOGETHER", 10)
    _, writer = scripted({})
    writer._waiting = [_Rows([b""] * number, settled=False) for number in (30, 1, 4, 5, 2)]
    assert [len(some.serialized) for some in writer._take()] == [30]
    assert [len(some.serialized) for some in writer._take()] == [1, 4, 5]
    assert [len(some.serialized) for some in writer._take()] == [2]


def _until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def _holding(threads: ThreadPoolExecutor, handler: Scripted, append: Callable[[], object]) -> list:
    """Every stream is busy with one append, each in a request of its own."""
    first = []
    while len(first) < STREAMS:
        first.append(threads.submit(append))
        _until(lambda: handler.seen == len(first))
    return first


def test_a_server_that_never_answers_does_not_hold_the_thread(scripted: Callable) -> None:
    def sleep(_request: Request, _number: int) -> Response:
        time.sleep(5)
        return Response()

    _, writer = scripted(dict.fromkeys(range(1, 20), sleep))
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="no answer"):
        writer.append(rows(1), [KEY], "early")
    assert time.monotonic() - began < 4.5


def test_the_view_is_there(client: bigquery.Client) -> None:
    assert client.get_table(f"{DATASET}.{VIEW}").table_type == "VIEW"


def test_a_filter_on_the_window_reaches_the_partitions_of_the_table() -> None:
    """A condition on a bare column of every PARTITION BY can be applied before the numbering: it picks whole groups."""
    sql = view_sql(DATASET)
    (groups,) = re.findall(r"PARTITION BY ([^\n]+)", sql)
    assert [name.strip() for name in groups.split(",")] == ["project", "source", "metric", "tier_s", "window_start"]
    assert "SELECT * FROM" in sql, "the column is handed out as it is"
    assert "LIMIT" not in sql
    assert sql.count("OVER") == 1
