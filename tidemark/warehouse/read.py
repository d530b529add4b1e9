"""Reads rollups back from BigQuery."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, NamedTuple

from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from requests.exceptions import RequestException

from tidemark.warehouse.tables import SCHEMA, TABLE, VIEW, translate
from tidemark.wire.message import microseconds, moment, moment_s

_NAMES: Final = ", ".join(field.name for field in SCHEMA)


class Rollup(NamedTuple):
    """A row of `rollups`; times are microseconds since 1970 UTC."""

    project: str
    source: str
    metric: str
    tier_s: int
    window_start: int
    window_end: int
    count: int  # type: ignore[assignment]  # the column's name; a tuple's own count is not used
    sum: float
    min: float
    max: float
    first: float
    last: float
    m2: float
    first_publish_time: int
    last_publish_time: int
    late_count: int
    pane: str
    revision: int
    final: bool
    emitted_at: int
    p50: float | None
    p90: float | None
    p99: float | None


def latest(
    client: bigquery.Client, dataset: str, from_us: int, to_us: int, tier_s: int | None = None
) -> Iterator[Rollup]:
    """Rows of `rollups_latest`, ordered by tier, window and series, fetched page by page.

    Args:
        client: Of the dataset's project.
        dataset: gcp_project.dataset.
        from_us: Least window start in microseconds.
        to_us: Its exclusive end.
        tier_s: Only this tier.

    Raises:
        UnavailableError, MisconfiguredError: BigQuery does not answer, or the view is not there.
    """
    query = f"""SELECT {_NAMES} FROM `{dataset}.{VIEW}`
WHERE window_start >= @from AND window_start < @to AND (@tier IS NULL OR tier_s = @tier)
ORDER BY tier_s, window_start, project, source, metric"""
    parameters = [
        bigquery.ScalarQueryParameter("from", "TIMESTAMP", moment(from_us)),
        bigquery.ScalarQueryParameter("to", "TIMESTAMP", moment(to_us)),
        bigquery.ScalarQueryParameter("tier", "INT64", tier_s),
    ]
    return (Rollup(*values) for values in _rows(client, query, parameters))


def occupied(
    client: bigquery.Client, dataset: str, width_s: int, start: int | None = None, end: int | None = None
) -> list[int]:
    """Starts, in seconds since 1970 and in order, of the windows of one width in which `rollups` has any row.

    Scans one column of the table, 8 bytes a row, in the partitions of the range.

    Args:
        client: Of the dataset's project.
        dataset: gcp_project.dataset.
        width_s: Length of a window in seconds.
        start: Least window start in seconds; None: from the first.
        end: Its exclusive end; None: to the last.

    Raises:
        UnavailableError, MisconfiguredError: as `latest`.
    """
    bounds = {"start": (">=", start), "end": ("<", end)}
    given = {name: (sense, edge) for name, (sense, edge) in bounds.items() if edge is not None}
    where = " AND ".join(["TRUE", *(f"window_start {sense} @{name}" for name, (sense, _) in given.items())])
    query = f"SELECT DISTINCT DIV(UNIX_SECONDS(window_start), @width) FROM `{dataset}.{TABLE}` WHERE {where} ORDER BY 1"
    parameters = [
        bigquery.ScalarQueryParameter("width", "INT64", width_s),
        *(bigquery.ScalarQueryParameter(name, "TIMESTAMP", moment_s(edge)) for name, (_, edge) in given.items()),
    ]
    return [int(row[0]) * width_s for row in _rows(client, query, parameters)]


def history(
    client: bigquery.Client, dataset: str, key: tuple[str, str, str], tier_s: int, start_us: int
) -> list[Rollup]:
    """Every row of one rollup, oldest first.

    Args:
        client: Of the dataset's project.
        dataset: gcp_project.dataset.
        key: (project, source, metric).
        tier_s: Its tier.
        start_us: Its window start in microseconds.

    Raises:
        UnavailableError, MisconfiguredError: as `latest`.
    """
    query = f"""SELECT {_NAMES} FROM `{dataset}.{TABLE}`
WHERE window_start = @start AND tier_s = @tier AND project = @project AND source = @source AND metric = @metric
ORDER BY emitted_at, revision"""
    parameters = [
        bigquery.ScalarQueryParameter("start", "TIMESTAMP", moment(start_us)),
        bigquery.ScalarQueryParameter("tier", "INT64", tier_s),
        *(
            bigquery.ScalarQueryParameter(name, "STRING", value)
            for name, value in zip(("project", "source", "metric"), key, strict=True)
        ),
    ]
    return [Rollup(*values) for values in _rows(client, query, parameters)]


def _rows(client: bigquery.Client, query: str, parameters: list[Any]) -> Iterator[list[Any]]:
    """The values of each row, times as microseconds since 1970 UTC."""
    config = bigquery.QueryJobConfig(query_parameters=parameters)
    try:
        pages = client.query(query, job_config=config, timeout=60).result(page_size=10_000).pages
        with ThreadPoolExecutor(1) as ahead:  # the next page comes while this one is looked at
            coming = ahead.submit(next, pages, None)
            while (page := coming.result()) is not None:
                coming = ahead.submit(next, pages, None)
                for row in page:
                    # by index: `row.values()` copies every value deeply, which costs as much as all the rest
                    yield [microseconds(v) if isinstance(v, datetime) else v for v in row]
    except (GoogleAPICallError, RetryError, RequestException, GoogleAuthError) as error:
        raise translate(error) from error
