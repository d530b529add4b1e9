"""The pipeline: Pub/Sub → raw rows in TimescaleDB, rollups in BigQuery.

    read ─▶ decode ─▶ write raw ─▶ preview ─▶ write previews
                        │ marks
                        ▼
    tick ───────────▶ settle ────────────────▶ write settled

Run it with `python -m pipelines.ingest --help`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tidemark.stop import STOP

if __name__ == "__main__":  # importing Beam takes seconds, and a signal may come by then
    STOP.listen("Stopping: what was taken is written and settled first. A second signal ends at once; nothing is lost.")

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import engine, launch, local_run
from pipelines.locations import read_location
from pipelines.options import parse
from pipelines.report import help_text, reported
from tidemark.mapping import program
from tidemark.mapping.program import Program
from tidemark.settings import INGEST, Values
from tidemark.wire.limits import Limits
from transforms.decode import DecodeMessages
from transforms.heartbeat import Heart
from transforms.preview import Preview
from transforms.prometheus import Endpoint
from transforms.resources import Store, Warehouse
from transforms.settle import Settle
from transforms.source import READING, ReadMessages
from transforms.write_raw import WriteRaw
from transforms.write_rollups import WriteRollups


def build(pipeline: beam.Pipeline, options: PipelineOptions, values: Values, mapping: Program | None = None) -> None:
    """Every stage, in the order a message lives; labels are stable, since engines match state by them."""
    base_s = values.tiers_s[0]
    preview_s = values.horizon_s + values.lateness_slack_s
    store = Store.of(values)
    warehouse = Warehouse(values.rollup_dataset, values.bigquery_storage_endpoint)
    native = engine.reads_pubsub(options)
    heart = Heart(store, engine.job_name(options, values))
    read = ReadMessages(
        values.subscription,
        native=native,
        max_messages=values.prefetch_messages,
        max_bytes=values.prefetch_bytes,
        threads=values.pull_threads,
        idle_timeout_s=values.idle_timeout_s,
        span_s=values.watermark_span_s,
        max_lateness_s=preview_s,
        heart=None if native else heart,
        run=READING.run,
        bundle_s=engine.bundle_s(options),
    )
    metrics = Endpoint.of(values)
    raw = (
        pipeline
        | "read" >> read
        | "decode" >> DecodeMessages(Limits.of(values), mapping)
        | "write raw"
        >> WriteRaw(store, values.shards, preview_s, metrics, heart if native else None, previews=values.previews)
    )
    if values.previews:
        previews = raw | "preview" >> Preview(base_s, values.early_firing_s, preview_s, values.quantiles)
        previews | "write previews" >> WriteRollups(store, warehouse, metrics)
    settled = pipeline | "settle" >> Settle(store, values.settle_every_s, metrics)
    settled | "write settled" >> WriteRollups(store, warehouse, metrics)


def main(argv: Sequence[str] | None = None) -> int:
    """Check the options, build the graph, run it.

    Returns:
        0: drained (local) or submitted (remote); 1: it could not run; 2: an option is wrong; 128 and the signal's
        number: a second signal ended a local run at once, or the first one a submission.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        print(help_text(__doc__, INGEST))  # noqa: T201
        return 0
    return reported(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    options, values = parse(arguments)
    mapping = program.of_settings(values, read_location)  # its text travels with the job

    def built(agreed: Values) -> beam.Pipeline:
        pipeline = beam.Pipeline(options=options)
        build(pipeline, options, agreed, mapping)
        return pipeline

    if engine.is_local(options):
        return local_run.run(built, options, values, STOP)
    STOP.leave()
    return launch.run(lambda agreed: built(agreed).run(), options, values)


if __name__ == "__main__":
    sys.exit(main())
