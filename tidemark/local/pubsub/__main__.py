"""`python -m tidemark.local.pubsub --port 8085 --state DIR`: serve until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tidemark.errors import LocalError, TidemarkError
from tidemark.local.pubsub.broker import Broker
from tidemark.local.pubsub.faults import Faults
from tidemark.local.pubsub.journal import Journal
from tidemark.local.pubsub.server import STOP_GRACE_S, start


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, serve, and say in one sentence why not."""
    parser = argparse.ArgumentParser(prog="python -m tidemark.local.pubsub", description="The Pub/Sub stand-in.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, required=True, help="the port to listen on; 0 takes a free one")
    parser.add_argument("--state", type=Path, required=True, help="the directory of the journal, made when missing")
    options = parser.parse_args(argv)
    # Messages hold no cycles, so collecting often only walks the backlog in vain.
    gc.set_threshold(100_000, 20, 100)
    try:
        asyncio.run(_serve(options.host, options.port, options.state))
    except TidemarkError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


async def _serve(host: str, port: int, state: Path) -> None:
    _check_port(host, port)
    journal = Journal(state)
    faults = Faults()
    server, bound = await start(Broker(journal, faults), faults, host, port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    sys.stdout.write(json.dumps({"event": "ready", "port": bound}) + "\n")
    sys.stdout.flush()
    await stop.wait()
    await server.stop(STOP_GRACE_S)
    journal.close()


def _check_port(host: str, port: int) -> None:
    """Find out before gRPC does, which would log it in its own way as well."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise LocalError(f"Cannot listen on {host}:{port}: {error.strerror}: give another --port.") from None


if __name__ == "__main__":
    sys.exit(main())
