"""The whole of it on this machine: stand-ins, ingest, edge and the query service with its page, under one supervisor.

Each is the program that a user would start by hand, and is said as such. One that ends is started again, later each time. A
signal ends the edge, then ingest, which stores what it has, then the query service, then the stand-ins; what is stored stays.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from tidemark.errors import LocalError
from tidemark.local import prism
from tidemark.local.install import side_by_side
from tidemark.local.processes import Process, free_port, listens
from tidemark.local.stack import PROJECT, Stack

QUICK: Final = {"TIDEMARK_TIERS_S": "10,60,3600,86400", "TIDEMARK_HORIZON_S": "10", "TIDEMARK_DEBOUNCE_S": "2"}
"""So that a window is seen to settle 20 s after it began; a store that has settings of its own keeps them."""
READY_S: Final = 90.0
LIVED_S: Final = 60.0
"""One that ran for so long is started again at once when it ends."""
LATEST_S: Final = 30.0
EDGE_PORT: Final = 8080
PAGE_PORT: Final = 8090


class Program:
    """One of them; started, and started again."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        """Nothing is started yet.

        Args:
            name: As it is said.
            command: Of Python, from `-m` on.
            environment: What leads it to the others; what is empty it does not get.
            directory: Of its log and its pid.
        """
        self.name, self.command = name, list(command)
        self._environment = environment
        self.log = directory / f"{name}.log"
        self._pid_file = directory / f"{name}.pid"
        self._child: subprocess.Popen[str] | None = None
        self.ready = threading.Event()
        self._began = self._again_at = 0.0
        self._failures = 0

    def port(self) -> int:
        """At which it is asked."""
        return next(int(each.partition("=")[2]) for each in self.command if each.startswith("--http_port="))

    def start(self) -> None:
        """Start it."""
        self.ready.clear()
        self._began = time.monotonic()
        with self.log.open("ab") as errors:
            self._child = subprocess.Popen(
                [sys.executable, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={name: value for name, value in {**os.environ, **self._environment}.items() if value},
                text=True,
                start_new_session=True,  # a terminal's Ctrl-C is for the supervisor, which ends them in order
            )
        process = Process.of(self._child.pid)
        if process is not None:
            process.write(self._pid_file)
        assert self._child.stdout is not None
        threading.Thread(target=self._read, args=(self._child.stdout,), daemon=True, name=self.name).start()

    def look(self) -> str:
        """Start it again where it has ended and its time has come.

        Returns:
            What is to be said of it; empty: nothing.
        """
        assert self._child is not None
        status = self._child.poll()
        if status is None:
            return ""
        now = time.monotonic()
        if not self._again_at:
            self._failures = 0 if now - self._began > LIVED_S else self._failures + 1
            wait_s = min(LATEST_S, 2.0**self._failures - 1)
            self._again_at = now + wait_s
            self._pid_file.unlink(missing_ok=True)
            return (
                f"{self.name} ended with status {status}; its log is {self.log}. It is started again in {wait_s:g} s."
            )
        if now >= self._again_at:
            self._again_at = 0.0
            self.start()
        return ""

    def alive(self) -> bool:
        """It runs."""
        return self._child is not None and self._child.poll() is None

    def stop(self, within_s: float = 60.0) -> None:
        """Ask it to end, and kill it when it does not."""
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(within_s)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._pid_file.unlink(missing_ok=True)

    def _read(self, lines: IO[str]) -> None:
        with lines, self.log.open("a") as log:
            for line in lines:
                log.write(line)
                log.flush()
                if line.startswith("{") and json.loads(line).get("event") == "ready":
                    self.ready.set()


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold the directory of a run.

    Raises:
        LocalError: another run holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalError(
                f"It runs already in {directory.parent}: end that first, or give another --state."
            ) from None
        yield


def end_left(stack: Stack) -> list[str]:
    """End the programs that a run has left behind, as one that was killed does.

    Returns:
        Their names.
    """
    ended = []
    for pid_file in sorted((stack.state / "run").glob("*.pid")):
        process = Process.read(pid_file)
        if process is not None:
            process.stop()
            ended.append(pid_file.stem)
        pid_file.unlink(missing_ok=True)
    return ended


def run(stack: Stack, say: Callable[[str], None], stopped: threading.Event) -> None:
    """Bring all up, and keep it up until it is to stop.

    Args:
        stack: The stand-ins; they are made where they are not there.
        say: Tells a person a line.
        stopped: The wish to stop.

    Raises:
        LocalError: something cannot be started.
    """
    with alone(stack.state / "run"):
        end_left(stack)
        _run(stack, say, stopped)


def _run(stack: Stack, say: Callable[[str], None], stopped: threading.Event) -> None:
    say(f"Making ready, in {stack.state} …")
    ran = [name for name, runs in stack.running().items() if runs]
    programs: list[Program] = []
    try:
        side_by_side([prism.find_or_build, stack.up])
        programs = _programs(stack)
        for program in programs:
            say(f"  {_as_typed(program)}")
            program.start()
        _wait(programs, stopped)
        if not stopped.is_set():
            _tell(stack, programs, say)
        while not stopped.wait(0.5):
            for program in programs:
                told = program.look()
                if told:
                    say(told)
    finally:
        for program in programs:
            program.stop()
        stack.stop([name for name in stack.servers() if name not in ran])
    say(f"Everything has ended; what was stored is kept in {stack.state}.")


def _programs(stack: Stack) -> list[Program]:
    directory = stack.state / "run"
    quick = {} if _has_settings(stack) else {name: value for name, value in QUICK.items() if name not in os.environ}
    environment = {**stack.environment(), **quick}
    edge_port, page_port = usual(EDGE_PORT), usual(PAGE_PORT)
    edge = ["-m", "tidemark", "edge", f"--http_port={edge_port}", f"--cors_origins={origin(page_port)}"]
    return [
        Program("edge", edge, environment, directory),
        Program("ingest", ["-m", "pipelines.ingest", "--runner=DirectRunner"], environment, directory),
        page(environment, directory, page_port, f"--edge_url={origin(edge_port)}"),
    ]


def page(environment: Mapping[str, str], directory: Path, port: int, *options: str) -> Program:
    """The query service with its page, which everybody on this machine may read."""
    command = ["-m", "tidemark", "serve", f"--http_port={port}", *options]
    return Program("serve", command, {**environment, "TIDEMARK_TOKENS": ""}, directory)


def usual(port: int) -> int:
    """The usual port, or another where somebody listens there."""
    return free_port() if listens(port) else port


def origin(port: int) -> str:
    """Of what listens there."""
    return f"http://127.0.0.1:{port}"


def _has_settings(stack: Stack) -> bool:
    from tidemark.store.connection import make_engine, transaction  # noqa: PLC0415  # SQLAlchemy

    pool = make_engine(stack.postgres.url(), 1, 60)
    try:
        with transaction(pool) as connection:
            return bool(connection.exec_driver_sql("SELECT count(*) FROM settings").scalar_one())
    finally:
        pool.dispose()


def _wait(programs: Sequence[Program], stopped: threading.Event) -> None:
    until = time.monotonic() + READY_S
    while not stopped.wait(0.05):
        for program in programs:
            if not program.ready.is_set() and not program.alive():
                raise LocalError(f"{program.name} ended at once; its log is {program.log}.")
        if all(program.ready.is_set() for program in programs):
            return
        if time.monotonic() > until:
            late = [program.name for program in programs if not program.ready.is_set()]
            raise LocalError(f"{late[0]} was not ready within {READY_S:g} s; its log is in {programs[0].log.parent}.")


def _tell(stack: Stack, programs: Sequence[Program], say: Callable[[str], None]) -> None:
    token = stack.environment()["TIDEMARK_TOKEN"]
    edge, serve = programs[0], programs[2]
    say("")
    say(f"The page: {origin(serve.port())}/?project={PROJECT}&range=2+min#write={token}&project={PROJECT}")
    say("A point:")
    say(
        f"  curl -H 'Authorization: Bearer {token}' {origin(edge.port())}/v1/points "
        """-d '{"source":"me","metric":"temperature","event_time":'$(date +%s%3N)',"value":21.5}'"""
    )
    say(f"Logs are in {programs[0].log.parent}. Ctrl-C ends all of it.")


def _as_typed(program: Program) -> str:
    python = ["tidemark", *program.command[2:]] if program.command[1] == "tidemark" else ["python", *program.command]
    return shlex.join(python)
