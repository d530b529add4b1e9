"""Loading an archive, beside the least that could do it.

    python bench/backfill.py [--points 3000000] [--rounds 5] [--memory-mb 100 5000] [--kill]

The archive is JSON lines in zstd, a point of 100 series each 10 s, in order of time: of some days. `limit` is what nothing can be much faster
than: unpack, msgspec, numpy's order without repetitions, binary COPY into a table with the same key; no Beam, no checks, no
rollups. `backfill` is `python -m pipelines.backfill` from its start to its end, rollups of all tiers settled: `raw` until the
last point is stored, as the ledger says. In turn, medians. The rollups go to a server of this bench that takes them and keeps
nothing: the stand-in for BigQuery needs more of the machine's two cores than all the rest, which BigQuery does not.

`--memory-mb`: the most memory of the program's processes together, for archives of so much text. `--kill`: killed ten times at
random and begun again; what was written in all, and what is stored in the end. `--live`: 2,000 points a second through
`python -m pipelines.ingest`, and an archive beside them from the middle on: how long after its horizon each of their windows of
two seconds is settled, without the load and with it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pg8000
import rig
import sqlalchemy
import zstandard
from google.cloud.bigquery_storage_v1 import types

from tidemark.local.job import Job
from tidemark.local.stack import TOPIC, Stack
from tidemark.store.connection import make_engine, transaction

BEGIN_MS = 1_735_689_600_000
SERIES = 100
STEP_MS = 10_000
LINE = '{"project":"fleet","source":"gateway-%d","metric":"m%d","event_time":%d,"value":%.3f}'
KILLS = 10
LIVE_S, LIVE_RATE = 120, 2000
ROW = np.dtype(
    [
        ("fields", ">i2"),
        ("a", ">i4"),
        ("series", ">i4"),
        ("b", ">i4"),
        ("event_time", ">i8"),
        ("c", ">i4"),
        ("value", ">f8"),
        ("d", ">i4"),
        ("publish_time", ">i8"),
        ("e", ">i4"),
    ]
)
HEAD = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
EPOCH_2000_US = 946_684_800_000_000


Bars = dict[str, tuple[float, str, float]]


class Point(msgspec.Struct, gc=False):
    project: str
    source: str
    metric: str
    event_time: int
    value: float


def write_archive(path: Path, points: int) -> int:
    """Returns the bytes of its text."""
    size = 0
    with path.open("wb") as file, zstandard.ZstdCompressor(3).stream_writer(file) as packed:
        for begin in range(0, points, SERIES):
            at, turn = BEGIN_MS + begin // SERIES * STEP_MS, begin // SERIES
            some = range(min(SERIES, points - begin))
            lines = [LINE % (s // 10, s % 10, at + s, (turn * 7 + s) % 1000 / 8) for s in some]
            text = ("\n".join(lines) + "\n").encode()
            size += len(text)
            packed.write(text)
    return size


def limit(path: str, url: str) -> None:
    """What nothing can be much faster than."""
    where = sqlalchemy.make_url(url)
    connection = pg8000.connect(
        user=where.username, password=where.password, host=where.host, port=where.port, database=where.database
    )
    cursor = connection.cursor()
    cursor.execute(
        "CREATE TABLE limit_points (series_id integer, event_time timestamptz, value float8, publish_time timestamptz,"
        " attributes jsonb, PRIMARY KEY (series_id, event_time))"
    )
    connection.commit()
    began = time.monotonic()
    decoder, numbers, stored, rest = msgspec.json.Decoder(Point), {}, 0, b""
    with (
        Path(path).open("rb") as file,
        zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as text,
    ):
        while block := text.read(1 << 20):
            block = rest + block
            cut = block.rfind(b"\n") + 1
            rest = block[cut:]
            items = decoder.decode_lines(block[:cut])
            keys = [numbers.setdefault((one.project, one.source, one.metric), len(numbers)) for one in items]
            series = np.array(keys, np.int64)
            at = np.array([one.event_time for one in items], np.int64)
            value = np.array([one.value for one in items])
            key = series * (1 << 42) + (at - BEGIN_MS)
            order = np.argsort(key, kind="stable")
            last = np.ones(len(order), bool)
            last[:-1] = key[order][1:] != key[order][:-1]
            order = order[last]
            rows = np.empty(len(order), ROW)
            rows["fields"], rows["a"], rows["e"] = 5, 4, -1
            rows["b"] = rows["c"] = rows["d"] = 8
            rows["series"], rows["value"] = series[order], value[order]
            rows["event_time"] = rows["publish_time"] = at[order] * 1000 - EPOCH_2000_US
            stream = io.BytesIO(HEAD + rows.tobytes() + b"\xff\xff")
            cursor.execute("COPY limit_points FROM STDIN (FORMAT binary)", stream=stream)
            connection.commit()
            stored += len(order)
    print(json.dumps({"points": stored, "seconds": time.monotonic() - began}))


def sink() -> tuple[grpc.Server, int]:
    """Takes rows as BigQuery's Storage Write does, and keeps nothing."""
    made = types.AppendRowsResponse.pb()()
    made.append_result.SetInParent()
    answer = made.SerializeToString()

    def append(requests: Any, _context: Any) -> Any:
        for _ in requests:
            yield answer

    server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
    handler = grpc.stream_stream_rpc_method_handler(append)  # of bytes, which nobody reads
    service = "google.cloud.bigquery.storage.v1.BigQueryWrite"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"AppendRows": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


class Bench:
    """A set of servers, emptied before each run."""

    def __init__(self, stack: Stack, storage_port: int) -> None:
        found = stack.environment()
        self.environment = {**os.environ, **found, "TIDEMARK_BIGQUERY_STORAGE_ENDPOINT": f"127.0.0.1:{storage_port}"}
        self.url = found["TIDEMARK_DATABASE_URL"]
        database = stack.postgres.process()
        assert database is not None
        self.database = database.pid

    def sql(self, statement: str) -> Any:
        pool = make_engine(self.url, 1, 600)
        try:
            with transaction(pool) as connection:
                return (
                    connection.exec_driver_sql(statement).first()
                    if statement.startswith("SELECT")
                    else (connection.exec_driver_sql(statement))
                )
        finally:
            pool.dispose()

    def empty(self) -> None:
        self.sql("DROP TABLE IF EXISTS limit_points")
        self.sql("TRUNCATE points, rollups, marks, imports, ledger, series, corrections, dead_letters")
        self.sql("CHECKPOINT")

    def limit(self, archive: Path) -> float:
        """Points a second."""
        self.empty()
        command = [sys.executable, __file__, "--limit", str(archive), "--url", self.url]
        told = json.loads(subprocess.run(command, env=self.environment, capture_output=True, check=True).stdout)
        return float(told["points"] / told["seconds"])

    def start(self, archive: Path, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pipelines.backfill", str(archive), *arguments]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def load(self, archive: Path, points: int) -> dict[str, float]:
        self.empty()
        before = rig.cpu_seconds(rig.processes(self.database))
        began = time.monotonic()
        running = self.start(archive)
        watch = Watch(running.pid)
        out, errors = running.communicate()
        took = time.monotonic() - began
        most, cpu = watch.end()
        assert running.returncode == 0, errors.decode()
        told = json.loads(out.splitlines()[-1])
        assert told["inserted"] == points, told
        raw = self.sql(
            "SELECT extract(epoch FROM (SELECT max(written_at) FROM ledger) - (SELECT min(started_at) FROM imports))::float8"
        )[0]
        return {
            "points_a_s": points / took,
            "raw_points_a_s": points / raw,
            "seconds": took,
            "settled": told["settled"],
            "cpu_us_a_point": cpu / points * 1e6,
            "database_cpu_us_a_point": (rig.cpu_seconds(rig.processes(self.database)) - before) / points * 1e6,
            "memory_mb": most,
        }


class Watch(threading.Thread):
    """The most memory of a process and its children together, and their CPU seconds."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._most, self._cpu = pid, 0.0, 0.0
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(0.1):
            try:
                pids = list(rig.processes(self._pid))
                self._most = max(self._most, sum(map(rig.resident_mb, pids)))
                self._cpu = max(self._cpu, rig.cpu_seconds(pids))
            except OSError:
                continue  # one of them ended meanwhile

    def end(self) -> tuple[float, float]:
        self._ended.set()
        self.join()
        return self._most, self._cpu


def killed(bench: Bench, archive: Path, points: int, seed: int) -> dict[str, float]:
    """Killed at random instants and begun again, until it is through."""
    chance = random.Random(seed)
    bench.empty()
    kills = 0
    while True:
        running = bench.start(archive, f"--max_rate={points // 40}")
        if kills < KILLS:
            try:
                running.wait(chance.uniform(3, 9))
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGKILL)
                kills += 1
        out, errors = running.communicate()
        if running.returncode == 0:
            break
        assert running.returncode == -signal.SIGKILL, errors.decode()
    again = bench.start(archive).communicate()[0]
    written, stored, unbalanced = bench.sql(
        "SELECT sum(received)::bigint, (SELECT count(*) FROM points),"
        " count(*) FILTER (WHERE received <> inserted + overwritten + ignored + dead_lettered) FROM ledger"
    )
    assert (stored, unbalanced) == (points, 0)
    return {
        "kills": kills,
        "written_to_points": written / points,
        "second_run_received": json.loads(again.splitlines()[-1])["received"],
        "finished_inserted": json.loads(out.splitlines()[-1])["inserted"],
    }


def beside_live(bench: Bench, archive: Path, points: int, directory: Path) -> dict[str, float]:
    """How long after their horizon live windows are settled, alone and beside a load."""
    bench.empty()
    bench.sql("TRUNCATE settings")
    tiers = {"TIDEMARK_TIERS_S": "2,10,60", "TIDEMARK_HORIZON_S": "5", "TIDEMARK_DEBOUNCE_S": "2"}
    bench.environment |= tiers
    job = Job(bench.environment, directory / "ingest.log")
    job.wait_ready()
    begin = time.time() + 3
    publisher = rig.Publisher(bench.environment["PUBSUB_EMULATOR_HOST"], live_plan(begin), begin)
    publisher.start()
    time.sleep(max(0.0, begin + LIVE_S / 3 - time.time()))
    loading = time.time()
    running = bench.start(archive, f"--max_rate={3 * points // LIVE_S}")
    out, errors = running.communicate()
    assert running.returncode == 0, errors.decode()
    loaded = time.time()
    publisher.join()
    assert json.loads(out.splitlines()[-1])["inserted"] == points
    until = time.monotonic() + 60
    while bench.sql("SELECT count(*) FROM marks WHERE tier_s = 2 AND NOT closing")[0] and time.monotonic() < until:
        time.sleep(0.2)
    job.drain()
    job.drained()
    late = """SELECT extract(epoch FROM min(settled_at) - max(window_start))::float8 - 7 FROM rollups JOIN series USING (series_id)
        WHERE project = 'live' AND tier_s = 2 AND window_start >= to_timestamp({}) AND window_start < to_timestamp({})
        GROUP BY window_start"""
    pool = make_engine(bench.url, 1, 600)
    with transaction(pool) as connection:
        alone, beside = (
            sorted(row[0] for row in connection.exec_driver_sql(late.format(start, end)).all())
            for start, end in ((begin + 5, loading - 8), (loading + 4, loaded - 8))
        )
    pool.dispose()
    found = {"load_s": loaded - loading, "points_a_s": points / (loaded - loading)}
    for name, delays in (("alone", alone), ("beside", beside)):
        found |= {
            f"windows_{name}": len(delays),
            f"{name}_p50_s": statistics.median(delays),
            f"{name}_p99_s": delays[int(0.99 * (len(delays) - 1))],
        }
    return found


def live_plan(begin: float) -> list[list[bytes]]:
    plan = []
    for second in range(LIVE_S):
        at = int((begin + second) * 1000)
        line = b'{"project":"live","source":"s%d","metric":"m","event_time":%d,"value":%d.5}'
        bodies = [(line % (n % 500, at + n // 2, n), at + n // 2) for n in range(LIVE_RATE)]
        plan.append([rig.request(TOPIC, bodies[k : k + 100]) for k in range(0, LIVE_RATE, 100)])
    return plan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=3_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory-mb", type=int, nargs="*", default=[])
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.limit:
        limit(arguments.limit, arguments.url)
        return 0
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        stack = Stack(Path(directory) / "state")
        stack.up()
        server, port = sink()
        try:
            figures, bars = measured(arguments, Bench(stack, port), Path(directory))
        finally:
            server.stop(0)
            stack.down(purge=True)
    return rig.finish("backfill", figures, bars)


def measured(arguments: argparse.Namespace, bench: Bench, directory: Path) -> tuple[dict[str, object], Bars]:
    figures: dict[str, object] = {}
    bars: Bars = {}
    archive, points = directory / "points.jsonl.zst", arguments.points
    if arguments.rounds:
        figures |= in_turn(bench, archive, points, arguments.rounds)
        bars["to_limit"] = (float(str(figures["to_limit"])), ">=", 0.6)
    memory: dict[int, int] = {}
    for megabytes in arguments.memory_mb:
        some = megabytes * 10_000 // SERIES * SERIES
        write_archive(archive, some)
        memory[megabytes] = round(bench.load(archive, some)["memory_mb"])
        print(json.dumps({"memory_mb": memory}), file=sys.stderr)
    if memory:
        figures["most_memory_mb"] = memory
        bars["memory_mb"] = (max(memory.values()), "<=", 600)
        bars["memory_growth"] = (round(max(memory.values()) / min(memory.values()), 2), "<=", 1.1)
    if arguments.kill:
        write_archive(archive, points)
        figures["killed"] = begun_again = killed(bench, archive, points, arguments.seed)
        bars["written_to_points"] = (round(begun_again["written_to_points"], 3), "<=", 1.3)
        bars["second_run_received"] = (begun_again["second_run_received"], "<=", 0)
    if arguments.live:
        write_archive(archive, points)
        live = beside_live(bench, archive, points, directory)
        figures["live"] = {name: round(value, 2) for name, value in live.items()}
        bars["live_p99"] = (round(live["beside_p99_s"] / live["alone_p99_s"], 2), "<=", 2)
    return figures, bars


def in_turn(bench: Bench, archive: Path, points: int, number: int) -> dict[str, object]:
    """The limit and the load in turn, medians."""
    size = write_archive(archive, points)
    rounds = []
    for _ in range(number):
        least = bench.limit(archive)
        rounds.append({"limit_points_a_s": least, **bench.load(archive, points)})
        print(json.dumps(rounds[-1]), file=sys.stderr)
    found = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    found["to_limit"] = statistics.median(one["points_a_s"] / one["limit_points_a_s"] for one in rounds)
    found["raw_to_limit"] = statistics.median(one["raw_points_a_s"] / one["limit_points_a_s"] for one in rounds)
    return {"text_mb": size >> 20, **{name: round(value, 3) for name, value in found.items()}}


if __name__ == "__main__":
    sys.exit(main())
