"""Tells where an archive is damaged before any of it is used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from tidemark.archive.damage import DamagedError
from tidemark.archive.kinds import Kind
from tidemark.archive.unpack import texts


def damage_of(file: BinaryIO, kind: Kind, *, skip_damaged: bool = False) -> Iterator[DamagedError]:
    """The damage of a packed file, which is unpacked for that once; none: all of its checksums are right.

    Reading gives text of a long member before its checksum is seen, and a bit that flipped may make other points of what
    follows it. Whoever must not have these asks here first. Of a file that is not packed nothing is known.

    Args:
        file: One that can seek, or is not needed again.
        kind: What it is.
        skip_damaged: All of it, as far as reading goes on; else the first.
    """
    if kind.packing:
        for block in texts(file, kind.packing, 0, skip_damaged=skip_damaged):
            if isinstance(block, DamagedError):
                yield block
