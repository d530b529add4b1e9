"""Loads archives into the raw store, beside live traffic: the same points, blocks, marks and rollups as from Pub/Sub.

    parts ─▶ read ─▶ decode ─▶ write raw ─▶ settle
                                  │ marks, and how far the file is loaded

    python -m pipelines.backfill FILE|PATTERN|gs://…|-  --database_url=… --rollup_dataset=…

FILE holds JSON lines, CSV with a header or Parquet; lines and CSV may be packed (gzip, bzip2, xz, zstd). It may be killed at any
instant and run again: what is stored is passed over.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tidemark.stop import STOP

if __name__ == "__main__":  # importing Beam takes seconds, and a signal may come by then
    STOP.listen("Stopping: what was read is stored first. The same command goes on from there.")

import apache_beam as beam

from pipelines import archive_plan, dry_run, engine, launch_backfill, local_backfill
from pipelines.backfill_options import parse
from pipelines.locations import read_location
from pipelines.report import help_text, reported
from tidemark.mapping import program
from tidemark.mapping.program import Program
from tidemark.settings import BACKFILL, Values
from tidemark.wire.limits import Limits
from transforms.archive import ArchivePart
from transforms.decode_archives import DecodeArchives
from transforms.read_archives import ReadArchives
from transforms.resources import Store, Warehouse
from transforms.settle_loaded import SettleLoaded
from transforms.write_archives import WriteArchives


def build(
    pipeline: beam.Pipeline,
    parts: Sequence[ArchivePart],
    limits: Limits,
    values: Values,
    mapping: Program | None = None,
    *,
    is_local: bool = False,
) -> None:
    """Every stage, in the order a line lives; no previews: what an archive holds is over."""
    store = Store.of(values)
    warehouse = Warehouse(values.rollup_dataset, values.bigquery_storage_endpoint)
    loaded = (
        pipeline
        | "parts" >> beam.Create(parts)
        | "apart" >> beam.Reshuffle()
        | "read" >> ReadArchives(store, values.gather_s, values.skip_damaged, limits.max_message_bytes)
        | "decode" >> DecodeArchives(limits, mapping, values.series_project)
        | "write raw" >> WriteArchives(store, values.gather_s, values.writers, values.max_rate)
        | "all parts" >> beam.CombineGlobally(beam.combiners.CountCombineFn())
    )
    if not is_local:  # here the program does it: Prism awaits a stage that takes long in a loop that never rests
        loaded | "settle" >> SettleLoaded(store, warehouse)


def main(argv: Sequence[str] | None = None) -> int:
    """Check the options, look at the files, build the graph, run it.

    Returns:
        0: all of it is loaded and settled (local) or submitted (remote); 1: it could not run, or a file could not be read to its
        end; 2: an option or a file is wrong; 130: a signal ended it, and it can go on.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--help" in arguments or "-h" in arguments:
        print(help_text(__doc__, BACKFILL))  # noqa: T201
        return 0
    return reported(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    with STOP.before_the_work():
        options, values, files = parse(arguments)
        mapping = program.of_settings(values, read_location)  # its text travels with the job
        is_local = values.dry_run or engine.is_local(options)
        archives = archive_plan.planned(files, remote=not is_local)
    if values.dry_run:
        return dry_run.run(archives, values, mapping, STOP)

    def built(parts: Sequence[ArchivePart], limits: Limits, agreed: Values) -> beam.Pipeline:
        pipeline = beam.Pipeline(options=options)
        build(pipeline, parts, limits, agreed, mapping, is_local=is_local)
        return pipeline

    if is_local:
        return local_backfill.run(built, archives, options, values, STOP)
    STOP.leave()
    return launch_backfill.run(built, archives, options, values)


if __name__ == "__main__":
    sys.exit(main())
