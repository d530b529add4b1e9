"""What travels between the stages that load archives."""

from __future__ import annotations

from dataclasses import dataclass

from apache_beam.coders import PickleCoder, registry

from tidemark.archive.chunk import LongLine
from tidemark.archive.kinds import Kind
from tidemark.archive.parts import Part
from tidemark.wire.block import Block


@dataclass(frozen=True)
class ArchivePart:
    """A part of a file that is to be loaded.

    Attributes:
        file: Its path or address; `-`: standard input.
        name: By which it is remembered.
        fingerprint: Of the file.
        kind: What it is.
        part: Which part.
        size: Bytes of the part, as stored; None: not known.
        import_id: Of its row in `imports`, once it is begun.
    """

    file: str
    name: str
    fingerprint: str
    kind: Kind
    part: Part
    size: int | None
    import_id: int = 0


@dataclass(frozen=True)
class ArchiveText:
    """Lines of a part, or what was the last of it.

    Attributes:
        of: The part.
        data: JSON texts, one a line.
        begin, end: Where in the part they stand.
        line: The number of the first, if it is known.
        long: Lines there that are too long.
        through: Nothing follows; False: something does, or it could not be read.
        last: No more comes of the part.
    """

    of: ArchivePart
    data: bytes
    begin: int
    end: int
    line: int | None = None
    long: tuple[LongLine, ...] = ()
    through: bool = False
    last: bool = False


@dataclass(frozen=True)
class ArchiveBlock:
    """Points of a part, and where they stood; the others as in `ArchiveText`."""

    of: ArchivePart
    block: Block
    begin: int
    end: int
    filtered: int = 0
    through: bool = False
    last: bool = False


for _kind in (ArchivePart, ArchiveText, ArchiveBlock):
    registry.register_coder(_kind, PickleCoder)
