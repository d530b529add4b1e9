"""The stand-ins: side by side, restarted, and in the way of each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tidemark.errors import LocalError
from tidemark.local import postgres, prism
from tidemark.local.processes import Process, keeps, listens
from tidemark.local.stack import Stack
from tidemark.store.migrate import migrate


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


def test_the_server_from_pypi_serves_where_there_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMARK_POSTGRES_BIN", str(postgres.embedded().directory))
    server = postgres.Postgres(tmp_path / "postgres")
    try:
        server.start()
        assert migrate(server.url())[0] is None
        server.kill()
        server.start()
        assert migrate(server.url())[0] is not None
    finally:
        server.stop()
        server.purge()


def test_every_command_says_what_it_did_and_where(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def local(*argv: str) -> tuple[int, str, str]:
        status = subprocess.run(
            [sys.executable, "-m", "tidemark", "local", *argv], stdin=subprocess.DEVNULL, check=False
        ).returncode
        said = capfd.readouterr()
        return status, said.out, said.err

    elsewhere, state = str(tmp_path / "elsewhere"), str(tmp_path / "a state")
    for command in ("down", "status"):
        status, out, err = local(command, "--state", elsewhere)
        assert (status, out) == (1, "")
        assert elsewhere in err
    try:
        status, out, err = local("up", "--state", state)
        assert status == 0
        assert all(line.startswith("export ") for line in out.splitlines())
        assert "Started pubsub, postgres and bigquery" in err
        assert f"--state '{state}'" in err
        assert "Everything runs already" in local("up", "--state", state)[2]
        status, out, _ = local("status", "--state", state)
        assert (status, out.count("runs")) == (0, 3)
        assert state in out
        status, out, _ = local("sql", "--state", state, "SELECT 'a%b' AS x, NULL AS y, 1::bigint, now() < now()")
        assert status == 0
        assert out.splitlines()[0].split() == ["x", "y", "int8", "?column?"]
        assert out.splitlines()[2].split() == ["a%b", "1", "False"]
        assert out.endswith("(1 row)\n")
        status, _, err = local("sql", "--state", state, "SELCT 1")
        assert status == 2
        assert "syntax error" in err
        status, out, err = local("down", "--state", state)
        assert (status, out) == (0, "")
        assert "Stopped pubsub, postgres and bigquery" in err
        assert state in err
        assert "Nothing ran" in local("down", "--state", state)[2]
    finally:
        assert "removed" in local("down", "--purge", "--state", state)[2]
    assert not Path(state).exists()


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
