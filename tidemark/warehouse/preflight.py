"""Looks at BigQuery before a job appends to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from requests.exceptions import RequestException

from tidemark.errors import MisconfiguredError
from tidemark.findings import Finding, passed, refused, warned
from tidemark.warehouse.clients import rest
from tidemark.warehouse.owner import another, owner
from tidemark.warehouse.tables import TABLE, VIEW, check, translate, view_sql
from tidemark.wire.identity import StoreIdentity

TIMEOUT_S: Final = 8
MULTI_REGIONS: Final = {"US": "us-", "EU": "europe-"}


def tables(dataset: str, region: str | None) -> Iterator[Finding]:
    """Whether dataset, table and view are there and as they must be; what is missing inside the dataset is made later.

    Args:
        dataset: gcp_project.dataset.
        region: Where the job runs; None: unknown.

    Raises:
        UnavailableError, MisconfiguredError: BigQuery does not answer, or refuses.
    """
    try:
        client = rest(dataset)
        try:
            found = client.get_dataset(dataset, retry=None, timeout=TIMEOUT_S)
        except NotFound:
            remedy = f"bq mk --dataset --location=… {dataset.replace('.', ':')}"
            yield refused("BigQuery dataset", f"{dataset} does not exist", remedy)
            return
        except Forbidden:
            remedy = "grant roles/bigquery.dataEditor on the dataset to the worker's service account"
            yield refused("BigQuery dataset", f"{dataset} may not be looked at", remedy)
            return
        yield passed("BigQuery dataset", dataset)
        yield from _dataset(found, region)
        yield from _table(client, dataset)
        yield from _view(client, dataset)
    except (GoogleAPICallError, RetryError, RequestException, GoogleAuthError) as error:
        raise translate(error) from error


def owned(dataset: str, store: StoreIdentity) -> Iterator[Finding]:
    """Whether the dataset holds the rollups of this store; a launch makes it this store's where it is nobody's."""
    try:
        table = rest(dataset).get_table(f"{dataset}.{TABLE}", retry=None, timeout=TIMEOUT_S)
    except (GoogleAPICallError, RetryError, RequestException, GoogleAuthError):
        return  # `tables` tells
    found = owner(table)
    if found is not None and found.id != store.id:
        yield refused(
            "BigQuery owner", str(another(dataset, found, store)), "correct --rollup_dataset, or the database"
        )
    elif found is not None:
        yield passed("BigQuery owner", f"{store}")
    else:
        yield passed("BigQuery owner", f"nobody yet; a launch makes it that of {store}")


def _dataset(found: bigquery.Dataset, region: str | None) -> Iterator[Finding]:
    location = found.location or ""
    if region and location:
        near = MULTI_REGIONS.get(location.upper(), location.lower())
        if region.lower().startswith(near):
            yield passed("BigQuery location", f"{location}, the job in {region}")
        else:
            yield warned(
                "BigQuery location",
                f"{location}, but the job runs in {region}: every row crosses regions, and is billed for it",
                "run the job there, or keep the dataset here: a dataset cannot be moved",
            )
    kept_ms = found.default_partition_expiration_ms or found.default_table_expiration_ms
    if kept_ms:
        yield warned(
            "BigQuery expiration",
            f"what is new in the dataset is removed after {kept_ms / 86_400_000:g} days",
            f"bq update --default_table_expiration 0 --default_partition_expiration 0 {found.project}:{found.dataset_id}",
        )


def _table(client: bigquery.Client, dataset: str) -> Iterator[Finding]:
    name = f"{dataset}.{TABLE}"
    try:
        table = client.get_table(name, retry=None, timeout=TIMEOUT_S)
    except NotFound:
        yield passed(
            "BigQuery table", f"{TABLE} is not there; a launch makes it, and `tidemark rebuild --rollup_dataset=…`"
        )
        return
    try:
        missing = check(table)
    except MisconfiguredError as error:
        yield refused("BigQuery table", str(error), f"ALTER TABLE `{name}` RENAME TO …; the launch makes a right one")
        return
    if missing:
        told = ", ".join(field.name for field in missing)
        yield passed("BigQuery table", f"{TABLE}, to which the launch adds {told}")
    else:
        yield passed("BigQuery table", TABLE)
    partitions = table.time_partitioning.expiration_ms if table.time_partitioning else None
    if table.expires or partitions:
        yield warned("BigQuery table", "its rows expire: reports of the past shrink", "take the expiration away")


def _view(client: bigquery.Client, dataset: str) -> Iterator[Finding]:
    try:
        view = client.get_table(f"{dataset}.{VIEW}", retry=None, timeout=TIMEOUT_S)
    except NotFound:
        yield passed("BigQuery view", f"{VIEW} is made when the job is launched")
        return
    if view.table_type != "VIEW":
        remedy = f"ALTER TABLE `{dataset}.{VIEW}` RENAME TO …"
        yield refused("BigQuery view", f"{VIEW} is a {view.table_type.lower()}, not a view", remedy)
    elif view.view_query is not None and view.view_query.strip() != view_sql(dataset):
        yield warned(
            "BigQuery view", f"{VIEW} has another text, which the launch replaces", "keep changes in a view of your own"
        )
    else:
        yield passed("BigQuery view", VIEW)
