"""Hands a job to Flink, through a job server that is there or one that Beam starts for it."""

from __future__ import annotations

import http.client
import json
import logging
import signal
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
)
from apache_beam.runners.portability.flink_runner import FlinkRunner
from apache_beam.runners.runner import PipelineState

from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError
from tidemark.logs import tell

RUNNING_S: Final = 120.0
STAYS_S: Final = 5.0
LAST_LINES: Final = 20
JOB_SERVER: Final = "FlinkJarJobServer"
"""The logger to which Beam gives the output of a job server that it has started."""


def submit(start: Callable[[], Any], options: PipelineOptions) -> str:
    """Submit a job; returns the name by which Flink lists it.

    A job server that was started for this ends with the program, so the job must be in Flink's list by then. A job
    server that was there already is only waited for until it has given the job to Flink: its client tries for a minute
    when Flink is away, and only the job server's log and Flink's list of jobs tell the end.

    Raises:
        MisconfiguredError: the job has failed within `STAYS_S`, or no job server can be started.
        UnavailableError: Flink or the job server does not answer, or is not done with the job after `RUNNING_S`.
    """
    endpoint = options.view_as(PortableOptions).job_endpoint
    name: str = options.view_as(GoogleCloudOptions).job_name
    if endpoint:
        _wait_running(_started(start, endpoint), name, lambda: True)
    else:
        master = FlinkRunner.add_http_scheme(options.view_as(FlinkRunnerOptions).flink_master)
        before = _jobs(master)
        # the job server that Beam starts ends with this program only when the program ends by itself
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        with _told(logging.getLogger(JOB_SERVER)):
            try:
                result = _started(start, "that was started here")
            except (OSError, RuntimeError, ValueError) as error:
                raise MisconfiguredError(f"Beam cannot start a job server for Flink: {error}") from error
            _wait_running(result, name, lambda: name in _new(master, before))
    return name


def _started(start: Callable[[], Any], where: str) -> Any:
    try:
        return start()
    except (grpc.RpcError, grpc.FutureTimeoutError) as error:
        said = error.details() if isinstance(error, grpc.Call) else "nobody is there"
        raise UnavailableError(f"The job server {where} does not take the job: {said}.") from error


def _wait_running(result: Any, name: str, listed: Callable[[], bool]) -> None:
    try:
        _look_until_running(result, listed)
    except (grpc.RpcError, UnavailableError) as error:
        said = error.details() if isinstance(error, grpc.Call) else error
        raise UnavailableError(
            f"Whether Flink runs the job {name} is not known: {said} Look at Flink's list of jobs before you submit again."
        ) from error


def _look_until_running(result: Any, listed: Callable[[], bool]) -> None:
    until = time.monotonic() + RUNNING_S
    runs_since: float | None = None
    while runs_since is None or time.monotonic() < runs_since + STAYS_S:
        state = result.state
        if PipelineState.is_terminal(state):
            raise MisconfiguredError(f"Flink could not run the job, which is {state}: the job server's log says why.")
        if state == PipelineState.RUNNING and listed():
            runs_since = runs_since or time.monotonic()
        elif time.monotonic() > until:
            raise UnavailableError(f"it is {state} to the job server, and not in the list, after {RUNNING_S:g} s.")
        time.sleep(0.5)


def _new(master: str, before: set[tuple[str, str]]) -> set[str]:
    """Names of the jobs that were not listed before; none while Flink does not answer."""
    try:
        return {name for _, name in _jobs(master) - before}
    except UnavailableError:
        return set()


def _jobs(master: str) -> set[tuple[str, str]]:
    """(id, name) of each job that Flink lists."""
    try:
        # as Flink's own client, no proxy
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{master.rstrip('/')}/jobs/overview", timeout=30) as answer:
            return {(job["jid"], job["name"]) for job in json.load(answer)["jobs"]}
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        raise UnavailableError(f"Flink at {master} does not answer as Flink does: {error}.") from error


class _Lines(logging.Handler):
    """The last lines of a log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[str] = deque(maxlen=LAST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _told(logger: logging.Logger) -> Iterator[None]:
    """Keep quiet what a logger says, but for its last lines when something fails."""
    handler, level, propagate = _Lines(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    except TidemarkError:
        for line in handler.lines:
            tell(line)
        raise
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
