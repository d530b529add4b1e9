"""`tidemark serve`: answers queries over HTTP, right as of one moment, and says how complete the answers are.

Ends in order by SIGINT or SIGTERM: what is asked is answered first. SIGHUP reads the certificates again.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import Any

from tidemark.allocator import Allocator
from tidemark.arguments import add_settings, read_settings
from tidemark.net.loop import in_loop
from tidemark.settings import SERVE
from tidemark.store.location import database_url


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("serve", help="answer queries over HTTP", description=__doc__)
    add_settings(parser, SERVE)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes.

    Raises:
        UsageError, UnavailableError, MisconfiguredError: one sentence why it cannot start.
    """
    values = read_settings(arguments, SERVE)
    database_url(values)  # before anything else is imported
    Allocator()  # before there are threads
    return in_loop(lambda: _serve(values))


async def _serve(values: Any) -> int:
    from tidemark.query.server import Serve  # noqa: PLC0415  # after what can be refused at once

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    service = Serve(values)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, service.reload)
    await service.serve(stopped)
    return 0
