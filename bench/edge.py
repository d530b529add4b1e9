"""The edge before the Pub/Sub stand-in: CPU a request, delays, memory, spool, and what it saves the pipeline.

    python bench/edge.py [post] [delay] [memory] [spool] [pipeline] [--telegraf PATH] [--victoria-metrics PATH]

`post`: requests of 1 and of 500 points, each server in turn, medians of `--rounds`; Telegraf's `http_listener_v2` with
`discard`, and VictoriaMetrics' JSON import, stand beside it where they are given. `delay`: from when a request was due to
its answer, at 60 % of what it takes. `memory`: idle, a connection, and under bodies that are large, slow or bombs.
`spool`: messages into a spool and out of it. `pipeline`: CPU a point of the whole job, points posted one by one through
the edge against messages of one point. Needs wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import grpc
import load
import rig
from google.pubsub_v1 import types

from tidemark.bus.messages import attribute, message
from tidemark.bus.publisher import Publisher, async_channel
from tidemark.edge.flush import drain
from tidemark.edge.spool import Spool
from tidemark.edge.tokens import line_of, new_token
from tidemark.local.job import Job
from tidemark.local.processes import free_port, keeps, listens
from tidemark.local.stack import TOPIC, PubSub, Stack

Bars = dict[str, tuple[float, str, float]]
Figures = dict[str, object]
POINTS = "/v1/points"
BATCH = 500
TOPIC_ALONE = "projects/bench/topics/points"
BUDGET = 64 << 20
PIPELINE_POINTS = 120_000
PIPELINE_RATE = 3_000


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
    token = new_token()
    tokens = load.state() / "tokens"
    tokens.write_text(line_of(token, "bench", ["write"]) + "\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMARK_")}
    command = [sys.executable, "-m", "tidemark", "edge", f"--topic={topic}", f"--tokens=file:{tokens}", "--http_port=0"]
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, "--metrics_port=0", "--access_log_share=0", *flags],
        env={**environment, "PUBSUB_EMULATOR_HOST": address},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    print(f"edge ready after {time.monotonic() - began:.2f} s", file=sys.stderr)
    try:
        yield process.pid, int(ready["url"].rpartition(":")[2]), token
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


def ports(number: int) -> list[int]:
    """Free ones."""
    found = [free_port() for _ in range(number)]
    assert keeps(found)
    return found


@contextmanager
def telegraf(binary: str) -> Iterator[Server]:
    """Parses and discards."""
    (port,) = ports(1)
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
            yield Server(pid, port, _one, many, "/one", "/one")


@contextmanager
def victoria_metrics(binary: str) -> Iterator[Server]:
    """Takes its own JSON lines into memory."""
    (port,) = ports(1)
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


def _one() -> str:
    """Bodies of one point, each another."""
    return load.ONE_POINT % (time.time_ns() // 1_000_000 - 10**9)


def post(arguments: argparse.Namespace) -> tuple[Figures, Bars]:
    """CPU microseconds a request of each server, in turn."""
    first_ms = time.time_ns() // 1_000_000 - 10**9
    bodies = ",".join(load.lua(load.batch(n, BATCH, first_ms + n * 10_000)) for n in range(20))
    found: dict[str, dict[str, list[float]]] = {}
    with bus() as address, edge(address) as (pid, port, token):
        mine = Server(pid, port, _one, load.FIXED % bodies, token=token)
        peers = [
            made(path)
            for made, path in ((telegraf, arguments.telegraf), (victoria_metrics, arguments.victoria_metrics))
            if path
        ]
        names = [
            name
            for name, path in (("telegraf", arguments.telegraf), ("victoria_metrics", arguments.victoria_metrics))
            if path
        ]
        entered = [each.__enter__() for each in peers]
        servers = {"edge": mine, **dict(zip(names, entered, strict=True))}
        try:
            for _ in range(arguments.rounds):
                for name, server in servers.items():
                    cases = found.setdefault(name, {})
                    for case, body, path, connections in (
                        ("1 point, 256 connections", server.one(), server.path_one, 256),
                        ("1 point, 64 connections", server.one(), server.path_one, 64),
                        (f"{BATCH} points, 16 connections", server.many, server.path_many, 16),
                    ):
                        before = rig.cpu_seconds([server.pid])
                        told = load.closed(
                            f"http://127.0.0.1:{server.port}",
                            path,
                            body,
                            token=server.token,
                            connections=connections,
                            seconds=arguments.seconds,
                        )
                        cpu = rig.cpu_seconds([server.pid]) - before
                        assert not told["bad"], (name, case, told)
                        cases.setdefault(case, []).append(round(cpu / told["requests"] * 1e6, 1))
                        cases.setdefault(f"{case}, a second", []).append(round(told["requests"] / told["seconds"]))
        finally:
            for each in peers:
                each.__exit__(None, None, None)
    medians = {name: {case: statistics.median(all_) for case, all_ in cases.items()} for name, cases in found.items()}
    one, many = "1 point, 256 connections", f"{BATCH} points, 16 connections"
    bars: Bars = {
        "post_1_point_us": (medians["edge"][one], "<=", 45),
        "post_500_points_us_a_point": (round(medians["edge"][many] / BATCH, 3), "<=", 1.0),
    }
    if "telegraf" in medians:
        bars["post_1_point_to_telegraf"] = (round(medians["edge"][one] / medians["telegraf"][one], 2), "<=", 2)
        bars["post_500_points_to_telegraf"] = (round(medians["edge"][many] / medians["telegraf"][many], 2), "<=", 1)
    if "victoria_metrics" in medians:
        bars["post_500_points_to_victoria_metrics"] = (
            round(medians["edge"][many] / medians["victoria_metrics"][many], 2),
            "<=",
            1,
        )
    return {"medians": medians, "rounds": found}, bars


def delay(arguments: argparse.Namespace) -> tuple[Figures, Bars]:
    """How long an answer takes at 60 % of what the edge takes."""
    rounds = []
    with bus() as address, edge(address) as (_, port, token):
        for _ in range(arguments.rounds):
            url = f"http://127.0.0.1:{port}"
            most = load.closed(url, POINTS, _one(), token=token, connections=256, seconds=arguments.seconds)
            rate = 0.6 * most["requests"] / most["seconds"]
            first = time.time_ns() // 1_000_000 - 10**9

            def body(number: int, first: int = first) -> bytes:
                text = b'{"source":"g%d","metric":"fps","event_time":%d,"value":24.5}' % (number % 1000, first + number)
                return load.request(POINTS, token, text)

            told = load.opened(port, body, rate=rate, seconds=arguments.seconds, connections=256)
            rounds.append({"rate": round(rate), **told})
    p50 = statistics.median(each["p50_ms"] for each in rounds)
    p99 = statistics.median(each["p99_ms"] for each in rounds)
    bad = sum(each["bad"] + each["unanswered"] for each in rounds)
    return {"rounds": rounds}, {
        "delay_p50_ms": (p50, "<=", 10),
        "delay_p99_ms": (p99, "<=", 40),
        "delay_bad": (bad, "<=", 0),
    }


def memory(_: argparse.Namespace) -> tuple[Figures, Bars]:
    """Resident memory: idle, with connections, and with what is sent to make it grow."""
    connections = 5_000
    with (
        bus() as address,
        edge(address, TOPIC_ALONE, f"--inflight_bytes={BUDGET}", "--max_connections=20000") as (pid, port, token),
    ):
        idle = rig.resident_mb(pid)
        load.closed(f"http://127.0.0.1:{port}", POINTS, _one(), token=token, connections=256, seconds=2)
        warm = rig.resident_mb(pid)
        text = load.request(POINTS, token, b'{"source":"a","metric":"m","event_time":1769860800000,"value":1}')
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
        for one in held:
            one.sendall(text)
            one.recv(4096)
        many = rig.resident_mb(pid)
        for one in held:
            one.close()
        peak = _attacked(pid, port, token)
    figures: Figures = {
        "idle_mb": round(idle, 1),
        "warm_mb": round(warm, 1),
        "kib_a_connection": round((many - warm) * 1024 / connections, 2),
        "attacked_mb": round(peak, 1),
        "budget_mb": BUDGET >> 20,
    }
    return figures, {
        "memory_idle_mb": (round(idle, 1), "<=", 120),
        "memory_kib_a_connection": ((many - warm) * 1024 / connections, "<=", 4),
        "memory_beyond_budget_mb": (peak - (BUDGET >> 20), "<=", 150),
    }


def _attacked(pid: int, port: int, token: str) -> float:
    """The most of it while bodies come that are as large as may be, that never end, and that unpack to as much."""
    head = f"POST {POINTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    large = b"[" + b" " * (8 << 20 - 1)
    bomb = gzip.compress(b"[" + b" " * (7 << 20))
    points = load.batch(0, 90_000, time.time_ns() // 1_000_000 - 10**9)
    kinds = [
        head.encode() + b"Content-Length: %d\r\n\r\n" % (8 << 20) + large[: 8 << 20][:-1],
        head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % (4 << 20) + large[: 4 << 20] + b"\r\n",
        head.encode() + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb,
        head.encode() + b"Content-Length: %d\r\n\r\n" % len(points) + points,
    ]
    stop = threading.Event()
    peak = 0.0

    def attack(text: bytes) -> None:
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=3) as one:
                    one.sendall(text)
                    one.recv(4096)
            except OSError:
                continue

    threads = [threading.Thread(target=attack, args=(kinds[n % len(kinds)],)) for n in range(64)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 20
    while time.monotonic() < until:
        peak = max(peak, rig.resident_mb(pid))
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    return peak


def spool(_: argparse.Namespace) -> tuple[Figures, Bars]:
    """Messages of 200 bytes into a spool, a thousand waiting at a time, and out of it into the bus."""
    number, together = 200_000, 1_000
    made = message(b"x" * 200, attribute("project", "bench"))

    async def run(directory: Path) -> tuple[float, float]:
        kept = Spool(directory, 1 << 40)
        began = time.monotonic()
        for _ in range(number // together):
            await asyncio.gather(*(kept.keep("bench", made) for _ in range(together)))
        into = time.monotonic() - began
        channel = async_channel()
        began = time.monotonic()
        await drain(kept, Publisher(TOPIC_ALONE, channel), for_ever=False)
        out = time.monotonic() - began
        kept.close()
        await channel.close()
        return number / into, number / out

    with bus() as address, tempfile.TemporaryDirectory() as directory:
        os.environ["PUBSUB_EMULATOR_HOST"] = address
        into, out = asyncio.run(run(Path(directory)))
    figures: Figures = {"in_a_second": round(into), "out_a_second": round(out)}
    return figures, {"spool_in_a_second": (into, ">=", 50_000), "spool_out_a_second": (out, ">=", 20_000)}


def pipeline(_: argparse.Namespace) -> tuple[Figures, Bars]:
    """CPU microseconds a point of the job and its database: the same points as messages, and through the edge."""
    found = {way: _of_the_job(way) for way in ("messages", "edge")}
    saved = found["messages"]["job"] + found["messages"]["database"] - found["edge"]["job"] - found["edge"]["database"]
    return {"cpu_us_a_point": found, "saved_us_a_point": round(saved, 1)}, {
        "pipeline_saved_us": (round(saved, 1), ">=", 0)
    }


def _of_the_job(way: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        stack = Stack(Path(directory) / "state")
        environment = stack.up()
        job = Job(environment, Path(directory) / "ingest.log", "--horizon_s=20")
        try:
            job.wait_ready()
            return _driven(way, stack, environment, job)
        finally:
            job.kill()
            stack.down(purge=True)


def _driven(way: str, stack: Stack, environment: dict[str, str], job: Job) -> dict[str, float]:
    address = environment["PUBSUB_EMULATOR_HOST"]
    first = time.time_ns() // 1_000_000 - PIPELINE_POINTS
    seconds = PIPELINE_POINTS // PIPELINE_RATE

    def text(number: int, project: str = "") -> bytes:
        return b'{%b"source":"s%d","metric":"m","event_time":%d,"value":%d.5}' % (
            project.encode(),
            number % 1000,
            first + number,
            number,
        )

    def cpu() -> dict[str, float]:
        database = stack.postgres.process()
        assert database is not None
        return {
            "job": rig.cpu_seconds(rig.processes(job.pid)),
            "database": rig.cpu_seconds(rig.processes(database.pid)),
        }

    if way == "messages":
        plan = [
            [
                rig.request(TOPIC, [(text(n, '"project":"bench",'), first + n) for n in range(k, k + 100)])
                for k in range(second * PIPELINE_RATE, (second + 1) * PIPELINE_RATE, 100)
            ]
            for second in range(seconds)
        ]
        before = cpu()
        publisher = rig.Publisher(address, plan, time.time() + 1)
        publisher.start()
        found = _until_stored(job, seconds * PIPELINE_RATE)
        own = 0.0
    else:
        with edge(address, TOPIC) as (pid, port, token):
            before, own = cpu(), rig.cpu_seconds([pid])
            told = load.opened(
                port,
                lambda n: load.request(POINTS, token, text(n)),
                rate=PIPELINE_RATE,
                seconds=seconds,
                connections=256,
            )
            assert not told["bad"] + told["unanswered"], told
            found = _until_stored(job, int(told["requests"]))
            own = rig.cpu_seconds([pid]) - own
    spent = {name: (after - before[name]) / found * 1e6 for name, after in cpu().items()}
    return {name: round(each, 1) for name, each in {**spent, "edge": own / found * 1e6}.items()}


def _until_stored(job: Job, points: int) -> int:
    until = time.monotonic() + 300
    while job.latest.get("inserted", 0) < points and time.monotonic() < until:
        time.sleep(0.1)
    assert job.latest.get("inserted", 0) >= points, job.latest
    return points


CASES = {"post": post, "delay": delay, "memory": memory, "spool": spool, "pipeline": pipeline}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--telegraf", help="its binary")
    parser.add_argument("--victoria-metrics", help="its binary")
    arguments = parser.parse_args()
    figures: Figures = {}
    bars: Bars = {}
    for case in arguments.cases:
        figures[case], more = CASES[case](arguments)
        bars.update(more)
        print(json.dumps({case: figures[case]}), file=sys.stderr, flush=True)
    return rig.finish("edge", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
