"""Bytes on disk a stored point.

    python bench/bytes.py [--series 50]

Each series has a point every 30 s for 28 days, published 40 to 400 ms later. Plain: heap, key and BRIN together.
Where the server has TimescaleDB, also after `maintain` has made the chunks columnar, for a gauge in quarter steps, as
frames a second are, and for one of three decimals whose last two are noise, which no codec of doubles takes well.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import rig
from sqlalchemy import Engine

from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, transaction
from tidemark.store.housekeeping import Housekeeping
from tidemark.store.migrate import migrate
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.write import Writer
from tidemark.wire.block import BLOCK_POINTS, Block, SeriesKey
from tidemark.wire.summary import MICROSECONDS, POINT

DAYS = 28
EVERY_S = 30
START_US = 1_760_054_400_000_000


def store(pool: Engine, series: int, noisy: bool) -> int:
    """Write the points as they happen; returns how many."""
    writer = Writer(pool, SeriesCache(pool), Policy(60, 120, 30))
    keys = [SeriesKey("bench", f"s{i}", "m") for i in range(series)]
    rng = np.random.default_rng(1)
    steps = DAYS * 86_400 // EVERY_S
    wave = 20 + 5 * np.sin(np.arange(steps) / 500)[:, None]
    values = (
        (wave + rng.random((steps, series)) * 0.5).round(3)
        if noisy
        else (4 * wave + 2 * rng.random((steps, series))).round() / 4
    )
    points = np.empty(steps * series, POINT)
    i = np.arange(len(points))
    points["series_id"] = i % series
    points["event_time"] = START_US + i // series * EVERY_S * MICROSECONDS
    points["publish_time"] = points["event_time"] + rng.integers(40, 400, len(points)) * 1000
    points["value"] = values.ravel()
    for at in range(0, len(points), BLOCK_POINTS):
        writer.write(Block(keys, points[at : at + BLOCK_POINTS]))
    return len(points)


def size(pool: Engine, hypertable: bool) -> int:
    """Bytes of the table with its indexes."""
    what = "hypertable_size('points')" if hypertable else "pg_total_relation_size('points')"
    with transaction(pool) as connection:
        return int(connection.exec_driver_sql(f"SELECT {what}").scalar_one())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=50)
    arguments = parser.parse_args()
    figures: dict[str, object] = {}
    bars: dict[str, tuple[float, str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        server = Postgres(Path(directory) / "postgres")
        server.start()
        pool = make_engine(server.url(), 2, 3600)
        try:
            migrate(server.url())
            keeping = Housekeeping(pool)
            hypertable = keeping.hypertable() is not None
            for name, noisy in (("quarter_steps", False), ("three_decimals", True)):
                with transaction(pool) as connection:
                    connection.exec_driver_sql("TRUNCATE points, marks, ledger")
                points = store(pool, arguments.series, noisy)
                figures[f"{name}_rows"] = round(size(pool, hypertable) / points, 1)
                if hypertable:
                    keeping.compress(START_US // MICROSECONDS + (DAYS + 2) * 86_400)
                    figures[f"{name}_columnar"] = round(size(pool, hypertable) / points, 2)
            if hypertable:
                bars["quarter_steps_columnar"] = (float(str(figures["quarter_steps_columnar"])), "<=", 9)
            else:
                figures["timescaledb"] = "this server has none"
        finally:
            pool.dispose()
            server.stop()
            server.purge()
    return rig.finish("bytes", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
