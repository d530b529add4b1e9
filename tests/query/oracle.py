"""What a query has to say, from a plain list of points: no code is shared with the product."""

from __future__ import annotations

import bisect
import math
import struct
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np

SECOND = 1_000_000
DAY_S = 86_400
LADDER = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, DAY_S, 7 * DAY_S)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PERCENT = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
OF_POINTS = {*PERCENT, "rate", "increase"}
SIMPLE = ("avg", "sum", "min", "max", "count", "first", "last", "stddev", "range")
AGGREGATIONS = (*SIMPLE, *sorted(OF_POINTS))
EXACT = {"count", "min", "max", "first", "last", "range"}


class Point(NamedTuple):
    time: int
    published: int
    value: float


class Mark(NamedTuple):
    tier_s: int
    start: int
    end: int
    series: int | None
    closing: bool


@dataclass(frozen=True)
class Request:
    """A query: series by their numbers in `keys`, times in microseconds."""

    series: tuple[int, ...]
    start: int
    end: int
    interval_s: int | None = None
    max_points: int = 500
    tz: str | None = None
    align: str = "epoch"
    aggregations: tuple[str, ...] = ("avg",)
    across: str = "none"
    fill: str = "null"
    columns: tuple[str, ...] = ()
    quantiles: str = "exact"


@dataclass
class Contents:
    """What the store holds: times in microseconds.

    Attributes:
        stored: Points as they stand, of each series.
        rolled: Points that rollups before the cut are of.
        cut: None: nothing was removed.
    """

    tiers_s: tuple[int, ...]
    stored: dict[int, dict[int, Point]] = field(default_factory=dict)
    rolled: dict[int, dict[int, Point]] = field(default_factory=dict)
    cut: int | None = None

    def seen(self, series: int, tier_s: int | None) -> list[Point]:
        """The points that an answer is of, in their order."""
        stored = self.stored.get(series, {})
        if tier_s is None or self.cut is None:
            return sorted(stored.values())
        old = [point for point in self.rolled.get(series, {}).values() if point.time < self.cut]
        return sorted([*old, *(point for point in stored.values() if point.time >= self.cut)])


def local_day(us: int, zone: ZoneInfo) -> date:
    return (EPOCH + timedelta(microseconds=us)).astimezone(zone).date()


@lru_cache(maxsize=100_000)
def midnight(day: date, name: str) -> int:
    """The first moment at which a clock of the zone shows that day, or a later one where it never does."""
    zone = ZoneInfo(name)
    naive = int((datetime(day.year, day.month, day.day, tzinfo=UTC) - EPOCH).total_seconds())

    def offset(at: int) -> int:
        found = (EPOCH + timedelta(seconds=at)).astimezone(zone).utcoffset()
        assert found is not None
        return round(found.total_seconds())

    around = range(naive - 30 * 3600, naive + 31 * 3600, 3600)
    candidates = {naive - offset(at) for at in around}
    for before, after in pairwise(around):
        low, high = before, after
        if offset(low) != offset(high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == offset(before) else (low, middle)
            candidates.add(high)
    first = [
        at
        for at in sorted(candidates)
        if local_day(at * SECOND, zone) >= day and local_day(at * SECOND - 1, zone) < day
    ]
    return first[0] * SECOND


def boundaries(request: Request, interval_s: int) -> list[int]:
    """Of the intervals, one more than there are."""
    start, end = request.start, request.end
    if request.tz is not None and request.tz != "UTC":
        return _days(start, end, interval_s // DAY_S, request.tz)
    width = interval_s * SECOND
    if request.align == "from":
        return [*range(start, end, width), end]
    origin = 4 * DAY_S * SECOND if width % (7 * DAY_S * SECOND) == 0 else 0
    at = start - (start - origin) % width
    found = [at]
    while found[-1] < end:
        found.append(found[-1] + width)
    return found


def _days(start: int, end: int, days: int, name: str) -> list[int]:
    monday = date(1970, 1, 5) if days % 7 == 0 else date(1970, 1, 1)
    day = local_day(start, ZoneInfo(name))
    day -= timedelta(days=(day - monday).days % days)
    while midnight(day, name) > start:
        day -= timedelta(days=days)
    found = [midnight(day, name)]
    while found[-1] < end:
        day += timedelta(days=days)
        at = midnight(day, name)
        if at > found[-1]:
            found.append(at)
    while found[1] <= start:  # where midnight came twice
        del found[0]
    return found


def tier(tiers_s: tuple[int, ...], edges: list[int]) -> int | None:
    fits = [each for each in tiers_s if all(at % (each * SECOND) == 0 for at in edges)]
    return max(fits, default=None)


@dataclass
class Cells:
    """The points of each interval of a series, and those just before each point."""

    members: list[list[Point]]
    rises: list[list[float]]


def cells(contents: Contents, series: int, edges: list[int], tier_s: int | None) -> Cells:
    found = Cells([[] for _ in edges[1:]], [[] for _ in edges[1:]])
    for point in contents.seen(series, tier_s):
        if edges[0] <= point.time < edges[-1]:
            found.members[bisect.bisect_right(edges, point.time) - 1].append(point)
    return found


def raw_cells(contents: Contents, series: int, edges: list[int]) -> Cells:
    found = cells(contents, series, edges, None)
    before: Point | None = None
    for point in contents.seen(series, None):
        if before is not None and edges[0] <= point.time < edges[-1]:
            rise = point.value - before.value if point.value >= before.value else point.value
            found.rises[bisect.bisect_right(edges, point.time) - 1].append(rise)
        before = point
    return found


class Near(NamedTuple):
    """A number, and how far off it may be by rounding."""

    value: float
    off: float = 0.0


def aggregate(name: str, points: list[Point], rises: list[float], seconds: float) -> Near | None:
    """None: there is nothing."""
    if name in ("rate", "increase"):
        if not rises:
            return None
        divisor = seconds if name == "rate" else 1
        size = max(map(abs, rises)) * len(rises)
        return Near(math.fsum(rises) / divisor, 1e-9 * size / divisor)
    if not points:
        return None
    values = [point.value for point in points]
    number, size = len(values), max(map(abs, values))
    if name in PERCENT:
        return Near(float(np.percentile(np.array(values), PERCENT[name])), 1e-12 * size + 1e-320)
    if name == "stddev":
        mean = math.fsum(values) / number
        m2 = math.fsum((value - mean) ** 2 for value in values)
        root = math.sqrt(m2 / number)
        # of what rounding does to deviations from a mean that is large beside them
        off = 1e-9 * m2 + 1e-13 * size * math.sqrt(number) * math.sqrt(m2) + number * (1e-12 * size) ** 2
        tiny = 1e-130
        return Near(root, min(off / number / max(root, 1e-300), math.sqrt(off / number)) + 1e-12 * size + tiny)
    total = Near(math.fsum(values), 1e-11 * size * number)
    exact = {
        "count": float(number),
        "min": min(values),
        "max": max(values),
        "first": values[0],
        "last": values[-1],
        "range": max(values) - min(values),
        "avg": total.value / number,
        "sum": total.value,
    }
    return Near(exact[name], {"avg": total.off / number + 1e-320, "sum": total.off}.get(name, 0.0))


def sketched(name: str, points: list[Point]) -> Near | None:
    """A percentile of which each of the points around it is known within 1 %, or 1e-300."""
    near = aggregate(name, points, [], 1)
    if near is None:
        return None
    values = sorted(point.value for point in points)
    rank = PERCENT[name] * (len(values) - 1)
    around = values[rank // 100], values[-(-rank // 100)]
    return Near(near.value, near.off + 0.01 * (1 + 1e-9) * max(map(abs, around)) + 1e-300)


def needed(
    window: tuple[int, int, int], tiers_s: tuple[int, ...], read_s: int, marks: list[Mark], cut: int | None
) -> bool:
    """Whether a rollup is read: nothing is owed to it, and something to every wider one over it.

    Args:
        window: Number of the series, tier and start of the rollup.
        tiers_s: All tiers, the narrowest first.
        read_s: The tier that is read where nothing is owed.
        marks: What is owed.
        cut: Of retention.
    """
    series, tier_s, start = window

    def stale(each: int) -> bool:
        begin = start - start % (each * SECOND)
        if each == tiers_s[0] and cut is not None and begin < cut:
            return False
        return any(
            mark.tier_s <= each and not mark.closing and mark.series in (None, series)
            for mark in marks
            if mark.start < begin + each * SECOND and mark.end > begin
        )

    return tier_s <= read_s and not stale(tier_s) and all(stale(each) for each in tiers_s if tier_s < each <= read_s)


def fold(how: str, name: str, column: list[Near | None], points: list[list[Point]]) -> Near | None:
    """One interval of all series, folded into one value."""
    there = [value for value in column if value is not None]
    if not there:
        return None
    off = 1e-320 + sum(value.off for value in there) + 1e-12 * sum(abs(value.value) for value in there)
    numbers = [value.value for value in there]
    if how == "count":
        return Near(float(len(there)))
    if how in ("min", "max"):
        return Near((min if how == "min" else max)(numbers), max(value.off for value in there))
    if how == "sum":
        return Near(math.fsum(numbers), off)
    if name == "avg":
        return aggregate("avg", [point for series in points for point in series], [], 1)
    return Near(math.fsum(numbers) / len(there), off)


def fill(how: str, line: list[Near | None], known: int) -> tuple[list[Near | None], list[int]]:
    """A line without gaps, and where it had some."""
    found, where = list(line), []
    there = [at for at, value in enumerate(line) if value is not None]
    for at in range(min(known, len(line))):
        if line[at] is not None or how in ("null", "none"):
            continue
        place = bisect.bisect_left(there, at)
        left = there[place - 1] if place else None
        right = there[place] if place < len(there) else None
        if how == "previous":
            if left is not None and at - left <= 10:
                found[at] = line[left]
        elif how == "linear":
            if left is not None and right is not None:
                a, b = line[left], line[right]
                assert a is not None
                assert b is not None
                share = (at - left) / (right - left)
                size = max(abs(a.value), abs(b.value))
                found[at] = Near(a.value * (1 - share) + b.value * share, a.off + b.off + 1e-12 * size + 1e-320)
        else:
            found[at] = Near(float(how))
        if found[at] is not None:
            where.append(at)
    return found, where


def same_bits(a: float, b: float) -> bool:
    return struct.pack("d", a) == struct.pack("d", b)


def agrees(said: Any, wanted: Near | None, *, exact: bool) -> bool:
    if wanted is None or said is None:
        return said is None and wanted is None
    if exact and wanted.off == 0:
        # of two zeros of either sign the database takes any
        return same_bits(float(said), wanted.value) or (said == 0 and wanted.value == 0)
    return abs(said - wanted.value) <= wanted.off or said == wanted.value


@dataclass
class States:
    """The letters of each series, and which intervals may change; None where that is a matter of the moment."""

    letters: list[list[str | None]]
    provisional: list[bool | None]
    settled: int


def states(
    request: Request,
    edges: list[int],
    read_s: int,
    marks: list[Mark],
    there: list[list[bool]],
    closed: int,
    as_of: tuple[int, int],
) -> States:
    """From the marks alone.

    Args:
        read_s: The tier that was read, or the narrowest where points were.
        there: Where there are points.
        closed: Before it a window's horizon is over.
        as_of: The first and last moment that it may have been read at.
    """
    numbers = {None, *request.series}
    owed = [
        mark
        for mark in marks
        if mark.tier_s <= read_s and mark.series in numbers and mark.start < edges[-1] and mark.end > edges[0]
    ]
    letters: list[list[str | None]] = []
    provisional: list[bool | None] = [end > closed for end in edges[1:]]
    for row, number in enumerate(request.series):
        mine = [mark for mark in owed if mark.series in (None, number)]
        line: list[str | None] = []
        for at, (start, end) in enumerate(pairwise(edges)):
            over = {mark.closing for mark in mine if mark.start < end and mark.end > start}
            if over:
                provisional[at] = True
            if not there[row][at]:
                line.append("-")
            elif end > as_of[0]:
                line.append("o" if end > as_of[1] else None)
            elif False in over:
                line.append("p")
            else:
                line.append("s" if over or end > closed else "f")
        letters.append(line)
    return States(letters, provisional, min([closed, *(mark.start for mark in owed)]))
