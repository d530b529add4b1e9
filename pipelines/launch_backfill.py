"""Submits a load of archives to a remote runner."""

from __future__ import annotations

from collections.abc import Sequence

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import flink, flink_submission
from pipelines.archive_plan import Archive
from pipelines.launch import job_id, prepared
from pipelines.local_backfill import Built, left, limits_of
from tidemark.program import event
from tidemark.settings import Values
from transforms import resources
from transforms.resources import Store


def run(built: Built, archives: Sequence[Archive], options: PipelineOptions, values: Values) -> int:
    """Make missing tables, submit; the job then runs on without this process.

    Returns:
        0: submitted, or there was nothing to load.

    Raises:
        UsageError: a file has changed since it was begun.
        MisconfiguredError, UnavailableError: the database, BigQuery or the runner.
    """
    try:
        values = prepared(values)
        store = Store.of(values)
        todo = left(store, archives, values)
        limits = limits_of(store, values)
    finally:
        resources.close()
    if not todo:
        event("loaded", files=len(archives), files_before=len(archives), received=0)
        return 0
    pipeline = built([part for archive in todo for part in archive.parts], limits, values)
    job = flink_submission.submit(pipeline.run, options) if flink.chosen(options) else job_id(pipeline.run())
    event("submitted", job=job, files=len(todo))
    return 0
