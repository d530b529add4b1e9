"""Appending rollups: what a row costs the client, and how fast the stand-in takes them.

    python bench/warehouse.py [--rows 200000]

The rows of 1,000 series go through `RollupWriter` in appends of 5,000 and of 500 rows to the stand-in, whose own time
is not the client's. CPU: of this process, user and system, all threads. `serialize` alone is measured beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rig

from tidemark.local.bigquery import BigQuery
from tidemark.warehouse.clients import rest
from tidemark.warehouse.rows import serialize
from tidemark.warehouse.tables import ensure
from tidemark.warehouse.writer import RollupWriter
from tidemark.wire.summary import ROLLUP

DATASET = "tidemark-local.bench"
START_US = 1_767_225_600_000_000
SERIES = 1000


def rows(number: int) -> np.ndarray:
    """Settled minutes with values as a gauge has them."""
    rng = np.random.default_rng(1)
    made = np.zeros(number, ROLLUP)
    made["series_id"] = np.arange(number) % SERIES
    made["tier_s"], made["window_start"] = 60, START_US + np.arange(number) // SERIES * 60_000_000
    made["count"] = rng.integers(1, 600, number)
    for name in ("sum", "min", "max", "first", "last", "m2"):
        made[name] = rng.normal(50, 20, number)
    made["first_publish_time"] = made["window_start"] + rng.integers(0, 60_000_000, number)
    made["last_publish_time"] = made["first_publish_time"] + rng.integers(0, 60_000_000, number)
    made["revision"] = made["last_publish_time"] + 120_000_000
    made["late_count"] = rng.integers(0, 3, number)
    made["final"] = True
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    arguments = parser.parse_args()
    some = rows(arguments.rows)
    of_series = [("project", f"gateway-{i:05d}", "temperature_celsius") for i in range(SERIES)]
    names = [of_series[i] for i in some["series_id"].tolist()]
    figures: dict[str, object] = {}
    rounds = []
    for _ in range(5):
        began = time.process_time()
        serialize(some[:20_000], names[:20_000], "settled", START_US)
        rounds.append((time.process_time() - began) / 20_000 * 1e6)
    figures["serialize_us_a_row"] = round(statistics.median(rounds), 2)
    with tempfile.TemporaryDirectory() as state:
        server = BigQuery(Path(state), "tidemark-local")
        server.start()
        try:
            ensure(rest(DATASET, f"http://127.0.0.1:{server.ports()[0]}"), DATASET, "US")
            writer = RollupWriter(DATASET, f"127.0.0.1:{server.ports()[1]}", deadline_s=120)
            writer.append(some[:10], names[:10], "settled")
            for size in (5000, 500):
                number = arguments.rows if size == 5000 else arguments.rows // 10
                cpu, wall = time.process_time(), time.perf_counter()
                for at in range(0, number, size):
                    writer.append(some[at : at + size], names[at : at + size], "settled")
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                figures[f"appends_of_{size}"] = {
                    "client_us_a_row": round(cpu / number * 1e6, 2),
                    "stand_in_rows_a_s": round(number / wall),
                }
                print(figures, file=sys.stderr)
            writer.close()
        finally:
            server.stop()
    cost = figures["appends_of_5000"]["client_us_a_row"]  # type: ignore[index]
    return rig.finish("warehouse", figures, {"client_us_a_row": (cost, "<=", 15)})


if __name__ == "__main__":
    sys.exit(main())
