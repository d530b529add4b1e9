"""Archives beside an oracle, and the program that loads them."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.integration.oracle import Oracle
from tests.integration.points import Point, body, query

COMMAND = (sys.executable, "-m", "pipelines.backfill")


def points(seed: int, number: int, begin_ms: int, *, series: int = 20, step_ms: int = 700) -> list[Point]:
    """So many points of some series from `begin_ms` on, in no order, one in twenty twice with another value."""
    chance = random.Random(seed)
    made: list[Point] = []
    for place in range(number):
        key = (f"archive-{seed}", f"s{place % series}", "m")
        at = (begin_ms + place // series * step_ms) * 1000
        made.append((key, at, round(chance.uniform(-100, 100), 3)))
        if chance.random() < 0.05:
            made.append((key, at, round(chance.uniform(-100, 100), 3)))
    chance.shuffle(made)
    return made


def archived(oracle: Oracle, some: Sequence[Point]) -> None:
    """What an archive of these points amounts to: each was published when it happened."""
    for key, event_us, value in some:
        oracle.publish(key, event_us, event_us, value)


def _csv(some: Sequence[Point]) -> bytes:
    rows = ["metric,source,project,value,event_time,comment"]
    rows += [f'{m},{s},"{p}",{value!r},{us // 1000},"a ""quoted"", one\nof two lines"' for (p, s, m), us, value in some]
    return "\n".join(rows).encode()


def _parquet(some: Sequence[Point]) -> bytes:
    columns = {
        "project": [key[0] for key, _, _ in some],
        "source": [key[1] for key, _, _ in some],
        "metric": [key[2] for key, _, _ in some],
        "event_time": pa.array([us for _, us, _ in some], pa.timestamp("us", "UTC")),
        "value": [value for _, _, value in some],
        "note": [None for _ in some],
    }
    out = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), out, row_group_size=1000)
    return bytes(out.getvalue())


def _halves(pack: Callable[[bytes], bytes]) -> Callable[[Sequence[Point]], bytes]:
    """Two members, one behind the other."""

    def packed(some: Sequence[Point]) -> bytes:
        text = body(some) + b"\n"
        return pack(text[: len(text) // 2]) + pack(text[len(text) // 2 :])

    return packed


FORMATS: Mapping[str, Callable[[Sequence[Point]], bytes]] = {
    "plain.jsonl": body,
    "gzip.jsonl.gz": _halves(gzip.compress),
    "bzip2.ndjson.bz2": _halves(bz2.compress),
    "xz.jsonl.xz": _halves(lzma.compress),
    "zstd.jsonl.zst": _halves(zstandard.ZstdCompressor().compress),
    "rows.csv": _csv,
    "rows.csv.gz": lambda some: gzip.compress(_csv(some)),
    "table.parquet": _parquet,
}


class Loaded:
    """What a load said.

    Attributes:
        status: Of its exit.
        told: Its last event.
        said: What it wrote for a person.
    """

    def __init__(self, status: int, out: str, said: str) -> None:
        self.status, self.said = status, said
        events = [json.loads(line) for line in out.splitlines()]
        self.told: dict[str, Any] = events[-1] if events else {}


def load(environment: Mapping[str, str], *arguments: object, data: bytes | None = None) -> Loaded:
    """Run it to its end."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=dict(environment),
        input=data if data is not None else b"",
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Loaded(done.returncode, done.stdout.decode(), done.stderr.decode())


def broken_off(
    environment: Mapping[str, str], file: Path, enough: int, number: int, log: Path, *arguments: str
) -> tuple[int, int]:
    """Send it a signal when so many points more are done; returns its status and how many of the file are."""
    sql = f"SELECT coalesce(sum(received), 0)::bigint FROM imports WHERE file = '{file}'"
    url = environment["TIDEMARK_DATABASE_URL"]
    wanted = query(url, sql)[0][0] + enough
    with (
        log.open("ab") as said,
        subprocess.Popen(
            [*COMMAND, str(file), *arguments], env=dict(environment), stdin=subprocess.DEVNULL, stdout=said, stderr=said
        ) as running,
    ):
        until = time.monotonic() + 60
        while running.poll() is None and time.monotonic() < until and query(url, sql)[0][0] < wanted:
            time.sleep(0.02)
        if running.poll() is None:
            running.send_signal(number)
        status = running.wait(60)
    return status, query(url, sql)[0][0]


KILL, INTERRUPT = int(signal.SIGKILL), int(signal.SIGINT)
