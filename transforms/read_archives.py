"""Reads parts of archives as texts of whole lines, from where the last load came to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from tidemark.archive.damage import DamagedError
from tidemark.archive.reader import chunks
from tidemark.archive.whole import damage_of
from tidemark.errors import MisconfiguredError, UsageError
from tidemark.store.imports import Importing, left
from transforms.archive import (
    LOADING,
    STANDARD_INPUT,
    ArchivePart,
    ArchiveText,
    StoppingError,
    opened,
    tell_damage,
    until_stopped,
)
from transforms.counters import count
from transforms.resources import Store


@dataclass(eq=False)
class ReadArchives(beam.PTransform):
    """Parts of archives to texts of about `chunk_bytes`, in order; what is stored already is passed over.

    Guarantee: a place of a file either comes out, or is done. Of a part that cannot be read to its end, what comes before
    the damage does, and it is told.

    Args:
        store: Where it is kept what is done.
        gather_s: See `tidemark.store.imports`.
        skip_damaged: Go on behind damage.
        max_line_bytes: A longer line is a dead letter.
        chunk_bytes: About so much text at once.
    """

    store: Store
    gather_s: float
    skip_damaged: bool
    max_line_bytes: int
    chunk_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, parts: Any) -> Any:
        """One ParDo."""
        return parts | beam.ParDo(_Read(self)).with_output_types(ArchiveText)


class _Read(beam.DoFn):
    def __init__(self, config: ReadArchives) -> None:
        self._config = config

    def process(self, of: ArchivePart) -> Iterator[ArchiveText]:
        config = self._config
        importing = until_stopped(
            lambda: Importing.begin(config.store.writer(), of.name, of.part.start, of.fingerprint, config.gather_s),
            count,
        )
        if importing is None:
            return
        end = left(importing.done, _first(of))
        if importing.finished and of.file != STANDARD_INPUT:  # of which more may come than before
            yield ArchiveText(of, b"", end, end, through=True, last=True)
            return
        through = True
        try:
            damage = _damage(of, config.skip_damaged)
            with opened(of.file) as file:
                for chunk in chunks(
                    file,
                    of.kind,
                    of.part,
                    end if importing.done and end > _first(of) else None,
                    chunk_bytes=config.chunk_bytes,
                    max_line_bytes=config.max_line_bytes,
                    skip_damaged=config.skip_damaged,
                    told=lambda damage: tell_damage(of, damage, "What follows is read."),
                ):
                    if LOADING.stopping.is_set():
                        through = False
                        break
                    wrong = next(
                        (one for one in damage if one.checked < chunk.end and chunk.begin < one.text_offset), None
                    )
                    if wrong is not None and not config.skip_damaged:
                        raise wrong
                    if wrong is not None:
                        continue
                    end = chunk.end
                    count(
                        "archive_text_bytes", chunk.end - chunk.begin if of.kind.shape != "parquet" else len(chunk.data)
                    )
                    if importing.is_done(chunk.begin, chunk.end):
                        continue
                    yield ArchiveText(of, chunk.data, chunk.begin, chunk.end, chunk.line, chunk.long)
        except StoppingError:
            through = False
        except (DamagedError, MisconfiguredError, UsageError) as error:  # other files are none the worse for it
            through = False
            tell_damage(of, error)
        yield ArchiveText(of, b"", end, end, through=through, last=True)


def _first(of: ArchivePart) -> int:
    """The position where the part begins."""
    return 0 if of.kind.shape == "parquet" else of.part.start


def _damage(of: ArchivePart, skip_damaged: bool) -> list[DamagedError]:
    """Known before any of it is used: text of a packed file that only its checksum shows to be wrong may be other points.

    Standard input cannot be read twice.
    """
    if of.file == STANDARD_INPUT or not of.kind.packing:
        return []
    with opened(of.file, counted=False) as file:
        return list(damage_of(file, of.kind, skip_damaged=skip_damaged))
