"""Reads parts of archives as texts of whole lines, from where the last load came to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import apache_beam as beam

from tidemark.archive.damage import DamagedError
from tidemark.archive.reader import chunks
from tidemark.archive.whole import damage_of
from tidemark.errors import MisconfiguredError, UsageError
from tidemark.store.imports import Importing, left
from transforms.archive import ArchivePart, ArchiveText
from transforms.archive_files import STANDARD_INPUT, StoppingError, opened
from transforms.counters import count
from transforms.loading import LOADING, tell_damage, until_stopped
from transforms.resources import Store

CHUNK_BYTES: Final = 1 << 20


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
    chunk_bytes: int = CHUNK_BYTES

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
        of = replace(of, import_id=importing.id)
        end = left(importing.done, _first(of))
        if importing.finished and of.file != STANDARD_INPUT:  # of which more may come than before
            yield ArchiveText(of, b"", end, end, through=True, last=True)
            return
        for text in texts(of, end, config.max_line_bytes, config.chunk_bytes, skip_damaged=config.skip_damaged):
            if text.last or not importing.is_done(text.begin, text.end):
                yield text


def texts(
    of: ArchivePart,
    position: int | None,
    max_line_bytes: int,
    chunk_bytes: int = CHUNK_BYTES,
    *,
    skip_damaged: bool,
    then: str = "What comes before it is stored.",
) -> Iterator[ArchiveText]:
    """The texts of a part from a position on, None: from its beginning, until it ends, is damaged, or the load is to stop.

    Damage is told, with what becomes of the text before it; the last text says whether the part is through.
    """
    begin = _first(of)
    end = begin if position is None else position
    through = True
    try:
        damage = _damage(of, skip_damaged)
        with opened(of.file) as file:
            for chunk in chunks(
                file,
                of.kind,
                of.part,
                end if end > begin else None,
                chunk_bytes=chunk_bytes,
                max_line_bytes=max_line_bytes,
                skip_damaged=skip_damaged,
                told=lambda error: tell_damage(of, error, "What follows is read."),
            ):
                if LOADING.stopping.is_set():
                    through = False
                    break
                wrong = next((one for one in damage if one.checked < chunk.end and chunk.begin < one.text_offset), None)
                if wrong is not None and not skip_damaged:
                    raise wrong
                if wrong is not None:
                    continue
                end = chunk.end
                count("archive_text_bytes", len(chunk.data) if of.kind.shape == "parquet" else chunk.end - chunk.begin)
                yield ArchiveText(of, chunk.data, chunk.begin, chunk.end, chunk.line, chunk.long)
    except StoppingError:
        through = False
    except (DamagedError, MisconfiguredError, UsageError) as error:  # other files are none the worse for it
        through = False
        tell_damage(of, error, then)
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
