"""Writes blocks to the raw store, and passes on what previews are made of."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from tidemark.errors import MisconfiguredError, UnavailableError
from tidemark.logs import log, set_up_worker
from tidemark.metrics import LATENESS
from tidemark.retry import until_done
from tidemark.store.dead_letters import project_of
from tidemark.store.write import Written
from tidemark.wire.block import Block
from tidemark.wire.summary import MICROSECONDS, Points, windows
from transforms.counters import count, count_by_project, count_waiting, observe
from transforms.heartbeat import HANDED, Heart
from transforms.preview import block_of
from transforms.prometheus import NOWHERE, Endpoint, serve
from transforms.resources import Store


@dataclass(eq=False)
class WriteRaw(beam.PTransform):
    """Blocks to the raw store; out come (shard, points) of one base window each, stamped with the window's start.

    Guarantee: when the bundle ends, every point is committed together with a mark that owes it a settled rollup, and
    every dead letter is kept. Stands before any shuffle, fused to the source, so "acknowledged" means "durable".
    While the database is away or wrong it waits, and nothing is acknowledged.

    Args:
        store: The raw store.
        shards: Into how many keys the series are hashed.
        preview_s: How long after its end a window still has previews; later points are counted and left out.
        metrics: Where the worker serves its own.
        heart: Where the process says that it reads, where the engine has the reader; else the reader does.
        previews: Something is passed on.
    """

    store: Store
    shards: int
    preview_s: float
    metrics: Endpoint = NOWHERE
    heart: Heart | None = None
    previews: bool = True

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, blocks: Any) -> Any:
        """One ParDo; see `WriteRollups.expand` for what takes nothing."""
        written = blocks | beam.ParDo(_Write(self)).with_output_types(tuple[int, bytes])
        return written if self.previews else (written,) | "written" >> beam.Flatten()


class _Write(beam.DoFn):
    def __init__(self, config: WriteRaw) -> None:
        self._config = config

    def setup(self) -> None:
        self._written = False
        set_up_worker()
        serve(self._config.metrics)
        if self._config.heart is not None:
            HANDED.begins(self._config.heart)

    def process(self, block: Block) -> Iterator[TimestampedValue]:
        store = self._config.store
        began = time.perf_counter()
        written = self._stored(block)
        self._written = True
        observe("commit_ms", (time.perf_counter() - began) * 1000)
        observe("block_points", len(block.points))
        count_written(block, written)
        self._count_lateness(self._note(block), written)
        if not self._config.previews:
            return
        base_s = store.tiers_s[0]
        for shard, start, points in by_shard(written.points, base_s, self._config.shards):
            if start / MICROSECONDS + base_s + self._config.preview_s < time.time():
                count("beyond_previews", len(points))
            else:
                yield TimestampedValue((shard, block_of(points)), Timestamp(micros=start))

    def _stored(self, block: Block) -> Written:
        store, published = self._config.store, block.points["publish_time"]
        if self._config.heart is None or not len(published):
            return until_done(lambda: store.writer().write(block), count=count)
        number = HANDED.taken(int(published.min()), int(published.max()))
        try:
            written = until_done(lambda: store.writer().write(block), count=count)
        except BaseException:
            HANDED.failed(number)
            raise
        HANDED.stored(number)
        return written

    def teardown(self) -> None:
        if self._written:
            note_sources(self._config.store)

    def _note(self, block: Block) -> list[int]:
        """Remember what was seen of sources; returns how many points are in each class of `LATENESS`."""
        book = self._config.store.sources()
        classes: list[int] = book.observe(block).tolist()
        if book.due():
            note_sources(self._config.store)
        return classes

    def _count_lateness(self, classes: list[int], written: Written) -> None:
        for name, number in zip(LATENESS, classes, strict=True):
            count(f"lateness_{name}", number)
        store = self._config.store
        behind = written.points["publish_time"] - windows(written.points, store.tiers_s[0])
        end = store.tiers_s[0] * MICROSECONDS
        count("late_after_window", int(np.count_nonzero(behind > end)))
        count("late_after_horizon", int(np.count_nonzero(behind > end + store.horizon_s * MICROSECONDS)))


def count_written(block: Block, written: Written) -> None:
    """Count what became of a block's points."""
    count("received", block.received)
    count("inserted", written.inserted)
    count("overwritten", written.overwritten)
    count("ignored", written.ignored)
    count("dead_lettered", written.dead_lettered)
    for letter in written.dead_letters:
        count(f"dead_lettered_{letter.reason}", letter.points)
        count_by_project("dead_lettered_by_project", letter.points, project_of(letter), letter.reason)


def note_sources(store: Store) -> None:
    """Write what was seen of sources; without the database it is forgotten and counted."""
    try:
        store.sources().write()
    except (UnavailableError, MisconfiguredError) as error:
        count("sources_not_noted")
        count_waiting(error)
        log.warning("%s What was seen of sources in the last minute is not noted.", error)


def by_shard(points: Points, base_s: int, shards: int) -> Iterator[tuple[int, int, Points]]:
    """Cut points into (shard, window start in microseconds, points)."""
    if not len(points):
        return
    start = windows(points, base_s)
    shard = points["series_id"] % shards
    place = (start - start.min()) // (base_s * MICROSECONDS) * shards + shard
    # small integers are sorted by their digits
    order = np.argsort(place.astype(np.uint16) if int(place.max()) < 2**16 else place, kind="stable")
    start, shard, points = start[order], shard[order], points[order]
    new = np.ones(len(points), bool)
    new[1:] = (start[1:] != start[:-1]) | (shard[1:] != shard[:-1])
    edges = [*np.flatnonzero(new).tolist(), len(points)]
    for begin, end in itertools.pairwise(edges):
        yield int(shard[begin]), int(start[begin]), points[begin:end]
