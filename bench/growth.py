"""What a point costs with more series and with more points, BigQuery apart.

    python bench/growth.py [--largest 10000000]

decode → raw write → previews on the local engine into a real PostgreSQL, as ingest does it, from prepared messages of
500 points (ten metrics of one source, 50 points each); 30 points or more a series and window. First 10² to 10⁵ series
with the same number of points, then 10⁵ to 10⁷ points of 1,000 series. CPU of Python, engine and database together,
what an empty pipeline costs taken off. The series are known before, as they are after the first minute of a stream.
No window is shown early: how many times the clock of this bench would show one depends on how long it takes, and what
that costs is measured by preview.py. State: how much the resident memory of Python and engine grows, for each point
that is in a window which is still kept.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import preview
import rig
from apache_beam.options.pipeline_options import PipelineOptions
from preview import Feed

from pipelines.local_engine import LocalEngine
from tidemark.local.postgres import Postgres
from tidemark.local.prism import find_or_build
from tidemark.settings import INGEST, read
from tidemark.store.connection import make_engine, transaction
from tidemark.store.migrate import migrate
from tidemark.wire.block import SeriesKey
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from transforms import resources
from transforms.decode import DecodeMessages
from transforms.preview import Preview
from transforms.resources import Store
from transforms.write_raw import WriteRaw

A_MESSAGE, METRICS = 500, 10
PULL = 20
"""Messages of a pull."""
SERIES = (100, 1_000, 10_000, 100_000)
NEVER_S = 86_400
A_WINDOW = 30
"""Points of a series in a window, at least."""


def pulls(points: int, series: int) -> Iterator[list[Message]]:
    """Event time goes so fast that each series has `A_WINDOW` points or more in each minute."""
    sources = series // METRICS
    a_minute = max(A_WINDOW * series, 300_000)
    start_ms = int(time.time() * 1000) // 60_000 * 60_000 - points * 60_000 // a_minute
    step_ms = max(1, sources * A_MESSAGE * 60_000 // a_minute // (A_MESSAGE // METRICS))
    made = []
    for number in range(points // A_MESSAGE):
        ms = start_ms + number * A_MESSAGE * 60_000 // a_minute
        # a source comes once in `sources` messages: its points are spread over the time until it comes again
        body = b",".join(
            b'{"metric":"m%d","event_time":%d,"value":%d.25}' % (k % METRICS, ms + k // METRICS * step_ms, k)
            for k in range(A_MESSAGE)
        )
        data = b'{"project":"bench","source":"s%d","points":[%b]}' % (number % sources, body)
        made.append(Message(data, {}, ms * 1000 + 1_000_000, str(number), ms * 1000))
        if len(made) == PULL:
            yield made
            made = []


def graph(pipeline: beam.Pipeline) -> None:
    """As ingest builds it, up to the rows."""
    values = read(INGEST, {}, environment={})
    store = Store(None, 6, values.tiers_s, values.horizon_s, values.debounce_s)
    preview_s = values.horizon_s + values.lateness_slack_s
    counted = (
        pipeline
        | beam.Create([0])
        | beam.ParDo(Feed()).with_output_types(list[Message])
        | DecodeMessages(Limits())
        # the clock stands still beside the event time of this bench: nothing is beyond previews
        | WriteRaw(store, values.shards, 10 * 365 * 86_400.0)
        | Preview(values.tiers_s[0], NEVER_S, preview_s)
        | beam.ParDo(preview.Count())
    )
    preview.taken(counted)


class Memory(threading.Thread):
    """The most that Python and engine held beyond what they held at first."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.stop = 0.0, threading.Event()

    def run(self) -> None:
        pids = list(rig.processes(os.getpid()))
        first = sum(map(rig.resident_mb, pids))
        while not self.stop.wait(0.2):
            total = 0.0
            for pid in rig.processes(os.getpid()):
                try:
                    total += rig.resident_mb(pid)
                except OSError:
                    continue
            self.most = max(self.most, total - first)


def cost(points: int, series: int, server: Postgres) -> dict[str, float]:
    """Run in a process of its own, so that memory starts afresh."""
    process = server.process()
    assert process is not None
    command = [sys.executable, __file__, "--one", str(points), str(series), str(process.pid)]
    environment = {**os.environ, "TIDEMARK_DATABASE_URL": server.url()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    own, database, grown_mb, kept = map(float, done.stdout.split()[-4:])
    found = {
        "us_a_point": round((own + database) / points * 1e6, 2),
        "python_and_engine_us": round(own / points * 1e6, 2),
        "database_us": round(database / points * 1e6, 2),
        "state_bytes_a_point": round(grown_mb * 2**20 / kept),
    }
    print(series, points, found, file=sys.stderr, flush=True)
    return found


def one(points: int, series: int, server: int) -> None:
    """CPU seconds, those of the database, megabytes grown, points in the windows that are kept at a time."""
    options = PipelineOptions(["--streaming"])
    engine = LocalEngine(find_or_build())

    def run() -> float:
        before = rig.cpu_seconds(rig.processes(os.getpid()))
        pipeline = beam.Pipeline(options=options)
        graph(pipeline)
        engine.run(pipeline, options).wait_until_finish()
        return rig.cpu_seconds(rig.processes(os.getpid())) - before

    nothing = run()
    Feed.pulls = list(pulls(points, series))
    values = read(INGEST, {}, environment={})
    known = Store(None, 6, values.tiers_s, values.horizon_s, values.debounce_s).series()
    known.ids(
        [SeriesKey("bench", f"s{source}", f"m{m}") for source in range(series // METRICS) for m in range(METRICS)]
    )
    gc.freeze()
    memory = Memory()
    memory.start()
    database = rig.cpu_seconds(rig.processes(server))  # its processes for this one live on until it closes
    spent = run() - nothing
    database = rig.cpu_seconds(rig.processes(server)) - database
    memory.stop.set()
    resources.close()
    kept_s = values.tiers_s[0] + values.horizon_s + values.lateness_slack_s
    print(spent, database, memory.most, min(points, max(A_WINDOW * series, 300_000) * kept_s / 60))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=3_000_000, help="for each number of series")
    parser.add_argument("--largest", type=int, default=10_000_000)
    parser.add_argument("--one", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return 0
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as state:
        server = Postgres(Path(state))
        server.start()
        try:
            migrate(server.url())
            cost(100_000, 1_000, server)
            by_series = {}
            for series in SERIES:
                by_series[series] = cost(arguments.points, series, server)
                _empty(server)
            by_points = {}
            for points in (100_000, 1_000_000, arguments.largest):
                rounds = [cost(points, 1_000, server) for _ in range(3 if points < 1_000_000 else 1)]
                by_points[points] = sorted(rounds, key=lambda found: found["us_a_point"])[len(rounds) // 2]
                _empty(server)
        finally:
            server.stop()
            server.purge()
    figures["by_series"], figures["by_points"] = by_series, by_points
    bars = {}
    for name, found in (("series", by_series), ("points", by_points)):
        costs = [one_["us_a_point"] for one_ in found.values()]
        middle = (max(costs) + min(costs)) / 2
        bars[f"spread_by_{name}"] = (round((max(costs) - middle) / middle, 3), "<=", 0.15)
    return rig.finish("growth", figures, bars)


def _empty(server: Postgres) -> None:
    pool = make_engine(server.url(), 1, 60)
    with transaction(pool) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, ledger, series, sources")
    pool.dispose()


if __name__ == "__main__":
    import growth  # by name: what is in __main__ would be pickled with the pipeline

    sys.exit(growth.main())
