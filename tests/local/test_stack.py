"""The stand-ins: side by side, restarted, and in the way of each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tidemark.errors import LocalError
from tidemark.local import prism
from tidemark.local.processes import Process, keeps, listens
from tidemark.local.stack import Stack


def test_two_sets_run_side_by_side_and_down_stops_only_its_own(tmp_path: Path) -> None:
    first, second = Stack(tmp_path / "first"), Stack(tmp_path / "second")
    try:
        one, two = first.up(), second.up()
        for name in ("PUBSUB_EMULATOR_HOST", "BIGQUERY_EMULATOR_HOST", "TIDEMARK_DATABASE_URL"):
            assert one[name] != two[name]
        pids = [Process.read(server.pid_file) for server in (second.pubsub, second.postgres, second.bigquery)]
        first.down()
        assert not any(first.running().values())
        assert [process.alive() for process in pids if process] == [True] * 3
        assert first.up() == one, "the same ports and the same database after a restart"
        first.up()  # again: nothing to do
    finally:
        first.down(purge=True)
        second.down(purge=True)
    assert not (tmp_path / "first").exists()


def test_killed_servers_come_back_where_they_were(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "state")
    try:
        before = stack.up()
        for server in (stack.pubsub, stack.postgres, stack.bigquery):
            server.kill()
            server.start()
        assert stack.environment() == before
    finally:
        stack.down(purge=True)


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "state")
    stack.pubsub.start()
    port = stack.pubsub.port()
    try:
        assert listens(port)
        assert not keeps([port])
        command = [sys.executable, "-m", "tidemark.local.pubsub", "--port", str(port), "--state", str(tmp_path / "x")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode != 0
        assert len(done.stderr.strip().splitlines()) == 1
        assert str(port) in done.stderr
    finally:
        stack.pubsub.stop()


def test_a_state_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalError, match="cannot be written"):
        Stack(tmp_path / "file" / "state").up()


def test_a_journal_that_cannot_be_written_is_one_sentence() -> None:
    command = [sys.executable, "-m", "tidemark.local.pubsub", "--port", "0", "--state", "/proc/1/nothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_without_prism_go_and_a_network_the_sentence_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    assert prism.cached() is None
    with pytest.raises(LocalError, match="--prism_location") as caught:
        prism.find_or_build()
    assert "\n" not in str(caught.value)
    assert prism.cached() is None
