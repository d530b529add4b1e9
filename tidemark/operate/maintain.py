"""`tidemark maintain`: keeps the raw store in shape; run it from cron, beside ingest, as the tables' owner.

Removes points past --retention_days (their rollups stay), turns old TimescaleDB chunks columnar, folds the ledger,
removes old dead letters, corrections and heartbeats, vacuums tables with many dead rows. Safe to stop and to run again. A step that fails is told,
the next ones are done, and the exit status is 1. From the first window on
that is owed a settling points stay whatever their age, and it says so: a job that has stopped is noticed here too.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import MisconfiguredError, RefusedError, UnavailableError, UsageError
from tidemark.settings import DAY_S, MAINTAIN, Values
from tidemark.store.agreement import agreed
from tidemark.store.connection import make_engine
from tidemark.store.housekeeping import HeldBack, Housekeeping
from tidemark.store.location import database_url

STATEMENT_TIMEOUT_S: Final = 3600


@dataclass
class Maintained:
    """What was done, what was held back, and what could not be done: by the name of the step, why."""

    points_removed: int = 0
    held_back: HeldBack | None = None
    chunks_compressed: int = 0
    ledger_rows_folded: int = 0
    dead_letters_removed: int = 0
    corrections_removed: int = 0
    heartbeats_removed: int = 0
    vacuumed: list[str] = field(default_factory=list)
    not_columnar: str | None = None
    points_adopted: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def adopt(self, points: int) -> None:
        """Note how many points another had removed."""
        self.points_adopted = points


def maintain(database: str, values: Values, now_s: float, *, adopt_removed: bool = False) -> Maintained:
    """Do all that is due.

    Args:
        database: URL.
        values: Of `MAINTAIN`.
        now_s: Seconds since 1970, from which ages are counted.
        adopt_removed: Tell the ledger of points that another removed.

    Returns:
        What was done. A step that fails is in it, and the next ones are done all the same.

    Raises:
        UsageError: chunks would be compressed while corrections are still expected.
        UnavailableError, MisconfiguredError: nothing was done.
    """
    done = Maintained()
    pool = make_engine(database, pool_size=3, statement_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        values = agreed(pool, values, keep=False)
        check(values)
        keeping = Housekeeping(pool)
        with keeping.alone():
            steps = _steps(keeping, values, now_s, done)
            if adopt_removed:
                steps = {**steps, "adopt removed": lambda: done.adopt(keeping.adopt_removed())}
            for name, step in steps.items():
                try:
                    step()
                except (UnavailableError, MisconfiguredError, RefusedError) as error:
                    done.failed[name] = str(error)  # the next ones do not need it
    finally:
        pool.dispose()
    return done


def _steps(keeping: Housekeeping, values: Values, now_s: float, done: Maintained) -> dict[str, Callable[[], None]]:
    def retention() -> None:
        largest_s = values.tiers_s[-1]
        before_s = int(now_s - values.retention_days * DAY_S) // largest_s * largest_s
        cut = keeping.move_cut(before_s, largest_s)
        done.held_back = cut.held_back
        for points in keeping.remove_points(cut.before_s):
            done.points_removed += points

    def columns() -> None:
        done.chunks_compressed = keeping.compress(int(now_s - values.compress_after_days * DAY_S))
        table = keeping.hypertable()
        if table is not None and not table.licensed:
            done.not_columnar = "this is TimescaleDB's Apache edition, which has no columns"

    def ledger() -> None:
        done.ledger_rows_folded = keeping.fold_ledger()

    def dead_letters() -> None:
        done.dead_letters_removed = _without_dead_letters(keeping, values)

    def corrections() -> None:
        done.corrections_removed = keeping.remove_corrections(values.corrections_days)

    def heartbeats() -> None:
        done.heartbeats_removed = keeping.remove_heartbeats()

    def vacuum() -> None:
        done.vacuumed = keeping.vacuum()

    steps = {
        "retention": retention,
        "columns": columns,
        "ledger": ledger,
        "dead letters": dead_letters,
        "corrections": corrections,
        "heartbeats": heartbeats,
        "vacuum": vacuum,
    }
    wanted = {
        "retention": values.retention_days,
        "columns": values.compress_after_days,
        "dead letters": values.dead_letter_days or values.dead_letter_bytes,
        "corrections": values.corrections_days,
    }
    return {name: step for name, step in steps.items() if wanted.get(name, True)}


def _without_dead_letters(keeping: Housekeeping, values: Values) -> int:
    removed = keeping.remove_dead_letters(values.dead_letter_days) if values.dead_letter_days else 0
    return removed + (keeping.trim_dead_letters(values.dead_letter_bytes) if values.dead_letter_bytes else 0)


def check(values: Values) -> None:
    """Refuse to compress what still changes by design.

    Raises:
        UsageError: the delay is not longer than horizon and debounce together.
    """
    settled_s = values.horizon_s + values.debounce_s
    if values.compress_after_days and values.compress_after_days * DAY_S <= settled_s:
        raise UsageError(
            f"--compress_after_days={values.compress_after_days} is within --horizon_s plus --debounce_s "
            f"({settled_s:g} s): chunks would be columnar while corrections are still expected; give more days, or 0."
        )


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "maintain", help="retention, compression, folding, vacuum; for cron", description=__doc__
    )
    add_settings(parser, MAINTAIN)
    parser.add_argument(
        "--adopt_removed",
        action="store_true",
        help="account for points that another than Tidemark has removed; with --retention_days, which keeps rollups "
        "before it as they are",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Maintain and say what was done."""
    values = read_settings(arguments, MAINTAIN)
    done = maintain(database_url(values), values, time.time(), adopt_removed=arguments.adopt_removed)
    if arguments.json:
        print(json.dumps(asdict(done), default=datetime.isoformat))  # noqa: T201
    else:
        print(  # noqa: T201
            f"Removed {done.points_removed:,} points, {done.dead_letters_removed:,} dead letters and "
            f"{done.corrections_removed:,} corrections, "
            f"compressed {done.chunks_compressed:,} chunks, folded {done.ledger_rows_folded:,} ledger rows, "
            f"vacuumed {', '.join(done.vacuumed) or 'nothing'}."
        )
        if held := done.held_back:
            print(  # noqa: T201
                f"Kept points from {held.start.isoformat()} to {held.end.isoformat()}, though past their age: "
                f"{held.marks:,} marks owe these windows a settling, the first due at "
                f"{held.due_at.isoformat(timespec='seconds')}. Is ingest running?"
            )
        if arguments.adopt_removed:
            print(f"Accounted for {done.points_adopted:,} points that another had removed.")  # noqa: T201
        if done.not_columnar:
            print(f"Chunks stay as they are: {done.not_columnar}; --compress_after_days=0 leaves the step out.")  # noqa: T201
        for step, why in done.failed.items():
            print(f"Not done, {step}: {why}", file=sys.stderr)  # noqa: T201
    return 1 if done.failed else 0
