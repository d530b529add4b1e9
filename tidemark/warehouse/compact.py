"""Removes rows of `rollups` that another row has replaced for good.

Safe while ingest runs, and for two at once: a row goes only when the same snapshot has a row of the same rollup with a
greater revision (or the same, appended again later), and that one can only go for a yet greater one. A preview without
a settled row stays.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Final

from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from requests.exceptions import RequestException

from tidemark.errors import UnavailableError
from tidemark.warehouse.tables import TABLE, translate

DEADLINE_S: Final = 3600
_SUPERSEDED: Final = """
FROM `{table}` AS r
WHERE r.window_start >= @start AND r.window_start < @end AND EXISTS (
    SELECT 1 FROM `{table}` AS n
    WHERE n.window_start >= @start AND n.window_start < @end
    AND n.project = r.project AND n.source = r.source AND n.metric = r.metric
    AND n.tier_s = r.tier_s AND n.window_start = r.window_start
    AND (n.revision > r.revision OR (n.revision = r.revision AND r.revision > 0 AND n.emitted_at > r.emitted_at))
)"""


def superseded(client: bigquery.Client, dataset: str, day: date) -> int:
    """How many rows of a day's partition `remove_superseded` would remove.

    Raises:
        UnavailableError, MisconfiguredError: BigQuery could not be asked.
    """
    job = _run(client, f"SELECT COUNT(*) {_SUPERSEDED.format(table=f'{dataset}.{TABLE}')}", day)
    return int(next(iter(job.result()))[0])


def remove_superseded(client: bigquery.Client, dataset: str, day: date) -> int:
    """Remove the replaced rows of a day's partition.

    Args:
        client: Of the dataset's project.
        dataset: gcp_project.dataset.
        day: Of `window_start`, in UTC.

    Returns:
        How many.

    Raises:
        UnavailableError: BigQuery does not answer, or another statement changes the partition; run it again.
        MisconfiguredError: the table is not there, or may not be changed.
    """
    return int(_run(client, f"DELETE {_SUPERSEDED.format(table=f'{dataset}.{TABLE}')}", day).num_dml_affected_rows or 0)


def _run(client: bigquery.Client, sql: str, day: date) -> bigquery.QueryJob:
    start = datetime.combine(day, time(), UTC)
    parameters = [
        bigquery.ScalarQueryParameter("start", "TIMESTAMP", start),
        bigquery.ScalarQueryParameter("end", "TIMESTAMP", start + timedelta(days=1)),
    ]
    try:
        job = client.query(sql, job_config=bigquery.QueryJobConfig(query_parameters=parameters), timeout=60)
        job.result(timeout=DEADLINE_S)
    except TimeoutError:
        raise UnavailableError(
            f"BigQuery has not finished the statement of {day.isoformat()} within {DEADLINE_S:g} s; it goes on there."
        ) from None
    except (GoogleAPICallError, RetryError, RequestException, GoogleAuthError) as error:
        raise translate(error) from error
    return job
