"""Divides what marks owe into parts, each for one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from tidemark.store.fold import Range

RANGES_A_PART: Final = 1000
"""Ranges of single series in a part."""
ANY_CELL: Final = 1 << 62
ANY_SPAN: Final = float("inf")


class Mark(NamedTuple):
    """A durable note that windows must be settled; times in seconds since 1970. `id`: see `marks.NUMBER`."""

    id: int
    start: int
    end: int
    series_id: int | None

    @property
    def what(self) -> tuple[int, int, int | None]:
        """What it owes, whichever mark it is."""
        return self.start, self.end, self.series_id


class Part(NamedTuple):
    """Marks, and the one range of all series or the disjoint ranges of single series that they cover together."""

    scope: Range | list[Range]
    marks: list[Mark]

    @property
    def end(self) -> int:
        """Where its last window ends."""
        return self.scope.end if isinstance(self.scope, Range) else max(r.end for r in self.scope)

    def windows(self, tier_s: int) -> int:
        """How many windows of a tier, each counted for each of its ranges."""
        ranges = [self.scope] if isinstance(self.scope, Range) else self.scope
        return sum(r.end - r.start for r in ranges) // tier_s


def floor2(number: float) -> int:
    """The greatest power of two that is not greater, at least 1: cells of one such size divide those of a greater one."""
    return 1 << (max(1, int(number)).bit_length() - 1)


def of_all(marks: Sequence[Mark], cell_s: int = ANY_CELL) -> tuple[list[Part], list[Mark]]:
    """Parts of all series, the newest first, and the marks of single series that none of them covers.

    Overlapping marks become one part, adjacent ones too unless they begin in two cells of `cell_s` seconds.
    """
    parts: list[Part] = []
    for mark in sorted((m for m in marks if m.series_id is None), key=lambda m: (m.start, m.end)):
        last = parts[-1].scope if parts else None
        if isinstance(last, Range) and _joins(mark, last, cell_s):
            parts[-1] = Part(Range(last.start, max(last.end, mark.end)), parts[-1].marks)
        else:
            parts.append(Part(Range(mark.start, mark.end), []))
        parts[-1].marks.append(mark)
    starts = np.array([part.marks[0].start for part in parts], np.int64)
    left = []
    for mark in marks:
        if mark.series_id is None:
            continue
        place = int(np.searchsorted(starts, mark.start, side="right")) - 1
        if place >= 0 and mark.end <= parts[place].end:
            parts[place].marks.append(mark)
        else:
            left.append(mark)
    return parts[::-1], left


def of_series(
    marks: Sequence[Mark], tier_s: int, most_windows: int, cell_s: int = ANY_CELL, most_s: float = ANY_SPAN
) -> list[Part]:
    """Parts of single series, those with the newest ranges first.

    Overlapping marks of a series become one range, adjacent ones too unless they begin in two cells of `cell_s`
    seconds. A range that is too long for any part is one by itself; those of one part lie within `most_s` seconds.
    """
    parts: list[Part] = []
    scope: list[Range] = []
    windows = 0
    for one, members in sorted(_merged(marks, cell_s), key=lambda found: (-found[0].end, found[0].series_id)):
        more = (one.end - one.start) // tier_s
        is_far = bool(scope) and scope[0].end - one.start > most_s
        if not parts or is_far or windows + more > most_windows or len(scope) >= RANGES_A_PART:
            scope, windows = [], 0
            parts.append(Part(scope, []))
        scope.append(one)
        parts[-1].marks.extend(members)
        windows += more
    return parts


def _merged(marks: Sequence[Mark], cell_s: int) -> list[tuple[Range, list[Mark]]]:
    merged: list[tuple[Range, list[Mark]]] = []
    for mark in sorted(marks, key=lambda m: (m.series_id, m.start, m.end)):
        if merged:
            last, members = merged[-1]
            if last.series_id == mark.series_id and _joins(mark, last, cell_s):
                members.append(mark)
                merged[-1] = (Range(last.start, max(last.end, mark.end), mark.series_id), members)
                continue
        merged.append((Range(mark.start, mark.end, mark.series_id), [mark]))
    return merged


def _joins(mark: Mark, last: Range, cell_s: int) -> bool:
    return mark.start < last.end or (mark.start == last.end and mark.start // cell_s == last.start // cell_s)


def cuts(mark: Mark, cell_s: int, begin: int) -> Iterator[tuple[int, int]]:
    """The pieces (from, to) of a mark between the borders of cells; what lies before the border `begin` is one piece."""
    first = max(mark.start // cell_s + 1, begin // cell_s) * cell_s
    borders = [mark.start, *range(first, mark.end, cell_s), mark.end]
    yield from pairwise(borders)
