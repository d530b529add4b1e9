"""`tidemark verify` of ten million points, all tiers, against the BigQuery stand-in.

    python bench/verify.py [--points 10000000]

30 points a series and minute, so a third of a million rollups of minutes, and their hours and days; the rows are
appended to the stand-in as the pipeline does. Time and peak memory of the command, a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rig

from tidemark.local.stack import DATASET, Stack
from tidemark.store.connection import make_engine, transaction
from tidemark.store.copy import ROLLUP_COLUMNS, copy_out
from tidemark.store.fold import SUMMARY, Range, fold_base, fold_rollups, rollups_of
from tidemark.store.series import SeriesCache
from tidemark.warehouse.writer import RollupWriter
from tidemark.wire.block import SeriesKey
from tidemark.wire.summary import ROLLUP

TIERS_S = (60, 3600, 86_400)
START_S = 1_760_054_400 // 86_400 * 86_400
MINUTES = 2_880
A_MINUTE = 30


def fill(environment: dict[str, str], series: int) -> int:
    """Points, settled rollups, their rows in BigQuery; returns how many rollups."""
    pool = make_engine(environment["TIDEMARK_DATABASE_URL"], 2, 3600)
    cache = SeriesCache(pool)
    ids = cache.ids([SeriesKey("bench", f"s{i:04}", "m") for i in range(series)])
    names = cache.names(ids)
    columns = ", ".join(SUMMARY)
    end_s = START_S + MINUTES * 60
    for start in range(START_S, end_s, 21_600):
        with transaction(pool) as connection:
            stored = connection.exec_driver_sql(
                f"""INSERT INTO points (series_id, event_time, value, publish_time)
                    SELECT s, t, (s * 7 + extract(epoch FROM t)::bigint / 2) % 1000 / 8.0, t + interval '1 second'
                    FROM generate_series(to_timestamp({start}), to_timestamp({start + 21_600 - 2}),
                                         interval '{60 // A_MINUTE} seconds') t, unnest(ARRAY{ids}) s"""
            ).rowcount
            connection.exec_driver_sql("INSERT INTO ledger (received, inserted) VALUES (%s, %s)", (stored, stored))
    writer = RollupWriter(DATASET, environment["TIDEMARK_BIGQUERY_STORAGE_ENDPOINT"], deadline_s=300)
    rollups = 0
    for level, tier_s in enumerate(TIERS_S):
        for day in range(START_S, end_s, 86_400):
            scope = Range(day, day + 86_400)
            below = rollups_of(scope, TIERS_S[level - 1])
            fresh = fold_rollups(tier_s, below) if level else fold_base(tier_s, scope)
            with transaction(pool) as connection:
                connection.exec_driver_sql(
                    f"""INSERT INTO rollups (series_id, tier_s, window_start, {columns}, revision, final)
                        SELECT series_id, {tier_s}, window_start, {columns}, 1, true FROM ({fresh}) f"""
                )
                rows = copy_out(connection, f"SELECT {ROLLUP_COLUMNS} FROM {rollups_of(scope, tier_s)}", ROLLUP)
            for at in range(0, len(rows), 50_000):
                some = rows[at : at + 50_000]
                writer.append(some, [names[i] for i in some["series_id"].tolist()], "settled")
            rollups += len(rows)
    with pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE) points, rollups")
    writer.close()
    pool.dispose()
    return rollups


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        stack = Stack(Path(directory) / "state")
        try:
            environment = stack.up()
            began = time.monotonic()
            rollups = fill(environment, -(-arguments.points // (MINUTES * A_MINUTE)))
            print(f"filled in {time.monotonic() - began:.0f} s", file=sys.stderr)
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "tidemark", "verify", "--json"],
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=False,
            )
            seconds = time.monotonic() - began
            peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        finally:
            stack.down(purge=True)
    report = json.loads(done.stdout)
    figures = {
        "verdict": report["verify"],
        "points": report["points"],
        "rollups": report["rollups"],
        "warehouse_rows": report["warehouse_rows"],
    }
    assert report["rollups"] == report["warehouse_rows"] == rollups, (report, rollups)
    bars = {
        "passed": (float(report["verify"] == "PASS"), ">=", 1.0),
        "seconds": (round(seconds, 1), "<=", 60.0),
        "peak_mb": (round(peak_mb), "<=", 500.0),
    }
    return rig.finish("verify", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
