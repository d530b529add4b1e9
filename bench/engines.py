"""The whole job on Flink and on the local engine: how fast each works off the same backlog.

    python bench/engines.py [--rounds 5] [--seconds 12]

Needs what scripts/flink-test needs. A job manager, a task manager and a spare one stay up all the time; in each round
each engine gets a fresh set of stand-ins with a backlog, in turn: single-point messages, then messages of 50 points, of
1,000 series. Throughput is that between the first commit and the last. CPU is that of the pipeline: Python and
engine, on Flink the busy task manager and the worker.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import rig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.flink import network
from tests.flink.cluster import Cluster
from tidemark.local.job import Job
from tidemark.local.stack import TOPIC, Stack
from tidemark.store.connection import make_engine, transaction

SERIES = 1_000
SPREAD_MS = 120_000
CASES = {"single": (1, 40_000), "of 50": (50, 3_500)}
"""Points a message, and messages in a backlog, for each of `--seconds`."""
OPTIONS = ("--horizon_s=20",)


def backlog(address: str, points: int, messages: int) -> None:
    """Publish messages whose event times spread over the last two minutes."""
    publisher = rig.Publisher(address, [], 0)
    first = time.time_ns() // 1_000_000 - SPREAD_MS
    step = max(1, 1000 // points)
    for start in range(0, messages, step):
        made = []
        for number in range(start, min(start + step, messages)):
            ms = first + number * SPREAD_MS // messages
            told = b",".join(
                b'{"metric":"m%d","event_time":%d,"value":%d.5}' % (k % 10, ms - k, k) for k in range(points)
            )
            made.append((b'{"project":"bench","source":"s%d","points":[%b]}' % (number % (SERIES // 10), told), ms))
        publisher.publish(rig.request(TOPIC, made))


def worked_off(database_url: str, points: int, pids: Callable[[], list[int]]) -> dict[str, float]:
    """Wait until all points are stored; figures between the first commit seen and the last."""
    pool = make_engine(database_url, 1, 60)

    def stored() -> int:
        with transaction(pool) as connection:
            return int(connection.exec_driver_sql("SELECT coalesce(sum(received), 0) FROM ledger").scalar_one())

    try:
        until = time.monotonic() + 600
        while not (had := stored()):
            time.sleep(0.05)
        began, spent = time.monotonic(), rig.cpu_seconds(pids())
        while (now := stored()) < points:
            if time.monotonic() > until:
                raise TimeoutError(f"{now} of {points} points are stored")
            time.sleep(0.05)
        seconds = time.monotonic() - began
        return {
            "points_a_second": (now - had) / seconds,
            "seconds": seconds,
            "cpu_us_a_point": (rig.cpu_seconds(pids()) - spent) / (now - had) * 1e6,
        }
    finally:
        pool.dispose()


def measure(engine: str, points: int, messages: int, cluster: Cluster, directory: Path) -> dict[str, float]:
    """One engine, one backlog."""
    stack = Stack(directory / "state")
    environment = stack.up()
    try:
        url = environment["TIDEMARK_DATABASE_URL"]
        backlog(environment["PUBSUB_EMULATOR_HOST"], points, messages)
        if engine == "local":
            job = Job(environment, directory / "ingest.log", *OPTIONS)
            found = worked_off(url, messages * points, lambda: list(rig.processes(job.pid)))
            job.kill()
        else:
            cluster.environment = environment
            cluster.start_pool()
            name = cluster.submit(url, *OPTIONS)
            found = worked_off(url, messages * points, cluster.busy_pids)
            cluster.cancel(name)
            cluster.kill_pool()
        return found
    finally:
        stack.down(purge=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=12)
    arguments = parser.parse_args()
    if network.PLACE not in os.environ:
        return network.run([sys.executable, *sys.argv])
    found: dict[str, dict[str, list[dict[str, float]]]] = {case: {"local": [], "flink": []} for case in CASES}
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as scratch:
        cluster = Cluster(Path(scratch) / "flink", {})
        cluster.up(pool=False)
        try:
            for number in range(arguments.rounds):
                for case, (points, a_second) in CASES.items():
                    for engine in ("local", "flink"):
                        directory = Path(scratch) / f"{number} {case} {engine}"
                        directory.mkdir()
                        one = measure(engine, points, a_second * arguments.seconds, cluster, directory)
                        found[case][engine].append(one)
                        print(json.dumps({case: {engine: one}}), file=sys.stderr, flush=True)
        finally:
            cluster.down()
    medians = {
        case: {
            engine: {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}
            for engine, rounds in engines.items()
        }
        for case, engines in found.items()
    }
    bars = {
        f"{case}_flink_to_local": (
            round(of["flink"]["points_a_second"] / of["local"]["points_a_second"], 3),
            ">=",
            0.5,
        )
        for case, of in medians.items()
    }
    return rig.finish("engines", {"medians": medians, "rounds": arguments.rounds}, bars)


if __name__ == "__main__":
    sys.exit(main())
