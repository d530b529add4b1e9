"""Prism and the workers it asks for, on this machine and for it alone: nothing listens beyond the loopback interface.

Beam would start both itself: then Prism takes part in the terminal's Ctrl-C, a signal handler of Beam's goes before
ours, and the workers' endpoint is open to the network.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Final

import grpc
from apache_beam.options.pipeline_options import DebugOptions, PipelineOptions, PortableOptions, WorkerOptions
from apache_beam.portability.api import beam_fn_api_pb2_grpc as services
from apache_beam.runners.portability.prism_runner import PrismRunner
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance

from tidemark.local.prism import Prism
from tidemark.local.processes import wait_until

_FOR_EVER_S: Final = 100 * 365 * 86_400
_STOP_S: Final = 1.0
_STREAMS_S: Final = 5.0
_THREADS: Final = ("run_worker_", "read_grpc_client_inputs", "read_state")
"""Beam's names of a worker's threads, and of those that read what Prism sends it."""


class LocalEngine:
    """A Prism that is started when it is needed, and threads of this process as its workers.

    Args:
        binary: Of Prism.
    """

    def __init__(self, binary: Path) -> None:
        self._binary = binary
        self._prism: Prism | None = None
        self._pool: Any = None
        self._pool_endpoint = ""

    def run(self, pipeline: Any, options: PipelineOptions) -> Any:
        """Start a pipeline; returns Beam's result, without waiting for it.

        Raises:
            LocalError: Prism does not start.
        """
        portable = options.view_as(PortableOptions)
        portable.job_endpoint = self._running().endpoint
        portable.environment_type, portable.environment_config = "EXTERNAL", self._workers(options)
        # the stream on which the job's state is told has this deadline too: by default a job fails after an hour
        portable.job_server_timeout = _FOR_EVER_S
        return PrismRunner().run_pipeline(pipeline, options)

    def close(self) -> None:
        """End Prism and the workers, which are given time to close their streams: a broken one is a traceback."""
        wait_until(lambda: not any(t.name.startswith(_THREADS) for t in threading.enumerate()), _STREAMS_S)
        if self._prism is not None:
            self._prism.stop()
        if self._pool is not None:
            self._pool.stop(_STOP_S)
        self._prism = self._pool = None

    def _running(self) -> Prism:
        """Of a Prism that has died a new one takes the place."""
        if self._prism is None or not self._prism.runs():
            self._prism = Prism(self._binary)
        return self._prism

    def _workers(self, options: PipelineOptions) -> str:
        """Where Prism asks for workers; as Beam's LOOPBACK environment, whose endpoint cannot be chosen."""
        if self._pool is None:
            settings = [("grpc.http2.max_pings_without_data", 0), ("grpc.http2.max_ping_strikes", 0)]
            self._pool = grpc.server(shared_unbounded_instance(), options=settings)
            self._pool_endpoint = f"127.0.0.1:{self._pool.add_insecure_port('127.0.0.1:0')}"
            cached_bytes = (options.view_as(WorkerOptions).max_cache_memory_usage_mb or 0) << 20
            servicer = BeamFnExternalWorkerPoolServicer(
                state_cache_size=cached_bytes, data_buffer_time_limit_ms=_buffered_ms(options)
            )
            services.add_BeamFnExternalWorkerPoolServicer_to_server(servicer, self._pool)
            self._pool.start()
        return self._pool_endpoint


def _buffered_ms(options: PipelineOptions) -> int:
    return int(options.view_as(DebugOptions).lookup_experiment("data_buffer_time_limit_ms", 0))
