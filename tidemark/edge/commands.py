"""`tidemark edge`: takes points over HTTP, MQTT, TCP and UDP and publishes them; a sender is answered when Pub/Sub has them.

Ends in order by SIGINT or SIGTERM: what is in flight is answered first. SIGHUP reads the certificates again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import UsageError
from tidemark.net.loop import in_loop
from tidemark.settings import EDGE, FLUSH, require


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("edge", help="take points over HTTP, MQTT, TCP and UDP", description=__doc__)
    add_settings(parser, EDGE)
    parser.set_defaults(run=run)
    more = parser.add_subparsers(metavar="flush")
    flush = more.add_parser(
        "flush",
        help="publish what a spool holds, and end",
        description="Publishes what the spool in DIR holds, that of an edge whose node was lost, and ends when it is empty.",
    )
    flush.add_argument("directory", metavar="DIR")
    add_settings(flush, FLUSH, besides=EDGE)
    flush.set_defaults(run=run_flush)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes.

    Raises:
        UsageError, UnavailableError, MisconfiguredError: one sentence why it cannot start.
    """
    values = read_settings(arguments, EDGE)
    require(values, "topic", "tokens")
    return in_loop(lambda: _serve(values))


def run_flush(arguments: argparse.Namespace) -> int:
    """Publish all of a spool.

    Raises:
        UsageError: there is no such spool, or an edge uses it.
    """
    values = read_settings(arguments, FLUSH)
    require(values, "topic")
    directory = Path(arguments.directory)
    if not (directory / "lock").exists():
        raise UsageError(f"{directory} is no spool.")
    return in_loop(lambda: _flush(directory, values))


async def _serve(values: Any) -> int:
    from tidemark.edge.server import Edge  # noqa: PLC0415  # after what can be refused at once

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    edge = Edge(values)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, edge.reload)
    await edge.serve(stopped)
    return 0


async def _flush(directory: Path, values: Any) -> int:
    from tidemark.bus.publisher import Publisher, async_channel  # noqa: PLC0415  # as above
    from tidemark.edge.flush import drain  # noqa: PLC0415
    from tidemark.edge.spool import Spool  # noqa: PLC0415

    published: dict[str, int] = {}

    def count(name: str, number: int = 1) -> None:
        published[name] = published.get(name, 0) + number

    channel = async_channel()
    publisher = Publisher(values.topic, channel, timeout_s=values.publish_timeout_s, count=count)
    spool = Spool(directory, 1 << 62)
    try:
        await drain(spool, publisher, for_ever=False)
    finally:
        spool.close()
        await channel.close()
    print(json.dumps({"published": published.get("published", 0)}))  # noqa: T201
    return 0
