"""What travels to the stage that writes rollups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tidemark.wire.summary import ROLLUP, Rollups


class RollupBatch(NamedTuple):
    """Rollup rows of one pane, with the marks that die once the rows are durable.

    Attributes:
        rows: Bytes of an array of dtype `ROLLUP`: a coder need not know numpy.
        pane: early, on_time, late or settled.
        mark_ids: Of settled rows.
        corrected, refreshed: How many of these rows replace one that was final, or open, and differ from it.
    """

    rows: bytes
    pane: str
    mark_ids: list[int]
    corrected: int = 0
    refreshed: int = 0

    def rollups(self) -> Rollups:
        """The rows, shape (n,), dtype `ROLLUP`."""
        return np.frombuffer(self.rows, ROLLUP)
