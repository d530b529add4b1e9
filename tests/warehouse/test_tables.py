"""Dataset, table and view as BigQuery has them: with few rights, in a place, with settings of the dataset's owner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from google.cloud import bigquery

from tests.warehouse.strict import only_dataset_rights, strict
from tidemark.errors import MisconfiguredError
from tidemark.local.stack import BigQuery
from tidemark.warehouse.clients import rest
from tidemark.warehouse.tables import SCHEMA, TABLE, VIEW, ensure, view_sql

PROJECT = "tidemark-local"


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    made = BigQuery(tmp_path_factory.mktemp("bigquery"), PROJECT)
    made.start()
    yield f"http://127.0.0.1:{made.ports()[0]}"
    made.stop()


def nothing(*_: object) -> None:
    return None


def test_rights_on_the_dataset_are_enough(upstream: str) -> None:
    dataset = f"{PROJECT}.granted"
    rest(dataset, upstream).create_dataset(dataset)
    with strict(upstream, only_dataset_rights) as (url, asked):
        client = rest(dataset, url)
        ensure(client, dataset, "EU")
        ensure(client, dataset, None)
    assert not [line for line in asked if line.endswith(("/datasets", "/jobs", "/queries"))]
    assert {table.table_id for table in rest(dataset, upstream).list_tables(dataset)} == {TABLE, VIEW}


def test_a_missing_dataset_is_made_where_it_is_said_and_else_refused(upstream: str) -> None:
    sent: list[dict[str, Any]] = []

    def seen(method: str, path: str, body: dict[str, Any]) -> None:
        if method == "POST" and path.endswith("/datasets"):
            sent.append(body)

    dataset = f"{PROJECT}.missing"
    with strict(upstream, seen) as (url, _):
        client = rest(dataset, url)
        with pytest.raises(MisconfiguredError, match=r"does not exist: bq mk .*--rollup_location"):
            ensure(client, dataset, None)
        assert sent == []
        ensure(client, dataset, "europe-west1")
    assert [body["location"] for body in sent] == ["europe-west1"]


def test_what_may_not_be_made_is_told_in_a_sentence(upstream: str) -> None:
    dataset = f"{PROJECT}.forbidden"
    with (
        strict(upstream, only_dataset_rights) as (url, _),
        pytest.raises(MisconfiguredError, match=r"datasets\.create"),
    ):
        ensure(rest(dataset, url), dataset, "EU")


def test_a_table_that_requires_a_filter_is_refused(upstream: str) -> None:
    dataset = f"{PROJECT}.filtered"
    ensure(rest(dataset, upstream), dataset, "US")

    def requires(path: str, answer: dict[str, Any]) -> None:
        if path.endswith(f"/tables/{TABLE}"):
            answer["requirePartitionFilter"] = True

    with (
        strict(upstream, nothing, requires) as (url, _),
        pytest.raises(MisconfiguredError, match="--norequire_partition_filter"),
    ):
        ensure(rest(dataset, url), dataset, None)


def test_a_new_table_does_not_expire_with_its_dataset(upstream: str) -> None:
    patched: list[dict[str, Any]] = []

    def seen(method: str, path: str, body: dict[str, Any]) -> None:
        if method == "PATCH" and path.endswith(f"/tables/{TABLE}"):
            patched.append(body)

    def expires(path: str, answer: dict[str, Any]) -> None:
        if path.endswith("/tables") and "timePartitioning" in answer:
            answer["expirationTime"] = "1900000000000"
            answer["timePartitioning"]["expirationMs"] = "86400000"

    dataset = f"{PROJECT}.expiring"
    with strict(upstream, seen, expires) as (url, _):
        ensure(rest(dataset, url), dataset, "US")
    assert patched[0]["expirationTime"] is None
    assert patched[0]["timePartitioning"] == {"type": "DAY", "field": "window_start"}


def test_the_view_is_made_again_when_the_table_has_more_columns(upstream: str) -> None:
    dataset = f"{PROJECT}.viewed"
    client = rest(dataset, upstream)
    ensure(client, dataset, "US")
    table = client.get_table(f"{dataset}.{TABLE}")
    patched: list[dict[str, Any]] = []

    def seen(method: str, path: str, body: dict[str, Any]) -> None:
        if method == "PATCH" and path.endswith(f"/tables/{VIEW}"):
            patched.append(body)

    shown = [field.to_api_repr() for field in SCHEMA]

    def shows(path: str, answer: dict[str, Any]) -> None:
        if path.endswith(f"/tables/{VIEW}"):
            answer["schema"] = {"fields": shown}
            answer["view"] = {"query": view_sql(dataset), "useLegacySql": False}

    with strict(upstream, seen, shows) as (url, _):
        ensure(rest(dataset, url), dataset, None)
        assert patched == []
        shown.pop()  # the view is as old as before that column
        ensure(rest(dataset, url), dataset, None)
    assert [body["view"]["query"] for body in patched] == [view_sql(dataset)]
    assert len(table.schema) == len(SCHEMA)
    assert isinstance(table, bigquery.Table)
