"""The job beside Telegraf, on the same backlog of the same stand-in, into the same PostgreSQL.

    python bench/peers.py --telegraf PATH [single] [batch] [--rounds 5]

Telegraf is built by

    go install -tags custom,inputs.cloud_pubsub,outputs.postgresql,parsers.json_v2 \
        github.com/influxdata/telegraf/cmd/telegraf@v1.37.2

`single`: a backlog of messages of one point; `batch`: of 500. Each round publishes it to a topic with a subscription for each of
the two, which are then started, one after the other, with empty tables, and stopped when all is acknowledged. What is measured
lies between a tenth and nine tenths of the acknowledgements, so that no start and no end is in it: points a second, and µs of
CPU a point of the program (of ours the engine with it) and of the database. Then the same backlog once more: how many rows
there are for each point. Medians. Ours has everything on: previews, marks, settling. Telegraf copies rows and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import rig
import sqlalchemy
from google.pubsub_v1 import types

from tidemark.local.job import Job
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import SUBSCRIPTION, TOPIC, Stack
from tidemark.store.connection import make_engine, transaction

PEERS_SUBSCRIPTION = SUBSCRIPTION.rpartition("/")[0] + "/telegraf"
MESSAGES = {"single": 1_500_000, "batch": 12_000}
POINTS = {"single": 1, "batch": 500}
SERIES = 1000
BARS = {"single": 0.5, "batch": 0.7}
OURS, TELEGRAF = "tidemark", "telegraf"
WAIT_S = 600
_JSON = {
    "single": """
        timestamp_path = "event_time"
        timestamp_format = "unix_ms"
        [[inputs.cloud_pubsub.json_v2.tag]]
          path = "project"
        [[inputs.cloud_pubsub.json_v2.tag]]
          path = "source"
        [[inputs.cloud_pubsub.json_v2.tag]]
          path = "metric"
        [[inputs.cloud_pubsub.json_v2.field]]
          path = "value"
          type = "float"
    """,
    "batch": """
        [[inputs.cloud_pubsub.json_v2.tag]]
          path = "project"
        [[inputs.cloud_pubsub.json_v2.tag]]
          path = "source"
        [[inputs.cloud_pubsub.json_v2.object]]
          path = "points"
          timestamp_key = "event_time"
          timestamp_format = "unix_ms"
          tags = ["metric"]
    """,
}
"""How Telegraf reads each."""


def telegraf_settings(case: str, where: sqlalchemy.URL, credentials: Path) -> str:
    """With room for as much under way as ours has."""
    return f"""
    [agent]
      flush_interval = "200ms"
      metric_batch_size = 10000
      metric_buffer_limit = 2000000
      omit_hostname = true
    [[inputs.cloud_pubsub]]
      credentials_file = "{credentials}"
      project = "{PEERS_SUBSCRIPTION.split("/")[1]}"
      subscription = "{PEERS_SUBSCRIPTION.rpartition("/")[2]}"
      max_undelivered_messages = 100000
      max_outstanding_messages = 100000
      data_format = "json_v2"
      [[inputs.cloud_pubsub.json_v2]]
        measurement_name = "telegraf_points"
        {_JSON[case]}
    [[outputs.postgresql]]
      connection = "host={where.host} port={where.port} user={where.username} password={where.password} dbname={where.database}"
      schema = "peers"
    """


def body(case: str, number: int, begin_ms: int) -> bytes:
    if case == "single":
        source, at = number % SERIES, begin_ms + number // 100
        return b'{"project":"bench","source":"s%d","metric":"m","event_time":%d,"value":%d.5}' % (source, at, number)
    points = b",".join(
        b'{"metric":"m%d","event_time":%d,"value":%d.25}' % (k % 10, begin_ms + number + k // 10, k) for k in range(500)
    )
    return b'{"project":"bench","source":"s%d","points":[%b]}' % (number % 100, points)


def publish(address: str, case: str, begin_ms: int) -> None:
    """The backlog: of some seconds from then on, each point at a time of its own."""
    call = grpc.insecure_channel(address).unary_unary("/google.pubsub.v1.Publisher/Publish")
    size = 1000 if case == "single" else 10
    for begin in range(0, MESSAGES[case], size):
        call(rig.request(TOPIC, [(body(case, n, begin_ms), begin_ms) for n in range(begin, begin + size)]))


class Memory(threading.Thread):
    """The most of a process and its children together, in MB."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self.most, self.ended = pid, 0.0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            try:
                self.most = max(self.most, sum(map(rig.resident_mb, rig.processes(self._pid))))
            except OSError:
                continue  # one of them ended meanwhile


class Peer(NamedTuple):
    """One of the two: its subscription, its table, and how to run it, which gives its pid."""

    name: str
    subscription: str
    table: str
    running: Callable[[str], Any]


class Bench:
    """The servers, and both programs."""

    def __init__(self, stack: Stack, environment: dict[str, str], telegraf: str, directory: Path) -> None:
        self.environment, self.telegraf, self.directory = environment, telegraf, directory
        self.address, self.url = environment["PUBSUB_EMULATOR_HOST"], environment["TIDEMARK_DATABASE_URL"]
        database = stack.postgres.process()
        assert database is not None
        self.database = database.pid
        self.peers = (
            Peer(OURS, SUBSCRIPTION, "points", self._job),
            Peer(TELEGRAF, PEERS_SUBSCRIPTION, "peers.telegraf_points", self._telegraf),
        )
        with grpc.insecure_channel(self.address) as channel:
            create = channel.unary_unary(
                "/google.pubsub.v1.Subscriber/CreateSubscription", types.Subscription.pb().SerializeToString
            )
            create(types.Subscription.pb()(name=PEERS_SUBSCRIPTION, topic=TOPIC, ack_deadline_seconds=60))
        # it wants credentials even where nobody asks for them
        self.credentials = directory / "credentials.json"
        made_up = {"type": "authorized_user", "client_id": "x", "client_secret": "x", "refresh_token": "x"}
        self.credentials.write_text(json.dumps(made_up))

    def sql(self, *statements: str) -> Any:
        """The last one's first row."""
        pool = make_engine(self.url, 1, 600)
        try:
            with transaction(pool) as connection:
                for statement in statements:
                    answer = connection.exec_driver_sql(statement)
                return answer.first() if answer.returns_rows else None
        finally:
            pool.dispose()

    def empty(self) -> None:
        self.sql(
            "TRUNCATE points, rollups, marks, ledger, series, corrections, dead_letters",
            "DROP SCHEMA IF EXISTS peers CASCADE",
            "CREATE SCHEMA peers",
        )
        self.sql("SELECT pg_stat_reset()")

    @contextmanager
    def _job(self, _case: str) -> Iterator[int]:
        job = Job(self.environment, self.directory / "ingest.log")
        yield job.pid
        job.drain()
        job.drained()

    @contextmanager
    def _telegraf(self, case: str) -> Iterator[int]:
        settings = self.directory / "telegraf.conf"
        settings.write_text(telegraf_settings(case, sqlalchemy.make_url(self.url), self.credentials))
        log = self.directory / "telegraf.log"
        command = [self.telegraf, "--config", str(settings), "--quiet"]
        with log.open("ab") as errors:
            child = subprocess.Popen(command, stderr=errors, stdout=errors, env={**os.environ, **self.environment})
        yield child.pid
        child.terminate()
        if child.wait(60):
            raise RuntimeError(log.read_text())

    def worked_off(self, peer: Peer, case: str) -> dict[str, float]:
        """One program, from a tenth to nine tenths of what waits for it."""
        number = MESSAGES[case]
        with Control(self.address) as control, peer.running(case) as pid:
            before = control.stats()[peer.subscription].acked
            memory = Memory(pid)
            tenth = self._at(control, peer, before + number // 10, pid)
            most = self._at(control, peer, before + number * 9 // 10, pid)
            self._at(control, peer, before + number, pid)
            memory.ended.set()
            memory.join()
        points = (most[0] - tenth[0]) * POINTS[case]
        took, cpu, database = (b - a for a, b in zip(tenth[1:], most[1:], strict=True))
        return {
            "points_a_s": points / took,
            "cpu_us": cpu / points * 1e6,
            "database_us": database / points * 1e6,
            "memory_mb": memory.most,
        }

    def _at(self, control: Control, peer: Peer, acked: int, pid: int) -> tuple[int, float, float, float]:
        """Acknowledged, the time, CPU seconds of the program and of the database, once so many are acknowledged."""
        until = time.monotonic() + WAIT_S
        while (found := control.stats()[peer.subscription].acked) < acked:
            if time.monotonic() > until:
                raise RuntimeError(f"{peer.name} has acknowledged {found} of {acked} in {WAIT_S} s")
            time.sleep(0.05)
        cpu, database = (rig.cpu_seconds(rig.processes(one)) for one in (pid, self.database))
        return found, time.monotonic(), cpu, database

    def rows(self, peer: Peer) -> int:
        return int(self.sql(f"SELECT count(*) FROM {peer.table}")[0])


def measured(bench: Bench, case: str, rounds: int) -> tuple[dict[str, object], dict[str, tuple[float, str, float]]]:
    found: dict[str, list[dict[str, float]]] = {peer.name: [] for peer in bench.peers}
    points = MESSAGES[case] * POINTS[case]
    for number in range(rounds):
        bench.empty()
        begin_ms = int(time.time() * 1000)
        publish(bench.address, case, begin_ms)
        for peer in bench.peers[:: 1 if number % 2 else -1]:
            found[peer.name].append(bench.worked_off(peer, case))
            print(json.dumps({case: {peer.name: found[peer.name][-1]}}), file=sys.stderr, flush=True)
    rows = {peer.name: [bench.rows(peer) / points] for peer in bench.peers}
    publish(bench.address, case, begin_ms)
    for peer in bench.peers:
        bench.worked_off(peer, case)
        rows[peer.name].append(bench.rows(peer) / points)
    medians = {
        name: {key: round(statistics.median(one[key] for one in all_), 2) for key in all_[0]}
        for name, all_ in found.items()
    }
    ratio = statistics.median(
        ours["cpu_us"] / theirs["cpu_us"] for ours, theirs in zip(found[OURS], found[TELEGRAF], strict=True)
    )
    bars = {
        f"{case}_cpu_to_telegraf": (round(ratio, 3), "<=", BARS[case]),
        f"{case}_rows_a_point": (rows[OURS][1], "<=", 1.0),
    }
    return {"medians": medians, "rows_a_point_once_and_twice": rows}, bars


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["single", "batch"])
    parser.add_argument("--telegraf", required=True, help="its binary")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    figures: dict[str, object] = {}
    bars: dict[str, tuple[float, str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        stack = Stack(Path(directory) / "state")
        bench = Bench(stack, stack.up(), arguments.telegraf, Path(directory))
        try:
            for case in arguments.cases:
                figures[case], more = measured(bench, case, arguments.rounds)
                bars.update(more)
        finally:
            stack.down(purge=True)
    return rig.finish("peers", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
