from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.bus.standin import TOPIC, Bus
from tidemark.edge.tokens import line_of, new_token
from tidemark.local.processes import free_port


class Running:
    """`tidemark edge` as a process."""

    def __init__(self, address: str, tokens: Path, *flags: str, failpoints: str = "") -> None:
        self.metrics_port = free_port()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMARK_")}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tidemark",
                "edge",
                f"--topic={TOPIC}",
                f"--tokens=file:{tokens}",
                "--http_port=0",
                f"--metrics_port={self.metrics_port}",
                *flags,
            ],
            env={**environment, "PUBSUB_EMULATOR_HOST": address, "TIDEMARK_FAILPOINTS": failpoints},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        ready = json.loads(line)
        self.url = ready["url"]
        self.port = int(self.url.rpartition(":")[2])
        self.device_ports = {
            kind: [int(address.rpartition(":")[2]) for address in ready[kind]]
            for kind in ("mqtt", "tcp", "udp")
            if kind in ready
        }
        """Of `mqtt`, `tcp` and `udp`, where they are served."""

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return sum(s.value for family in families for s in family.samples if s.name == f"tidemark_edge_{name}")

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=40)
        return self.process.returncode, err


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[Bus]:
    made = Bus(tmp_path / "pubsub")
    yield made
    made.server.stop()


@pytest.fixture
def token() -> str:
    return new_token()


@pytest.fixture
def tokens(tmp_path: Path, token: str) -> Path:
    path = tmp_path / "tokens"
    path.write_text(line_of(token, "cams", ["write"]) + "\n")
    return path


@pytest.fixture
def edge(bus: Bus, tokens: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*flags: str, failpoints: str = "") -> Running:
        started.append(Running(bus.address, tokens, *flags, failpoints=failpoints))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()


def point(**more: Any) -> dict[str, Any]:
    return {"source": "gateway-7", "metric": "fps", "event_time": time.time_ns() // 1_000_000, "value": 24.5, **more}
