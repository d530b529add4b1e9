"""The query service beside VictoriaMetrics on the same data: 20 series, 28 days, a point every 30 s, as averages of two hours.

    python bench/query.py [rollups] [marks] [owed] [points] [percentiles] [sketch] [many] [clients] [memory] [beside]
                          [--victoria-metrics PATH]

wrk asks both in turn, one connection at a time but for `clients`, which are 16; medians of `--rounds`. `rollups`: one series
from settled hours, 336 intervals. `marks`: the same while 200 windows of another series are owed a settling. `owed`: of this one,
so that 200 of its hours are read from minutes, and a minute of each from points. `points`: intervals that lie across the hours,
80,640 points. `percentiles`: p99 of as many; `sketch`: of the sketches of their hours. `many`: all 20 series. `memory`: with 100,000 series, 16 clients and 50 requests that are refused for their size.
`beside`: 16 clients while the pipeline stores 10,000 points a second in the same database. VictoriaMetrics answers without its
cache (`nocache=1`). Needs wrk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import live
import load
import read
import rig
from servers import free, peer

from tidemark.local.job import Job
from tidemark.local.postgres import Postgres
from tidemark.local.stack import Stack
from tidemark.store.connection import make_engine, transaction
from tidemark.store.fold import SKETCH, SUMMARY, Range, fold_base
from tidemark.store.migrate import migrate
from tidemark.store.series import SeriesCache
from tidemark.wire.block import SeriesKey

Bars = dict[str, tuple[float, str, float]]
Figures = dict[str, object]
SERIES = 20
TIERS_S = (60, 3600, 86_400)
RANGE = f"from={read.START_S}&until={read.END_S}&interval-sec={read.INTERVAL_S}"
ACROSS_HOURS = f"from={read.START_S + 7}&until={read.END_S - 7193}&interval-sec={read.INTERVAL_S}&align=from"
SKETCHES = f"{RANGE}&quantiles=sketch"
_ONE = "'&source=gateway-' .. (n % {series})"


class Asked(NamedTuple):
    """A server and what it is asked; `path` is Lua, with n for the number of the request."""

    pid: int
    url: str
    path: str


@contextmanager
def serve(url: str) -> Iterator[tuple[int, str]]:
    """The service: its pid and address."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMARK_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tidemark", "serve", f"--database_url={url}", "--http_port=0", "--access_log_share=0"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    try:
        yield process.pid, ready["url"]
    finally:
        process.terminate()
        process.wait()


@contextmanager
def victoria_metrics(binary: str, directory: Path) -> Iterator[tuple[int, str]]:
    """The same points, in VictoriaMetrics."""
    port = free()
    command = [binary, f"-storageDataPath={directory}", f"-httpListenAddr=127.0.0.1:{port}", "-retentionPeriod=100y"]
    with peer(command, port) as pid:
        url = f"http://127.0.0.1:{port}"
        times = range(read.START_S, read.END_S, read.EVERY_S)
        for number in range(SERIES):
            line = {
                "metric": {"__name__": "fps", "source": f"gateway-{number}"},
                "values": [((number + 1) * 7 + at // 30) % 1000 / 8 for at in times],
                "timestamps": [at * 1000 for at in times],
            }
            request = urllib.request.Request(f"{url}/api/v1/import", json.dumps(line).encode(), method="POST")
            urllib.request.urlopen(request).close()
        urllib.request.urlopen(f"{url}/internal/force_flush").close()
        yield pid, url


def fill(url: str, series: int) -> None:
    """The points and their rollups; and other series, that have no points."""
    pool = make_engine(url, 2, 600)
    read.TIERS_S = TIERS_S
    keys = [SeriesKey("cams", f"gateway-{number}", "fps") for number in range(SERIES)]
    read.fill(pool, list(SeriesCache(pool).ids(keys)))
    with transaction(pool) as connection:
        connection.exec_driver_sql(
            "INSERT INTO settings (tiers_s, horizon_s, debounce_s, quantiles) VALUES (CAST(%s AS integer[]), 120, 10, false)"
            " ON CONFLICT DO NOTHING",
            (list(TIERS_S),),
        )
        if series:
            connection.exec_driver_sql(
                "INSERT INTO series (project, source, metric) SELECT 'cams', 's' || n, 'm' FROM generate_series(1, %s) n",
                (series,),
            )
    pool.dispose()


def sketch(url: str) -> None:
    """The settled hours once more, of series of another metric, with sketches."""
    pool = make_engine(url, 2, 600)
    SeriesCache(pool).ids([SeriesKey("cams", f"gateway-{number}", "sketched") for number in range(SERIES)])
    names = ", ".join((*SUMMARY, *SKETCH))
    for day in range(read.START_S, read.END_S, 86_400):
        with transaction(pool) as connection:
            connection.exec_driver_sql(
                f"""INSERT INTO rollups (series_id, tier_s, window_start, {names}, revision, final)
                    SELECT n.series_id, 3600, window_start, {names}, 1, true
                    FROM ({fold_base(3600, Range(day, day + 86_400), quantiles=True)}) f
                    JOIN series s USING (series_id) JOIN series n ON n.source = s.source AND n.metric = 'sketched'"""
            )
    with pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE) rollups")
    pool.dispose()


def mark(url: str, number: int, source: str = "gateway-19") -> None:
    """So many windows of one series that are owed a settling, spread over the range."""
    pool = make_engine(url, 1, 60)
    step = (read.END_S - read.START_S) // max(1, number)
    with transaction(pool) as connection:
        connection.exec_driver_sql("DELETE FROM marks")
        connection.exec_driver_sql(
            f"""INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at)
                SELECT 60, to_timestamp({read.START_S} + n * {step} / 60 * 60), to_timestamp({read.START_S} + n * {step} / 60 * 60 + 60),
                       series_id, now() + interval '1 hour'
                FROM generate_series(0, {number - 1}) n, (SELECT series_id FROM series WHERE source = '{source}') s"""
        )
    pool.dispose()


def ask(asked: Asked, seconds: float, connections: int = 1) -> dict[str, float]:
    """One round: milliseconds, and CPU of the server."""
    script = f"""
local n = 0
function request() n = n + 1; return wrk.format("GET", {asked.path}) end
function done(summary, latency, requests)
  io.write(string.format('{{"requests":%d,"seconds":%f,"bad":%d,"p50_ms":%f,"p99_ms":%f}}\\n', summary.requests,
    summary.duration / 1e6, summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.timeout, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""
    before = rig.cpu_seconds([asked.pid])
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = [load.wrk(), "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", file.name, asked.url]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    assert not told["bad"], (asked, told)
    cpu = rig.cpu_seconds([asked.pid]) - before
    return {**told, "cpu_ms": cpu / told["requests"] * 1000, "a_second": told["requests"] / told["seconds"]}


def ours(
    server: tuple[int, str], query: str, one: str = _ONE, *, metric: str = "fps", aggregation: str = "avg"
) -> Asked:
    """A query of ours for each series in turn."""
    path = f"/v1/query?project=cams&metric={metric}&aggregation={aggregation}&{query}"
    return Asked(*server, f"'{path}' .. {one.format(series=SERIES)}")


def theirs(server: tuple[int, str], query: str, start: int) -> Asked:
    """The same of VictoriaMetrics; its windows end where ours begin."""
    head = f"/api/v1/query_range?nocache=1&step={read.INTERVAL_S}&start={start}&end={read.END_S}&query="
    return Asked(*server, f"'{head}' .. {query}")


_OF_ONE = """'avg_over_time(fps%7Bsource=%22gateway-' .. (n % 20) .. '%22%7D%5B2h%5D)'"""
_NONE = (0, "gateway-0")
_OF_ALL = "'avg_over_time(fps%5B2h%5D)'"


def measure(arguments: argparse.Namespace, url: str, stack: dict[str, tuple[int, str]]) -> tuple[Figures, Bars]:
    """All cases but memory, each server in turn."""
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    service, peer_ = stack["ours"], stack.get("victoria_metrics")
    start = read.START_S + read.INTERVAL_S
    first = ours(service, RANGE, "'&source=gateway-0'")
    if "sketch" in arguments.cases:
        asked = f"{service[1]}/v1/query?project=cams&metric=sketched&aggregation=p99&{SKETCHES}"
        assert json.load(urllib.request.urlopen(asked))["quantiles"] == "sketch"
    cases: dict[str, tuple[Asked, Asked | None, int, tuple[int, str]]] = {
        "rollups": (ours(service, RANGE), peer_ and theirs(peer_, _OF_ONE, start), 1, _NONE),
        "marks": (first, None, 1, (200, "gateway-19")),
        "owed": (first, None, 1, (200, "gateway-0")),
        "points": (ours(service, ACROSS_HOURS), peer_ and theirs(peer_, _OF_ONE, start + 7), 1, _NONE),
        "percentiles": (ours(service, RANGE, aggregation="p99"), None, 1, _NONE),
        "sketch": (ours(service, SKETCHES, metric="sketched", aggregation="p99"), None, 1, _NONE),
        "many": (ours(service, RANGE, "''"), peer_ and theirs(peer_, _OF_ALL, start), 1, _NONE),
        "clients": (ours(service, RANGE), peer_ and theirs(peer_, _OF_ONE, start), 16, _NONE),
    }
    for round_ in range(arguments.rounds + 1):
        for name in arguments.cases:
            if name not in cases:
                continue
            own, other, connections, marks = cases[name]
            mark(url, *marks)
            for who, asked in (("ours", own), ("victoria_metrics", other)):
                if asked is not None:
                    told = ask(asked, arguments.seconds if round_ else 1, connections)
                    if round_:  # the first is for warmth
                        found.setdefault(name, {}).setdefault(who, []).append({k: round(v, 3) for k, v in told.items()})
    medians = {
        name: {
            who: {
                k: round(statistics.median(one[k] for one in all_), 3)
                for k in ("p50_ms", "p99_ms", "cpu_ms", "a_second")
            }
            for who, all_ in rounds.items()
        }
        for name, rounds in found.items()
    }
    return {"medians": medians, "rounds": found}, _bars(medians)


def _bars(medians: dict[str, dict[str, dict[str, float]]]) -> Bars:
    bars: Bars = {}
    if "rollups" in medians:
        own = medians["rollups"]["ours"]
        bars["rollups_p50_ms"], bars["rollups_cpu_ms"] = (own["p50_ms"], "<=", 2.2), (own["cpu_ms"], "<=", 0.6)
        if "victoria_metrics" in medians["rollups"]:
            ratio = own["p50_ms"] / medians["rollups"]["victoria_metrics"]["p50_ms"]
            bars["rollups_to_victoria_metrics"] = (round(ratio, 2), "<=", 1.5)
    for name, most in (("marks", 6), ("points", 45), ("sketch", 15), ("many", 25)):
        if name in medians:
            bars[f"{name}_p50_ms"] = (medians[name]["ours"]["p50_ms"], "<=", most)
    if "clients" in medians:
        own = medians["clients"]["ours"]
        bars["clients_a_second"], bars["clients_p99_ms"] = (own["a_second"], ">=", 1000), (own["p99_ms"], "<=", 100)
    return bars


def memory(service: tuple[int, str]) -> tuple[Figures, Bars]:
    """Resident memory under everything at once; and afterwards."""
    pid, url = service
    idle = rig.resident_mb(pid)
    peaks: list[float] = []
    answers: Counter[str] = Counter()
    giants = [
        f"{url}/v1/query?project=cams&metric=fps&{ACROSS_HOURS}&aggregation=p99",
        f"{url}/v1/query?project=cams&match=m&from=now-10d&interval-sec=60",
        f"{url}/v1/query?project=cams&metric=fps&from={read.START_S}&until={read.END_S}&interval-sec=60",
    ]
    for _ in range(3):
        wrk = subprocess.Popen(
            [load.wrk(), "-t1", "-c16", "-d8s", f"{url}/v1/query?project=cams&metric=fps&source=gateway-1&{RANGE}"],
            stdout=subprocess.DEVNULL,
        )
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"]
        curls = [
            subprocess.Popen([*command, giants[n % len(giants)]], stdout=subprocess.PIPE, text=True) for n in range(50)
        ]
        peak = 0.0
        while wrk.poll() is None:
            peak = max(peak, rig.resident_mb(pid))
            time.sleep(0.02)
        answers.update(curl.communicate()[0] for curl in curls)
        peaks.append(round(peak, 1))
    after = rig.resident_mb(pid)
    figures = {"idle_mb": round(idle, 1), "peaks_mb": peaks, "after_mb": round(after, 1), "giants": dict(answers)}
    return figures, {"memory_mb": (max(peaks), "<=", 300), "giants_answered": (answers["200"], "<=", 0)}


def beside(arguments: argparse.Namespace) -> Figures:
    """16 clients, while the pipeline stores 10,000 points a second."""
    seconds = round((arguments.seconds + 1) * arguments.rounds) + 20
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        stack = Stack(Path(directory) / "state")
        environment = stack.up()
        try:
            url = environment["TIDEMARK_DATABASE_URL"]
            fill(url, 0)
            job = Job(environment, Path(directory) / "ingest.log")
            job.wait_ready()
            t0 = float(int(time.time()) + 10)
            plan = live.batch(seconds, 10_000, t0)
            publisher = rig.Publisher(environment["PUBSUB_EMULATOR_HOST"], plan, t0)
            publisher.start()
            with serve(url) as service:
                time.sleep(t0 + 10 - time.time())  # what is made once is made, and windows end
                first, stored = time.time(), job.latest.get("acknowledged", 0)
                rounds = [ask(ours(service, RANGE), arguments.seconds, 16) for _ in range(arguments.rounds)]
                messages = job.latest.get("acknowledged", 0) - stored
                rate = messages * 500 / (time.time() - first)
            publisher.join()
            job.kill()
        finally:
            stack.down(purge=True)
    medians = {
        k: round(statistics.median(one[k] for one in rounds), 3) for k in ("p50_ms", "p99_ms", "cpu_ms", "a_second")
    }
    return {"stored_a_second": round(rate), **medians}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ["rollups", "marks", "owed", "points", "percentiles", "sketch", "many", "clients", "memory", "beside"]
    parser.add_argument("cases", nargs="*", default=every)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--victoria-metrics", help="its binary")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        database = Postgres(Path(directory) / "postgres")
        database.start()
        try:
            url = database.url()
            migrate(url)
            fill(url, 100_000 if "memory" in arguments.cases else 0)
            if "sketch" in arguments.cases:
                sketch(url)
            with serve(url) as service:
                stack = {"ours": service}
                if arguments.victoria_metrics:
                    with victoria_metrics(arguments.victoria_metrics, Path(directory) / "vm") as other:
                        figures, bars = measure(arguments, url, {**stack, "victoria_metrics": other})
                else:
                    figures, bars = measure(arguments, url, stack)
                if "memory" in arguments.cases:
                    figures["memory"], more = memory(service)
                    bars.update(more)
        finally:
            database.stop()
    if "beside" in arguments.cases:
        figures["beside"] = beside(arguments)
    return rig.finish("query", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
