"""What a rate of points needs on Dataflow: a model whose inputs were measured by the other benches.

    python bench/sizing.py [--interval_s 10] [--early_firing_s 10] [--days 30]

Prints the table of docs/operations/sizing.md, where the arithmetic is explained. No Google project was at hand: what
Dataflow's own share of a worker is was not measured, and stands in as the local engine's.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from typing import Final

RATES: Final = (1_000, 10_000, 100_000, 1_000_000)
WORKER_US: Final = {1: 12.6, 500: 2.9}
"""CPU of Python and engine for a point, by points a message: bench/live.py, whose rows are too few to count; of a message of one
point 1.9 more, since Dataflow hands them over one by one: bench/shape.py."""
SETTLE_US: Final = 1.9
"""Of the worker, a settled row: bench/settle.py."""
APPEND_US: Final = 1.6
"""Of the worker, a row appended to BigQuery: bench/warehouse.py."""
DATABASE_US: Final = {1: 2.4, 500: 1.8}
"""Of the database, a stored point: bench/live.py."""
FOLD_US: Final = 10.3
"""Of the database, a settled row: bench/settle.py."""
PLAIN_BYTES: Final = 92
COLUMNAR_BYTES: Final = 13.7
"""Of a stored point, before and after its chunk is columnar, of a noisy gauge: bench/bytes.py."""
ROW_BYTES: Final = 200
"""Of a row on its way to BigQuery: bench/warehouse.py."""
MESSAGE_BYTES: Final = {1: 140, 500: 24_000}
"""Body and attributes of the messages of bench/live.py."""
BUSY: Final = 0.6
"""Share of a worker's CPUs that is planned for; the rest is for backlogs."""
CPUS, PROCESS_CONNECTIONS = 2, 6
"""Of an n2-standard-2, a process for each; connections of a process: --database_pool_size."""
COLUMNAR_AFTER_DAYS: Final = 7
DAY_S: Final = 86_400
UPPER: Final = ((3_600, 10), (86_400, 10))
"""Upper tiers, and how often a row of an open window is refreshed at most."""
HOURS: Final = 730
CPU_HOUR, GB_HOUR, GB_A_CPU = 0.069, 0.003557, 4
"""Dollars for Dataflow's streaming workers, and what an n2-standard-2 has."""
APPENDED_GIB, PUBSUB_TIB = 0.025, 40.0
"""Dollars for what is appended to BigQuery and for what goes through Pub/Sub, publishing and reading."""


@dataclass(frozen=True)
class Size:
    """What one rate needs."""

    series: float
    rows_a_second: float
    settled_a_second: float
    worker_cpus: float
    workers: int
    connections: int
    database_cpus: float
    disk_tb: float
    appended_gb_a_day: float
    pubsub_gb_a_day: float
    dollars_a_month: float


def size(rate: int, points: int, interval_s: float, early_s: float | None, days: int) -> Size:
    """The model: `rate` points a second in messages of `points`, a point of each series every `interval_s`.

    Without previews where `early_s` is None, and with those on time alone where it is 0.
    """
    series = rate * interval_s
    early = max(1.0, 60 / max(early_s, interval_s)) if early_s else 0
    upper = sum(times / length for length, times in UPPER)
    minutes = 1 / max(60, interval_s)
    settled = series * (minutes + upper)
    rows = settled if early_s is None else settled + series * minutes * (1 + early)
    cpus = (rate * WORKER_US[points] + settled * SETTLE_US + rows * APPEND_US) / 1e6
    workers = math.ceil(cpus / BUSY / CPUS)
    stored = (
        rate
        * DAY_S
        * (PLAIN_BYTES * min(days, COLUMNAR_AFTER_DAYS) + COLUMNAR_BYTES * max(0, days - COLUMNAR_AFTER_DAYS))
    )
    appended = rows * DAY_S * ROW_BYTES
    through = rate * DAY_S * MESSAGE_BYTES[points] / points * 2
    machines = workers * CPUS * HOURS * (CPU_HOUR + GB_A_CPU * GB_HOUR)
    month = HOURS / 24
    traffic = month * (appended / 2**30 * APPENDED_GIB + through / 2**40 * PUBSUB_TIB)
    return Size(
        series,
        rows,
        settled,
        cpus,
        workers,
        workers * CPUS * PROCESS_CONNECTIONS,
        (rate * DATABASE_US[points] + settled * FOLD_US) / 1e6,
        stored / 1e12,
        appended / 1e9,
        through / 1e9,
        machines + traffic,
    )


def table(interval_s: float = 10, early_s: float = 10, days: int = 30) -> list[str]:
    """The lines of the page's table."""
    lines = [
        (
            "| points a second, a message | series | rows/s: all, settled | worker CPUs busy | workers | connections | "
            f"database CPUs busy | disk after {days} days | to BigQuery a day | through Pub/Sub a day | $ a month |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for rate in RATES:
        for points in WORKER_US:
            of = size(rate, points, interval_s, early_s, days)
            lines.append(
                f"| {rate:,}, {points} | {of.series:,.0f} | {of.rows_a_second:,.0f}, {of.settled_a_second:,.0f} | "
                f"{of.worker_cpus:.2g} | {of.workers} | {of.connections} | {of.database_cpus:.2g} | "
                f"{of.disk_tb:.2g} TB | {of.appended_gb_a_day:,.0f} GB | {of.pubsub_gb_a_day:,.0f} GB | "
                f"{of.dollars_a_month:,.0f} |"
            )
    return lines


def previews(rate: int = 100_000, interval_s: float = 10, days: int = 30) -> list[str]:
    """The lines of the page's table of what previews cost."""
    lines = [
        "| at 100,000 points a second, 500 a message | rows/s | worker CPUs busy | to BigQuery a day | $ a month |",
        "|---|---|---|---|---|",
    ]
    for name, early_s in (
        ("`--early_firing_s=10`", 10),
        ("`--early_firing_s=60`", 60),
        ("`--early_firing_s=0`: one on time", 0),
        ("`--previews=false`: none", None),
    ):
        of = size(rate, 500, interval_s, early_s, days)
        lines.append(
            f"| {name} | {of.rows_a_second:,.0f} | {of.worker_cpus:.2g} | {of.appended_gb_a_day:,.0f} GB |"
            f" {of.dollars_a_month:,.0f} |"
        )
    return lines


def inputs() -> list[str]:
    """The lines of the page's table of inputs."""
    rows = (
        *((f"a point, {n} a message: Python and engine (w)", us, "live.py") for n, us in WORKER_US.items()),
        *((f"a point, {n} a message: database (d)", us, "live.py") for n, us in DATABASE_US.items()),
        ("a settled row: Python", SETTLE_US, "settle.py"),
        ("a settled row: database", FOLD_US, "settle.py"),
        ("a row appended to BigQuery", APPEND_US, "warehouse.py"),
    )
    lines = ["| CPU of | µs | measured by |", "|---|---|---|"]
    return lines + [f"| {what} | {us} | `bench/{bench}` |" for what, us, bench in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval_s", type=float, default=10)
    parser.add_argument("--early_firing_s", type=float, default=10)
    parser.add_argument("--days", type=int, default=30)
    arguments = parser.parse_args()
    print("\n".join(table(arguments.interval_s, arguments.early_firing_s, arguments.days)))
    print("\n" + "\n".join(previews(interval_s=arguments.interval_s, days=arguments.days)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
