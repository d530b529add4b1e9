"""Starts the Python workers of a Flink task manager beside it: Beam's external environment.

A task manager asks for a worker by name and waits for it, for ever. Beam's own pool starts it once, so a worker that
dies before it has reported stops the job without a word; here it is started again. The protocol is that of
BeamFnExternalWorkerPool in Beam's beam_fn_api.proto.

Run it with `python -m pipelines.worker_pool --service_port=50000`.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from apache_beam.portability.api import beam_fn_api_pb2 as api
from apache_beam.portability.api import beam_fn_api_pb2_grpc as services

from pipelines.report import event, reported
from tidemark.errors import MisconfiguredError
from tidemark.logs import log

STARTS: Final = 5
"""A worker that dies as often is given up: its task manager may be gone, without having said so."""
REPORTS_S: Final = 120.0
"""When a worker that has lived as long dies, its task manager knows it and will ask for another."""
PAUSE_S: Final = 1.0
STOPPED_S: Final = 10.0
_WORKER: Final = """\
from sys import argv
from apache_beam.runners.worker.sdk_worker import SdkHarness
SdkHarness(argv[1], worker_id=argv[2], state_cache_size=0, data_buffer_time_limit_ms=-1).run()
"""


class Worker:
    """One worker: a process, which is started again when it dies before it can have reported."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self._name, self._command = name, command
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name=f"worker {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it: with SIGTERM, and after `STOPPED_S` with SIGKILL."""
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.terminate()
            try:
                process.wait(STOPPED_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join()

    def _keep(self) -> None:
        for _ in range(STARTS):
            began = time.monotonic()
            how = self._run()
            if how is None:
                return
            if time.monotonic() - began > REPORTS_S:
                log.warning("Worker %s %s.", self._name, how)
                return
            log.warning("Worker %s %s; it is started again.", self._name, how)
            self._stopping.wait(PAUSE_S)
        log.error("Worker %s failed %d times; if a task manager waits for it, start that again.", self._name, STARTS)

    def _run(self) -> str | None:
        """Start it and wait for its end; returns what went wrong."""
        with self._lock:
            if self._stopping.is_set():
                return None
            try:
                # standard output is the pool's own, for its events
                self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
            except OSError as error:
                return f"cannot be started: {error}"
        status = self._process.wait()
        return None if status == 0 or self._stopping.is_set() else f"ended with status {status}"


class Pool(services.BeamFnExternalWorkerPoolServicer):
    """The workers, by the names that a task manager gives them."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        self._lock = threading.Lock()

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002  # the protocol's name and form
        """Start a worker that reports to the task manager's control endpoint."""
        log.info("Worker %s starts, for %s.", request.worker_id, request.control_endpoint.url)
        command = [sys.executable, "-c", _WORKER, request.control_endpoint.url, request.worker_id]
        self._replace(request.worker_id, None)
        self._replace(request.worker_id, Worker(request.worker_id, command))
        return api.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        """End a worker, if there is one of that name."""
        self._replace(request.worker_id, None)
        return api.StopWorkerResponse()

    def stop(self) -> None:
        """End every worker."""
        with self._lock:
            workers, self._workers = list(self._workers.values()), {}
        with ThreadPoolExecutor(max(1, len(workers))) as threads:
            list(threads.map(Worker.stop, workers))

    def _replace(self, name: str, new: Worker | None) -> None:
        with self._lock:
            old = self._workers.pop(name, None)
            if new is not None:
                self._workers[name] = new
        if old is not None:
            old.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the workers end then.

    Returns:
        0.

    Raises:
        MisconfiguredError: the port is taken.
    """
    parser = argparse.ArgumentParser(prog="pipelines.worker_pool", description=__doc__)
    parser.add_argument("--host", default="localhost", help="Where to listen. Default: %(default)s.")
    parser.add_argument("--service_port", type=int, required=True, help="Port for the task manager.")
    arguments = parser.parse_args(argv)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    pool = Pool()
    server = grpc.server(ThreadPoolExecutor(thread_name_prefix="pool"), options=[("grpc.so_reuseport", 0)])
    services.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    address = f"{arguments.host}:{arguments.service_port}"
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise MisconfiguredError(f"The worker pool cannot listen at {address}: {error}.") from error
    server.start()
    event("ready", address=address)
    ended.wait()
    server.stop(0).wait()
    pool.stop()
    return 0


if __name__ == "__main__":
    sys.exit(reported(main))
