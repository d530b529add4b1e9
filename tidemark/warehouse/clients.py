"""BigQuery's two services: REST for tables and queries, Storage Write for appending."""

from __future__ import annotations

import os
from typing import Any, Final

import grpc
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1 import BigQueryWriteClient

MAX_MESSAGE_BYTES: Final = 20 << 20


def rest(dataset: str, emulator: str | None = None) -> bigquery.Client:
    """A client for tables and queries of `gcp_project.dataset`.

    `emulator`, else `BIGQUERY_EMULATOR_HOST`, is the URL of a stand-in.
    """
    project = dataset.rpartition(".")[0]
    emulator = emulator or os.environ.get("BIGQUERY_EMULATOR_HOST")
    if emulator:
        return bigquery.Client(
            project=project,
            credentials=AnonymousCredentials(),
            client_options=ClientOptions(api_endpoint=emulator),
        )
    return bigquery.Client(project=project)


def write_channel(endpoint: str | None) -> Any:
    """A gRPC channel to Storage Write: Google's with default credentials, or a stand-in's in plain text."""
    if endpoint is not None:
        return grpc.insecure_channel(
            endpoint,
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_reconnect_backoff_ms", 2000),
                # a server that was killed and is back must not be reached through the broken connection of before
                ("grpc.keepalive_time_ms", 10_000),
                ("grpc.keepalive_timeout_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
    return BigQueryWriteClient().transport.grpc_channel
