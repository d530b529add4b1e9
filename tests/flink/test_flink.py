"""The whole pipeline on a real Flink: task managers, workers and connections are killed; everything is right in the end."""

from __future__ import annotations

import os
import random
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.flink.cluster import Cluster
from tests.integration.oracle import differences
from tests.integration.points import Feed, Point, Sender, everything_is_right, query
from tests.store.faults import Proxy
from tidemark.local.job import Job
from tidemark.local.processes import wait_until
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import DATASET, SUBSCRIPTION, Stack
from tidemark.warehouse.clients import rest
from tidemark.warehouse.read import latest

POINTS = 100_000
SECONDS = 40.0
SEEDS = [int(seed) for seed in os.environ.get("TEST_SEED", "1,2,3").split(",")]


class Traffic(Sender):
    """Points of 20 series: 10 % up to half a minute late, 5 % of the messages twice, 2 % of the points overwritten.

    At least `points` of them, and at the same rate until it is told to finish.
    """

    def __init__(self, feed: Feed, seed: int, points: int = POINTS, seconds: float = SECONDS) -> None:
        super().__init__(feed)
        self._rng, self._points, self._seconds = random.Random(seed), points, seconds

    def work(self) -> None:
        rng, sent, began = self._rng, 0, time.monotonic()
        earlier: list[Point] = []
        while sent < self._points or not self.finishing.is_set():
            due = int((time.monotonic() - began) / self._seconds * self._points)
            if due <= sent:
                time.sleep(0.05)
                continue
            now = time.time_ns() // 1_000_000
            some: list[Point] = []
            for i in range(due - sent):
                if earlier and rng.random() < 0.02:
                    key, at, _ = rng.choice(earlier)
                else:
                    key = ("flink", f"s{rng.randrange(20)}", "m")
                    at = (now - i % 1000 - (rng.randrange(30_000) if rng.random() < 0.1 else 0)) * 1000
                some.append((key, at, round(rng.uniform(-9, 9), 3)))
            self.feed.points(some, of=50)
            self.feed.points(rng.sample(some, len(some) // 20), of=50)
            earlier = some[:500]
            sent = due

    def finish(self, within_s: float = 300) -> None:
        super().finish(within_s)


def until(condition: Callable[[], bool], what: str | Callable[[], str], within_s: float) -> float:
    """Wait; returns how long it took."""
    began = time.monotonic()
    assert wait_until(condition, within_s, every_s=0.3), (
        f"{what() if callable(what) else what}: not within {within_s} s"
    )
    return time.monotonic() - began


def settled(environment: dict[str, str], control: Control, within_s: float = 240) -> None:
    """Wait until every message is acknowledged and nothing is owed."""

    def done() -> bool:
        stats = control.stats()[SUBSCRIPTION]
        if stats.queued or stats.outstanding:
            return False
        return query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*) FROM marks WHERE NOT closing") == [(0,)]

    until(done, lambda: f"settled; {control.stats()[SUBSCRIPTION]}", within_s)


def scraped(port: int) -> dict[str, float]:
    """The counters of a process, as Prometheus sees them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    return {sample.name: sample.value for of in families if of.type == "counter" for sample in of.samples}


@pytest.fixture
def second(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Another set of stand-ins."""
    made = Stack(tmp_path / "second")
    yield made.up()
    made.down(purge=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", SEEDS)
def test_kills_of_everything_lose_and_double_nothing(
    seed: int, cluster: Cluster, environment: dict[str, str], feed: Feed, control: Control, stack: Stack
) -> None:
    rng = random.Random(seed)
    proxy = Proxy(stack.postgres.port())
    job = cluster.submit(proxy.url(environment["TIDEMARK_DATABASE_URL"]))
    traffic = Traffic(feed, seed)
    traffic.start()
    faults = ["task manager", "workers", "connections"]
    rng.shuffle(faults)
    recovered = {}
    for fault in faults:
        time.sleep(rng.uniform(4, 9))
        if fault == "task manager":
            cluster.kill_busy_task_manager()
        elif fault == "workers":
            assert cluster.kill_workers() > 0
        else:
            proxy.cut()
        # what the last complete checkpoint lets be acknowledged still comes
        time.sleep(1)
        acked = control.stats()[SUBSCRIPTION].acked
        took = until(lambda acked=acked: control.stats()[SUBSCRIPTION].acked > acked + 20, f"after {fault}", 120)
        recovered[fault] = round(1 + took, 1)
        if fault == "task manager":
            cluster.start_task_manager()  # a spare slot again
    traffic.finish()
    settled(environment, control)
    everything_is_right(environment, feed.oracle())
    assert cluster.running() == [job]
    assert "WARNING The database" in cluster.log("pool"), "workers of the pool log as programs do"
    print(f"seed {seed}: recovered after {recovered}, restarts {cluster.checkpoints(job)['counts']['restored']}")
    cluster.cancel(job)
    proxy.close()


@pytest.mark.timeout(600)
def test_workers_that_die_between_commit_and_acknowledgement_store_nothing_twice(
    cluster: Cluster, environment: dict[str, str], feed: Feed, control: Control
) -> None:
    cluster.kill_pool()
    cluster.start_pool(TIDEMARK_FAILPOINTS="raw.committed=kill@12")
    job = cluster.submit(environment["TIDEMARK_DATABASE_URL"])
    traffic = Traffic(feed, 7, POINTS // 5, SECONDS / 2)
    traffic.start()
    traffic.finish()
    until(lambda: cluster.checkpoints(job)["counts"]["restored"] > 0, "a worker's death", 120)
    cluster.kill_pool()
    cluster.start_pool()
    settled(environment, control)
    everything_is_right(environment, feed.oracle())
    cluster.cancel(job)


@pytest.mark.timeout(300)
def test_workers_that_die_before_they_report_do_not_stop_the_job(
    cluster: Cluster, environment: dict[str, str], feed: Feed, control: Control
) -> None:
    killed: set[int] = set()
    over = threading.Event()

    def kill_two() -> None:
        while len(killed) < 2 and not over.wait(0.02):
            for worker in cluster.workers():
                worker.kill()
                killed.add(worker.pid)

    with ThreadPoolExecutor(1) as beside:
        killing = beside.submit(kill_two)
        try:
            job = cluster.submit(environment["TIDEMARK_DATABASE_URL"])
        finally:
            over.set()
        killing.result()
    assert len(killed) == 2
    feed.points([(("starts", "s", "m"), time.time_ns() // 1_000_000 * 1000, 1.0)])
    settled(environment, control, 60)
    everything_is_right(environment, feed.oracle())
    assert cluster.restarts(job) == 0, "Flink has not noticed"
    cluster.cancel(job)


@pytest.mark.timeout(600)
def test_flink_and_the_local_engine_say_the_same(
    cluster: Cluster,
    environment: dict[str, str],
    second: dict[str, str],
    feed: Feed,
    control: Control,
    tmp_path: Path,
) -> None:
    beside = {**environment, **{k: v for k, v in second.items() if "PUBSUB" not in k and "SUBSCRIPTION" not in k}}
    subscription = feed.subscribe("beside")
    job = cluster.submit(environment["TIDEMARK_DATABASE_URL"], "--metrics_port=9400")
    options = ("--stop_when_idle_s=30", "--metrics_port=9500")
    local = Job({**beside, "TIDEMARK_SUBSCRIPTION": subscription}, tmp_path / "local.log", *options)
    try:
        local.wait_ready()
        traffic = Traffic(feed, 11)
        traffic.start()
        traffic.finish()
        settled(environment, control)
        oracle = feed.oracle()
        inserted = len(oracle.winners)
        until(lambda: scraped(9500)["tidemark_inserted_total"] == inserted, lambda: str(scraped(9500)), 25)
        assert scraped(9400)["tidemark_inserted_total"] == inserted
        assert scraped(9400).keys() == scraped(9500).keys()
        local.drained()
        for tier_s in (2, 10, 60):
            on_flink, here = (
                list(latest(rest(DATASET, of["BIGQUERY_EMULATOR_HOST"]), DATASET, 0, 4_000_000_000_000_000, tier_s))
                for of in (environment, beside)
            )
            names = ("count", "sum", "min", "max", "first", "last", "m2", "late_count")
            names += ("first_publish_time", "last_publish_time")
            wanted = {
                ((row.project, row.source, row.metric), row.window_start): {n: getattr(row, n) for n in names}
                for row in here
            }
            assert len(wanted) > 20
            assert differences(wanted, on_flink) == []
            assert {row.pane for row in (*on_flink, *here)} == {"settled"}
        everything_is_right(environment, oracle)
        cluster.cancel(job)
    finally:
        if local.status() is None:
            local.kill()
