"""Tells whether an archive is whole before any of it is used."""

from __future__ import annotations

from typing import BinaryIO

from tidemark.archive.damage import DamagedError
from tidemark.archive.kinds import Kind
from tidemark.archive.unpack import texts


def damage_of(file: BinaryIO, kind: Kind) -> DamagedError | None:
    """The first damage of a packed file, which is unpacked for that once, to its end; None: all of its checksums are right.

    Reading gives text of a long member before its checksum is seen, and a bit that flipped may make other points of what
    follows it. Whoever must not have these asks here first. Of a file that is not packed nothing is known: None.

    Args:
        file: One that can seek, or is not needed again.
        kind: What it is.
    """
    if not kind.packing:
        return None
    for block in texts(file, kind.packing, 0, skip_damaged=False):
        if isinstance(block, DamagedError):
            return block
    return None
