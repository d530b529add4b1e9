"""The table `rollups` and the view `rollups_latest`: made where missing, checked where there."""

from __future__ import annotations

from typing import Final

from google.api_core.exceptions import (
    Conflict,
    Forbidden,
    GoogleAPICallError,
    NotFound,
    RetryError,
    Unauthorized,
)
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from requests.exceptions import RequestException

from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError

TABLE: Final = "rollups"
VIEW: Final = "rollups_latest"
REQUEST_S: Final = 10
RETRY: Final = bigquery.DEFAULT_RETRY.with_timeout(20)
"""The library's own would try for ten minutes; whoever calls waits better, with a sentence."""
_REQUIRED: Final = "REQUIRED"
_NULLABLE: Final = "NULLABLE"

SCHEMA: Final = tuple(
    bigquery.SchemaField(name, kind, mode=mode, description=description)
    for name, kind, mode, description in (
        ("project", "STRING", _REQUIRED, "who owns the series"),
        ("source", "STRING", _REQUIRED, "which device or client sent it"),
        ("metric", "STRING", _REQUIRED, "what it measures"),
        ("tier_s", "INTEGER", _REQUIRED, "length of the window in seconds"),
        ("window_start", "TIMESTAMP", _REQUIRED, "aligned to UTC"),
        ("window_end", "TIMESTAMP", _REQUIRED, "exclusive"),
        ("count", "INTEGER", _REQUIRED, "points"),
        ("sum", "FLOAT", _NULLABLE, "of the values"),
        ("min", "FLOAT", _NULLABLE, "least value"),
        ("max", "FLOAT", _NULLABLE, "greatest value"),
        ("first", "FLOAT", _NULLABLE, "value of the earliest point"),
        ("last", "FLOAT", _NULLABLE, "value of the latest point"),
        ("m2", "FLOAT", _NULLABLE, "sum of squared deviations from the mean"),
        ("first_publish_time", "TIMESTAMP", _NULLABLE, "least publish time"),
        ("last_publish_time", "TIMESTAMP", _NULLABLE, "greatest publish time"),
        ("late_count", "INTEGER", _NULLABLE, "points published after the window's end"),
        ("pane", "STRING", _REQUIRED, "early, on_time or late: a preview; settled: recomputed from the raw points"),
        ("revision", "INTEGER", _REQUIRED, "0: a preview; else the greater is the newer"),
        ("final", "BOOLEAN", _NULLABLE, "settled after the horizon"),
        ("emitted_at", "TIMESTAMP", _REQUIRED, "when this row was made"),
        ("p50", "FLOAT", _NULLABLE, "median, within 1 %; null without --quantiles"),
        ("p90", "FLOAT", _NULLABLE, "90th percentile, within 1 %"),
        ("p99", "FLOAT", _NULLABLE, "99th percentile, within 1 %"),
    )
)
CLUSTERING: Final = ["project", "metric", "source"]
_SAME_TYPE: Final = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN"}


def view_sql(dataset: str) -> str:
    """The newest row of each rollup; a filter on `window_start` reaches the table's partitions."""
    return f"""SELECT * FROM `{dataset}.{TABLE}`
WHERE TRUE
QUALIFY ROW_NUMBER() OVER (
    PARTITION BY project, source, metric, tier_s, window_start
    ORDER BY revision DESC, count DESC, emitted_at DESC
) = 1 AND count > 0"""


def ensure(client: bigquery.Client, dataset: str, location: str | None) -> None:
    """Make the dataset, the table and the view where they are missing; add columns that are missing.

    Safe to repeat, and for two to do at once. Where all is there, rights on the dataset are enough.

    Args:
        client: Of the dataset's project.
        dataset: gcp_project.dataset.
        location: Where a missing dataset is made, as BigQuery calls it; None: it is not made.

    Raises:
        MisconfiguredError: a column has another type, or the table other partitions or clusters; the dataset is missing,
            or a grant.
        UnavailableError: BigQuery does not answer.
    """
    try:
        try:
            table = client.get_table(f"{dataset}.{TABLE}", retry=RETRY, timeout=REQUEST_S)
        except NotFound:
            table = _create(client, dataset, location)
        missing = check(table)
        if missing:
            nullable = [
                bigquery.SchemaField(f.name, f.field_type, mode=_NULLABLE, description=f.description) for f in missing
            ]
            table.schema = [*table.schema, *nullable]
            client.update_table(table, ["schema"], retry=RETRY, timeout=REQUEST_S)
        _ensure_view(client, dataset, {field.name for field in table.schema})
    except (GoogleAPICallError, RetryError, RequestException, GoogleAuthError) as error:
        raise translate(error) from error


def _create(client: bigquery.Client, dataset: str, location: str | None) -> bigquery.Table:
    """Make the table, and the dataset where that is missing; what is new in the dataset may expire, the table may not."""
    try:
        client.get_dataset(dataset, retry=RETRY, timeout=REQUEST_S)
    except NotFound:
        if location is None:
            raise MisconfiguredError(
                f"The dataset {dataset} does not exist: bq mk --dataset --location=… {dataset.replace('.', ':')}, or say by "
                "--rollup_location where it is to be made."
            ) from None
        made = bigquery.Dataset(dataset)
        made.location = location
        client.create_dataset(made, exists_ok=True, retry=RETRY, timeout=REQUEST_S)
    table = client.create_table(_table(dataset), exists_ok=True, retry=RETRY, timeout=REQUEST_S)
    if table.expires is not None or (table.time_partitioning and table.time_partitioning.expiration_ms is not None):
        table.expires = None
        table.time_partitioning = _table(dataset).time_partitioning
        table = client.update_table(table, ["expires", "time_partitioning"], retry=RETRY, timeout=REQUEST_S)
    return table


def translate(error: Exception) -> TidemarkError:
    """The Tidemark error for what BigQuery's REST client raises."""
    if isinstance(error, RetryError) and isinstance(error.cause, Exception):
        error = error.cause
    if isinstance(error, RequestException):
        at = f" at {error.request.url!s}" if error.request is not None else ""
        return UnavailableError(f"BigQuery does not answer{at}: {type(error).__name__}.")
    said = getattr(error, "message", None) or str(error)
    if isinstance(error, (Forbidden, Unauthorized, GoogleAuthError)):
        return MisconfiguredError(f"BigQuery refuses: {said}.")
    if isinstance(error, NotFound):
        return MisconfiguredError(f"BigQuery does not find it: {said}.")
    if (
        isinstance(error, GoogleAPICallError)
        and error.code is not None
        and 400 <= error.code < 500
        and error.code != 429
    ):
        return MisconfiguredError(f"BigQuery does not accept the request: {said}.")
    return UnavailableError(f"BigQuery does not answer: {said}.")


def _table(dataset: str) -> bigquery.Table:
    table = bigquery.Table(f"{dataset}.{TABLE}", schema=SCHEMA)
    table.description = "Every rollup row Tidemark has made; rollups_latest shows the newest of each."
    table.time_partitioning = bigquery.TimePartitioning(type_="DAY", field="window_start")
    table.clustering_fields = CLUSTERING
    return table


def check(table: bigquery.Table) -> list[bigquery.SchemaField]:
    """Hold a table against what it must be.

    Returns:
        The columns that are missing.

    Raises:
        MisconfiguredError: a column has another type, or the table other partitions or clusters, or wants a filter.
    """
    name = f"{table.project}.{table.dataset_id}.{table.table_id}"
    there = {field.name: field for field in table.schema}
    for wanted in SCHEMA:
        found = there.get(wanted.name)
        if found is None:
            continue
        kind = _SAME_TYPE.get(found.field_type, found.field_type)
        if kind != wanted.field_type:
            raise MisconfiguredError(
                f"Table {name}: column {wanted.name} is {found.field_type} and must be {wanted.field_type}; "
                "rename the table away and start again."
            )
    partitioning = table.time_partitioning
    if partitioning is None or partitioning.type_ != "DAY" or partitioning.field != "window_start":
        raise MisconfiguredError(
            f"Table {name} must be partitioned by day of window_start; rename it away and start again."
        )
    if table.clustering_fields != CLUSTERING:
        raise MisconfiguredError(
            f"Table {name} must be clustered by {', '.join(CLUSTERING)}; alter it, or rename it away."
        )
    if table.require_partition_filter:
        raise MisconfiguredError(
            f"Table {name} requires a filter on window_start, and {VIEW} has none by itself; "
            f"bq update --norequire_partition_filter {table.project}:{table.dataset_id}.{table.table_id}."
        )
    return [field for field in SCHEMA if field.name not in there]


def _ensure_view(client: bigquery.Client, dataset: str, columns: set[str]) -> None:
    """Make the view, or make it again: BigQuery goes on to show the columns that the table had when it was made."""
    wanted = view_sql(dataset)
    try:
        view = client.get_table(f"{dataset}.{VIEW}", retry=RETRY, timeout=REQUEST_S)
    except NotFound:
        view = bigquery.Table(f"{dataset}.{VIEW}")
        view.view_query = wanted
        try:
            client.create_table(view, retry=RETRY, timeout=REQUEST_S)
        except Conflict:
            return  # another program was faster, with the same text
    else:
        if view.view_query != wanted or (view.schema and {field.name for field in view.schema} != columns):
            view.view_query = wanted
            client.update_table(view, ["view_query"], retry=RETRY, timeout=REQUEST_S)
