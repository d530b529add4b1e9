"""Programs on a laptop: who can reach them, and how they end, whatever ends them."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.integration.points import Feed
from tests.local.sockets import beyond_loopback, family, listening
from tidemark.local.job import Job
from tidemark.local.processes import Process, wait_until
from tidemark.local.stack import Stack
from tidemark.local.watch import started_under

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_S = 60.0


def now_us() -> int:
    return time.time_ns() // 1000


def test_the_kernels_table_is_read_right() -> None:
    server = "import socket, time; s = [socket.create_server((a, 0), family=f) for a, f in ({})]; print(1, flush=True); time.sleep(60)"
    addresses = "(('0.0.0.0', socket.AF_INET), ('127.0.0.1', socket.AF_INET), ('::1', socket.AF_INET6), ('::', socket.AF_INET6))"
    child = subprocess.Popen([sys.executable, "-c", server.format(addresses[1:-1])], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        found = listening([child.pid])
        assert len(found) == 4
        assert {one[2].rpartition(":")[0] for one in beyond_loopback(found)} == {"0.0.0.0", "::"}
    finally:
        child.kill()
        child.communicate()


def test_nothing_of_a_local_run_can_be_reached_from_another_machine(
    stack: Stack, environment: dict[str, str], feed: Feed, tmp_path: Path
) -> None:
    job = Job(environment, tmp_path / "ingest.log", "--metrics_port=19464")
    try:
        job.wait_ready()
        feed.points([(("open", "s", "m"), now_us(), 1.0)])
        assert wait_until(lambda: job.latest.get("inserted") == 1, 60), "Prism, workers and stores are at work"
        servers = [process.pid for server in stack.servers().values() if (process := server.process())]
        assert len(servers) == 3
        found = listening(family([job.pid, *servers]))
        assert len({pid for pid, _, _ in found}) >= 5, "Prism, this program, three servers"
        assert beyond_loopback(found) == []
    finally:
        job.drain()
        job.drained()


class Program:
    """One that a signal is sent to: its process group, as a terminal does, or it alone, as `kill` does."""

    def __init__(self, command: list[str], environment: dict[str, str], output: Path) -> None:
        self.output = output
        with output.open("wb") as out, output.with_suffix(".err").open("wb") as err:
            self.child = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
                start_new_session=True,
            )

    def send(self, number: int) -> None:
        if self.child.poll() is None:
            (os.killpg if number == signal.SIGINT else os.kill)(self.child.pid, number)

    def ended(self) -> tuple[int, str, str]:
        status = self.child.wait(GRACE_S)
        return status, self.output.read_text(), self.output.with_suffix(".err").read_text()


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[dict[str, str]]:
    """In the environment of all that a test starts, so that what is left of it can be found."""
    mark = tmp_path / "mark"
    yield {"TIDEMARK_WATCHED": str(mark)}
    for process in started_under(mark):
        process.kill()


def left(marked: dict[str, str]) -> list[Process]:
    return started_under(Path(marked["TIDEMARK_WATCHED"]))


def traced(err: str) -> bool:
    """It ended in the middle of code of ours; what comes while Python itself begins, nobody can catch."""
    return "Traceback" in err and any(f'File "{ROOT}/{top}/' in err for top in ("pipelines", "tidemark", "transforms"))


def moments(seed: int, number: int, long: bool) -> list[tuple[float, int]]:
    """(seconds after the start, signal): early ones too, when a program is not ready for anything yet."""
    draw = random.Random(seed)
    early = [0.15, 0.4, 0.9]
    chosen = (early + [draw.uniform(1, 12) for _ in range(10 - len(early))]) if long else early[: number - 1]
    chosen += [] if long else [draw.uniform(2, 6)]
    return [(at, SIGNALS[i % 3]) for i, at in enumerate(chosen)]


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--long"))


def test_ingest_drains_by_any_signal_at_any_moment(
    environment: dict[str, str], feed: Feed, marked: dict[str, str], tmp_path: Path, long: bool
) -> None:
    sent = 0
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    together = environment | marked | {"TMPDIR": str(temporary)}
    for at, number in moments(1, 4, long):
        program = Program([sys.executable, "-m", "pipelines.ingest"], together, tmp_path / "ingest.out")
        until = time.monotonic() + at
        while time.monotonic() < until:
            feed.points([(("signals", "s", "m"), now_us(), float(sent))])
            sent += 1
            time.sleep(0.05)
        program.send(number)
        status, out, err = program.ended()
        assert status == 0, (at, number, err)
        assert not traced(err)
        assert "started again" not in err
        assert [line for line in err.splitlines() if not line.startswith("Draining")] == [
            "Stopping: what was taken is written and settled first. A second signal ends at once; nothing is lost."
        ]
        assert json.loads(out.splitlines()[-1])["event"] == "drained"
        assert left(marked) == [], (at, number)
        assert list(temporary.iterdir()) == []
    job = Job(environment, tmp_path / "last.log", "--stop_when_idle_s=12")
    job.drained()
    assert len(feed.oracle().winners) == sent
    from tests.integration.points import stored  # noqa: PLC0415

    assert len(stored(environment["TIDEMARK_DATABASE_URL"])) == sent, "what was not acknowledged came again"


def test_with_the_stores_gone_it_says_what_it_waits_for_and_a_second_signal_ends_it(
    stack: Stack, environment: dict[str, str], feed: Feed, marked: dict[str, str], tmp_path: Path
) -> None:
    program = Program([sys.executable, "-m", "pipelines.ingest"], environment | marked, tmp_path / "ingest.out")
    assert wait_until(lambda: "ready" in program.output.read_text(), 60)
    stack.postgres.stop()
    feed.points([(("gone", "s", "m"), now_us(), 1.0)])
    errors = program.output.with_suffix(".err")
    assert wait_until(lambda: "Waiting; nothing is acknowledged" in errors.read_text(), 60)
    program.send(signal.SIGTERM)
    assert wait_until(
        lambda: (
            "Draining: 1 messages are still to be written and acknowledged. It waits: The database"
            in errors.read_text()
        ),
        30,
    )
    assert program.child.poll() is None
    program.send(signal.SIGTERM)
    status, _, err = program.ended()
    assert status == 128 + signal.SIGTERM
    assert not traced(err)
    assert wait_until(lambda: left(marked) == [], 10), "Prism ends with it"


def test_local_up_leaves_nothing_when_it_is_ended_meanwhile(marked: dict[str, str], tmp_path: Path, long: bool) -> None:
    for at, number in moments(2, 4, long):
        state = tmp_path / "state"
        command = [sys.executable, "-m", "tidemark", "local", "up", "--state", str(state)]
        program = Program(command, marked, tmp_path / "up.out")
        time.sleep(min(at, 3.0))
        ended = program.child.poll() is not None
        program.send(number)
        status, out, err = program.ended()
        assert not traced(err)
        if ended or status == 0:
            assert "export TIDEMARK_SUBSCRIPTION=" in out
        else:
            assert status in (128 + number, -number), (at, err)
            assert wait_until(lambda: left(marked) == [], 5), (at, number)
        Stack(state).down(purge=True)
        assert left(marked) == []


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for temporary files that the user of a PostgreSQL can reach, too."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o711)
        yield Path(made)


def test_the_demo_leaves_nothing_whatever_ends_it(temporary: Path, tmp_path: Path, long: bool) -> None:
    killed = [(1.0, signal.SIGKILL), (9.0, signal.SIGKILL)]
    for at, number in [*killed[0 if long else 1 :], *moments(3, 3, long)]:
        program = Program(
            [sys.executable, "-m", "tidemark.local.demo"], {"TMPDIR": str(temporary)}, tmp_path / "demo.out"
        )
        time.sleep(at)
        states = list(temporary.glob("tidemark-demo-*"))
        program.send(number)
        status, out, err = program.ended()
        assert not traced(err), (at, number, err)
        assert status in (128 + number, -number), (at, number, out, err)
        assert wait_until(partial(_nothing_is_left, states, temporary), GRACE_S), (at, number)


def _nothing_is_left(states: list[Path], temporary: Path) -> bool:
    return not any(started_under(state) for state in states) and not list(temporary.glob("tidemark-demo-*"))
