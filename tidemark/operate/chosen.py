"""Which dead letters are meant, as arguments of a command."""

from __future__ import annotations

import argparse

from tidemark.errors import UsageError
from tidemark.mapping.mapped import STAGE as MAPPING
from tidemark.operate.arguments import span
from tidemark.store.letters import Chosen
from tidemark.wire.reasons import Reason
from tidemark.wire.refused import STAGE as DECODE

STAGES = (DECODE, MAPPING, "write_raw", "write_rollups")


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("--from", dest="start", metavar="TIME", help="kept at or after this time, RFC 3339")
    parser.add_argument("--to", dest="end", metavar="TIME", help="kept before this time, RFC 3339")
    parser.add_argument("--reason", metavar="NAME", help="of this reason only")
    parser.add_argument("--series_project", metavar="NAME", help="of this project only, as far as it could be read")
    parser.add_argument("--stage", metavar="NAME", help=f"of this stage only: {', '.join(STAGES)}")


def chosen(arguments: argparse.Namespace) -> Chosen:
    """What they say.

    Raises:
        UsageError: there is no such reason or stage, or the times are none.
    """
    if arguments.reason is not None and arguments.reason not in [*Reason]:
        raise UsageError(f"There is no reason {arguments.reason!r}; there are {', '.join(Reason)}.")
    if arguments.stage is not None and arguments.stage not in STAGES:
        raise UsageError(f"There is no stage {arguments.stage!r}; there are {', '.join(STAGES)}.")
    start, end = span(arguments.start, arguments.end)
    return Chosen(start, end, arguments.reason, arguments.series_project, arguments.stage)
