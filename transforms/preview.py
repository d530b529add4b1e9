"""Previews: rollups of the base tier, made by the stream from what it has seen.

The policy, all of it:
- The window is the base tier's, aligned to UTC. The key is a shard, a hash of the series, so that the cost of a point
  does not grow with the number of series; the value is a block of points.
- A window fires early, every `early_s` of processing time, as long as it is open; on time, when the watermark passes
  its end; late, at most every `early_s`, until the allowed lateness has passed.
- Each firing shows everything the window has seen (accumulating), duplicates and overwritten points resolved.
- Later points have no preview. They are counted where their own time is known, before the window, since every engine
  drops them in silence.
- Previews owe nobody anything: a settled row beats every one of them, and nothing but a label rests on the pane.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
import numpy as np
from apache_beam.transforms import trigger
from apache_beam.transforms.window import FixedWindows
from apache_beam.utils.windowed_value import PaneInfoTiming

from tidemark.wire.block import winners
from tidemark.wire.summary import POINT, summarise
from transforms.rollup_batch import RollupBatch

PANES: Final = {
    PaneInfoTiming.EARLY: "early",
    PaneInfoTiming.ON_TIME: "on_time",
    PaneInfoTiming.LATE: "late",
    PaneInfoTiming.UNKNOWN: "early",
}


@dataclass(eq=False)
class Preview(beam.PTransform):
    """(shard, points of one base window) to `RollupBatch`es of early, on-time and late rows.

    Args:
        base_s: Length of the base tier's windows in seconds.
        early_s: Time between two firings of an open window; whole seconds, Beam cuts the rest off.
        lateness_s: Allowed lateness.
    """

    base_s: int
    early_s: int
    lateness_s: float

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, points: Any) -> Any:
        """Window, fold, label."""
        return (
            points
            | "window"
            >> beam.WindowInto(
                FixedWindows(self.base_s),
                trigger=trigger.AfterWatermark(
                    early=trigger.AfterProcessingTime(self.early_s), late=trigger.AfterProcessingTime(self.early_s)
                ),
                accumulation_mode=trigger.AccumulationMode.ACCUMULATING,
                allowed_lateness=self.lateness_s,
            )
            | "fold" >> beam.CombinePerKey(Fold(self.base_s)).with_output_types(tuple[int, bytes])
            | "label" >> beam.ParDo(_Label()).with_output_types(RollupBatch)
        )


class Fold(beam.CombineFn):
    """Points to rollup rows. Blocks are only collected until a firing: one sort of what the window has, not of each."""

    def __init__(self, base_s: int) -> None:
        self._base_s = base_s

    def create_accumulator(self) -> list[bytes]:
        return []

    def add_input(self, blocks: list[bytes], block: bytes) -> list[bytes]:
        blocks.append(block)
        return blocks

    def merge_accumulators(self, accumulators: Iterable[list[bytes]]) -> list[bytes]:
        return [block for blocks in accumulators for block in blocks]

    def compact(self, blocks: list[bytes]) -> list[bytes]:
        """One block, before the accumulator travels."""
        return [b"".join(blocks)] if len(blocks) > 1 else blocks

    def extract_output(self, blocks: list[bytes]) -> bytes:
        points = winners(np.frombuffer(b"".join(blocks), POINT)).points
        return summarise(points, self._base_s).tobytes()


class _Label(beam.DoFn):
    def process(self, element: tuple[int, bytes], pane: Any = beam.DoFn.PaneInfoParam) -> Iterator[RollupBatch]:
        _shard, rows = element
        if rows:
            yield RollupBatch(rows, PANES[pane.timing], [], 0)
