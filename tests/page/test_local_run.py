"""`tidemark local run`: how it ends, whenever it is ended, and who else may run there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.page.conftest import Running, of_state, start
from tests.waiting import eventually
from tidemark.local.processes import Process
from tidemark.local.stack import Stack

MOST_FIRST_S = 30.0


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    Stack(tmp_path / "state").down(purge=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("after_s", [0.6, 4.0])
def test_ended_while_it_starts_it_leaves_nothing(state: Path, tmp_path: Path, after_s: float) -> None:
    run = start(state, tmp_path / "log")
    time.sleep(after_s)
    run.send_signal(signal.SIGTERM)
    assert run.wait(120) in (0, 143, -signal.SIGTERM), (tmp_path / "log").read_text()  # the last: before it listened
    eventually(lambda: not of_state(state))
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.timeout(300)
def test_a_first_point_is_soon_on_the_page(tmp_path: Path, browser: Browser) -> None:
    running = Running(tmp_path / "state")
    try:
        assert running.curl() == 200
        page = browser.new_page()
        page.goto(running.page)
        expect(page.locator("#summary")).to_contain_text("1 intervals", timeout=60_000)
        seconds = time.monotonic() - running.began
        page.close()
        running.stop()
    finally:
        if running.process.poll() is None:
            running.process.kill()
        Stack(running.state).down(purge=True)
    print(f"{seconds:.1f} s from the start to a point on the page")
    assert seconds <= MOST_FIRST_S


@pytest.mark.timeout(300)
def test_another_is_refused_and_what_a_killed_one_left_is_ended(state: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    run = start(state, log)
    try:
        eventually(lambda: "The page:" in log.read_text(), 120)
        refuse_another(state)
        left = [Process.read(state / "run" / f"{name}.pid") for name in ("edge", "ingest", "serve")]
        assert all(left)
    finally:
        run.kill()
        run.wait()
    down = subprocess.run(
        [sys.executable, "-m", "tidemark", "local", "down", "--state", str(state)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "edge" in down.stderr
    assert not of_state(state)


def refuse_another(state: Path) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "tidemark", "local", "run", "--state", str(state)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert second.stderr.startswith("It runs already")
    assert len(second.stderr.splitlines()) == 1
