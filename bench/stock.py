"""Beside what one would write with Beam alone: points a CPU second, and how many are lost.

    python bench/stock.py [--points 20000]

Stock: `ReadFromPubSub` on Beam's own DirectRunner, an element a point, json, `FixedWindows` and `CombinePerKey`, and a
row-wise upsert of raw rows and rollups with SQLAlchemy. Ours: ingest as it is, previews and settling included, with
BigQuery's stand-in, whose own time is not counted. The same single-point messages of 200 series, 10 % of them five
minutes late; ours gets ten times as many, since stock takes so long. CPU: of the program (with its engine) and of the
database.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import apache_beam as beam
import rig
import sqlalchemy
from apache_beam.io import ReadFromPubSub
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows
from sqlalchemy.dialects.postgresql import insert

from tidemark.local.job import Job
from tidemark.local.stack import SUBSCRIPTION, TOPIC, Stack
from tidemark.store.connection import make_engine, transaction

SERIES = 200
QUIET_S = 20


def messages(number: int) -> list[bytes]:
    """Requests of 1,000 single-point messages, a second apart a series, every tenth five minutes late."""
    now = int(time.time() * 1000)
    made = []
    for i in range(number):
        ms = now - (300_000 if i % 10 == 0 else 0) - (number - i) // SERIES * 10 - i % 7
        made.append(
            (b'{"project":"p","source":"s%d","metric":"m","event_time":%d,"value":%d.5}' % (i % SERIES, ms, i), ms)
        )
    return [rig.request(TOPIC, made[k : k + 1000]) for k in range(0, number, 1000)]


def stock(url: str) -> None:
    """The program of the tutorials; runs until it is killed."""

    class Upsert(beam.DoFn):
        def __init__(self, table: str) -> None:
            self._name = table

        def setup(self) -> None:
            self._engine = sqlalchemy.create_engine(url)
            self._table = sqlalchemy.Table(self._name, sqlalchemy.MetaData(), autoload_with=self._engine)

        def process(self, row: dict) -> None:
            keys = [column.name for column in self._table.primary_key]
            statement = insert(self._table).values(row)
            statement = statement.on_conflict_do_update(
                index_elements=keys, set_={k: v for k, v in row.items() if k not in keys}
            )
            with self._engine.begin() as connection:
                connection.execute(statement)

    class Mean(beam.CombineFn):
        def create_accumulator(self) -> tuple[int, float]:
            return 0, 0.0

        def add_input(self, summary: tuple[int, float], value: float) -> tuple[int, float]:
            return summary[0] + 1, summary[1] + value

        def merge_accumulators(self, some: list) -> tuple[int, float]:
            counts, sums = zip(*some, strict=True)
            return sum(counts), sum(sums)

        def extract_output(self, summary: tuple[int, float]) -> tuple[int, float]:
            return summary

    def rollup(element: tuple, window: object = beam.DoFn.WindowParam) -> dict:
        (source, metric), (number, total) = element
        return {"source": source, "metric": metric, "start": int(window.start), "count": number, "sum": total}  # type: ignore[attr-defined]

    options = PipelineOptions(["--streaming", "--runner=DirectRunner"])
    with beam.Pipeline(options=options) as pipeline:
        points = (
            pipeline
            | ReadFromPubSub(subscription=SUBSCRIPTION, timestamp_attribute="event_time")
            | beam.Map(json.loads)
        )
        (
            points
            | "raw" >> beam.Map(lambda p: {k: p[k] for k in ("source", "metric", "event_time", "value")})
            | "write raw" >> beam.ParDo(Upsert("stock_points"))
        )
        (
            points
            | beam.Map(lambda p: ((p["source"], p["metric"]), p["value"]))
            | beam.WindowInto(FixedWindows(60))
            | beam.CombinePerKey(Mean())
            | "row" >> beam.Map(rollup)
            | "write rollups" >> beam.ParDo(Upsert("stock_rollups"))
        )


_TABLES = """
CREATE TABLE stock_points (source text, metric text, event_time bigint, value float8, PRIMARY KEY (source, metric, event_time));
CREATE TABLE stock_rollups (source text, metric text, start bigint, count bigint, sum float8, PRIMARY KEY (source, metric, start))"""


def count(url: str, sql: str) -> int:
    pool = make_engine(url, 1, 60)
    try:
        with transaction(pool) as connection:
            return int(connection.exec_driver_sql(sql).scalar() or 0)
    finally:
        pool.dispose()


def quiet(url: str, sql: str, wanted: int) -> int:
    """Wait until the number does not grow any more, or is what is wanted."""
    found, since = -1, time.monotonic()
    while time.monotonic() < since + QUIET_S:
        now = count(url, sql)
        if now != found:
            found, since = now, time.monotonic()
        if now >= wanted:
            break
        time.sleep(0.5)
    return found


def publish(address: str, requests: list[bytes]) -> None:
    publisher = rig.Publisher(address, [requests], time.time() - 1)
    publisher.start()
    publisher.join()


def measure_stock(number: int, stack: Stack, environment: dict[str, str]) -> dict[str, float]:
    url = environment["TIDEMARK_DATABASE_URL"]
    for table in _TABLES.split(";"):
        pool = make_engine(url, 1, 60)
        with transaction(pool) as connection:
            connection.exec_driver_sql(table)
        pool.dispose()
    driver = url.replace("postgresql://", "postgresql+pg8000://")
    database = stack.postgres.process()
    assert database is not None
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            [sys.executable, __file__, "--stock", driver], env={**os.environ, **environment}, stdout=log, stderr=log
        )
        time.sleep(15)  # importing and starting are not counted
        publish_before = rig.cpu_seconds(rig.processes(child.pid)), rig.cpu_seconds(rig.processes(database.pid))
        publish(environment["PUBSUB_EMULATOR_HOST"], messages(number))
        stored = quiet(url, "SELECT count(*) FROM stock_points", number)
        cpu = rig.cpu_seconds(rig.processes(child.pid)) - publish_before[0]
        cpu += rig.cpu_seconds(rig.processes(database.pid)) - publish_before[1]
        # two minutes of windows: what the rollups say beside what was sent
        time.sleep(QUIET_S)
        rolled = count(url, "SELECT sum(count) FROM stock_rollups")
        child.send_signal(signal.SIGKILL)
        child.wait()
        if not stored:
            log.seek(0)
            raise SystemExit(log.read()[-3000:].decode(errors="replace"))
    return {
        "points": number,
        "cpu_s": round(cpu, 2),
        "points_a_cpu_second": round(stored / cpu),
        "raw_lost": number - stored,
        "missing_in_rollups": number - rolled,
    }


def measure_ours(number: int, stack: Stack, environment: dict[str, str], directory: Path) -> dict[str, float]:
    url = environment["TIDEMARK_DATABASE_URL"]
    database = stack.postgres.process()
    assert database is not None
    job = Job(environment, directory / "log", "--horizon_s=1", "--debounce_s=1")
    job.wait_ready()
    engine = list(rig.processes(job.pid))
    before = rig.cpu_seconds(engine), rig.cpu_seconds(rig.processes(database.pid))
    publish(environment["PUBSUB_EMULATOR_HOST"], messages(number))
    stored = quiet(url, "SELECT count(*) FROM points", number)
    while count(url, "SELECT count(*) FROM marks WHERE ready_at < now()"):
        time.sleep(0.2)
    cpu = rig.cpu_seconds(engine) - before[0] + rig.cpu_seconds(rig.processes(database.pid)) - before[1]
    job.kill()
    done = Job(environment, directory / "log", "--stop_when_idle_s=3")
    done.drained()
    rolled = count(url, "SELECT sum(count) FROM rollups WHERE tier_s = 60")
    return {
        "points": number,
        "cpu_s": round(cpu, 2),
        "points_a_cpu_second": round(stored / cpu),
        "raw_lost": number - stored,
        "missing_in_rollups": number - rolled,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--stock", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stock:
        stock(arguments.stock)
        return 0
    figures: dict[str, dict[str, float]] = {}
    for name in ("stock", "ours"):
        with tempfile.TemporaryDirectory() as state:
            stack = Stack(Path(state) / "stack")
            environment = stack.up()
            os.environ["BIGQUERY_EMULATOR_HOST"] = environment["BIGQUERY_EMULATOR_HOST"]
            try:
                if name == "stock":
                    figures[name] = measure_stock(arguments.points, stack, environment)
                else:
                    figures[name] = measure_ours(10 * arguments.points, stack, environment, Path(state))
            finally:
                stack.down(purge=True)
        print(name, figures[name], file=sys.stderr, flush=True)
    ratio = figures["ours"]["points_a_cpu_second"] / figures["stock"]["points_a_cpu_second"]
    bars = {"ratio": (round(ratio, 1), ">=", 20.0), "ours_lost": (figures["ours"]["raw_lost"], "<=", 0.0)}
    return rig.finish("stock", dict(figures), bars)


if __name__ == "__main__":
    sys.exit(main())
