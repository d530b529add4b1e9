"""Flink's own options, and those without which a job of ours does not run well there.

Beam's Python knows few of the options of its Flink runner: the job server takes the rest by name. They are listed here,
so that a misspelt one is refused instead of being as if it were not there.
"""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from typing import Any, Final

from apache_beam.options.pipeline_options import (
    DebugOptions,
    FlinkRunnerOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)

from tidemark.errors import UsageError
from tidemark.settings import flag

RUNNERS: Final = frozenset({"FlinkRunner", "PortableRunner"})
BUNDLE_S: Final = 1.0
"""How long the reader gathers for one bundle: acknowledgements wait for a checkpoint anyway, and each bundle makes the
reader resume, which Beam's runner 2.70 remembers for ever."""
IMAGE_VARIABLE: Final = "TIDEMARK_IMAGE"
DEFAULTS: Final[dict[str, Any]] = {
    "checkpointing_interval": 1000,
    "finish_bundle_before_checkpointing": True,
    "max_bundle_time_mills": 100,
}
"""A message is acknowledged when the checkpoint after its bundle is complete. Without finishing bundles first, jobs
with a short interval hung before their first element; with Flink's own bundle time of a second, throughput is a third."""
SETTINGS: Final = {"prefetch_messages": "100000"}
"""Other defaults of ours: a message is held until the checkpoint after its bundle, seconds instead of milliseconds."""
NOTHING_STAGED: Final = "disable_logging_submission_environment"
"""Beam's experiment. What is staged lies on the job server's disk, where workers look for it whenever they start: it is
gone with a job server that ends with its submission."""


class FlinkOptions(PipelineOptions):
    """What the job server of Beam's Flink runner takes; see FlinkPipelineOptions of Beam's Java SDK."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        whole = (
            ("checkpointing_interval", "Milliseconds between two checkpoints"),
            ("checkpoint_timeout_millis", "Milliseconds after which a checkpoint is given up"),
            ("min_pause_between_checkpoints", "Milliseconds at least between two checkpoints"),
            ("max_bundle_size", "Most elements of a bundle"),
            ("max_bundle_time_mills", "Most milliseconds of a bundle"),
            ("number_of_execution_retries", "How often a failed job is started again"),
            ("execution_retry_delay", "Milliseconds before a failed job is started again"),
            ("shutdown_sources_after_idle_ms", "Milliseconds after which a source that has ended shuts down"),
        )
        for name, text in whole:
            parser.add_argument(f"--{name}", type=int, help=f"Flink: {text}. Default: {DEFAULTS.get(name, 'Flink')}.")
        parser.add_argument(
            "--finish_bundle_before_checkpointing",
            type=_flag,
            nargs="?",
            const=True,
            help="Flink: end bundles before a checkpoint, not after it. Default: true.",
        )
        for name, text in (
            ("state_backend", "rocksdb or hashmap"),
            ("state_backend_storage_path", "Where checkpoints are kept: a path that all task managers share"),
            ("savepoint_path", "Savepoint to start from"),
        ):
            parser.add_argument(f"--{name}", help=f"Flink: {text}.")
        for name, text in (
            ("allow_non_restored_state", "Start from a savepoint that has state of stages that are gone"),
            ("externalized_checkpoints_enabled", "Keep checkpoints beyond the job's failure"),
            ("retain_externalized_checkpoints_on_cancellation", "Keep checkpoints beyond the job's cancellation"),
        ):
            parser.add_argument(f"--{name}", action="store_true", default=None, help=f"Flink: {text}.")


def _flag(text: str) -> bool:
    try:
        return flag(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def chosen(options: PipelineOptions) -> bool:
    """The job goes to a Flink."""
    runner: str = options.view_as(StandardOptions).runner
    return runner in RUNNERS


def prepare(options: PipelineOptions) -> None:
    """Set what follows from ours in Beam's options for Flink; what was given stays.

    Raises:
        UsageError: an option is missing, or one that was given stops acknowledgements.
    """
    flink, portable = options.view_as(FlinkOptions), options.view_as(PortableOptions)
    for name, value in DEFAULTS.items():
        if getattr(flink, name) is None:
            setattr(flink, name, value)
    if flink.checkpointing_interval <= 0:
        raise UsageError("--checkpointing_interval must be at least 1: without checkpoints nothing is acknowledged.")
    if flink.shutdown_sources_after_idle_ms == 0:
        raise UsageError("--shutdown_sources_after_idle_ms=0 stops checkpoints, and with them acknowledgements.")
    if not portable.job_endpoint:
        if options.view_as(StandardOptions).runner == "PortableRunner":
            raise UsageError("--job_endpoint is missing: host:port of the job server.")
        if options.view_as(FlinkRunnerOptions).flink_master in ("[auto]", "[local]"):
            raise UsageError("--flink_master is missing: host:port of the cluster's REST endpoint.")
    options.view_as(DebugOptions).add_experiment(NOTHING_STAGED)
    cloud = options.view_as(GoogleCloudOptions)
    cloud.job_name = cloud.job_name or f"tidemark-ingest-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if portable.environment_type is None:
        image = os.environ.get(IMAGE_VARIABLE)
        if not image:
            raise UsageError(
                f"--environment_type is missing: EXTERNAL with --environment_config=host:port of a worker pool, or set "
                f"{IMAGE_VARIABLE} for DOCKER."
            )
        portable.environment_type, portable.environment_config = "DOCKER", image


def parallelism_given(options: PipelineOptions) -> bool:
    """Whether the number of task slots is known here; else it is the cluster's default."""
    return bool(options.view_as(FlinkRunnerOptions).parallelism > 0)


def parallelism(options: PipelineOptions) -> tuple[int, int]:
    """(task slots, worker processes for each) of a job."""
    slots = max(1, options.view_as(FlinkRunnerOptions).parallelism)
    return slots, max(1, int(options.view_as(PortableOptions).sdk_worker_parallelism))
