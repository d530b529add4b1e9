"""`python -m tidemark.local.pubsub --port P --state DIR`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from tidemark.local.pubsub.broker import Broker
from tidemark.local.pubsub.faults import Faults
from tidemark.local.pubsub.server import Server


def main() -> int:
    """Serve until SIGTERM or SIGINT; 1 when it cannot."""
    parser = argparse.ArgumentParser(prog="tidemark.local.pubsub", description="A Pub/Sub server for this machine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--state", type=Path, required=True, help="directory of the journal")
    arguments = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        arguments.state.mkdir(parents=True, exist_ok=True)
        server = Server(Broker(arguments.state), Faults())
    except OSError as error:
        print(f"The Pub/Sub server cannot keep its journal in {arguments.state}: {error.strerror}.", file=sys.stderr)  # noqa: T201
        return 1
    try:
        port = server.start(arguments.host, arguments.port)
    except RuntimeError:
        print(f"Port {arguments.port} of {arguments.host} is in use: choose another.", file=sys.stderr)  # noqa: T201
        return 1
    print(json.dumps({"event": "ready", "port": port}), flush=True)  # noqa: T201
    stopping.wait()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
