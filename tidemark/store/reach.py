"""Cuts blocks into parts that one transaction can take: each chunk of a hypertable that it touches costs the server locks."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np
from sqlalchemy import Engine

from tidemark.store.connection import transaction
from tidemark.store.hypertable import CHUNKS_A_TRANSACTION, hypertable
from tidemark.wire.block import Block
from tidemark.wire.summary import MICROSECONDS

EVERYTHING: Final = math.inf


class TransactionReach:
    """How much event time one transaction may write into, as the table of points is; asked once."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def seconds(self, pool: Engine) -> float:
        """Of a hypertable that of some chunks; of a plain table all there is.

        Raises:
            UnavailableError, MisconfiguredError: the database could not be asked.
        """
        if self._seconds is None:
            with transaction(pool) as connection:
                table = hypertable(connection)
            self._seconds = EVERYTHING if table is None else CHUNKS_A_TRANSACTION * table.chunk_s
        return self._seconds


def in_spans(block: Block, most_s: float) -> list[Block]:
    """Parts by event time, none of which reaches over more than `most_s` seconds; the first has the dead letters."""
    times = block.points["event_time"]
    if not len(times) or int(times.max()) - int(times.min()) < most_s * MICROSECONDS:
        return [block]
    span = times // int(most_s * MICROSECONDS)
    order = np.argsort(span, kind="stable")
    return _parts(block, np.split(order, np.flatnonzero(np.diff(span[order])) + 1))


def in_halves(block: Block) -> list[Block]:
    """The earlier points and the later ones; a block of one point stays as it is."""
    if len(block.points) < 2:
        return [block]
    order = np.argsort(block.points["event_time"], kind="stable")
    return _parts(block, np.array_split(order, 2))


def _parts(block: Block, indices: list[np.ndarray]) -> list[Block]:
    parts = [block.take(index) for index in indices]
    parts[0] = replace(parts[0], dead_letters=block.dead_letters)
    return parts
