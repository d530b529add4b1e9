"""The pool of workers for Flink, as a process of its own, with a task manager's control endpoint played by the test."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2 as api
from apache_beam.portability.api import beam_fn_api_pb2_grpc as services

from pipelines import worker_pool
from tidemark.local.processes import Process, children, free_port, start, wait_until


class Control(services.BeamFnControlServicer):
    """A control endpoint: notes which workers report, and holds them."""

    def __init__(self) -> None:
        self.reported: list[str] = []
        self._ended = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(8))
        services.add_BeamFnControlServicer_to_server(self, self._server)
        self.url = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def Control(self, request_iterator: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802, ARG002
        self.reported.append(dict(context.invocation_metadata())["worker_id"])
        self._ended.wait()
        yield from ()

    def close(self) -> None:
        self._ended.set()
        self._server.stop(0).wait()


@pytest.fixture
def control() -> Iterator[Control]:
    made = Control()
    yield made
    made.close()


class Running:
    """A pool, and what a task manager asks of it."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.port = free_port()
        self.process = start([sys.executable, "-m", "pipelines.worker_pool", f"--service_port={self.port}"], log)
        self._channel = grpc.insecure_channel(f"localhost:{self.port}")
        self._stub = services.BeamFnExternalWorkerPoolStub(self._channel)

    def wait_ready(self) -> None:
        grpc.channel_ready_future(self._channel).result(30)

    def start(self, name: str, control: Control) -> None:
        request = api.StartWorkerRequest(worker_id=name)
        request.control_endpoint.url = control.url
        assert not self._stub.StartWorker(request, timeout=30).error

    def stop(self, name: str) -> None:
        assert not self._stub.StopWorker(api.StopWorkerRequest(worker_id=name), timeout=30).error

    def workers(self) -> list[Process]:
        return children(self.process.pid)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path / "pool.log")
    try:
        made.wait_ready()
        yield made
    finally:
        for process in (*made.workers(), made.process):
            process.kill()


def test_a_worker_reports_under_its_name_and_ends_when_it_is_told_to(pool: Running, control: Control) -> None:
    pool.start("1-1", control)
    assert wait_until(lambda: control.reported == ["1-1"], 30)
    pool.stop("1-1")
    assert pool.workers() == []
    pool.stop("1-1")
    time.sleep(2 * worker_pool.PAUSES_S[0])
    assert pool.workers() == []
    assert control.reported == ["1-1"]


def test_a_worker_that_dies_before_it_has_reported_is_started_again(pool: Running, control: Control) -> None:
    pool.start("2-1", control)
    for _ in range(2):
        assert wait_until(lambda: len(pool.workers()) == 1, 10)
        (worker,) = pool.workers()
        assert control.reported == []
        worker.kill()
    assert wait_until(lambda: control.reported == ["2-1"], 30)
    assert "Worker 2-1 ended with status -9; it is started again." in pool.log.read_text()


def test_a_second_worker_of_a_name_takes_the_place_of_the_first(pool: Running, control: Control) -> None:
    pool.start("1-1", control)
    assert wait_until(lambda: len(control.reported) == 1, 30)
    (first,) = pool.workers()
    pool.start("1-1", control)
    assert wait_until(lambda: len(control.reported) == 2, 30)
    assert not first.alive()
    assert len(pool.workers()) == 1


def test_workers_of_two_task_managers_may_have_the_same_name(pool: Running, control: Control) -> None:
    other = Control()
    try:
        pool.start("1-1", control)
        pool.start("1-1", other)
        assert wait_until(lambda: control.reported == other.reported == ["1-1"], 30)
        assert len(pool.workers()) == 2
    finally:
        other.close()


def test_workers_end_with_their_pool(pool: Running, control: Control) -> None:
    for name in ("1-1", "1-2"):
        pool.start(name, control)
    assert wait_until(lambda: sorted(control.reported) == ["1-1", "1-2"], 30)
    workers = pool.workers()
    pool.process.stop()
    assert not any(worker.alive() for worker in workers)


def test_a_worker_whose_task_manager_is_gone_is_not_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_pool, "PAUSES_S", (0.01,))
    worker = worker_pool.Worker("9-1", f"127.0.0.1:{free_port()}", [sys.executable, "-c", "raise SystemExit(3)"])
    worker._thread.join(60)
    assert not worker._thread.is_alive()
    worker.stop()
    assert caplog.messages == ["Worker 9-1 ended with status 3, and its task manager is gone."]


def test_each_worker_that_never_stays_is_told_and_can_be_ended(
    control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_pool, "PAUSES_S", (0.01,))
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    workers = [worker_pool.Worker(name, control.url, command) for name in ("9-1", "9-2")]
    for name in ("9-1", "9-2"):
        said = f"Worker {name} ended with status 3; it is started again."
        assert wait_until(lambda said=said: caplog.messages.count(said) > 1, 30)
    for worker in workers:
        worker.stop()
        assert not worker._thread.is_alive()


def test_a_worker_that_cannot_be_started_fails_its_task(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    request = api.StartWorkerRequest(worker_id="1-1")
    request.control_endpoint.url = control.url
    pool = worker_pool.Pool()
    assert "No such file or directory" in pool.StartWorker(request, None).error
    assert not pool.StopWorker(api.StopWorkerRequest(worker_id="1-1"), None).error


def test_a_pool_that_ends_starts_nothing_more(control: Control) -> None:
    request = api.StartWorkerRequest(worker_id="1-1")
    request.control_endpoint.url = control.url
    pool = worker_pool.Pool()
    pool.stop()
    assert pool.StartWorker(request, None).error == "The worker pool ends."


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "pipelines.worker_pool", f"--service_port={port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert f"cannot listen at 127.0.0.1:{port}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
