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
from tidemark.store.dead_letters import project_of
from tidemark.store.imports import Importing
from tidemark.store.write import Written
from tidemark.wire.block import Block
from transforms.archive import LOADING, ArchiveBlock, ArchivePart, tell_damage, until_stopped
from transforms.counters import count, count_by_project, observe
from transforms.resources import Store


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
        self._parts: dict[ArchivePart, Importing] = {}
        self._is_left = False

    def process(self, block: ArchiveBlock) -> Iterator[str]:
        importing = self._importing(block.of)
        if importing is None:
            return
        LOADING.pace(len(block.block.points), self._config.max_rate)
        if block.end > block.begin or block.block.received:
            self._writing.append(self._threads.submit(_stored, importing, block))
        self._wait(self._config.writers)
        if block.last:
            self._wait(0)
            del self._parts[block.of]
            through = block.through and not self._is_left
            until_stopped(lambda: importing.finish(through=through), count)
            count("archive_parts", int(through))
            yield block.of.name

    def finish_bundle(self) -> None:
        self._wait(0)

    def teardown(self) -> None:
        self._threads.shutdown()

    def _importing(self, of: ArchivePart) -> Importing | None:
        """None: the load is to stop, or the file is another one."""
        if of not in self._parts:
            writer, gather_s = self._config.store.writer, self._config.gather_s
            try:
                made = until_stopped(
                    lambda: Importing.begin(writer(), of.name, of.part.start, of.fingerprint, gather_s), count
                )
            except UsageError as error:
                tell_damage(of, error)
                return None
            if made is None:
                return None
            self._parts[of] = made
        return self._parts[of]

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
            _count(block, written)


def _stored(importing: Importing, block: ArchiveBlock) -> _Done | None:
    """None: it was left, since the load is to stop, or another program loads the file."""
    began = time.perf_counter()
    try:
        written = until_stopped(lambda: importing.write(block.block, block.begin, block.end, block.filtered))
    except UsageError as error:
        tell_damage(block.of, error)
        return None
    return None if written is None else _Done(block.block, written, time.perf_counter() - began)


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
