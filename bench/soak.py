"""Memory of each process over twelve minutes at 10,000 points a second.

    python bench/soak.py [--minutes 12] [--rate 10000]

The whole job on the stand-ins, messages of 50 points of 1,000 series, default settings but `--horizon_s=60`. Compared
are the medians of every minute from minute 3 on with the first of them, of the pipeline's two processes: before that
the first windows are not let go yet, 130 s after their start.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import rig

from tidemark.local.job import Job
from tidemark.local.stack import TOPIC, Stack

A_MESSAGE = 50
WARM_UP_MINUTES = 3


class Publisher(threading.Thread):
    """Messages made as they are sent: a plan of twelve minutes would not fit."""

    def __init__(self, address: str, rate: int, seconds: float) -> None:
        super().__init__(daemon=True)
        self._inner = rig.Publisher(address, [], 0)
        self._rate, self._seconds = rate, seconds
        self.points = 0

    def run(self) -> None:
        began = time.time()
        number = 0
        while time.time() < began + self._seconds:
            due = int((time.time() - began) * self._rate)
            batch = []
            while self.points < due and len(batch) < 200:
                ms = int((began + self.points / self._rate) * 1000)
                points = b",".join(
                    b'{"metric":"m%d","event_time":%d,"value":%d.5}' % (k % 10, ms - k * 10, k)
                    for k in range(A_MESSAGE)
                )
                body = b'{"project":"bench","source":"s%d","points":[%b]}' % (number % 100, points)
                batch.append((body, ms - A_MESSAGE * 10))
                number += 1
                self.points += A_MESSAGE
            if batch:
                self._inner.publish(rig.request(TOPIC, batch))
            if self.points >= due:
                time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--rate", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        stack = Stack(Path(state) / "stack")
        environment = stack.up()
        try:
            job = Job(environment, Path(state) / "log", "--horizon_s=60")
            job.wait_ready()
            publisher = Publisher(environment["PUBSUB_EMULATOR_HOST"], arguments.rate, arguments.minutes * 60)
            publisher.start()
            began = time.monotonic()
            samples: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
            while publisher.is_alive():
                time.sleep(2)
                minute = int((time.monotonic() - began) / 60) + 1
                pids = {"python": job.pid, "engine": max(p for p in rig.processes(job.pid) if p != job.pid)}
                for name, server in (("pubsub", stack.pubsub), ("bigquery", stack.bigquery)):
                    pids[f"stand_in_{name}"] = server.process().pid  # type: ignore[union-attr]  # it runs
                for name, pid in pids.items():
                    samples[name][minute].append(rig.resident_mb(pid))
            job.drain()
            counters = job.drained()
        finally:
            stack.down(purge=True)
    memory = {
        name: {m: round(statistics.median(v)) for m, v in of.items() if len(v) > 5} for name, of in samples.items()
    }
    figures: dict[str, object] = {
        "points": publisher.points,
        "received": counters["received"],
        "megabytes_by_minute": memory,
    }
    bars = {}
    for name in ("python", "engine"):
        # minute 4 begins when three minutes are over
        steady = [megabytes for minute, megabytes in memory[name].items() if minute > WARM_UP_MINUTES]
        if steady:
            bars[f"{name}_off"] = (round(max(abs(m / steady[0] - 1) for m in steady), 3), "<=", 0.1)
    bars["received"] = (counters["received"], ">=", publisher.points)
    return rig.finish("soak", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
