"""What the bench of the edge puts under load: the edge before the Pub/Sub stand-in, and servers that others wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import load
from google.pubsub_v1 import types

from tidemark.edge.tokens import line_of, new_token
from tidemark.local.processes import free_port, keeps, listens
from tidemark.local.stack import PubSub

POINTS = "/v1/points"
BATCH = 500
TOPIC_ALONE = "projects/bench/topics/points"


class Server(NamedTuple):
    """One under load."""

    pid: int
    port: int
    one: Callable[[], str]
    many: str
    path_one: str = POINTS
    path_many: str = POINTS
    token: str = ""


@contextmanager
def bus() -> Iterator[str]:
    """The stand-in with a topic that nobody reads."""
    server = PubSub(load.state())
    server.start()
    address = f"127.0.0.1:{server.port()}"
    try:
        with grpc.insecure_channel(address) as channel:
            call = channel.unary_unary(
                "/google.pubsub.v1.Publisher/CreateTopic", types.Topic.pb().SerializeToString, lambda body: body
            )
            call(types.Topic.pb()(name=TOPIC_ALONE))
        yield address
    finally:
        server.stop()


@contextmanager
def edge(address: str, topic: str = TOPIC_ALONE, *flags: str) -> Iterator[tuple[int, int, str]]:
    """Its pid, its port and a token."""
    with _edge(address, topic, "--metrics_port=0", *flags) as (pid, ready, token):
        yield pid, _port(ready["url"]), token


class Devices(NamedTuple):
    """An edge and its ports."""

    pid: int
    http: int
    mqtt: int
    tcp: int
    udp: int
    metrics: int
    token: str


@contextmanager
def devices(address: str, *flags: str) -> Iterator[Devices]:
    """An edge that takes whatever devices speak."""
    metrics = free()
    ports = ("--mqtt_port=0", "--tcp_port=0", "--udp_ports=0=bench", f"--metrics_port={metrics}")
    with _edge(address, TOPIC_ALONE, *ports, *flags) as (pid, ready, token):
        mqtt, tcp, udp = (_port(ready[kind][0]) for kind in ("mqtt", "tcp", "udp"))
        yield Devices(pid, _port(ready["url"]), mqtt, tcp, udp, metrics, token)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


@contextmanager
def _edge(address: str, topic: str, *flags: str) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Its pid, what it says once it is ready, and a token."""
    token = new_token()
    tokens = load.state() / "tokens"
    tokens.write_text(line_of(token, "bench", ["write"]) + "\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMARK_")}
    command = [sys.executable, "-m", "tidemark", "edge", f"--topic={topic}", f"--tokens=file:{tokens}", "--http_port=0"]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--access_log_share=0", *flags],
        env={**environment, "PUBSUB_EMULATOR_HOST": address},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    print(f"edge ready after {time.monotonic() - began:.2f} s", file=sys.stderr)
    try:
        yield process.pid, ready, token
    finally:
        process.terminate()
        process.wait()


@contextmanager
def peer(command: list[str], port: int) -> Iterator[int]:
    """A server that somebody else wrote; its pid."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not listens(port):
            assert process.poll() is None, command
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def free() -> int:
    """A port."""
    found = free_port()
    assert keeps([found])
    return found


@contextmanager
def telegraf(binary: str) -> Iterator[Server]:
    """Parses and discards."""
    port = free()
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(
            f"""[agent]
            flush_interval = "1s"
            metric_buffer_limit = 1000000
            metric_batch_size = 5000
            omit_hostname = true
            [[inputs.http_listener_v2]]
            service_address = "tcp://127.0.0.1:{port}"
            paths = ["/one"]
            data_format = "json"
            tag_keys = ["source", "metric"]
            json_time_key = "event_time"
            json_time_format = "unix_ms"
            [[outputs.discard]]
            """
        )
        file.flush()
        flat = [
            {"source": "s0", "metric": f"m{k % 10}", "event_time": 1_769_860_800_000 + k, "value": k + 0.25}
            for k in range(BATCH)
        ]
        many = load.FIXED % load.lua(json.dumps(flat, separators=(",", ":")).encode())
        with peer([binary, "--config", file.name, "--quiet"], port) as pid:
            yield Server(pid, port, one_point, many, "/one", "/one")


@contextmanager
def victoria_metrics(binary: str) -> Iterator[Server]:
    """Takes its own JSON lines into memory."""
    port = free()
    line = '{"metric":{"__name__":"fps","source":"gateway-7"},"values":[24.5],"timestamps":[%d]}'
    one = f"function body(n, id) return string.format({json.dumps(line)}, 1769860800000 + 4 * n + id) end"
    series = [
        {
            "metric": {"__name__": f"m{k % 10}", "source": "s0"},
            "values": [k + 0.25],
            "timestamps": [1_769_860_800_000 + k // 10 * 100],
        }
        for k in range(BATCH)
    ]
    many = load.FIXED % load.lua("\n".join(json.dumps(each, separators=(",", ":")) for each in series).encode())
    with tempfile.TemporaryDirectory() as directory:
        command = [
            binary,
            f"-storageDataPath={directory}",
            f"-httpListenAddr=127.0.0.1:{port}",
            "-retentionPeriod=100y",
        ]
        with peer(command, port) as pid:
            yield Server(pid, port, lambda: one, many, "/api/v1/import", "/api/v1/import")


def one_point() -> str:
    """Bodies of one point, each another."""
    return load.ONE_POINT % (time.time_ns() // 1_000_000 - 10**9)
