"""Reading 28 days of one series, a point every 30 s, as 336 averages of two hours, out of all that is stored.

    python bench/read.py [--series 200]

200 series, 16 million points, stored as they happened; 60 queries for different series, after each was read once.
`points`: from the points by their key. `hours`: from the settled hours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import rig
from sqlalchemy import Engine

from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, transaction
from tidemark.store.fold import SUMMARY, Range, fold_base, fold_rollups, rollups_of
from tidemark.store.migrate import migrate
from tidemark.store.read import Reader
from tidemark.store.series import SeriesCache
from tidemark.wire.block import SeriesKey
from tidemark.wire.summary import MICROSECONDS

DAYS = 28
EVERY_S = 30
START_S = 1_760_054_400 // 86_400 * 86_400
END_S = START_S + DAYS * 86_400
INTERVAL_S = 7200
TIERS_S: tuple[int, ...] = (3600, 86_400)
"""Minutes of two points each would be eight million rows that no query here reads."""
QUERIES = 60


def fill(pool: Engine, ids: list[int]) -> None:
    """Points in the order they happen, a day a statement, and their settled rollups."""
    for day in range(START_S, END_S, 86_400):
        with transaction(pool) as connection:
            connection.exec_driver_sql(
                f"""INSERT INTO points (series_id, event_time, value, publish_time)
                   SELECT s, t, (s * 7 + extract(epoch FROM t)::bigint / 30) % 1000 / 8.0, t + interval '1 second'
                   FROM generate_series(to_timestamp({day}), to_timestamp({day + 86_400 - EVERY_S}),
                                        interval '{EVERY_S} seconds') t, unnest(ARRAY{ids}) s"""
            )
    names = ", ".join(SUMMARY)
    for level, tier_s in enumerate(TIERS_S):
        below = TIERS_S[level - 1]
        for day in range(START_S, END_S, 86_400):
            scope = Range(day, day + 86_400)
            fresh = fold_rollups(tier_s, rollups_of(scope, below)) if level else fold_base(tier_s, scope)
            with transaction(pool) as connection:
                connection.exec_driver_sql(
                    f"""INSERT INTO rollups (series_id, tier_s, window_start, {names}, revision, final)
                        SELECT series_id, {tier_s}, window_start, {names}, 1, true FROM ({fresh}) f"""
                )
    with pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE) points, rollups")


def milliseconds(reader: Reader, ids: list[int], offset_s: int) -> list[float]:
    """Each query's time; an offset moves range and intervals off the tiers."""
    start, end = (START_S + offset_s) * MICROSECONDS, (END_S - INTERVAL_S + offset_s) * MICROSECONDS
    took = []
    for turn in range(2):
        for series in ids[:QUERIES]:
            began = time.perf_counter()
            rows = reader.buckets(
                [series],
                start,
                end if offset_s else end + INTERVAL_S * MICROSECONDS,
                INTERVAL_S,
                ("sum", "count"),
                start,
            )
            if turn:
                took.append((time.perf_counter() - began) * 1000)
            averages = rows["sum"] / rows["count"]
            assert len(averages) == DAYS * 12 - bool(offset_s), len(averages)
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        server = Postgres(Path(directory) / "postgres")
        server.start()
        pool = make_engine(server.url(), 2, 3600)
        try:
            migrate(server.url())
            ids = SeriesCache(pool).ids([SeriesKey("bench", f"s{i:03}", "m") for i in range(arguments.series)])
            fill(pool, ids)
            reader = Reader(pool, TIERS_S)
            points, hours = milliseconds(reader, ids, 1), milliseconds(reader, ids, 0)
        finally:
            pool.dispose()
            server.stop()
            server.purge()
    figures: dict[str, object] = {}
    for name, took in (("points", points), ("hours", hours)):
        figures[f"{name}_ms"] = {
            "p50": round(statistics.median(took), 2),
            "p95": round(statistics.quantiles(took, n=20)[-1], 2),
        }
    bars = {
        "points_p50_ms": (round(statistics.median(points), 2), "<=", 40.0),
        "hours_p50_ms": (round(statistics.median(hours), 2), "<=", 4.0),
    }
    return rig.finish("read", figures, bars)


if __name__ == "__main__":
    sys.exit(main())
