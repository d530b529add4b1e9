"""The whole job, live: publisher → stand-in → Prism → PostgreSQL → previews and settled → BigQuery stand-in.

    python bench/live.py [single] [batch] [freshness] [--seconds 60] [--rate POINTS_A_SECOND]

`single`: single-point messages; `batch`: messages of 500 points: the highest rate that is sustained, found by trying: more
than can be for 15 s says about where it is, then steps of 4 % up or down. A rate is sustained when, published for 60 s, all is
acknowledged within 3 s of the last publish (the program says how far it is every 2 s), nothing is lost and `verify` passes.
`--rate`: that rate alone. `freshness`: 5,000 points a second, watched in BigQuery. 1,000 series, default settings but
`--horizon_s=20`. CPU is given for each process in microseconds a point.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import rig
from google.cloud import bigquery

from tidemark.local.job import Job
from tidemark.local.stack import DATASET, TOPIC, Stack
from tidemark.operate.verify import GRACE_S, verify
from tidemark.settings import TIERS_S
from tidemark.warehouse.clients import rest

SERIES = 1_000
HORIZON_S = 20
BEHIND_S = 3.0
STEP = 1.04
TRIES = 8
LOOK_S = 15
LOOK_RATE = {"single": 90_000, "batch": 300_000}
BARS = {"single": 55_000, "batch": 150_000}
TIERS = TIERS_S.value(TIERS_S.default or "")


Bars = dict[str, tuple[float, str, float]]


def single(seconds: int, rate: int, t0: float) -> list[list[bytes]]:
    """Single-point messages, `rate` a second, in requests of 1,000."""
    plan = []
    for second in range(seconds):
        ms0 = int((t0 + second) * 1000)
        bodies = []
        for i in range(rate):
            ms = ms0 + i * 1000 // rate
            bodies.append(
                (
                    b'{"project":"bench","source":"s%d","metric":"m","event_time":%d,"value":%d.5}'
                    % (i % SERIES, ms, i),
                    ms,
                )
            )
        plan.append([rig.request(TOPIC, bodies[k : k + 1000]) for k in range(0, rate, 1000)])
    return plan


def batch(seconds: int, rate: int, t0: float) -> list[list[bytes]]:
    """Messages of 500 points (ten metrics of one source), `rate` points a second, in requests of 10 messages."""
    plan = []
    messages = rate // 500
    for second in range(seconds):
        ms0 = int((t0 + second) * 1000)
        made = []
        for i in range(messages):
            # a source comes every 100 messages: its points spread over the time since then
            step = 100_000 // messages
            points = [
                b'{"metric":"m%d","event_time":%d,"value":%d.25}'
                % (k % 10, ms0 + i * 1000 // messages - k // 10 * step // 50, k)
                for k in range(500)
            ]
            head = b'{"project":"bench","source":"s%d","points":[' % ((second * messages + i) % 100)
            made.append((head + b",".join(points) + b"]}", ms0 + i * 1000 // messages - step))
        plan.append([rig.request(TOPIC, made[k : k + 10]) for k in range(0, messages, 10)])
    return plan


def distinct(plan: list[list[bytes]]) -> int:
    """Distinct (series, event time) in a plan."""
    keys = set()
    for requests in plan:
        for serialized in requests:
            for message in rig.Request.FromString(serialized).messages:
                body = msgspec.json.decode(message.data)
                for point in body.get("points", (body,)):
                    keys.add((body["source"], point["metric"], point["event_time"]))
    return len(keys)


class Watch(threading.Thread):
    """Looks into BigQuery for when half of the series of each window can be read."""

    def __init__(self, client: bigquery.Client) -> None:
        super().__init__(daemon=True)
        self._client = client
        self.seen: dict[tuple[str, float], float] = {}
        self.stop = threading.Event()

    def run(self) -> None:
        query = f"""SELECT pane, window_end, count(DISTINCT source || metric) AS n FROM `{DATASET}.rollups`
        WHERE tier_s = {TIERS[0]} AND pane IN ('on_time', 'settled') GROUP BY pane, window_end"""
        while not self.stop.wait(0.5):
            rows = list(self._client.query(query).result())
            now = time.time()
            for row in rows:
                if row.n >= SERIES / 2:
                    self.seen.setdefault((row.pane, row.window_end.timestamp()), now)

    def delays(self, pane: str, first_end: float, last_end: float) -> list[float]:
        """Seconds from the end of each whole window to when it could be read, in the order of the windows."""
        found = sorted((end, seen) for (of, end), seen in self.seen.items() if of == pane)
        return [round(seen - end, 2) for end, seen in found if first_end <= end <= last_end]


def run(case: str, seconds: int, rate: int) -> tuple[dict[str, object], Bars]:
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        stack = Stack(Path(directory) / "state")
        environment = stack.up()
        try:
            return measure(case, seconds, rate, stack, environment, Path(directory))
        finally:
            stack.down(purge=True)


def measure(
    case: str, seconds: int, rate: int, stack: Stack, environment: dict[str, str], directory: Path
) -> tuple[dict[str, object], Bars]:
    os.environ["BIGQUERY_EMULATOR_HOST"] = environment["BIGQUERY_EMULATOR_HOST"]
    job = Job(environment, directory / "ingest.log", f"--horizon_s={HORIZON_S}")
    job.wait_ready()
    make = batch if case == "batch" else single
    t0 = float(int(time.time()) + 5 + seconds * rate // 150_000)
    plan = make(seconds, rate, t0)
    total = sum(len(rig.Request.FromString(r).messages) for requests in plan for r in requests)
    points = total * (500 if case == "batch" else 1)
    publisher = rig.Publisher(environment["PUBSUB_EMULATOR_HOST"], plan, t0)
    servers = {
        "python": [job.pid],
        "engine": [pid for pid in rig.processes(job.pid) if pid != job.pid],
        **{
            name: list(rig.processes(server.process().pid))  # type: ignore[union-attr]  # they run
            for name, server in (("database", stack.postgres), ("pubsub", stack.pubsub), ("bigquery", stack.bigquery))
        },
    }
    watch = Watch(rest(DATASET))
    if case == "freshness":
        watch.start()
    while time.time() < t0:
        time.sleep(0.05)
    servers["database"] = list(rig.processes(stack.postgres.process().pid))  # type: ignore[union-attr]  # with its workers
    before = {name: rig.cpu_seconds(pids) for name, pids in servers.items()}
    own = time.process_time()
    publisher.start()
    while job.latest.get("acknowledged", 0) < total and time.time() < t0 + 5 * seconds + 60:
        time.sleep(0.1)
    elapsed = time.time() - t0
    servers["database"] = list(rig.processes(stack.postgres.process().pid))  # type: ignore[union-attr]
    cpu = {name: rig.cpu_seconds(pids) - before[name] for name, pids in servers.items()}
    cpu["bench"] = time.process_time() - own
    memory = rig.resident_mb(job.pid)
    if case == "freshness":
        time.sleep(HORIZON_S + 10)
    watch.stop.set()
    job.drain()
    last = job.drained()
    report = verify(environment["TIDEMARK_DATABASE_URL"], DATASET, TIERS, grace_s=GRACE_S)
    wanted = distinct(plan)
    figures: dict[str, object] = {
        "points": points,
        "published_a_second": rate,
        "publisher_behind_s": round(publisher.behind_s, 2),
        "seconds": round(elapsed, 1),
        "points_a_second": round(points / elapsed),
        "cpu_us_a_point": {name: round(seconds_ / points * 1e6, 2) for name, seconds_ in cpu.items()},
        "python_mb": round(memory),
        "lost": wanted - report.points,
        "verify": "PASS" if report.passed else report.examples,
        "previews": last.get("previews", 0),
        "settled": last.get("settled", 0),
        "retries": {k: v for k, v in last.items() if "fail" in k or "retr" in k or "dropped" in k or "restart" in k},
    }
    bars: Bars = {
        f"{case}_lost": (abs(wanted - report.points), "<=", 0),
        f"{case}_verify_differs": (0 if report.passed else 1, "<=", 0),
    }
    if case == "freshness":
        ends = [t0 + TIERS[0], t0 + seconds]
        on_time, settled = watch.delays("on_time", *ends), watch.delays("settled", *ends)
        figures["on_time_s"], figures["settled_s"] = on_time, settled
        bars["on_time_preview_p50_s"] = (statistics.median(on_time) if on_time else 1e9, "<=", 5)
        bars["first_settled_s"] = (max(settled) if settled else 1e9, "<=", HORIZON_S + 5)
    return figures, bars


def highest(case: str, seconds: int) -> tuple[dict[str, object], Bars]:
    """What was measured at the highest rate that is sustained."""
    look, _ = run(case, LOOK_S, LOOK_RATE[case])
    unit = 500 if case == "batch" else 1000
    rate = round(float(str(look["points_a_second"])) / unit) * unit
    tried: dict[int, float] = {}
    best: tuple[dict[str, object], Bars] | None = None
    for _ in range(TRIES):
        figures, bars = run(case, seconds, rate)
        tried[rate] = behind_s = round(float(str(figures["seconds"])) - seconds, 1)
        print(json.dumps({case: {"rate": rate, "behind_s": behind_s}}), file=sys.stderr, flush=True)
        if behind_s <= BEHIND_S:
            best = figures, bars
        following = round(rate * (STEP if behind_s <= BEHIND_S else 1 / STEP) / unit) * unit
        if following in tried:
            break
        rate = following
    assert best is not None, f"none of {list(tried)} is sustained"
    figures, bars = best
    python = figures["cpu_us_a_point"]["python"]  # type: ignore[index]  # a mapping
    bars[f"{case}_points_a_second"] = (float(str(figures["published_a_second"])), ">=", BARS[case])
    if case == "single":
        bars["single_python_us"] = (python, "<=", 11)
    return {"behind_s_by_rate": tried, **figures}, bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["single", "batch", "freshness"])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, help="points a second published; default: the highest that is sustained")
    arguments = parser.parse_args()
    figures: dict[str, object] = {}
    bars: Bars = {}
    for case in arguments.cases:
        if case == "freshness":
            figures[case], more = run(case, max(arguments.seconds, 250), arguments.rate or 5_000)
        elif arguments.rate:
            figures[case], more = run(case, arguments.seconds, arguments.rate)
        else:
            figures[case], more = highest(case, arguments.seconds)
        bars.update(more)
        print(json.dumps({case: figures[case]}), file=sys.stderr, flush=True)
    return rig.finish("live", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
