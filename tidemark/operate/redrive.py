"""`tidemark redrive`: writes dead letters again, with the limits and perhaps the mapping of now.

Points are written with the publish time of their message, so they never overwrite what was accepted later. What is still
refused stays, with its new reason and one attempt more. Rollup rows that BigQuery refused are owed a settling again. It may be
stopped at any time, and run again.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing, nullcontext
from typing import Any

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import UsageError
from tidemark.mapping.mapped import OneDecoder
from tidemark.mapping.program import of_settings
from tidemark.operate.chosen import add_filters, chosen
from tidemark.settings import REDRIVE
from tidemark.store.agreement import agreed
from tidemark.store.connection import make_engine
from tidemark.store.location import database_url
from tidemark.store.owing import Policy
from tidemark.store.redrive import Became, Redrive
from tidemark.store.series import SeriesCache
from tidemark.store.write import Writer
from tidemark.wire.archived import ArchiveDecoder, AsItCame
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("redrive", help="write dead letters again", description=__doc__)
    add_settings(parser, REDRIVE)
    add_filters(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="try so many letters at most, the oldest first")
    parser.add_argument("--dry-run", action="store_true", help="say what would become of them, and write nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Try them.

    Returns:
        0: none of them is refused any more; 1: some are.

    Raises:
        UsageError: an argument or the mapping cannot be.
    """
    values = read_settings(arguments, REDRIVE)
    which = chosen(arguments)
    if arguments.limit is not None and arguments.limit < 1:
        raise UsageError(f"--limit must be at least 1, not {arguments.limit}.")
    mapping = of_settings(values)
    limits = Limits.of(values)
    pool = make_engine(database_url(values), pool_size=2, statement_timeout_s=values.database_timeout_s)
    found = Became()
    try:
        values = agreed(pool, values, keep=False)
        writer = Writer(pool, SeriesCache(pool), Policy.of(values))
        with nullcontext() if mapping is None else closing(OneDecoder(mapping, AsItCame(limits))) as mapped:
            redrive = Redrive(writer, values.tiers_s, Decoder(limits), ArchiveDecoder(limits), mapped)
            for some in redrive.run(which, arguments.limit, dry=arguments.dry_run):
                found = found.plus(some)
    finally:
        pool.dispose()
    told = {**found._asdict(), "written": not arguments.dry_run}
    print(json.dumps(told) if arguments.json else _text(found, arguments))  # noqa: T201
    return 1 if found.still else 0


def _text(found: Became, arguments: argparse.Namespace) -> str:
    would = "would be" if arguments.dry_run else "are"
    text = (
        f"{found.letters:,} dead letters {would} gone, with {found.points:,} points; {found.still:,} are still refused."
    )
    if found.filtered:
        text += f" The mapping has no output for {found.filtered:,} of their values."
    if found.skipped:
        text += f" {found.skipped:,} are values for a mapping: give it (--mapping)."
    return text
