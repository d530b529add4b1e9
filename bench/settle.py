"""Settling on plain PostgreSQL, through `Settler` and the marks that the writer left.

    python bench/settle.py [--stored 20000000] [--late 1000000]

`minute`: one minute of 10,000 series x 6 points, out of --stored points: from its due marks to the commit of its
rollups and of the marks it leaves in the tiers above; and the same for all three tiers. The minute is over, its hour and
its day are not: where an hour has just begun, the tiers above are of some hours and days. Minutes follow each other here
in a second; what autovacuum does for BRIN once a minute is done before each. `late`: one device comes back with --late
points of the past week while 10,000 series go on: how long until its last mark is settled, how much of that is
settling's own, and how late the live minutes are meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rig
from sqlalchemy import Engine

from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, transaction
from tidemark.store.migrate import migrate
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import BLOCK_POINTS, Block, SeriesKey
from tidemark.wire.summary import MICROSECONDS, POINT

SERIES = 10_000
A_MINUTE = 6
TIERS_S = (60, 3600, 86_400)
ROUNDS = 7
DEBOUNCE_S = 5.0
WEEK_S = 7 * 86_400
BACK_S, FORTH_S = 1800, 600
"""The minutes begin so long ago; hour and day are open for so long yet."""
KEYS = [SeriesKey("bench", f"s{i}", "m") for i in range(SERIES)]
DEVICE = [SeriesKey("bench", "returned", "m")]


def fill(pool: Engine, ids: list[int], stored: int, until_s: int) -> None:
    """Points of the minutes before `until_s`, with their rollups but without marks."""
    minutes = stored // (SERIES * A_MINUTE)
    with transaction(pool) as connection:
        connection.exec_driver_sql(
            """INSERT INTO points (series_id, event_time, value, publish_time)
               SELECT s, t + (s %% 1000) * interval '1 millisecond', (s * 7 %% 1000) / 8.0,
                      t + interval '1 second' + (s %% 1000) * interval '1 millisecond'
               FROM generate_series(to_timestamp(%s), to_timestamp(%s) - interval '1 second', '10 seconds') t,
                    unnest(CAST(%s AS integer[])) s""",
            (until_s - minutes * 60, until_s, ids),
        )
    with pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE points")


def open_tiers(now_s: int) -> tuple[int, int, int]:
    """A minute, the shortest hours and days that have begun before the minutes and do not end meanwhile."""

    def is_open(hours: int) -> bool:
        return (now_s - BACK_S) // (hours * 3600) == (now_s + FORTH_S) // (hours * 3600)

    hours = next(n for n in itertools.count(1) if is_open(n))
    days = next(n for n in itertools.count(24) if n % hours == 0 and is_open(n))
    return 60, hours * 3600, days * 3600


def summarize(pool: Engine) -> None:
    """Tell BRIN of the pages that are full, as autovacuum does."""
    with transaction(pool) as connection:
        connection.exec_driver_sql("SELECT brin_summarize_new_values('points_event_time_idx')")


def minute(writer: Writer, start_s: int) -> None:
    """One minute of all series, in the order it happens."""
    points = np.empty(SERIES * A_MINUTE, POINT)
    i = np.arange(len(points))
    points["series_id"] = i % SERIES
    points["event_time"] = start_s * MICROSECONDS + i // SERIES * 10 * MICROSECONDS + i % SERIES * 1000
    points["publish_time"] = points["event_time"] + MICROSECONDS
    points["value"] = i % 97 / 8
    for at in range(0, len(points), BLOCK_POINTS):
        writer.write(Block(KEYS, points[at : at + BLOCK_POINTS]))


def settle(settler: Settler) -> tuple[int, float, float]:
    """Settle what is due; (rollups, seconds, CPU seconds of this process)."""
    began, cpu = time.perf_counter(), time.process_time()
    rows = 0
    for settled in settler.due():
        settler.forget(settled.mark_ids)
        rows += len(settled.rows)
    return rows, time.perf_counter() - began, time.process_time() - cpu


def minutes(
    pool: Engine, series: SeriesCache, server: Postgres, now_s: int, *, quantiles: bool = False
) -> dict[str, float]:
    """Seven minutes, each settled in turn; the first also fills the upper tiers."""
    tiers_s = open_tiers(int(time.time()))
    writer, settler = Writer(pool, series, Policy(60, 0, 0)), Settler(pool, tiers_s, 0, quantiles)
    took, base, rows, client, database = [], [], [], [], []
    pid = server.process()
    assert pid is not None
    for turn in range(ROUNDS + 1):
        summarize(pool)
        minute(writer, now_s + turn * 60)
        before = rig.cpu_seconds(rig.processes(pid.pid))
        settled = []
        for tier_s in tiers_s:
            with transaction(pool) as connection:
                connection.exec_driver_sql(
                    "UPDATE marks SET ready_at = CASE WHEN tier_s = %s THEN now() ELSE 'infinity' END", (tier_s,)
                )
            settled.append(settle(settler))
        base.append(settled[0][1])
        took.append(sum(s[1] for s in settled))
        rows.append(sum(s[0] for s in settled))
        client.append(sum(s[2] for s in settled))
        database.append(rig.cpu_seconds(rig.processes(pid.pid)) - before)
        print(turn, [(s[0], round(s[1] * 1000)) for s in settled], file=sys.stderr)
    points = SERIES * A_MINUTE
    return {
        "minute_ms": statistics.median(base[1:]) * 1000,
        "all_tiers_ms": statistics.median(took[1:]) * 1000,
        "rollup_rows": statistics.median(rows[1:]),
        "client_cpu_us_a_rollup": statistics.median(client[1:]) / statistics.median(rows[1:]) * 1e6,
        "database_cpu_us_a_rollup": statistics.median(database[1:]) / statistics.median(rows[1:]) * 1e6,
        "cpu_us_a_point": (statistics.median(client[1:]) + statistics.median(database[1:])) / points * 1e6,
    }


class Beside:
    """Threads beside the settling: live windows, a watch on how late they are, the device that comes back."""

    def __init__(self, pool: Engine, writer: Writer) -> None:
        self.pool, self.writer = pool, writer
        self.stopping, self.delivered = threading.Event(), threading.Event()
        self.lag: list[float] = []
        self.failed: list[Exception] = []
        self.threads: list[threading.Thread] = []

    def start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001  # told by the main thread
                self.failed.append(error)

        self.threads.append(threading.Thread(target=run, daemon=True))
        self.threads[-1].start()

    def live(self) -> None:
        """2,000 points twice a second, in a window that closed just now: due after the debounce."""
        i = np.arange(2_000)
        while not self.stopping.wait(0.5):
            points = np.empty(len(i), POINT)
            points["series_id"] = i
            points["publish_time"] = time.time_ns() // 1000
            points["event_time"] = points["publish_time"] + i - 61 * MICROSECONDS
            points["value"] = 1.0
            self.writer.write(Block(KEYS, points))

    def watch(self) -> None:
        """How long live marks have been due."""
        while not self.stopping.wait(0.2):
            with transaction(self.pool) as connection:
                age = connection.exec_driver_sql(
                    """SELECT extract(epoch FROM clock_timestamp() - min(ready_at))::float8 FROM marks
                       WHERE tier_s = 60 AND series_id IS NULL AND NOT closing"""
                ).scalar()
            self.lag.append(max(0.0, age or 0.0))

    def deliver(self, count: int) -> None:
        """Points of the past week, of one device."""
        now_s = int(time.time())
        points = np.empty(count, POINT)
        i = np.arange(count)
        points["series_id"] = 0
        points["event_time"] = (now_s - WEEK_S) * MICROSECONDS + i * (WEEK_S - 600) * MICROSECONDS // count
        points["publish_time"] = now_s * MICROSECONDS
        points["value"] = i % 1000 / 8
        for at in range(0, count, BLOCK_POINTS):
            self.writer.write(Block(DEVICE, points[at : at + BLOCK_POINTS]))
        self.delivered.set()


def late(pool: Engine, series: SeriesCache, count: int) -> dict[str, float]:
    """A device comes back while live series go on."""
    settler = Settler(pool, TIERS_S, 1.0)
    (device,) = series.ids(DEVICE)
    beside = Beside(pool, Writer(pool, series, Policy(60, 1.0, DEBOUNCE_S)))
    began = time.perf_counter()
    stored_s = 0.0
    for work in (beside.live, beside.watch, lambda: beside.deliver(count)):
        beside.start(work)
    left = 1
    while left and not beside.failed:
        settle(settler)
        if beside.delivered.wait(0.2):
            stored_s = stored_s or time.perf_counter() - began
            with transaction(pool) as connection:
                left = connection.exec_driver_sql(
                    """SELECT count(*) FROM marks WHERE NOT closing
                       AND (series_id = %s AND tier_s = 60 OR tier_s > 60 AND ready_at <= clock_timestamp())""",
                    (device,),
                ).scalar_one()
    settled_s = time.perf_counter() - began
    beside.stopping.set()
    for thread in beside.threads:
        thread.join()
    if beside.failed:
        raise beside.failed[0]
    # late points are due after the debounce: what is more than that, settling takes
    behind_s = settled_s - stored_s - DEBOUNCE_S
    return {"stored_s": stored_s, "settled_s": settled_s, "behind_s": behind_s, "live_lag_s": max(beside.lag)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", type=int, default=20_000_000)
    parser.add_argument("--late", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        server = Postgres(Path(directory) / "postgres")
        server.start()
        pool = make_engine(server.url(), 4, 3600)
        try:
            migrate(server.url())
            series = SeriesCache(pool)
            now_s = int(time.time()) // 60 * 60 - BACK_S
            fill(pool, series.ids(KEYS), arguments.stored, now_s)
            found = minutes(pool, series, server, now_s)
            with transaction(pool) as connection:  # so that its hour has as many minutes
                connection.exec_driver_sql("TRUNCATE rollups, corrections, marks")
            sketched = minutes(pool, series, server, now_s + 600, quantiles=True)
            found |= {
                f"quantiles_{name}": sketched[name]
                for name in ("minute_ms", "all_tiers_ms", "database_cpu_us_a_rollup")
            }
            found |= late(pool, series, arguments.late)
        finally:
            pool.dispose()
            server.stop()
            server.purge()
    figures: dict[str, object] = {name: round(value, 2) for name, value in found.items()}
    bars = {
        "minute_ms": (round(found["minute_ms"]), "<=", 100),
        "all_tiers_ms": (round(found["all_tiers_ms"]), "<=", 350),
        "quantiles_minute_ms": (round(found["quantiles_minute_ms"]), "<=", 200),
        "quantiles_all_tiers_ms": (round(found["quantiles_all_tiers_ms"]), "<=", 700),
        "late_settled_s": (round(found["settled_s"], 1), "<=", 60),
        "late_behind_s": (round(found["behind_s"], 1), "<=", 1),
        "late_live_lag_s": (round(found["live_lag_s"], 1), "<=", 2 * DEBOUNCE_S),
    }
    return rig.finish("settle", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
