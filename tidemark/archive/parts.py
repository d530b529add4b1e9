"""Cuts a file into parts that can be read at the same time, each by itself."""

from __future__ import annotations

from typing import BinaryIO, Final, NamedTuple

from tidemark.archive.kinds import Kind

PART_BYTES: Final = 256 << 20


class Part(NamedTuple):
    """A range of a file.

    Attributes:
        index: From 0.
        start: Of lines that are not packed: a byte, wherever in a line. Of Parquet: a row group.
        end: The one behind the last; None: everything to the end. A line belongs to the part in which it begins.
    """

    index: int  # type: ignore[assignment]  # the word for it, which tuples have for something else
    start: int
    end: int | None


def parts_of(kind: Kind, size: int | None, file: BinaryIO | None, part_bytes: int = PART_BYTES) -> list[Part]:
    """The parts of a file: of 256 MiB for lines that are not packed and for Parquet; one for all others.

    Args:
        kind: What it is.
        size: Its bytes; None when that is not known.
        file: It, for Parquet; None, or one that cannot seek, has one part.
        part_bytes: How many bytes are enough for a part.

    Raises:
        DamagedError: the Parquet has no footer, or one that cannot be read.
    """
    seeks = file is None or file.seekable()
    if kind.shape == "parquet" and file is not None and seeks:
        from tidemark.archive.tables import row_group_bytes  # noqa: PLC0415  # Arrow costs 0.2 s

        return _grouped(row_group_bytes(file), part_bytes)
    if kind.packing or kind.shape != "lines" or not size or not seeks:
        return [Part(0, 0, None)]
    starts = range(0, size, part_bytes)
    return [Part(index, start, min(start + part_bytes, size)) for index, start in enumerate(starts)]


def _grouped(sizes: list[int], part_bytes: int) -> list[Part]:
    """Row groups of these sizes, so many together that they have `part_bytes`."""
    parts: list[Part] = []
    start = held = 0
    for group, size in enumerate(sizes):
        held += size
        if held >= part_bytes or group == len(sizes) - 1:
            parts.append(Part(len(parts), start, group + 1))
            start, held = group + 1, 0
    return parts or [Part(0, 0, 0)]
