"""Writes blocks of archives to the raw store, several at a time, each with the note that its place is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam

from tidemark.logs import set_up_worker
from tidemark.retry import until_done
from tidemark.store.dead_letters import project_of
from tidemark.store.imports import Importing
from tidemark.store.write import Written
from tidemark.wire.block import Block
from transforms.archive import LOADING, ArchiveBlock, ArchivePart
from transforms.counters import count, count_by_project, observe
from transforms.resources import Store


@dataclass(eq=False)
class WriteArchives(beam.PTransform):
    """Blocks of archives to the raw store; out come the parts of which no more comes.

    Guarantee: when the bundle ends, every point is committed together with a mark that owes it a settled rollup, and with
    the note that its place is done; every dead letter is kept. A part is through only when all of it is.
    While the database is away or wrong it waits.

    Args:
        store: The raw store.
        gather_s: See `tidemark.store.imports`.
        writers: So many blocks are written at once.
        max_rate: Points a second of this process; 0: as fast as it can be.
    """

    store: Store
    gather_s: float
    writers: int
    max_rate: float

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, blocks: Any) -> Any:
        """One ParDo."""
        return blocks | beam.ParDo(_Write(self)).with_output_types(str)


class _Done(NamedTuple):
    """A block that was written, and how long it took."""

    block: Block
    written: Written
    took_s: float


class _Write(beam.DoFn):
    def __init__(self, config: WriteArchives) -> None:
        self._config = config

    def setup(self) -> None:
        set_up_worker()
        self._threads = ThreadPoolExecutor(self._config.writers, "write-archive")

    def start_bundle(self) -> None:
        self._writing: deque[Future[_Done]] = deque()
        self._parts: dict[ArchivePart, Importing] = {}

    def process(self, block: ArchiveBlock) -> Iterator[str]:
        importing = self._importing(block.of)
        LOADING.pace(len(block.block.points), self._config.max_rate)
        if block.end > block.begin or block.block.received:
            self._writing.append(self._threads.submit(_stored, importing, block))
        self._wait(self._config.writers)
        if block.last:
            self._wait(0)
            del self._parts[block.of]
            until_done(lambda: importing.finish(through=block.through), count=count, give_up=LOADING.stopping)
            count("archive_parts", int(block.through))
            yield block.of.name

    def finish_bundle(self) -> None:
        self._wait(0)

    def teardown(self) -> None:
        self._threads.shutdown()

    def _importing(self, of: ArchivePart) -> Importing:
        if of not in self._parts:
            writer, gather_s = self._config.store.writer, self._config.gather_s
            self._parts[of] = until_done(
                lambda: Importing.begin(writer(), of.name, of.part.start, of.fingerprint, gather_s), count=count
            )
        return self._parts[of]

    def _wait(self, most: int) -> None:
        """Until no more than so many blocks are being written; an error of one of them is raised."""
        while len(self._writing) > most:
            block, written, took_s = self._writing.popleft().result()
            observe("commit_ms", took_s * 1000)
            observe("block_points", len(block.points))
            _count(block, written)


def _stored(importing: Importing, block: ArchiveBlock) -> _Done:
    began = time.perf_counter()
    written = until_done(
        lambda: importing.write(block.block, block.begin, block.end, block.filtered), give_up=LOADING.stopping
    )
    return _Done(block.block, written, time.perf_counter() - began)


def _count(block: Block, written: Written) -> None:
    """On the bundle's own thread, as Beam's counters want it."""
    count("received", block.received)
    count("inserted", written.inserted)
    count("overwritten", written.overwritten)
    count("ignored", written.ignored)
    count("dead_lettered", written.dead_lettered)
    for letter in written.dead_letters:
        count(f"dead_lettered_{letter.reason}", letter.points)
        count_by_project("dead_lettered_by_project", letter.points, project_of(letter), letter.reason)
