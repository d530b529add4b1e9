"""How fast dead letters are written again.

    python bench/redrive.py [--letters 100000]

Letters of one point each, refused for their names once and good now, out of the table of dead letters into that of points, by
`tidemark redrive` as a process; medians of three.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rig

from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, transaction
from tidemark.store.dead_letters import keep
from tidemark.store.migrate import migrate
from tidemark.wire.block import DeadLetter
from tidemark.wire.reasons import Reason

NOW_US = time.time_ns() // 1000


def letter(number: int) -> DeadLetter:
    point = {
        "project": "bench",
        "source": f"gateway-{number % 100}",
        "metric": "fps",
        "event_time": NOW_US // 1000 - number,
        "value": number / 8,
    }
    data = json.dumps(point).encode()
    return DeadLetter(f"m{number}", 0, data, {"a": "b"}, "decode", Reason.BAD_NAME, "too long", NOW_US)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--letters", type=int, default=100_000)
    arguments = parser.parse_args()
    took, cpu = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
            server = Postgres(Path(directory) / "postgres")
            server.start()
            migrate(server.url())
            pool = make_engine(server.url(), 1, 600)
            for begin in range(0, arguments.letters, 10_000):
                keep(pool, [letter(number) for number in range(begin, min(begin + 10_000, arguments.letters))])
            before = os.times()
            began = time.monotonic()
            said = subprocess.run(
                [sys.executable, "-m", "tidemark", "redrive", "--json"],
                env={**os.environ, "TIDEMARK_DATABASE_URL": server.url()},
                capture_output=True,
                check=True,
            ).stdout
            took.append(time.monotonic() - began)
            after = os.times()
            cpu.append(after.children_user + after.children_system - before.children_user - before.children_system)
            assert json.loads(said)["points"] == arguments.letters
            with transaction(pool) as connection:
                assert connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one() == arguments.letters
            pool.dispose()
            server.stop()
            server.purge()
    seconds = statistics.median(took)
    figures: dict[str, object] = {
        "letters": arguments.letters,
        "seconds": round(seconds, 2),
        "client_cpu_us": round(statistics.median(cpu) / arguments.letters * 1e6, 1),
    }
    return rig.finish("redrive", figures, {"letters_a_second": (round(arguments.letters / seconds), ">=", 5000)})


if __name__ == "__main__":
    sys.exit(main())
