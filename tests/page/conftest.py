"""`tidemark local run` as a user starts it, and a browser that looks at it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tidemark.local.processes import Process
from tidemark.local.stack import Stack

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def start(state: Path, log: Path) -> subprocess.Popen[bytes]:
    """`tidemark local run`; what it says is in the log."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMARK_")}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tidemark", "local", "run", "--state", str(state)], stderr=file, env=environment
        )


class Running:
    """All of it; `page` is the address that it told."""

    def __init__(self, state: Path) -> None:
        self.state, self.log = state, state.parent / "run.log"
        self.began = time.monotonic()
        self.process = start(state, self.log)
        while not (found := re.search(r"The page: (\S+)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < self.began + 180, self.log.read_text()
            time.sleep(0.05)
        self.page = found[1]

    def program(self, name: str) -> Process:
        found = Process.read(self.state / "run" / f"{name}.pid")
        assert found is not None, name
        return found

    def database_url(self) -> str:
        return Stack(self.state).environment()["TIDEMARK_DATABASE_URL"]

    def curl(self) -> int:
        """What it tells to send a point with, sent from a shell; the status, 0 where nobody listens."""
        command = next(line for line in self.log.read_text().splitlines() if line.startswith("  curl"))
        done = subprocess.run(
            ["bash", "-c", f"{command.strip()} -s -o /dev/null -w '%{{http_code}}'"],
            capture_output=True,
            text=True,
            check=False,
        )
        return int(done.stdout)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.page.partition("/?")[0] + path, timeout=30) as answer:
            found: bytes = answer.read()
            return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(120) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    made = Running(tmp_path_factory.mktemp("run") / "state")
    try:
        yield made
        made.stop()
        assert not of_state(made.state)
    finally:
        if made.process.poll() is None:
            made.process.kill()
        Stack(made.state).down(purge=True)


def of_state(state: Path) -> list[bytes]:
    """Command lines of what runs with a state's directory, or was started for it."""
    name = str(state).encode()
    return [
        _read(path / "cmdline")
        for path in Path("/proc").glob("[0-9]*")
        if name in _read(path / "cmdline") or name in _read(path / "environ")
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    binary = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if binary is None:
        pytest.skip("no chromium on the PATH: install Debian's package `chromium`")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])  # a test may be run by root
        yield made
        made.close()
