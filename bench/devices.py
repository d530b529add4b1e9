"""The cases of `bench/edge.py` that are about devices."""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import statistics
import threading
import time
import urllib.request

import device_load
import load
import rig
from prometheus_client.parser import text_string_to_metric_families
from servers import POINTS, bus, devices, one_point

Bars = dict[str, tuple[float, str, float]]
Figures = dict[str, object]
CONNECTIONS, INFLIGHT, MESSAGES = 20, 50, 200_000
LINES = 400_000
IDLE = 5_000
KEEP_ALIVE_S = 4


def mqtt(arguments: argparse.Namespace) -> tuple[Figures, Bars]:
    """Messages of QoS 1 with one point each, confirmed by the bus: CPU a message, and how many a second, in both versions."""
    rounds: dict[str, list[dict[str, float]]] = {"3.1.1": [], "5": []}
    with bus() as address, devices(address) as edge:
        for _ in range(arguments.rounds):
            for version, found in rounds.items():
                before = rig.cpu_seconds([edge.pid])
                told = device_load.mqtt(
                    edge.mqtt,
                    edge.token,
                    version=4 if version == "3.1.1" else 5,
                    connections=CONNECTIONS,
                    inflight=INFLIGHT,
                    messages=MESSAGES,
                )
                cpu = rig.cpu_seconds([edge.pid]) - before
                found.append({**told, "cpu_us": round(cpu / told["messages"] * 1e6, 2)})
    worst = max(statistics.median(one["cpu_us"] for one in found) for found in rounds.values())
    rate = min(statistics.median(one["a_second"] for one in found) for found in rounds.values())
    return {"rounds": rounds}, {"mqtt_us_a_message": (worst, "<=", 25), "mqtt_acked_a_second": (rate, ">=", 30_000)}


def tcp(arguments: argparse.Namespace) -> tuple[Figures, Bars]:
    """Lines of one point over TCP: CPU a line."""
    rounds = []
    with bus() as address, devices(address) as edge:
        for _ in range(arguments.rounds):
            before = rig.cpu_seconds([edge.pid])
            told = device_load.tcp(edge.tcp, edge.token, LINES)
            rounds.append({**told, "cpu_us": round((rig.cpu_seconds([edge.pid]) - before) / LINES * 1e6, 2)})
    return {"rounds": rounds}, {"tcp_us_a_line": (statistics.median(one["cpu_us"] for one in rounds), "<=", 6)}


def udp(arguments: argparse.Namespace) -> tuple[Figures, Bars]:
    """Datagrams of one point, as fast as one process sends them: how many a second are kept, and whether each is counted."""
    rounds = []
    off = 0
    with bus() as address, devices(address) as edge:
        for _ in range(arguments.rounds):
            before, cpu, began = _datagrams(edge.metrics), rig.cpu_seconds([edge.pid]), time.perf_counter()
            with multiprocessing.Pool(1) as pool:
                sent, took = pool.apply(device_load.udp, (edge.udp, arguments.seconds))
            until = time.monotonic() + 20
            while True:
                now = _datagrams(edge.metrics)
                counted = {name: now[name] - before.get(name, 0) for name in now}
                if sum(counted.values()) >= sent or time.monotonic() > until:
                    break
                time.sleep(0.1)
            off = max(off, abs(int(sum(counted.values())) - sent))
            accepted = counted.get("accepted", 0)
            spent = rig.cpu_seconds([edge.pid]) - cpu
            rounds.append(
                {
                    "sent": sent,
                    "sent_a_second": round(sent / took),
                    **counted,
                    "accepted_a_second": round(accepted / took),
                    "cpu_us": round(spent / max(1, accepted) * 1e6, 2),
                    "seconds": round(time.perf_counter() - began, 1),
                }
            )
    rate = statistics.median(one["accepted_a_second"] for one in rounds)
    return {"rounds": rounds}, {"udp_accepted_a_second": (rate, ">=", 60_000), "udp_off_balance": (off, "<=", 0)}


def idle(arguments: argparse.Namespace) -> tuple[Figures, Bars]:
    """5,000 clients of MQTT that only keep themselves alive: memory, whether all are still there, and what others wait."""
    with bus() as address, devices(address, "--max_connections=20000") as edge:
        url, cpu = f"http://127.0.0.1:{edge.http}", []

        def good() -> float:
            told = load.opened(
                edge.http,
                lambda n: load.request(POINTS, edge.token, device_load.one_point(n)),
                rate=1000,
                seconds=arguments.seconds,
                connections=64,
            )
            assert told["bad"] + told["unanswered"] == 0, told
            return told["p99_ms"]

        load.closed(url, POINTS, one_point(), token=edge.token, connections=256, seconds=2)
        alone, before = statistics.median(good() for _ in range(3)), rig.resident_mb(edge.pid)
        held = []
        for number in range(IDLE):
            one = socket.create_connection(("127.0.0.1", edge.mqtt))
            one.sendall(device_load.connect(4, f"idle-{number}", edge.token, KEEP_ALIVE_S))
            assert one.recv(4) == b"\x20\x02\x00\x00"
            held.append(one)
        kib = (rig.resident_mb(edge.pid) - before) * 1024 / IDLE
        stop = threading.Event()
        lost: list[int] = []

        def keep() -> None:
            """A ping of each every two seconds, which is half of what it has named."""
            while not stop.is_set():
                began = time.monotonic()
                for number, one in enumerate(held):
                    one.sendall(b"\xc0\x00")
                    if number % 25 == 24:
                        time.sleep(0.005)
                for number, one in enumerate(held):
                    if one.recv(2) != b"\xd0\x00":
                        lost.append(number)
                stop.wait(max(0.0, began + KEEP_ALIVE_S / 2 - time.monotonic()))

        keeper = threading.Thread(target=keep)
        keeper.start()
        spent, began = rig.cpu_seconds([edge.pid]), time.monotonic()
        time.sleep(3 * KEEP_ALIVE_S)
        cpu.append((rig.cpu_seconds([edge.pid]) - spent) / (time.monotonic() - began))
        beside = statistics.median(good() for _ in range(3))
        stop.set()
        keeper.join()
        for one in held:
            one.close()
    figures: Figures = {
        "kib_a_connection": round(kib, 2),
        "p99_ms_alone": alone,
        "p99_ms_beside": beside,
        "cpu_share_of_pings": round(cpu[0], 3),
        "lost": len(lost),
    }
    return figures, {
        "idle_kib_a_connection": (round(kib, 2), "<=", 4),
        "idle_lost": (len(lost), "<=", 0),
        "idle_good_p99": (round(beside / alone, 2), "<=", 2),
    }


def _datagrams(port: int) -> dict[str, float]:
    """Counted so far, by what became of them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        found = {}
        for sample in (sample for family in families for sample in family.samples):
            if sample.name == "tidemark_edge_datagrams_total":
                found[sample.labels["outcome"]] = sample.value
            elif sample.name == "tidemark_edge_datagrams_dropped_total":
                found["dropped"] = sample.value
        return found


CASES = {"mqtt": mqtt, "tcp": tcp, "udp": udp, "idle": idle}
