"""Server processes: started detached, found again by their pid file, ended by pid and never by mistake."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidemark.errors import LocalError

READY_S: Final = 60.0
STOP_S: Final = 20.0
RELEASE_S: Final = 3.0
_LOWEST_PORT: Final = 15_000
_USUAL_EPHEMERAL: Final = 32_768


@dataclass(frozen=True)
class Process:
    """A process that can be told from a later one with the same number."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The running process `pid`."""
        started = _start_time(pid)
        return None if started is None else cls(pid, started)

    @classmethod
    def read(cls, pid_file: Path) -> Process | None:
        """The process that `pid_file` names, if it still runs."""
        try:
            pid, started = pid_file.read_text().split()
        except (OSError, ValueError):
            return None
        process = cls(int(pid), started)
        return process if process.alive() else None

    def write(self, pid_file: Path) -> None:
        """Remember it."""
        pid_file.write_text(f"{self.pid} {self.started}\n")

    def alive(self) -> bool:
        """It runs, and is the one that was started."""
        return _start_time(self.pid) == self.started

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.alive():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end; kill it when it does not."""
        self.send(number)
        if not wait_until(lambda: not self.alive(), STOP_S):
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        self.send(signal.SIGKILL)
        wait_until(lambda: not self.alive(), STOP_S)


def _start_time(pid: int) -> str | None:
    """When the process started, in clock ticks since boot; None when there is none or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] == "Z" and not _dying(pid):
        _reap(pid)
        return None
    return fields[19]


def _dying(pid: int) -> bool:
    """Threads of a zombie still run to their end, and hold its sockets until then."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def children(pid: int) -> list[Process]:
    """The running processes that `pid` has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = Process.of(int(path.parent.name))
            if child is not None:
                found.append(child)
    return found


def start(
    command: Sequence[str | Path],
    log: Path,
    *,
    user: int | None = None,
    group: int | None = None,
    environment: dict[str, str] | None = None,
    directory: Path | None = None,
) -> Process:
    """Start a server in a session of its own, with its output in `log`.

    Raises:
        LocalError: it cannot be started.
    """
    try:
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=[] if user is not None else None,
                env=environment,
                cwd=directory,
            )
    except OSError as error:
        raise LocalError(f"{Path(command[0]).name} cannot be started: {error.strerror}: {error.filename}.") from None
    child.returncode = 0  # it is not this object's to wait for: the server may outlive this program
    process = Process.of(child.pid)
    if process is None:
        raise LocalError(f"{Path(command[0]).name} ended at once: {last_line(log)}")
    return process


def wait_ready(process: Process, log: Path, ready: Callable[[], bool], name: str) -> None:
    """Wait until a server answers.

    Raises:
        LocalError: it ended, or did not answer in time; the sentence has its last line.
    """
    if not wait_until(lambda: ready() or not process.alive(), READY_S):
        process.kill()
        raise LocalError(f"{name} did not answer within {READY_S:g} s; its log is {log}.")
    if not process.alive():
        raise LocalError(f"{name} ended at once: {last_line(log)}")


def wait_until(condition: Callable[[], bool], within_s: float, every_s: float = 0.02) -> bool:
    """Look until a condition holds; False when it does not in time."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(every_s)
    return True


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return lines[-1][:500] if lines else f"its log {log} is empty"


def free_port() -> int:
    """A port of the loopback interface that nobody listens on.

    Drawn at random from below the range which the system hands out by itself, to outgoing connections and to servers
    that ask for any port: so none of those takes it before the server that it is meant for does.
    """
    while True:
        port = random.randrange(_LOWEST_PORT, _ephemeral())  # noqa: S311  # not a secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _ephemeral() -> int:
    """The first port that the system hands out by itself."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError):  # not Linux
        first = 0
    return first if first > 2 * _LOWEST_PORT else _USUAL_EPHEMERAL


def keeps(ports: Sequence[int]) -> bool:
    """A server that was here before can have its ports again; what was killed just now may hold them for a moment."""
    return wait_until(lambda: not any(listens(port) for port in ports), RELEASE_S)


def listens(port: int) -> bool:
    """Something accepts connections on the loopback interface."""
    try:
        with socket.create_connection(("127.0.0.1", port), 0.5):
            return True
    except OSError:
        return False
