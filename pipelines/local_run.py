"""Runs a pipeline on this machine: progress, restarts, draining, the last settling."""

from __future__ import annotations

import contextlib
import gc
import logging
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines import engine
from pipelines.local_engine import LocalEngine
from tidemark.allocator import Allocator
from tidemark.bus.subscription import Subscription
from tidemark.errors import LocalError, TidemarkError, UnavailableError
from tidemark.local import install
from tidemark.logs import REPEATS, log, tell
from tidemark.program import event
from tidemark.retry import FIRST_WAIT_S, LONGEST_WAIT_S, until_done, waits
from tidemark.settings import Values
from tidemark.stop import Stop
from tidemark.warehouse.clients import rest
from tidemark.warehouse.owner import claim
from tidemark.warehouse.tables import ensure
from transforms import resources
from transforms.counters import count, tally
from transforms.prometheus import Endpoint, serve
from transforms.resources import Store, Warehouse
from transforms.settle_loaded import settle_rest
from transforms.source import READING
from transforms.write_raw import note_sources

PROGRESS_S: Final = 2.0
TOLD_S: Final = 5.0
STEADY_S: Final = 60.0
"""A run that lasted this long was not failing at once: its next restart waits little again."""
COLLECTED: Final = (50_000, 10, 10)
"""After so many new objects the collector looks for cycles: a pull makes thousands, and hardly ever a cycle."""


def run(built: Callable[[Values], beam.Pipeline], options: PipelineOptions, values: Values, stop: Stop) -> int:
    """Run until it is asked to stop, or until idle for `stop_when_idle_s`; then drain and settle.

    Order of a drain: (1) no more is pulled, and what nobody has taken is given back; (2) what was taken is written,
    acknowledged and previewed, and the pipeline ends; (3) due marks are settled (after `stop_when_idle_s` all of
    them); (4) the counters are printed. What it has to wait for meanwhile it tells every `TOLD_S`.

    Args:
        built: Builds the pipeline, with the settings that the store has.
        options: Beam's.
        values: Of `settings.INGEST`.
        stop: Asked before the pipeline runs, nothing is drained: nothing was taken.

    Returns:
        0.

    Raises:
        MisconfiguredError: the subscription, the database or the dataset is not as it must be.
        LocalError: the engine is not here and cannot be made.
        UsageError: the engine cannot run this pipeline.
    """
    with own_temporary_directory():
        return _run_and_settle(built, options, values, stop)


def _run_and_settle(
    built: Callable[[Values], beam.Pipeline], options: PipelineOptions, values: Values, stop: Stop
) -> int:
    allocator = Allocator()
    store = Store.of(values)
    warehouse = Warehouse(values.rollup_dataset, values.bigquery_storage_endpoint)
    stop.then(install.interrupt)
    stop.then(REPEATS.forget)  # what it waits for is told once more
    try:
        local = engine.local(values)
        serve(Endpoint.of(values))
        values = agreed(store, values, stop.asked)
        store = Store.of(values)
        _check(store, values, stop.asked)
    except (LocalError, UnavailableError):
        if not stop.asked.is_set():
            raise
    if not stop.asked.is_set():
        ended = threading.Event()
        threading.Thread(target=_watch, args=(stop.asked, ended, values, allocator), name="watch", daemon=True).start()
        _run(lambda: built(values), options, local, stop.asked)
        note_sources(store)
        settle_rest(store, warehouse, everything=bool(values.stop_when_idle_s))
        ended.set()
    READING.close()
    resources.close()
    event("drained", **tally())
    return 0


@contextlib.contextmanager
def own_temporary_directory() -> Iterator[None]:
    """What Beam leaves in the temporary directory, of each pipeline a few directories, goes with the program."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="tidemark-ingest-", ignore_cleanup_errors=True) as made:
        tempfile.tempdir = made
        try:
            yield
        finally:
            tempfile.tempdir = before


def _run(
    built: Callable[[], beam.Pipeline], options: PipelineOptions, local: LocalEngine, stopping: threading.Event
) -> None:
    """Run the pipeline until it has drained."""

    def start() -> Any:
        pipeline = built()
        engine.refuse(pipeline)
        return local.run(pipeline, options)

    gc.freeze()  # what Beam has built up to here stays for ever: the collector need not look at it again
    gc.set_threshold(*COLLECTED)
    try:
        _supervise(start, stopping)
    finally:
        local.close()


def agreed(store: Store, values: Values, stopping: threading.Event) -> Values:
    """Settings as the store has them; while it is away they are waited for."""
    return until_done(lambda: store.agreed(values), waits_for=(UnavailableError,), give_up=stopping)


def _check(store: Store, values: Values, stopping: threading.Event) -> None:
    """Look at each service once.

    Without Pub/Sub or the database there is nothing to do but wait for them. BigQuery is not needed for storing
    points: what is missing there is made once it answers.
    """
    until_done(Subscription(values.subscription).check, waits_for=(UnavailableError,), give_up=stopping)
    make_tables(values, store, stopping)


def make_tables(values: Values, store: Store, stopping: threading.Event) -> None:
    """See that the database is there, and BigQuery's tables; where that is away, they are made once it answers.

    Raises:
        MisconfiguredError: they are not as they must be.
    """
    until_done(store.settler().oldest_due_s, waits_for=(UnavailableError,), give_up=stopping)

    def tables() -> None:
        client = rest(values.rollup_dataset)
        ensure(client, values.rollup_dataset, values.rollup_location)
        claim(client, values.rollup_dataset, store.identity())

    try:
        tables()
    except UnavailableError as error:
        log.warning("%s Points are stored meanwhile.", error)
        threading.Thread(target=until_done, args=(tables,), name="tables", daemon=True).start()


def _supervise(start: Callable[[], Any], stopping: threading.Event) -> None:
    """Start the pipeline, again whenever it fails, until it has drained."""
    wait = FIRST_WAIT_S
    while not stopping.is_set():
        began = time.monotonic()
        running = start()
        try:
            running.wait_until_finish()
        except TidemarkError:
            raise
        except Exception as error:  # noqa: BLE001  # whatever broke a bundle: its messages stay unacknowledged
            count("restarts")
            log.error("The pipeline failed and is started again: %s", cause(error))
        else:
            return
        READING.close()
        if READING.draining.is_set():
            return
        if time.monotonic() - began > STEADY_S:
            wait = FIRST_WAIT_S
        stopping.wait(random.uniform(wait / 2, wait))  # noqa: S311  # jitter, not a secret
        wait = min(2 * wait, LONGEST_WAIT_S)


def cause(error: Exception) -> str:
    """The line of a worker's traceback that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line and not line.startswith(("File ", "Traceback"))]
    return (telling or lines or [type(error).__name__])[-1][:500]


def _watch(stopping: threading.Event, ended: threading.Event, values: Values, allocator: Allocator) -> None:
    """Report progress, begin the drain when it is time, and tell what it waits for."""
    ready = False
    while not stopping.wait(PROGRESS_S if ready else 0.1):
        if not ready:
            if not READING.started():
                continue
            ready = True
            event("ready")
        event("progress", **tally())
        allocator.trim()
        if values.stop_when_idle_s and READING.idle_s() >= values.stop_when_idle_s:
            break
    READING.drain()
    while not ended.wait(TOLD_S):
        allocator.trim()
        if stopping.is_set() or waits():
            _tell_what_is_left()


def _tell_what_is_left() -> None:
    held, waiting = READING.held(), waits()
    left = f"{held:,} messages are still to be written and acknowledged" if held else "the last windows are settled"
    tell(f"Draining: {left}.{f' It waits: {waiting}' if waiting else ''}", logging.WARNING)
