"""Dataflow's jobs API and Cloud Storage on this machine, for unmodified Beam to submit to."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidemark.local.processes import free_port

JOB_ID = "2026-01-01_00_00_00-1"
BUCKET = "staging-bucket"
IMAGE = "registry.example/tidemark/ingest:1"


@dataclass
class Google:
    """What Beam is led to, and what it sent there."""

    jobs_port: int
    storage_port: int
    posted: list[dict[str, Any]] = field(default_factory=list)

    def launch(self, *options: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run the template's entry file as the launcher does."""
        root = Path(__file__).parents[2]
        command = [sys.executable, root / "templates" / "launch.py", *self.options(), *options]
        given = {
            **os.environ,
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.storage_port}",
            "TIDEMARK_IMAGE": IMAGE,
            **(environment or {}),
        }
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=90, check=False)

    def options(self) -> list[str]:
        return [
            "--runner=DataflowRunner",
            "--project=demo-project",
            "--region=europe-west1",
            "--job_name=ingest",
            f"--temp_location=gs://{BUCKET}/temp",
            f"--staging_location=gs://{BUCKET}/staging",
            f"--dataflow_endpoint=http://localhost:{self.jobs_port}",  # Beam refuses an address in digits
            "--no_auth",
        ]

    def put(self, name: str, data: bytes) -> str:
        """An object in the bucket; returns its location."""
        query = urllib.parse.urlencode({"uploadType": "media", "name": name})
        base = f"http://127.0.0.1:{self.storage_port}/upload/storage/v1/b/{BUCKET}/o?{query}"
        request = urllib.request.Request(base, data, {"Content-Type": "text/plain"}, method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()
        return f"gs://{BUCKET}/{name}"

    def staged(self) -> dict[str, bytes]:
        """Every object in the bucket."""
        base = f"http://127.0.0.1:{self.storage_port}/storage/v1/b/{BUCKET}/o"
        with urllib.request.urlopen(base, timeout=10) as answer:
            names = [item["name"] for item in json.load(answer).get("items", [])]
        found = {}
        for name in names:
            with urllib.request.urlopen(f"{base}/{urllib.parse.quote(name, safe='')}?alt=media", timeout=10) as answer:
                found[name] = answer.read()
        return found


def _handler(google: Google) -> type[http.server.BaseHTTPRequestHandler]:
    class Api(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            job: dict[str, Any] = {"id": JOB_ID, "projectId": "demo-project", "location": "europe-west1"}
            if self.command == "POST" and "/jobs" in self.path:
                posted = json.loads(body)
                google.posted.append(posted)
                job |= {"name": posted["name"], "type": posted["type"], "currentState": "JOB_STATE_PENDING"}
            text = json.dumps(job).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = _answer  # noqa: N815  # the names the server looks for

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Api


@contextmanager
def google(log: Path) -> Iterator[Google]:
    made = Google(free_port(), free_port())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", made.jobs_port), _handler(made))
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    command = [Path(sys.executable).with_name("gcp-storage-emulator"), "start", "--host=127.0.0.1"]
    command += [f"--port={made.storage_port}", "--in-memory", f"--default-bucket={BUCKET}"]
    with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as storage:
        try:
            _wait(made, storage, log)
            yield made
        finally:
            storage.terminate()
            storage.wait(10)
            server.shutdown()
            server.server_close()
            serving.join()


def _wait(made: Google, storage: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            made.staged()
        except (urllib.error.URLError, ConnectionError):
            assert storage.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        else:
            return
