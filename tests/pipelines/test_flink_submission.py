"""What becomes of a submission when Flink or the job server fails; with a real Flink, tests/flink."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from pipelines import flink_submission, launch
from pipelines.options import parse
from tidemark.errors import MisconfiguredError, UnavailableError
from tidemark.local.processes import free_port

OURS = {"jid": "2", "name": "ours"}
OTHER = {"jid": "1", "name": "ours"}
"""An earlier job of the same name."""


class Flink:
    """Answers as Flink's list of jobs; the last answer again and again, None is 503."""

    def __init__(self) -> None:
        self.answers: list[object] = [{"jobs": [OTHER]}]
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # the library's name
                answer = outer.answers[min(outer.asked, len(outer.answers) - 1)]
                outer.asked += 1
                body = json.dumps(answer).encode()
                self.send_response(503 if answer is None else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def flink() -> Iterator[Flink]:
    made, handler = Flink(), signal.getsignal(signal.SIGTERM)
    yield made
    signal.signal(signal.SIGTERM, handler)
    made.close()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flink_submission, "STAYS_S", 0.1)
    monkeypatch.setattr(flink_submission, "RUNNING_S", 3.0)


def arguments(master: str) -> list[str]:
    return [
        "--runner=FlinkRunner",
        f"--flink_master={master}",
        "--job_name=ours",
        "--environment_type=EXTERNAL",
        "--environment_config=127.0.0.1:9",
        "--subscription=projects/p/subscriptions/s",
        "--rollup_dataset=project.dataset",
        "--database_secret=file:/nowhere",
        "--preflight=false",
    ]


def options(flink: Flink) -> PipelineOptions:
    return parse(arguments(flink.address))[0]


def job(state: str = PipelineState.RUNNING) -> SimpleNamespace:
    return SimpleNamespace(state=state)


def test_no_job_server_is_started_for_a_flink_that_is_away() -> None:
    away = f"127.0.0.1:{free_port()}"
    with pytest.raises(UnavailableError, match=f"Flink at http://{away} does not answer"):
        flink_submission.submit(lambda: pytest.fail("submitted"), parse(arguments(away))[0])


@pytest.mark.parametrize("answer", [None, [], {"jobs": ["x"]}, {}])
def test_nothing_is_submitted_to_what_is_no_flink(flink: Flink, answer: object) -> None:
    flink.answers = [answer]
    with pytest.raises(UnavailableError, match="does not answer as Flink does"):
        flink_submission.submit(lambda: pytest.fail("submitted"), options(flink))


def test_a_job_is_submitted_when_flink_lists_it_and_a_bad_answer_is_not_the_end(flink: Flink) -> None:
    before, listed = {"jobs": [OTHER]}, {"jobs": [OTHER, OURS]}
    flink.answers = [before, None, before, listed]
    assert flink_submission.submit(job, options(flink)) == "ours"
    assert flink.asked >= 4


def test_a_job_that_flink_does_not_list_may_run_all_the_same(flink: Flink) -> None:
    with pytest.raises(UnavailableError, match=r"Whether Flink runs the job ours is not known: .* before you submit"):
        flink_submission.submit(job, options(flink))


def test_a_job_that_has_failed_is_no_success(flink: Flink) -> None:
    flink.answers = [{"jobs": []}, {"jobs": [OURS]}]
    with pytest.raises(MisconfiguredError, match="which is FAILED"):
        flink_submission.submit(lambda: job(PipelineState.FAILED), options(flink))


@pytest.mark.parametrize(
    ("launcher", "said"),
    [(None, "No such file or directory"), ("#!/bin/sh\necho the disk is full\nexit 3\n", "the disk is full")],
)
def test_a_job_server_that_cannot_be_started_is_told(
    flink: Flink, tmp_path: Path, launcher: str | None, said: str
) -> None:
    jar, java = tmp_path / "job-server.jar", tmp_path / "java"
    jar.touch()
    if launcher is not None:
        java.write_text(launcher)
        java.chmod(0o755)
    given = [*arguments(flink.address), f"--flink_job_server_jar={jar}", f"--job_server_java_launcher={java}"]
    command = [sys.executable, "-m", "pipelines.ingest", *given]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    # not always the last line: Beam hands on what the launcher prints, and what becomes of it, in threads of its own
    assert any(line.startswith("Beam cannot start a job server for Flink: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize(("given", "told"), [([], True), (["--parallelism=2"], False)])
def test_a_job_whose_connections_cannot_be_counted_says_so(
    given: list[str], told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "127.0.0.1:9")
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    parsed, values = parse([*arguments("127.0.0.1:9")[:-1], *given])
    with pytest.raises(MisconfiguredError, match="no job was submitted"):
        launch.run(lambda: pytest.fail("submitted"), parsed, values)
    assert ("give --parallelism" in capsys.readouterr().err) == told
