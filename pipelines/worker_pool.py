"""Starts the Python workers of a Flink task manager beside it: Beam's external environment.

A task manager asks for a worker by name and waits for it, for ever. Beam's own pool starts it once, so a worker that
dies before it has reported stops the job without a word; here it is started again for as long as somebody listens where
it has to report. The protocol is that of BeamFnExternalWorkerPool in Beam's beam_fn_api.proto. As with Beam's own pool,
workers run in this environment: what a job has staged, and options of its workers' process, do not reach them.

Run it with `python -m pipelines.worker_pool --service_port=50000`.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from apache_beam.portability.api import beam_fn_api_pb2 as api
from apache_beam.portability.api import beam_fn_api_pb2_grpc as services

from pipelines.report import reported
from tidemark.errors import MisconfiguredError
from tidemark.program import event

PAUSES_S: Final = (1.0, 2.0, 5.0, 10.0)
"""Before each further start of a worker; the last one again and again."""
STOPPED_S: Final = 10.0
CONNECT_S: Final = 5.0
_WORKER: Final = """\
from sys import argv
from apache_beam.runners.worker.sdk_worker import SdkHarness
SdkHarness(argv[1], worker_id=argv[2], state_cache_size=0, data_buffer_time_limit_ms=-1).run()
"""
# not the logger whose repeats are held back: workers' names differ by a number only
_log: Final = logging.getLogger("tidemark.worker_pool")


class Worker:
    """One worker: a process, which is started again when it fails while its task manager is there.

    Args:
        name: What its task manager calls it.
        endpoint: host:port where it has to report.
        command: Of the process.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, name: str, endpoint: str, command: Sequence[str]) -> None:
        self.endpoint = endpoint
        self._name, self._command = name, command
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process = self._started()
        self._thread = threading.Thread(target=self._keep, name=f"worker {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it: with SIGTERM, and after `STOPPED_S` with SIGKILL."""
        with self._lock:
            self._stopping.set()
            process = self._process
        process.terminate()
        try:
            process.wait(STOPPED_S)
        except subprocess.TimeoutExpired:
            process.kill()
        self._thread.join()

    def _started(self) -> subprocess.Popen[bytes]:
        # standard output is the pool's own, for its events
        return subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=sys.stderr)

    def _keep(self) -> None:
        failures = 0
        while True:
            status = self._process.wait()
            if status == 0 or self._stopping.is_set():
                return
            pause_s = PAUSES_S[min(failures, len(PAUSES_S) - 1)]
            failures += 1
            if self._stopping.wait(pause_s):
                return
            if not _listens(self.endpoint):
                _log.warning("Worker %s ended with status %d, and its task manager is gone.", self._name, status)
                return
            _log.warning("Worker %s ended with status %d; it is started again.", self._name, status)
            if not self._again():
                return

    def _again(self) -> bool:
        """Start it again; False when it shall not run any more."""
        while True:
            with self._lock:
                if self._stopping.is_set():
                    return False
                try:
                    self._process = self._started()
                except OSError as error:
                    _log.warning("Worker %s cannot be started: %s.", self._name, error)
                else:
                    return True
            self._stopping.wait(PAUSES_S[-1])


def _listens(endpoint: str) -> bool:
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except OSError:
        return False
    return True


class Pool(services.BeamFnExternalWorkerPoolServicer):
    """The workers, by the names that task managers give them: of two task managers, two may have the same."""

    def __init__(self) -> None:
        self._workers: dict[str, list[Worker]] = {}
        self._lock = threading.Lock()
        self._stopped = False

    def StartWorker(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002  # the protocol's name and form
        """Start a worker that reports to the task manager's control endpoint; a failure fails its task."""
        name, endpoint = request.worker_id, request.control_endpoint.url
        command = [sys.executable, "-c", _WORKER, endpoint, name]
        self._end(name, lambda worker: worker.endpoint == endpoint or not _listens(worker.endpoint))
        try:
            with self._lock:
                if self._stopped:
                    return api.StartWorkerResponse(error="The worker pool ends.")
                self._workers.setdefault(name, []).append(Worker(name, endpoint, command))
        except OSError as error:
            return api.StartWorkerResponse(error=f"Worker {name} cannot be started: {error}.")
        event("started", worker=name, reports_to=endpoint)
        return api.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:  # noqa: N802, ARG002
        """End the workers of a name, if there are any: the protocol does not say of which task manager."""
        self._end(request.worker_id, lambda _: True)
        return api.StopWorkerResponse()

    def stop(self) -> None:
        """End every worker; no more are started."""
        with self._lock:
            self._stopped = True
            workers = [worker for of in self._workers.values() for worker in of]
            self._workers.clear()
        with ThreadPoolExecutor(max(1, len(workers))) as threads:
            list(threads.map(Worker.stop, workers))

    def _end(self, name: str, unwanted: Callable[[Worker], bool]) -> None:
        with self._lock:
            workers = list(self._workers.get(name, ()))
        for worker in filter(unwanted, workers):
            worker.stop()
            with self._lock:
                of = self._workers.get(name, [])
                if worker in of:
                    of.remove(worker)
                if not of:
                    self._workers.pop(name, None)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the workers end then.

    Returns:
        0.

    Raises:
        MisconfiguredError: the port is taken.
    """
    parser = argparse.ArgumentParser(prog="pipelines.worker_pool", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen at. Default: %(default)s.")
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
