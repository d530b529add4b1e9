"""`tidemark advise`: what another horizon would do, from the event and publish times of the stored points.

By horizon: the share of series in windows that are complete when they are first settled, how many are corrected a day
after that, and how long after a window's end it is first settled. Beside the horizon that runs, the least that makes 99 %
and 99.9 % complete. With --window_s the same of windows of another length. docs/concepts.md says what is left out. It
changes nothing; `tidemark settings` does.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import UsageError
from tidemark.settings import ADVISE, DAY_S, Setting, read
from tidemark.store.advice import MOST_DAYS, Advice, Step, advice_of
from tidemark.store.connection import make_engine, transaction
from tidemark.store.horizons import TARGETS
from tidemark.store.location import database_url
from tidemark.store.series import PROJECTS
from tidemark.wire.message import to_the_second

STATEMENT_TIMEOUT_S: Final = 60
MOST_PROJECTS: Final = 20


def window_s(text: str) -> int:
    """Parse the length of a window."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= DAY_S or DAY_S % int(text):
        raise UsageError(f"needs whole seconds that divide a day ({DAY_S} s), not {text!r}")
    return int(text)


_ASKED: Final = (
    Setting("days", int, "7", "How many days back to look.", 1, MOST_DAYS),
    Setting("window_s", window_s, None, "Ask of windows of this length, and not of those of the smallest tier."),
)


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "advise", help="what another horizon would do", description=__doc__.replace("%", "%%")
    )
    add_settings(parser, ADVISE)
    parser.add_argument("--series_project", metavar="NAME", help="only this project")
    for setting in _ASKED:
        default = f" Default: {setting.default}." if setting.default else ""
        parser.add_argument(f"--{setting.name}", metavar="N", help=setting.help + default)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print.

    Raises:
        UsageError: an option cannot be.
    """
    asked = read(_ASKED, vars(arguments), environment={})
    values = read_settings(arguments, ADVISE)
    pool = make_engine(database_url(values), pool_size=1, statement_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        names = [arguments.series_project]
        if arguments.series_project is None:
            with transaction(pool) as connection:
                names = list(connection.exec_driver_sql(PROJECTS).scalars())
        some = names[:MOST_PROJECTS]
        found = [advice_of(pool, name, asked.window_s, asked.days, 1 / len(some)) for name in some]
    finally:
        pool.dispose()
    advice = [one for one in found if one is not None]
    if arguments.json:
        print(json.dumps({"projects": [told(one) for one in advice], "more_projects": len(names) - len(some)}))  # noqa: T201
    else:
        print("\n".join(_lines(advice, len(names) - len(some))))  # noqa: T201
    return 0


def told(advice: Advice) -> dict[str, Any]:
    """As JSON has it."""
    question, settings = advice.question, advice.question.ground.settings
    return {
        "project": question.project,
        "window_s": question.width_s,
        "from": to_the_second(advice.start),
        "until": to_the_second(advice.until),
        "points_removed_before": to_the_second(question.ground.removed_before),
        "points": advice.points,
        "series": advice.series,
        "sampled": advice.sampled,
        "windows": advice.pairs,
        "settling_s": question.ground.settling_s,
        "running": {
            "window_s": settings.tiers_s[0],
            "debounce_s": settings.debounce_s,
            **(advice.running._asdict() if advice.running else {"horizon_s": settings.horizon_s}),
        },
        "targets": [
            {"target": target, **step._asdict()} for target, step in zip(TARGETS, advice.targets, strict=False)
        ],
        "horizons": [step._asdict() for step in advice.steps],
    }


def _lines(advice: list[Advice], more: int) -> list[str]:
    if not advice:
        return ["There is nothing in this store yet."]
    lines = [line for one in advice for line in _of_project(one)]
    return [*lines, f"{more:,} more projects: --series_project names one."] if more else lines


def _of_project(advice: Advice) -> list[str]:
    question = advice.question
    ground = question.ground
    if not advice.steps:
        return [f"{question.project}: nothing of the last {question.days} days is old enough yet."]
    runs = "" if question.width_s == ground.settings.tiers_s[0] else f" ({ground.settings.tiers_s[0]} s run now)"
    part = "all there are" if advice.sampled == 1 else f"a sample of {advice.sampled:.2%}"
    span = f"from {to_the_second(advice.start)} until {to_the_second(advice.until)}"
    read_ = f"{advice.points:,} points of {advice.series:,} series, {part}"
    lines = [f"{question.project}: windows of {question.width_s} s{runs} {span}; {read_}"]
    if ground.removed_before is not None and ground.removed_before > ground.now - question.days * DAY_S * 1_000_000:
        lines.append(f"    points before {to_the_second(ground.removed_before)} were removed")
    lines.append(f"{'horizon':>14} {'complete':>10} {'corrections a day':>19} {'first settled after':>21}")
    lines += [_row(advice, step) for step in advice.steps if step in _shown(advice)]
    settling = "is not known and not in it" if ground.settling_s is None else f"is {ground.settling_s:,.1f} s of it"
    return [
        *lines,
        f"    how long settling takes {settling}; late points are gathered for {ground.settings.debounce_s:g} s",
    ]


def _shown(advice: Advice) -> set[Step]:
    """Those up to the first with which all is complete, and that which runs."""
    last = next((at for at, step in enumerate(advice.steps) if step.complete == 1), len(advice.steps))
    return {*advice.steps[: last + 1], *(step for step in advice.steps if step is advice.running)}


def _row(advice: Advice, step: Step) -> str:
    notes = ["runs now"] if step is advice.running else []
    notes += [
        f"the least for {100 * target:g}%" for target, one in zip(TARGETS, advice.targets, strict=True) if one is step
    ]
    complete = step.complete if step.complete == 1 else min(step.complete, 0.99999)
    return (
        f"{step.horizon_s:>12,.10g} s {complete:>10.3%} {step.corrections_a_day:>19,.0f} {step.delay_s:>19,.1f} s"
        f"  {', '.join(notes)}"
    ).rstrip()
