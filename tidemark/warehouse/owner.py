"""Whose rollups a dataset holds: its table bears the identity of one raw store, and no other may write, compare or clean it.

Two databases with one dataset would each take the other's rows for its own mistakes: `verify` fails on both, and
`rebuild` empties what it does not know.
"""

from __future__ import annotations

import re
from typing import Final

from google.api_core.exceptions import GoogleAPICallError, NotFound, PreconditionFailed, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import bigquery
from requests.exceptions import RequestException

from tidemark.errors import MisconfiguredError
from tidemark.warehouse.tables import REQUEST_S, RETRY, TABLE, translate
from tidemark.wire.identity import StoreIdentity

STORE: Final = "tidemark_store"
DATABASE: Final = "tidemark_database"
"""Labels of the table."""
_NOT_IN_A_LABEL: Final = re.compile(r"[^a-z0-9_-]")


def owner(table: bigquery.Table) -> StoreIdentity | None:
    """What the table's labels say; None: nobody's yet."""
    labels = table.labels or {}
    return StoreIdentity(labels[STORE], labels.get(DATABASE, "?")) if labels.get(STORE) else None


def check(client: bigquery.Client, dataset: str, store: StoreIdentity) -> bool:
    """Refuse a dataset of another store; returns whether it is known to be this one's.

    Args:
        client: Of the dataset's project.
        dataset: gcp_project.dataset.
        store: Of the database that is used with it.

    Raises:
        MisconfiguredError: it is another store's; both are named.
        UnavailableError: BigQuery does not answer.
    """
    try:
        found = owner(client.get_table(f"{dataset}.{TABLE}", retry=RETRY, timeout=REQUEST_S))
    except NotFound:
        return False
    except (GoogleAPICallError, RetryError, RequestException, GoogleAuthError) as error:
        raise translate(error) from error
    if found is not None and found.id != store.id:
        raise another(dataset, found, store)
    return found is not None


def claim(client: bigquery.Client, dataset: str, store: StoreIdentity) -> None:
    """Make the dataset, whose table must be there, this store's, unless it is another one's.

    Of two stores that claim it at once one is refused.

    Args:
        client: Of the dataset's project.
        dataset: gcp_project.dataset.
        store: Of the database that is used with it.

    Raises:
        MisconfiguredError: it is another store's; or a grant is missing.
        UnavailableError: BigQuery does not answer.
    """
    while not check(client, dataset, store):
        try:
            table = client.get_table(f"{dataset}.{TABLE}", retry=RETRY, timeout=REQUEST_S)
            if owner(table) is None:
                name = _NOT_IN_A_LABEL.sub("_", store.name.lower())[:63]
                table.labels = {**(table.labels or {}), STORE: store.id, DATABASE: name}
                client.update_table(table, ["labels"], retry=RETRY, timeout=REQUEST_S)  # only if it is as it was read
        except PreconditionFailed:
            continue
        except (GoogleAPICallError, RetryError, RequestException, GoogleAuthError) as error:
            raise translate(error) from error


def another(dataset: str, found: StoreIdentity, store: StoreIdentity) -> MisconfiguredError:
    """The sentence that names both, and the way out."""
    place = ":".join(dataset.rsplit(".", 1))
    return MisconfiguredError(
        f"The dataset {dataset} holds the rollups of {found}, and this is {store}: give each database a dataset of its "
        f"own. Where that one is gone for good: bq update --set_label {STORE}:{store.id} {place}.{TABLE}, and then "
        "`tidemark rebuild`."
    )
