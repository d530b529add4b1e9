"""`tidemark advise` of ten million points, beside what all of them say.

    python bench/advise.py [--points 10000000]

A point a minute of each series, for a week, in the order they came: most some seconds late, one in a hundred some minutes,
and one series in twenty away for hours and then back with all of them. Time of the command, a process of its own, the
slowest of five, for the windows that run and for others, and once with nothing of the database in memory; how far the sample
is off what all points say.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rig
from sqlalchemy import Engine

from tidemark.local.postgres import Postgres
from tidemark.store.advice import MOST_POINTS, advice_of
from tidemark.store.connection import make_engine, transaction
from tidemark.store.fold import SUMMARY, Range, fold_base
from tidemark.store.migrate import migrate

DAYS = 7
HORIZON_S = 120
TURNS = 5
_AWAY = "mod(extract(epoch FROM t) / 3600 + s * 1.37, 60)"
_LATE = f"""
CASE WHEN mod(s, 20) = 0 AND {_AWAY} < 5 THEN (5 - {_AWAY}) * 3600 + 30
     WHEN random() < 0.01 THEN -600 * ln(1 - random())
     ELSE exp(0.5 + 1.2 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())) END"""


def fill(pool: Engine, series: int, end_s: int) -> None:
    """Points, and what was settled of the last minutes."""
    with transaction(pool) as connection:
        connection.exec_driver_sql(f"INSERT INTO settings VALUES (true, '{{60,3600,86400}}', {HORIZON_S}, 30, false)")
        connection.exec_driver_sql(
            f"INSERT INTO series (project, source, metric) SELECT 'cams', 's' || n, 'fps' FROM generate_series(1, {series}) n"
        )
    for start in range(end_s - DAYS * 86_400, end_s, 21_600):
        with transaction(pool) as connection:
            connection.exec_driver_sql(f"SELECT setseed({start % 1000 / 1000})")
            connection.exec_driver_sql(
                f"""INSERT INTO points (series_id, event_time, value, publish_time)
                    SELECT s, t, 1, t + interval '1 second' * ({_LATE}) FROM (
                        SELECT s.series_id AS s, m + mod(s.series_id, 60) * interval '1 second' AS t
                        FROM generate_series(to_timestamp({start}), to_timestamp({start + 21_540}), interval '1 minute') m, series s
                    ) u"""
            )
    names = ", ".join(SUMMARY)
    with transaction(pool) as connection:
        connection.exec_driver_sql(
            f"""INSERT INTO rollups (series_id, tier_s, window_start, {names}, revision, final, settled_at)
                SELECT series_id, 60, window_start, {names}, 1, true, window_start + interval '{60 + HORIZON_S + 1.2} seconds'
                FROM ({fold_base(60, Range(end_s - 900, end_s))}) f"""
        )
    with pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE) points, rollups, series")


def chill(server: Postgres, directory: Path) -> None:
    """Start the server again, with nothing of its files in memory."""
    server.stop()
    os.sync()
    for path in directory.rglob("*"):
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)
    server.start()


def asked(url: str, *options: str, turns: int = TURNS) -> tuple[float, str]:
    """The slowest of some runs, in seconds, and what it said."""
    seconds, said = 0.0, ""
    for _ in range(turns):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "tidemark", "advise", *options],
            env={**os.environ, "TIDEMARK_DATABASE_URL": url},
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, said = max(seconds, time.monotonic() - began), done.stdout
    return seconds, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000_000)
    arguments = parser.parse_args()
    series = -(-arguments.points // (DAYS * 1440))
    end_s = int(time.time()) // 21_600 * 21_600
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        server = Postgres(Path(directory))
        server.start()
        try:
            migrate(server.url())
            pool = make_engine(server.url(), 1, 3600)
            fill(pool, series, end_s)
            print(asked(server.url())[1], file=sys.stderr)
            seconds, said = asked(server.url(), "--json")
            other_s, _ = asked(server.url(), "--window_s=300", "--json")
            began = time.monotonic()
            every = advice_of(pool, "cams", effort=2 * arguments.points / MOST_POINTS)
            all_s = time.monotonic() - began
            pool.dispose()
            chill(server, Path(directory))
            cold_s, _ = asked(server.url(), turns=1)
        finally:
            server.stop()
            server.purge()
    (told,) = json.loads(said)["projects"]
    assert every is not None
    assert every.sampled == 1
    sample: dict[float, Any] = {step["horizon_s"]: step for step in told["horizons"]}
    both = [(sample[step.horizon_s], step) for step in every.steps if step.horizon_s in sample]
    figures = {
        "points": series * DAYS * 1440,
        "series": series,
        "read": told["points"],
        "sampled": round(told["sampled"], 4),
        "cold_s": round(cold_s, 2),
        "all_points_s": round(all_s, 1),
        "corrections_off": round(
            max(abs(a["corrections_a_day"] / b.corrections_a_day - 1) for a, b in both if b.corrections_a_day > 1000), 3
        ),
    }
    bars = {
        "seconds": (round(seconds, 2), "<=", 5.0),
        "window_s_seconds": (round(other_s, 2), "<=", 5.0),
        "complete_off": (round(max(abs(a["complete"] - b.complete) for a, b in both), 5), "<=", 0.01),
    }
    return rig.finish("advise", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
