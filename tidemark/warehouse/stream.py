"""One AppendRows call: requests go out, a response comes for each; what breaks it is one kind of failure."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Final

import grpc
from google.cloud.bigquery_storage_v1 import types
from google.rpc import code_pb2, error_details_pb2, status_pb2

_METHOD: Final = "/google.cloud.bigquery.storage.v1.BigQueryWrite/AppendRows"
Request: Final = types.AppendRowsRequest.pb()
_Response: Final = types.AppendRowsResponse.pb()


class Failure(Exception):  # noqa: N818  # stays in this package
    """One request was not acknowledged."""

    def __init__(self, code: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s


class Stream:
    """One bidirectional AppendRows call; used by one thread at a time."""

    def __init__(self, channel: Any, stream_name: str) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        method = channel.stream_stream(_METHOD, Request.SerializeToString, _Response.FromString)
        self._call = method(
            iter(self._requests.get, None), metadata=[("x-goog-request-params", f"write_stream={stream_name}")]
        )

    def send(self, request: Any) -> None:
        """Queue a request."""
        self._requests.put(request)

    def receive(self) -> dict[int, str]:
        """Wait for the next response.

        Returns:
            The rows of the request that are refused, by index; empty: all are durable.

        Raises:
            Failure: the request is not acknowledged.
        """
        try:
            response = next(self._call)
        except StopIteration:
            raise Failure(code_pb2.UNAVAILABLE, "the stream was closed") from None
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.CANCELLED:  # by `_Deadline`: a service would say more
                raise Failure(code_pb2.DEADLINE_EXCEEDED, "no answer") from None
            raise Failure(error.code().value[0], error.details() or "", _retry_after(error)) from None
        if response.row_errors:
            return {error.index: error.message for error in response.row_errors}
        if response.HasField("error"):
            raise Failure(response.error.code, response.error.message, _retry_delay(response.error))
        return {}

    def until(self, give_up_at: float) -> _Deadline:
        """Cancel the call when it takes longer than this."""
        return _Deadline(self._call, give_up_at)

    def close(self) -> None:
        """End the call."""
        self._requests.put(None)
        self._call.cancel()


class _Deadline:
    """A stream has no deadline for a message: a timer cancels the call, so that a frozen server does not hold a thread."""

    def __init__(self, call: Any, give_up_at: float) -> None:
        self._timer = threading.Timer(max(0.0, give_up_at - time.monotonic()), call.cancel)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()


def _retry_after(error: Any) -> float | None:
    """The pause that a service asks for, from the call's trailing metadata."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return _retry_delay(status_pb2.Status.FromString(value))
    return None


def _retry_delay(status: status_pb2.Status) -> float | None:
    for detail in status.details:
        info = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    return None
