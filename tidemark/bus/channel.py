"""Where Pub/Sub is."""

from __future__ import annotations

import os
from typing import Any

import grpc
from google.auth.exceptions import GoogleAuthError
from google.cloud import pubsub_v1

from tidemark.errors import MisconfiguredError


def channel() -> Any:
    """A gRPC channel to Google's with default credentials, or to the stand-in that `PUBSUB_EMULATOR_HOST` names.

    Raises:
        MisconfiguredError: this machine has no credentials.
    """
    emulator = os.environ.get("PUBSUB_EMULATOR_HOST")
    if emulator:
        return grpc.insecure_channel(emulator, options=[("grpc.max_receive_message_length", -1)])
    try:
        return pubsub_v1.SubscriberClient().transport.grpc_channel
    except GoogleAuthError as error:
        raise MisconfiguredError(f"Pub/Sub cannot be reached without credentials: {error}.") from error
