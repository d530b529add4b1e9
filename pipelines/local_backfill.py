"""Loads archives on this machine: what is left of them, again when the engine fails, until all is stored and settled."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import engine
from pipelines.archive_plan import Archive, size_of, unfinished
from pipelines.local_engine import LocalEngine
from pipelines.local_run import agreed, cause, make_tables, own_temporary_directory
from pipelines.progress import Shown, refusals
from tidemark.errors import LocalError, TidemarkError, UnavailableError
from tidemark.local import install
from tidemark.logs import REPEATS, log, tell
from tidemark.program import event
from tidemark.settings import Values
from tidemark.stop import Stop
from tidemark.wire.limits import Limits
from transforms import resources
from transforms.archive import ArchivePart
from transforms.counters import count, tally
from transforms.loading import LOADING
from transforms.prometheus import Endpoint, serve
from transforms.resources import Store, Warehouse
from transforms.settle_loaded import settle_loaded

ATTEMPTS: Final = 5
"""So often in a row the engine may fail without a point more."""
PAUSE_S: Final = 1.0
Built = Callable[[Sequence[ArchivePart], Limits, Values], beam.Pipeline]


def run(built: Built, archives: Sequence[Archive], options: PipelineOptions, values: Values, stop: Stop) -> int:
    """Load what is not loaded, and settle what it owes.

    Args:
        built: Builds the pipeline of these parts, with the limits and settings that the store has.
        archives: All files.
        options: Beam's.
        values: Of `settings.BACKFILL`.
        stop: Asked, what was read is stored, and the rest is left for the next time.

    Returns:
        0; 1: something could not be read; 130: it was stopped.

    Raises:
        MisconfiguredError: the database or the dataset is not as it must be.
        UsageError: a file has changed since it was begun.
        LocalError: the engine is not here, or fails whatever is done.
    """
    with own_temporary_directory():
        try:
            return _run(built, archives, options, values, stop)
        finally:
            resources.close()


def _run(built: Built, archives: Sequence[Archive], options: PipelineOptions, values: Values, stop: Stop) -> int:
    began = time.monotonic()
    LOADING.begin()
    stop.then(install.interrupt)
    stop.then(LOADING.stopping.set)
    stop.then(REPEATS.forget)
    try:
        local = engine.local(values)
        serve(Endpoint.of(values))
        values = agreed(Store.of(values), values, stop.asked)
        store = Store.of(values)
        make_tables(values, store, stop.asked)
    except (LocalError, UnavailableError):
        if not stop.asked.is_set():
            raise
        return _stopped()
    todo = left(store, archives, values)
    with Shown(size_of(todo)) as shown:
        parts = [part for archive in todo for part in archive.parts]
        if parts:
            _load(lambda: built(parts, limits_of(store, values), values), options, local, stop)
        settle_loaded(store, Warehouse(values.rollup_dataset, values.bigquery_storage_endpoint))
    _summarize(shown.counts(), len(archives), len(todo), time.monotonic() - began)
    if stop.asked.is_set():
        return _stopped()
    return 1 if LOADING.damage and not values.skip_damaged else 0


def left(store: Store, archives: Sequence[Archive], values: Values) -> list[Archive]:
    """The files of which not all is loaded; of the others it is told.

    Raises:
        UsageError: one has changed since it was begun.
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    known = store.known_files([archive.name for archive in archives], forgotten=values.again)
    todo = []
    for archive, before in unfinished(archives, known, again=values.again):
        if before is None:
            todo.append(archive)
        else:
            tell(
                f"{archive.file} is loaded already, since {before.finished_at:%Y-%m-%d %H:%M} UTC: {before.received:,} points,"
                f" of which {before.dead_lettered:,} were refused. --again reads it once more."
            )
    return todo


def limits_of(store: Store, values: Values) -> Limits:
    """The bounds of the contract; nothing is taken that is older than what the store keeps.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    limits, kept = Limits.of(values), store.kept_from()
    if kept is None:
        return limits
    kept_us = time.time_ns() // 1000 - kept
    return replace(limits, retention_us=min(limits.retention_us, kept_us) if limits.retention_us else kept_us)


def _load(built: Callable[[], beam.Pipeline], options: PipelineOptions, local: LocalEngine, stop: Stop) -> None:
    """Run the pipeline, again when it fails for another cause than a person can mend, until it is through."""
    gc.freeze()  # what Beam has built up to here stays for ever: the collector need not look at it again
    failed, reached = 0, -1.0
    try:
        while not stop.asked.is_set():
            try:
                local.run(built(), options).wait_until_finish()
            except TidemarkError:
                raise
            except Exception as error:  # whatever broke a bundle: what is done is known
                if stop.asked.is_set():
                    return
                got = tally().get("received", 0.0)
                failed, reached = (failed + 1 if got == reached else 1), got
                if failed >= ATTEMPTS:
                    raise LocalError(cause(error)) from error
                count("restarts")
                log.error("The load failed and goes on from where it was: %s", cause(error))
                stop.asked.wait(PAUSE_S)
            else:
                return
    finally:
        local.close()


def _stopped() -> int:
    tell(
        "Stopped. What was read is stored, and settled by a running pipeline, or later; the same command goes on from there."
    )
    return 128 + signal.SIGINT


def _summarize(counts: dict[str, float], files: int, loaded: int, took_s: float) -> None:
    """What became of it, for a person or a program."""
    names = ("received", "inserted", "overwritten", "ignored", "dead_lettered", "mapping_filtered", "settled")
    told = {name: int(counts.get(name, 0)) for name in names}
    if not sys.stdout.isatty():
        reasons = {name: int(number) for name, number in counts.items() if name.startswith("dead_lettered_") and number}
        event(
            "loaded",
            files=files,
            files_before=files - loaded,
            **told,
            **reasons,
            damaged=LOADING.damage,
            seconds=round(took_s, 1),
        )
        return
    lines = [
        (
            f"{told['received']:,} points read: {told['inserted']:,} stored, {told['overwritten']:,} stored over earlier ones,"
            f" {told['ignored']:,} that change nothing, {told['dead_lettered']:,} refused ({refusals(counts) or 'none'})."
        ),
        f"{told['settled']:,} rollups settled. {took_s:,.0f} s.",
    ]
    if told["mapping_filtered"]:
        lines.insert(1, f"Of {told['mapping_filtered']:,} values the mapping makes nothing.")
    if told["dead_lettered"]:
        lines.append("tidemark dead-letters list shows what was refused.")
    print("\n".join(lines))  # noqa: T201
