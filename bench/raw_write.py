r"""The raw store's write path against `psql \copy` text of the same rows into the same table with its key and index.

    python bench/raw_write.py [--rows 1000000] [--rounds 5]

1,000 series, rows in the order they happened, blocks of 10,000, a transaction each with its marks and its ledger row,
one connection. The cases take turns; medians. `clean`: nothing is stored yet. `overlap`: in every block 1 % of the
rows are stored already; `overwrite`: 1 % are stored and overwritten. `again`: every row is stored already.
`attributes`: 64 bytes of JSON a row.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
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
from tidemark.store.write import Writer
from tidemark.wire.block import BLOCK_POINTS, Block, SeriesKey
from tidemark.wire.summary import POINT, Points

SERIES = 1_000
KEYS = [SeriesKey("bench", f"s{i}", "m") for i in range(SERIES)]
START_US = 1_760_000_000_000_000
TEXT = b'{"firmware":"4.11.2-r7","site":"north-gate-0007","codec":"h2654"}'


def rows_of(count: int) -> Points:
    """Points as a fleet sends them: every series once in 10 s."""
    made = np.empty(count, POINT)
    i = np.arange(count)
    made["series_id"] = i % SERIES
    made["event_time"] = START_US + i // SERIES * 10_000_000 + i % SERIES * 1000
    made["publish_time"] = made["event_time"] + 250_000 + i % 777
    made["value"] = np.random.default_rng(1).normal(20, 5, count).round(3)
    return made


def as_text(points: Points, ids: list[int], path: Path, attributes: bytes | None) -> None:
    r"""The file that `\copy` reads."""
    last = "\\N" if attributes is None else attributes.decode()
    events = points["event_time"].astype("datetime64[us]").astype(str)
    published = points["publish_time"].astype("datetime64[us]").astype(str)
    with path.open("w") as file:
        for point, event, publish in zip(points, events, published, strict=True):
            file.write(f"{ids[point['series_id']]}\t{event}+00\t{point['value']}\t{publish}+00\t{last}\n")


class Bench:
    def __init__(self, server: Postgres, pool: Engine, points: Points, directory: Path) -> None:
        self.server, self.pool, self.points = server, pool, points
        self.series = SeriesCache(pool)
        ids = self.series.ids(KEYS)
        self.files = {None: directory / "plain.tsv", TEXT: directory / "attributes.tsv"}
        for attributes, path in self.files.items():
            as_text(points, ids, path, attributes)

    def empty(self) -> None:
        with transaction(self.pool) as connection:
            connection.exec_driver_sql("TRUNCATE points, rollups, marks, dead_letters, ledger")
        with self.pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("CHECKPOINT")

    def psql(self, attributes: bytes | None) -> float:
        """Rows a second that psql copies in."""
        self.empty()
        copy = f"\\copy points (series_id, event_time, value, publish_time, attributes) from '{self.files[attributes]}'"
        psql = next(path for path in ("psql", "/usr/bin/psql") if _works(path))
        began = time.perf_counter()
        subprocess.run([psql, self.server.url(), "-qc", copy], check=True)
        return len(self.points) / (time.perf_counter() - began)

    def ours(self, attributes: bytes | None, stored: slice | None, older_us: int = 0) -> tuple[float, float]:
        """Rows a second of the writer, and CPU of this process in microseconds a row."""
        self.empty()
        writer = Writer(self.pool, self.series, Policy(60, 120, 30))
        if stored is not None:
            before = self.points[stored].copy()
            before["publish_time"] -= older_us
            for start in range(0, len(before), BLOCK_POINTS):
                writer.write(Block(KEYS, before[start : start + BLOCK_POINTS]))
        # a fresh one, which has no habits yet
        writer = Writer(self.pool, self.series, Policy(60, 120, 30))
        texts = None if attributes is None else [attributes] * BLOCK_POINTS
        blocks = [
            Block(KEYS, some, None if texts is None else texts[: len(some)])
            for start in range(0, len(self.points), BLOCK_POINTS)
            if len(some := self.points[start : start + BLOCK_POINTS])
        ]
        began, cpu = time.perf_counter(), time.process_time()
        for block in blocks:
            writer.write(block)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        with transaction(self.pool) as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one() == len(self.points)
        return len(self.points) / seconds, cpu / len(self.points) * 1e6


def _works(program: str) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        server = Postgres(Path(directory) / "postgres")
        server.start()
        pool = make_engine(server.url(), 1, 600)
        try:
            migrate(server.url())
            bench = Bench(server, pool, rows_of(arguments.rows), Path(directory))
            cases: dict[str, Callable[[], tuple[float, float]]] = {
                "psql": lambda: (bench.psql(None), 0.0),
                "clean": lambda: bench.ours(None, None),
                "overlap": lambda: bench.ours(None, slice(None, None, 100)),
                "overwrite": lambda: bench.ours(None, slice(None, None, 100), older_us=1000),
                "again": lambda: bench.ours(None, slice(None)),
                "psql_attributes": lambda: (bench.psql(TEXT), 0.0),
                "attributes": lambda: bench.ours(TEXT, None),
            }
            seen: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
            for turn in range(arguments.rounds):
                for name, case in cases.items():
                    seen[name].append(case())
                print(turn, {name: round(found[-1][0]) for name, found in seen.items()}, file=sys.stderr)
        finally:
            pool.dispose()
            server.stop()
            server.purge()
    rate = {name: statistics.median(r for r, _ in found) for name, found in seen.items()}
    cpu = {name: statistics.median(c for _, c in found) for name, found in seen.items()}
    ratio = {
        name: statistics.median(a[0] / b[0] for a, b in zip(seen[name], seen[against], strict=True))
        for name, against in (
            ("clean", "psql"),
            ("overlap", "psql"),
            ("overwrite", "psql"),
            ("again", "psql"),
            ("attributes", "psql_attributes"),
        )
    }
    figures = {
        "rows_a_second": {name: round(value) for name, value in rate.items()},
        "ratio_to_psql": {name: round(value, 2) for name, value in ratio.items()},
        "client_cpu_us_a_row": {name: round(value, 2) for name, value in cpu.items() if value},
    }
    bars = {
        "clean_to_psql": (round(ratio["clean"], 3), ">=", 1.1),
        "overlap_to_psql": (round(ratio["overlap"], 3), ">=", 0.65),
        "client_cpu_us_a_row": (round(cpu["clean"], 3), "<=", 1.0),
    }
    return rig.finish("raw_write", figures, bars)


if __name__ == "__main__":
    os.environ.setdefault("PGTZ", "UTC")
    sys.exit(main())
