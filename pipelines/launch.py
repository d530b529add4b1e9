"""Submits a pipeline to a remote runner, after looking at what it will need there."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Final

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    WorkerOptions,
)

from pipelines import flink, flink_submission
from tidemark.errors import MisconfiguredError
from tidemark.findings import failed, text, warned
from tidemark.logs import tell
from tidemark.operate.preflight import Fleet, preflight
from tidemark.program import event
from tidemark.settings import Values
from tidemark.warehouse.clients import rest
from tidemark.warehouse.owner import claim
from tidemark.warehouse.tables import ensure
from transforms import resources
from transforms.resources import Store

DEFAULT_WORKERS: Final = 100
"""To how many Dataflow scales a Streaming Engine job that sets no bound."""
DEFAULT_CPUS: Final = 2
_LEVELS: Final = {"pass": logging.INFO, "warn": logging.WARNING, "fail": logging.ERROR}


def run(start: Callable[[Values], Any], options: PipelineOptions, values: Values) -> int:
    """Check, make missing tables, submit; the job then runs on without this process.

    Args:
        start: Submits the job with the settings that the store has; without preflight, with those given: its workers then
            find out.
        options: Beam's.
        values: Of `settings.INGEST`.

    Returns:
        0: submitted.

    Raises:
        MisconfiguredError: a check failed, and nothing was submitted; or Flink could not run the job.
        UnavailableError: Flink or its job server does not answer, or is not done with the job after `flink_submission.RUNNING_S`.
    """
    if values.preflight:
        cloud = options.view_as(GoogleCloudOptions)
        findings = preflight(values, fleet(options), cloud.region)
        if flink.chosen(options) and not flink.parallelism_given(options):
            findings.append(
                warned(
                    "parallelism",
                    "not given: one slot's connections were counted, and the cluster's default is used",
                    "give --parallelism",
                )
            )
        for finding in findings:
            tell(text([finding]), _LEVELS[finding.level])
        if failed(findings):
            raise MisconfiguredError("The preflight failed, so no job was submitted: see the lines marked FAIL.")
        values = prepared(values)
        resources.close()
    event(
        "submitted",
        job=flink_submission.submit(lambda: start(values), options) if flink.chosen(options) else job_id(start(values)),
    )
    return 0


def prepared(values: Values) -> Values:
    """Make missing tables; returns the settings as the store has them.

    Raises:
        MisconfiguredError, UnavailableError: the database or BigQuery.
    """
    client = rest(values.rollup_dataset)
    ensure(client, values.rollup_dataset, values.rollup_location)
    store = Store.of(values)
    claim(client, values.rollup_dataset, store.identity())
    return store.agreed(values)


def job_id(result: Any) -> str | None:
    """None when Beam wrote a template instead of starting a job: whoever asked for it starts it."""
    return result.job_id() if getattr(result, "has_job", False) else None


def fleet(options: PipelineOptions) -> Fleet:
    """How many worker processes the job may come to have."""
    if flink.chosen(options):
        return Fleet(*flink.parallelism(options))
    workers = options.view_as(WorkerOptions)
    experiments = options.view_as(DebugOptions).experiments or []
    cpus = re.search(r"-(\d+)$", workers.machine_type or "")
    processes = int(cpus[1]) if cpus else DEFAULT_CPUS
    if "no_use_multiple_sdk_containers" in experiments:
        processes = 1
    return Fleet(workers.max_num_workers or DEFAULT_WORKERS, processes)
