"""Writes blocks of archives to the raw store, several at a time, each with the note that its place is done."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import apache_beam as beam

from tidemark.errors import UsageError
from tidemark.logs import set_up_worker
from tidemark.store.imports import Importing
from tidemark.store.write import Written
from tidemark.wire.block import Block
from transforms.archive import ArchiveBlock, ArchivePart
from transforms.counters import count, observe
from transforms.loading import LOADING, tell_damage, until_stopped
from transforms.resources import Store
from transforms.write_raw import count_written


@dataclass(eq=False)
class WriteArchives(beam.PTransform):
    """Blocks of archives to the raw store; out come the parts of which no more comes.

    Guarantee: when the bundle ends, every point is committed together with a mark that owes it a settled rollup, and with
    the note that its place is done; every dead letter is kept. A part is through only when all of it is.
    While the database is away or wrong it waits; when the load is to stop meanwhile, what is left is not noted.

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
        self._writing: deque[Future[_Done | None]] = deque()
        self._is_left = False

    def process(self, block: ArchiveBlock) -> Iterator[str]:
        LOADING.pace(len(block.block.points), self._config.max_rate)
        if block.end > block.begin or block.block.received:
            self._writing.append(self._threads.submit(self._stored, block))
        self._wait(self._config.writers)
        if block.last:
            self._wait(0)
            through = block.through and not self._is_left
            until_stopped(lambda: self._importing(block.of).finish(through=through), count)
            count("archive_parts", int(through))
            yield block.of.name

    def finish_bundle(self) -> None:
        self._wait(0)

    def teardown(self) -> None:
        self._threads.shutdown()

    def _importing(self, of: ArchivePart) -> Importing:
        return Importing.of(self._config.store.writer(), of.import_id, self._config.gather_s)

    def _stored(self, block: ArchiveBlock) -> _Done | None:
        """None: it was left, since the load is to stop, or another program loads the file."""
        began = time.perf_counter()
        try:
            written = until_stopped(
                lambda: self._importing(block.of).write(block.block, block.begin, block.end, block.filtered)
            )
        except UsageError as error:
            tell_damage(block.of, error)
            return None
        return None if written is None else _Done(block.block, written, time.perf_counter() - began)

    def _wait(self, most: int) -> None:
        """Until no more than so many blocks are being written; an error of one of them is raised."""
        while len(self._writing) > most:
            done = self._writing.popleft().result()
            if done is None:
                self._is_left = True
                continue
            block, written, took_s = done
            observe("commit_ms", took_s * 1000)
            observe("block_points", len(block.points))
            count_written(block, written)  # on the bundle's own thread, as Beam's counters want it
