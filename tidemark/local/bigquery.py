"""The BigQuery stand-in: `bqemulator`, in a virtual environment of its own since its pins are not ours."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tidemark.local import cache, install
from tidemark.local.processes import Process, free_port, keeps, listens, start, wait_ready


def environment_directory() -> Path:
    """The virtual environment, made the first time.

    Raises:
        LocalError: it cannot be made.
    """
    lock = Path(__file__).with_name("bigquery.lock")
    return cache.made_once(f"bigquery-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}", _make)


def _make(directory: Path) -> None:
    what = "The BigQuery stand-in"
    cache.say("Installing the BigQuery stand-in (once; under a minute) …")
    lock = Path(__file__).with_name("bigquery.lock")
    python = str(directory / "venv" / "bin" / "python")
    install.run(install.uv("venv", "--quiet", "--python", sys.executable, str(directory / "venv")), what)
    command = install.uv("pip", "install", "--quiet", "--require-hashes", "--python", python, "-r", str(lock))
    install.run(command, what)
    # DuckDB would otherwise download this extension when the server starts
    extension = "import duckdb_extensions; duckdb_extensions.import_extension('spatial')"
    install.run([python, "-c", extension], what, {**os.environ, "HOME": str(directory)})


@dataclass
class BigQuery:
    """One server: REST and Storage Write on loopback, rows kept in `directory` through a kill."""

    directory: Path
    project: str

    @property
    def pid_file(self) -> Path:
        """Where its process is remembered."""
        return self.directory / "pid"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.directory / "log"

    def ports(self) -> tuple[int, int]:
        """REST and gRPC; the same after a restart where they are free."""
        rest, write = json.loads((self.directory / "ports.json").read_text())
        return int(rest), int(write)

    def process(self) -> Process | None:
        """The running server."""
        return Process.read(self.pid_file)

    def start(self) -> None:
        """Start it, unless it runs.

        Raises:
            LocalError: it cannot be installed or started.
        """
        if self.process() is not None:
            return
        home = environment_directory()
        self.directory.mkdir(parents=True, exist_ok=True)
        saved = self.directory / "ports.json"
        if not saved.exists() or not keeps(self.ports()):
            saved.write_text(json.dumps([free_port(), free_port()]))
        rest, write = self.ports()
        command: list[str | Path] = [
            home / "venv" / "bin" / "python",
            Path(__file__).with_name("bigquery_server.py"),
            "start",
            *("--rest-host", "127.0.0.1", "--rest-port", str(rest)),
            *("--grpc-host", "127.0.0.1", "--grpc-port", str(write)),
            *("--persistent", "--data-dir", str(self.directory / "data")),
            *("--project", self.project, "--log-level", "warning"),
        ]
        process = start(command, self.log, environment={**os.environ, "HOME": str(home)})
        process.write(self.pid_file)
        wait_ready(process, self.log, lambda: _answers(rest, self.project) and listens(write), "The BigQuery stand-in")

    def stop(self) -> None:
        """Stop it."""
        process = self.process()
        if process is not None:
            process.stop()
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill it, as a failing machine would."""
        process = self.process()
        if process is not None:
            process.kill()


def _answers(port: int, project: str) -> bool:
    url = f"http://127.0.0.1:{port}/bigquery/v2/projects/{project}/datasets"
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, http.client.HTTPException, OSError):  # the second: another server has the port
        return False
