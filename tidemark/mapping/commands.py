"""`tidemark mapping`: tries a mapping on samples, and shows those that are shipped."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import UsageError
from tidemark.mapping import shipped
from tidemark.mapping.program import Program, in_file, program
from tidemark.mapping.trial import Sum, Tried, messages, tries
from tidemark.plain import plain
from tidemark.settings import TRY
from tidemark.wire.limits import Limits

_SHOWN = 200


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("mapping", help="points out of any JSON, by a jq program", description=__doc__)
    more = parser.add_subparsers(required=True, metavar="try|list|show")
    trying = more.add_parser(
        "try",
        help="what a mapping makes of samples",
        description="Maps each line of standard input, and prints the points that come out, what is filtered, and what would "
        "be refused and why. Exits with 1 where something would be refused.",
    )
    trying.add_argument("file", metavar="FILE", help="a jq program, or the name of one that is shipped")
    trying.add_argument("--sample", action="store_true", help="map the samples of the shipped mapping instead")
    trying.add_argument(
        "--inputs",
        action="store_true",
        help='lines are whole inputs, {"body": …, "attributes": {…}, "publish_time": …, "message_id": …}; otherwise bodies',
    )
    trying.add_argument(
        "--attribute", action="append", default=[], metavar="NAME=VALUE", help="of every message; may be repeated"
    )
    trying.add_argument(
        "--series_project", default="example", metavar="NAME", help="whose the points are. Default: example."
    )
    trying.add_argument("--json", action="store_true", help="print a JSON object a line, and the sum as the last")
    add_settings(trying, TRY)
    trying.set_defaults(run=run_try)
    listing = more.add_parser("list", help="the mappings that are shipped")
    listing.add_argument("--json", action="store_true", help="print a JSON object")
    listing.set_defaults(run=run_list)
    showing = more.add_parser("show", help="print one that is shipped, to begin with")
    showing.add_argument("name", metavar="NAME")
    showing.set_defaults(run=run_show)


def run_try(arguments: argparse.Namespace) -> int:
    """Map standard input.

    Returns:
        0: nothing would be refused; 1: something would.

    Raises:
        UsageError: the program cannot be compiled, or an argument is none.
    """
    values = read_settings(arguments, TRY)
    attributes = dict(_attribute(text) for text in arguments.attribute)
    chosen = _program(arguments.file, values.mapping_cpu_s)
    text: Iterable[bytes] = sys.stdin.buffer
    if arguments.sample:
        text = shipped.samples(shipped.by_name(arguments.file).name).encode().splitlines()
    given = messages(text, attributes, arguments.series_project, inputs=arguments.inputs or arguments.sample)
    total = Sum()
    for tried in tries(chosen, Limits.of(values), given, total):
        for line in _as_json(tried) if arguments.json else _as_text(tried):
            print(line)  # noqa: T201
    print(_sum_json(total) if arguments.json else _sum_text(total))  # noqa: T201
    return 1 if total.refused else 0


def run_list(arguments: argparse.Namespace) -> int:
    """Print the names of what is shipped."""
    every = shipped.shipped()
    if arguments.json:
        print(json.dumps({"mappings": [{"name": one.name, "about": one.about} for one in every]}))  # noqa: T201
    else:
        width = max(len(one.name) for one in every)
        print("\n".join(f"{one.name:<{width}}  {one.about}" for one in every))  # noqa: T201
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print one of them."""
    print(shipped.by_name(arguments.name).text, end="")  # noqa: T201
    return 0


def _program(name: str, cpu_s: float) -> Program:
    """That of a file, or else the shipped one of this name."""
    if not Path(name).exists() and any(one.name == name for one in shipped.shipped()):
        return program(shipped.by_name(name).text, name, cpu_s)
    return in_file(name, cpu_s)


def _attribute(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"--attribute needs NAME=VALUE, not {text!r}.")
    return name, value


def _as_text(tried: Tried) -> Iterator[str]:
    for point in tried.points:
        yield f"{tried.line}: {plain(json.dumps(point, ensure_ascii=False))}"
    if tried.filtered:
        yield f"{tried.line}: filtered" + (f" ({tried.filtered} values)" if tried.filtered > 1 else "")
    for letter in tried.refused:
        yield f"{tried.line}: REFUSED {letter.reason}: {plain(letter.detail)}"


def _as_json(tried: Tried) -> Iterator[str]:
    refused = [
        {"reason": letter.reason, "detail": letter.detail, "points": letter.points, "value": _shown(letter.data)}
        for letter in tried.refused
    ]
    told = {"line": tried.line, "points": tried.points, "filtered": tried.filtered, "refused": refused}
    yield json.dumps(told)


def _shown(data: bytes) -> str:
    return data[:_SHOWN].decode("utf-8", "replace")


def _sum_text(total: Sum) -> str:
    reasons = "".join(f", {reason} {number:,}" for reason, number in total.reasons.most_common())
    return (
        f"{total.lines:,} lines: {total.points:,} points, {total.filtered:,} values filtered, {total.refused:,} refused{reasons};"
        f" {total.us_a_line:,.0f} µs a line"
    )


def _sum_json(total: Sum) -> str:
    return json.dumps(
        {
            "lines": total.lines,
            "points": total.points,
            "filtered": total.filtered,
            "refused": total.refused,
            "reasons": dict(total.reasons),
            "us_a_line": round(total.us_a_line, 1),
        }
    )
