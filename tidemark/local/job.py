"""The ingest program as a subprocess, and what it says."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from tidemark.errors import LocalError

READY_S: Final = 90.0
DRAINED_S: Final = 180.0


class Job:
    """`python -m pipelines.ingest` against a set of stand-ins."""

    def __init__(self, environment: Mapping[str, str], log: Path, *options: str) -> None:
        """Start it.

        Args:
            environment: As `Stack.environment` gives it; more variables are passed on.
            log: Takes what it says on standard error.
            options: Of the program, such as `--horizon_s=20`.
        """
        self.log = log
        self.events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.latest: dict[str, Any] = {}
        with log.open("ab") as errors:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "pipelines.ingest", "--runner=DirectRunner", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                text=True,
                start_new_session=True,  # a terminal's Ctrl-C is for the program that runs it
            )
        assert self._child.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self._child.stdout,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the program."""
        return self._child.pid

    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._child.poll()

    def wait_ready(self) -> None:
        """Wait until it pulls.

        Raises:
            LocalError: it ended or took too long.
        """
        self._wait_for("ready", READY_S)

    def drained(self, within_s: float = DRAINED_S) -> dict[str, Any]:
        """Wait until it has drained and ended; returns its last counters.

        Raises:
            LocalError: it ended otherwise, or took too long.
        """
        event = self._wait_for("drained", within_s)
        try:
            status = self._child.wait(60)
        except subprocess.TimeoutExpired:
            raise LocalError(f"The pipeline drained but did not end; its log is {self.log}.") from None
        if status:
            raise LocalError(f"The pipeline drained but ended with status {status}; its log is {self.log}.")
        return event

    def drain(self) -> None:
        """Ask it to drain."""
        self._child.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as a failing machine would."""
        self._child.kill()
        self._child.wait()
        self._reader.join()

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                if line.startswith("{"):
                    event = json.loads(line)
                    self.latest = event
                    self.events.put(event)

    def _wait_for(self, name: str, within_s: float) -> dict[str, Any]:
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            try:
                event = self.events.get(timeout=0.2)
            except queue.Empty:
                if self._child.poll() is not None and not self._reader.is_alive() and self.events.empty():
                    raise LocalError(f"The pipeline ended with status {self._child.poll()}: {self._said()}") from None
                continue
            if event["event"] == name:
                return event
        raise LocalError(f"The pipeline was not {name} within {within_s:g} s; its log is {self.log}.")

    def _said(self) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:500] if lines else "it said nothing"
