"""BigQuery as it is where the stand-in is friendlier: a proxy before it that refuses, or answers otherwise."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

Answer = tuple[int, dict[str, Any]]
Refuses = Callable[[str, str, dict[str, Any]], Answer | None]
"""Given method, path and body: what is answered instead of the stand-in."""
Changes = Callable[[str, dict[str, Any]], None]
"""Given a path and the stand-in's answer, to be changed in place."""


def denied(what: str) -> Answer:
    """As BigQuery refuses what a grant is missing for."""
    message = f"Access Denied: Permission {what} denied"
    return 403, {"error": {"code": 403, "message": message, "errors": [{"reason": "accessDenied", "message": message}]}}


def only_dataset_rights(method: str, path: str, _body: dict[str, Any]) -> Answer | None:
    """roles/bigquery.dataEditor on the dataset, and nothing on the project."""
    if path.rstrip("/").endswith("/datasets"):
        return denied("bigquery.datasets.create" if method == "POST" else "bigquery.datasets.list")
    if method == "POST" and path.endswith(("/jobs", "/queries")):
        return denied("bigquery.jobs.create")
    return None


@contextmanager
def strict(upstream: str, refuses: Refuses, changes: Changes | None = None) -> Iterator[tuple[str, list[str]]]:
    """The proxy's URL, and what was asked of it: method and path.

    Args:
        upstream: The stand-in's URL.
        refuses: Asked first.
        changes: Asked then.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            asked.append(f"{self.command} {path}")
            answer = refuses(self.command, path, json.loads(body) if body else {})
            if answer is None:
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "accept-encoding")}
                got = requests.request(self.command, upstream + self.path, data=body, headers=headers, timeout=30)
                status, content = got.status_code, got.content
                if changes is not None and status == 200 and content:
                    answer = status, got.json()
                    changes(path, answer[1])
            if answer is not None:
                status, content = answer[0], json.dumps(answer[1]).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815  # the names are http.server's

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
