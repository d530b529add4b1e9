"""Everything is killed while ten million points come late, twice, overwritten, malformed and deleted; nothing is wrong.

    python bench/chaos.py --seed 20130711 [--points 10000000] [--minutes 16]

The traffic, the faults and the reckoning are those of tests/chaos: an oracle that shares no code with the product says
what every point and every rollup must be.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import rig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.chaos.campaign import Plan, run

KILLS = {"pipeline": 12, "postgres": 5, "bigquery": 4, "pubsub": 4}
CUTS = 15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=20130711)
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--minutes", type=float, default=16)
    parser.add_argument("--state", type=Path, help="where the servers keep their files and the pipeline its log")
    arguments = parser.parse_args()
    plan = Plan(arguments.seed, arguments.points, arguments.minutes * 60, KILLS, CUTS)
    state = arguments.state or Path(tempfile.mkdtemp())
    outcome = run(plan, state, lambda text: print(text, file=sys.stderr, flush=True))
    for sentence in outcome.wrong:
        print(f"wrong: {sentence}", file=sys.stderr)
    found = outcome.figures
    kills = sum(found["faults"][name] for name in KILLS)
    bars = {
        "wrong": (len(outcome.wrong), "<=", 0),
        "points_unexplained": (found["points_unexplained"], "<=", 0),
        "rollups_wrong": (sum(found["rollups_wrong"].values()), "<=", 0),
        "kills": (kills, ">=", 20),
        "on_time_share": (found["on_time_share"], ">=", 0.3),
        "corrected_share": (found["corrected_share"], ">=", 0.1),
    }
    return rig.finish("chaos", found, bars)


if __name__ == "__main__":
    sys.exit(main())
