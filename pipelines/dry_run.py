"""Reads and decodes archives, and says what loading them would store; asks no service."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from pipelines.archive_plan import Archive, size_of
from pipelines.progress import Shown, refusals
from tidemark.mapping.program import Program
from tidemark.program import event
from tidemark.settings import Values
from tidemark.stop import Stop
from tidemark.wire.block import Block
from tidemark.wire.limits import Limits
from tidemark.wire.message import to_the_second
from transforms.counters import count
from transforms.decode_archives import Gathering
from transforms.loading import LOADING
from transforms.read_archives import texts

POINTS_A_S: Final = 60_000
"""So many are loaded a second, as a first guess: `bench/backfill.py` measures it."""
SERIES: Final = 1_000_000
SHOWN: Final = 3


@dataclass
class _Found:
    points: int = 0
    filtered: int = 0
    first: int | None = None
    last: int | None = None
    series: set[tuple[str, str, str]] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)

    def take(self, block: Block, filtered: int) -> None:
        self.points += len(block.points)
        self.filtered += filtered
        if len(block.points):
            times = block.points["event_time"]
            first, last = int(np.min(times)), int(np.max(times))
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)
        if len(self.series) < SERIES:
            self.series.update(block.keys)
        for letter in block.dead_letters:
            count(f"dead_lettered_{letter.reason}", letter.points)
            if len(self.refused) < SHOWN:
                line = letter.attributes.get("line")
                place = f"line {line}" if line else letter.message_id
                self.refused.append(f"{letter.attributes.get('file', '')}, {place}: {letter.reason}: {letter.detail}")
        count("received", block.received)


def run(archives: Sequence[Archive], values: Values, mapping: Program | None, stop: Stop) -> int:
    """Read all files, and print what is in them.

    Returns:
        0; 1: something could not be read; 130: it was stopped.
    """
    began = time.monotonic()
    LOADING.begin()
    stop.then(LOADING.stopping.set)
    limits = Limits.of(values)
    found = _Found()
    gathering = Gathering(limits, mapping, values.series_project)
    with Shown(size_of(archives)) as shown:
        try:
            for archive in archives:
                for part in archive.parts:
                    for text in texts(
                        part,
                        None,
                        limits.max_message_bytes,
                        skip_damaged=values.skip_damaged,
                        then="What comes before it is counted.",
                    ):
                        for block in gathering.take(text):
                            found.take(block.block, block.filtered)
        finally:
            gathering.close()
    counts = shown.counts()
    _tell(found, counts, time.monotonic() - began)
    if stop.asked.is_set():
        return 130
    return 1 if LOADING.damage and not values.skip_damaged else 0


def _tell(found: _Found, counts: dict[str, float], took_s: float) -> None:
    refused = {name: int(number) for name, number in counts.items() if name.startswith("dead_lettered_") and number}
    told: dict[str, Any] = {
        "points": found.points,
        "series": len(found.series),
        "from": to_the_second(found.first),
        "to": to_the_second(found.last),
        "refused": sum(refused.values()),
        "filtered": found.filtered,
        "text_bytes": int(counts.get("archive_text_bytes", 0)),
        "damaged": LOADING.damage,
        "seconds": round(took_s, 1),
        "estimated_seconds": round(max(took_s, found.points / POINTS_A_S), 1),
    }
    if not sys.stdout.isatty():
        event("would_load", **told, **refused, examples=found.refused)
        return
    more = "at least " if len(found.series) >= SERIES else ""
    lines = [
        f"{found.points:,} points of {more}{len(found.series):,} series, from {told['from']} to {told['to']}.",
        f"{told['refused']:,} would be refused{f': {refusals(counts)}' if refused else ''}.",
        *(f"  {one}" for one in found.refused),
        (
            f"Reading took {took_s:,.0f} s; loading takes about {told['estimated_seconds']:,.0f} s where the store is as fast as"
            " the one that was measured."
        ),
    ]
    if found.filtered:
        lines.insert(2, f"Of {found.filtered:,} values the mapping makes nothing.")
    print("\n".join(lines))  # noqa: T201
