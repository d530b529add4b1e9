"""A Storage Write server that answers as BigQuery does on its bad days."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

import grpc
from google.cloud.bigquery_storage_v1 import types
from google.protobuf import any_pb2
from google.rpc import code_pb2, status_pb2

Request, Response = types.AppendRowsRequest.pb(), types.AppendRowsResponse.pb()
CLOSE: Final = "close"
"""The stream ends, as it does after a while, before the answer."""
Answer = Callable[[Request, int], Response]


class Scripted(grpc.GenericRpcHandler):
    """Answers the n-th request of its life as the script says; remembers what it acknowledged."""

    def __init__(self, script: dict[int, Answer | grpc.StatusCode | str]) -> None:
        self.script, self.seen, self.kept = script, 0, 0

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.stream_stream_rpc_method_handler(self.append, Request.FromString, Response.SerializeToString)

    def append(self, requests: Iterator[Request], context: grpc.ServicerContext) -> Iterator[Response]:
        for request in requests:
            self.seen += 1
            number = len(request.proto_rows.rows.serialized_rows)
            answer = self.script.get(self.seen)
            if isinstance(answer, grpc.StatusCode):
                context.abort(answer, "as the script says")
            elif answer == CLOSE:
                return
            elif answer is not None:
                yield answer(request, number)
            else:
                self.kept += number
                yield Response(append_result=types.AppendRowsResponse.AppendResult.pb()())


def in_band(code: int, *details: object) -> Answer:
    status = status_pb2.Status(code=code, message="as the script says")
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return lambda _request, _number: Response(error=status)


def refuse(*bad: int) -> Answer:
    """These rows of the request are refused, and therefore all of it."""
    errors = [types.RowError.pb()(index=i, message=f"bad {i}") for i in bad]
    status = status_pb2.Status(code=code_pb2.INVALID_ARGUMENT)
    return lambda _request, _number: Response(row_errors=errors, error=status)


def serve(script: dict) -> tuple[Scripted, grpc.Server, int]:
    """A server on loopback; its port."""
    handler, server = Scripted(script), grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return handler, server, port


@contextmanager
def rest_without_tables() -> Iterator[str]:
    """The URL of a REST service that has no table: a dataset that is nobody's yet."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said = json.dumps({"error": {"code": 404, "message": "Not found", "errors": [{"reason": "notFound"}]}})
            self.send_response(404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(said.encode())

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
