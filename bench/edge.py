"""The edge before the Pub/Sub stand-in: CPU a request, delays, memory, spool, and what it saves the pipeline.

    python bench/edge.py [post] [delay] [memory] [spool] [pipeline] [mqtt] [tcp] [udp] [idle] [--telegraf PATH] [--victoria-metrics PATH]

`post`: requests of 1 and of 500 points, each server in turn, medians of `--rounds`; Telegraf's `http_listener_v2` with
`discard`, and VictoriaMetrics' JSON import, stand beside it where they are given. `delay`: from when a request was due to
its answer, at 60 % of what it takes. `memory`: idle, a connection, and under bodies that are large, slow or bombs.
`spool`: messages into a spool and out of it. `pipeline`: CPU a point of the job and its database, working off a backlog of
points that were posted one by one to the edge, and one of messages of one point. `mqtt`, `tcp`, `udp`: CPU a message of one
point, and how many a second are kept. `idle`: 5,000 clients of MQTT that only keep themselves alive. Needs wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import devices
import load
import rig
from servers import BATCH, POINTS, TOPIC_ALONE, Server, bus, edge, one_point, telegraf, victoria_metrics

from tidemark.bus.messages import attribute, message
from tidemark.bus.publisher import Publisher, async_channel
from tidemark.edge.flush import drain
from tidemark.edge.spool import Spool
from tidemark.local.job import Job
from tidemark.local.stack import TOPIC, Stack

Bars = dict[str, tuple[float, str, float]]
Figures = dict[str, object]
BUDGET = 64 << 20
PIPELINE_POINTS = 250_000
PIPELINE_SECONDS = 25
"""Posting takes so long, for about as many points."""


ONE, ONE_OF_FEW, MANY = "1 point, 256 connections", "1 point, 64 connections", f"{BATCH} points, 16 connections"


def post(arguments: argparse.Namespace) -> tuple[Figures, Bars]:
    """CPU microseconds a request of each server, in turn."""
    first_ms = time.time_ns() // 1_000_000 - 10**9
    bodies = ",".join(load.lua(load.batch(n, BATCH, first_ms + n * 10_000)) for n in range(20))
    found: dict[str, dict[str, list[float]]] = {}
    with bus() as address, edge(address) as (pid, port, token), contextlib.ExitStack() as peers:
        servers = {"edge": Server(pid, port, one_point, load.FIXED % bodies, token=token)}
        for name, made in (("telegraf", telegraf), ("victoria_metrics", victoria_metrics)):
            if binary := getattr(arguments, name):
                servers[name] = peers.enter_context(made(binary))
        for _ in range(arguments.rounds):
            for name, server in servers.items():
                _posted(server, arguments.seconds, found.setdefault(name, {}))
    medians = {name: {case: statistics.median(all_) for case, all_ in cases.items()} for name, cases in found.items()}
    bars: Bars = {
        "post_1_point_us": (medians["edge"][ONE], "<=", 45),
        "post_500_points_us_a_point": (round(medians["edge"][MANY] / BATCH, 3), "<=", 1.0),
    }
    if "telegraf" in medians:
        bars["post_1_point_to_telegraf"] = (round(medians["edge"][ONE] / medians["telegraf"][ONE], 2), "<=", 2)
        bars["post_500_points_to_telegraf"] = (round(medians["edge"][MANY] / medians["telegraf"][MANY], 2), "<=", 1)
    if "victoria_metrics" in medians:
        bars["post_500_points_to_victoria_metrics"] = (
            round(medians["edge"][MANY] / medians["victoria_metrics"][MANY], 2),
            "<=",
            1,
        )
    return {"medians": medians, "rounds": found}, bars


def _posted(server: Server, seconds: float, found: dict[str, list[float]]) -> None:
    """One round of a server."""
    for case, body, path, connections in (
        (ONE, server.one(), server.path_one, 256),
        (ONE_OF_FEW, server.one(), server.path_one, 64),
        (MANY, server.many, server.path_many, 16),
    ):
        before = rig.cpu_seconds([server.pid])
        url = f"http://127.0.0.1:{server.port}"
        told = load.closed(url, path, body, token=server.token, connections=connections, seconds=seconds)
        cpu = rig.cpu_seconds([server.pid]) - before
        assert not told["bad"], (case, told)
        found.setdefault(case, []).append(round(cpu / told["requests"] * 1e6, 1))
        found.setdefault(f"{case}, a second", []).append(round(told["requests"] / told["seconds"]))


def delay(arguments: argparse.Namespace) -> tuple[Figures, Bars]:
    """How long an answer takes at 60 % of what the edge takes."""
    rounds = []
    with bus() as address, edge(address) as (_, port, token):
        for _ in range(arguments.rounds):
            url = f"http://127.0.0.1:{port}"
            most = load.closed(url, POINTS, one_point(), token=token, connections=256, seconds=arguments.seconds)
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
        load.closed(f"http://127.0.0.1:{port}", POINTS, one_point(), token=token, connections=256, seconds=2)
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
    """The most of it under bodies that are large, never end, or are bombs; each kind by itself, and all at once."""
    head = f"POST {POINTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    large = b"[" + b" " * ((8 << 20) - 2)
    bomb = gzip.compress(b"[" + b" " * (7 << 20))
    points = load.batch(0, 90_000, time.time_ns() // 1_000_000 - 10**9)
    kinds = [
        head.encode() + b"Content-Length: %d\r\n\r\n" % (8 << 20) + large,
        head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n" % (4 << 20) + large[: 4 << 20] + b"\r\n",
        head.encode() + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb,
        head.encode() + b"Content-Length: %d\r\n\r\n" % len(points) + points,
    ]
    each = [_attacked_by(pid, port, [kind], threads=16, seconds=8) for kind in kinds]
    return max(*each, _attacked_by(pid, port, kinds, threads=64, seconds=20))


def _attacked_by(pid: int, port: int, kinds: list[bytes], threads: int, seconds: float) -> float:
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

    senders = [threading.Thread(target=attack, args=(kinds[n % len(kinds)],)) for n in range(threads)]
    for sender in senders:
        sender.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        peak = max(peak, rig.resident_mb(pid))
        time.sleep(0.02)
    stop.set()
    for sender in senders:
        sender.join()
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
    """CPU microseconds a point with which the job and its database work off a backlog: of messages, and of the edge's."""
    found = {way: _of_the_job(fill) for way, fill in (("messages", _published), ("edge", _posted_to))}
    saved = found["messages"]["job"] + found["messages"]["database"] - found["edge"]["job"] - found["edge"]["database"]
    return {"cpu_us_a_point": found, "saved_us_a_point": round(saved, 1)}, {
        "pipeline_saved_us": (round(saved, 1), ">=", 0)
    }


def _of_the_job(fill: Callable[[str], tuple[int, float]]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        stack = Stack(Path(directory) / "state")
        environment = stack.up()
        points, own = fill(environment["PUBSUB_EMULATOR_HOST"])
        job = Job(environment, Path(directory) / "ingest.log", "--horizon_s=20")
        database = stack.postgres.process()
        assert database is not None

        def cpu() -> dict[str, float]:
            return {
                name: rig.cpu_seconds(rig.processes(pid))
                for name, pid in (("job", job.pid), ("database", database.pid))
            }

        try:
            job.wait_ready()
            before = cpu()
            _until_stored(job, points)
            spent = {name: after - before[name] for name, after in cpu().items()} | {"edge": own}
        finally:
            job.kill()
            stack.down(purge=True)
    return {name: round(seconds / points * 1e6, 1) for name, seconds in spent.items()}


def _published(address: str) -> tuple[int, float]:
    """Messages of one point; how many."""
    first = time.time_ns() // 1_000_000 - 10**9
    requests = []
    for begin in range(0, PIPELINE_POINTS, 1000):
        texts = [
            b'{"project":"bench","source":"s%d","metric":"m","event_time":%d,"value":24.5}' % (n % 1000, first + 4 * n)
            for n in range(begin, begin + 1000)
        ]
        requests.append(rig.request(TOPIC, [(text, first + 4 * begin) for text in texts]))
    publisher = rig.Publisher(address, [requests], time.time())
    publisher.start()
    publisher.join()
    return PIPELINE_POINTS, 0.0


def _posted_to(address: str) -> tuple[int, float]:
    """Points posted one by one; how many at least, and CPU seconds of the edge."""
    with edge(address, TOPIC) as (pid, port, token):
        before = rig.cpu_seconds([pid])
        url = f"http://127.0.0.1:{port}"
        told = load.closed(url, POINTS, one_point(), token=token, connections=256, seconds=PIPELINE_SECONDS)
        assert not told["bad"], told
        return int(told["requests"]), rig.cpu_seconds([pid]) - before


def _until_stored(job: Job, points: int) -> None:
    until = time.monotonic() + 300
    while job.latest.get("inserted", 0) < points and time.monotonic() < until:
        time.sleep(0.1)
    assert job.latest.get("inserted", 0) >= points, job.latest


CASES = {"post": post, "delay": delay, "memory": memory, "spool": spool, "pipeline": pipeline, **devices.CASES}


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
