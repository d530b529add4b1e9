"""Ends what a program has left behind when it could not do so itself: it was killed, or its terminal went away.

A process of its own, in a session of its own, which waits for the end of the pipe that the program holds. Then
everything that the program has started ends, and its servers' state goes. A program that has cleaned up says so before.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from tidemark.local.processes import Process
from tidemark.local.stack import Stack

VARIABLE: Final = "TIDEMARK_WATCHED"
"""In the environment of everything that the program starts from now on: the directory of its state."""
_CLEAN: Final = b"clean"


class Watch:
    """The watcher of this process.

    Args:
        stack: What the program is about to start.
    """

    def __init__(self, stack: Stack) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tidemark.local.watch", str(stack.state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.environ[VARIABLE] = str(stack.state)

    def clean(self) -> None:
        """Nothing is left that should not be: the watcher ends, and does nothing."""
        os.environ.pop(VARIABLE, None)
        with contextlib.suppress(OSError):
            self._process.communicate(_CLEAN)


def main(state: str) -> int:
    """Wait, and clean up unless that was done."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read() == _CLEAN:
        return 0
    stack = Stack(Path(state))
    servers = {server.process() for server in stack.servers().values()}
    for process in started_under(stack.state):
        if process not in servers:
            process.kill()
    stack.down(purge=True)
    shutil.rmtree(stack.state, ignore_errors=True)
    return 0


def started_under(state: Path) -> list[Process]:
    """What runs with this state's directory in its environment, whoever is its parent by now."""
    wanted = f"{VARIABLE}={state}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().split(b"\0"):
                process = Process.of(int(path.parent.name))
                if process is not None and process.pid != os.getpid():
                    found.append(process)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
