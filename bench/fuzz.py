"""Decodes bodies of every form, broken at random: no good point of any vanishes, and what is written stays bounded.

`python bench/fuzz.py [--bodies 1000000] [--seed 1]`; the everyday suite tries 20,000. What must hold is in
`tests/wire/fuzz.py`; the first body that breaks it is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # before whatever else is called `tests`

from tests.wire.fuzz import body, check


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    started = time.process_time()
    sent = good = 0
    for _ in range(args.bodies):
        made = body(chance)
        try:
            check(made)
        except AssertionError as broken:
            print(broken, file=sys.stderr)
            return 1
        sent += len(made.data)
        good += len(made.good)
    seconds = time.process_time() - started
    print(
        f"{args.bodies:,} bodies, {sent / 1e6:.0f} MB, {good:,} good points in them: each is stored, or in a dead letter;"
        f" {seconds:.0f} s of CPU"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
