"""What must be in the stores after all, from what was sent and accepted: numpy, `math.fsum`, none of the product's code."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np

from tests.chaos.traffic import Sent, Series

COLUMNS = np.dtype([("series", "i4"), ("event", "i8"), ("publish", "i8"), ("value", "f8")])
_COPIED = np.dtype(
    [("n", ">i2")]
    + [
        field
        for i, kind in enumerate((">i4", ">i8", ">i8", ">f8"))
        for field in ((f"l{i}", ">i4"), (f"c{i}", kind))  # each value has its length before it
    ]
)
_HEADER = 19


@dataclass
class Oracle:
    """`names[points["series"]]`; `points` sorted by (series, event), each once."""

    names: list[Series]
    points: np.ndarray

    def without(self, gone: np.ndarray) -> Oracle:
        """After these points were deleted."""
        return Oracle(self.names, self.points[~gone])

    def of(self, series: Series) -> np.ndarray:
        """Which points are of a series."""
        return self.points["series"] == self.names.index(series)

    def rollups(self, tier_s: int, base_s: int) -> dict[tuple[Series, int], dict[str, float]]:
        """By (series, window start in µs)."""
        width, base = tier_s * 1_000_000, base_s * 1_000_000
        p = self.points
        start = p["event"] - p["event"] % width
        late = p["publish"] > p["event"] - p["event"] % base + base
        edges = np.flatnonzero((np.diff(p["series"]) != 0) | (np.diff(start) != 0)) + 1
        found = {}
        for a, b in zip([0, *edges.tolist()], [*edges.tolist(), len(p)], strict=True):
            values = p["value"][a:b].tolist()
            mean = math.fsum(values) / len(values)
            found[self.names[p["series"][a]], int(start[a])] = {
                "count": len(values),
                "sum": math.fsum(values),
                "min": min(values),
                "max": max(values),
                "first": values[0],
                "last": values[-1],
                "m2": math.fsum((value - mean) ** 2 for value in values),
                "first_publish_time": int(p["publish"][a:b].min()),
                "last_publish_time": int(p["publish"][a:b].max()),
                "late_count": int(late[a:b].sum()),
            }
        return found


def oracle(sent: list[Sent], accepted: dict[str, tuple[str, int]]) -> Oracle:
    """Of each (series, event time) the accepted point with the greatest (publish time, value)."""
    number = {series: i for i, series in enumerate(sorted({one.series for one in sent}))}
    parts = []
    for name, publish_us in accepted.values():
        if not name.isdigit():
            continue
        one = sent[int(name)]
        part = np.empty(len(one.value), COLUMNS)
        part["series"], part["event"] = number[one.series], one.event_ms * 1000
        part["publish"], part["value"] = publish_us, one.value
        parts.append(part)
    every = np.concatenate(parts)
    every = every[np.lexsort((every["value"], every["publish"], every["event"], every["series"]))]
    last = np.append((np.diff(every["series"]) != 0) | (np.diff(every["event"]) != 0), True)
    return Oracle(list(number), every[last])


def stored(connection: object, names: list[Series]) -> np.ndarray:
    """Every row of `points`, sorted by (series, event), series as their places in `names`.

    Args:
        connection: pg8000's.
        names: Of the oracle.

    Raises:
        ValueError: a point of another series is there.
    """
    cursor = connection.cursor()  # type: ignore[attr-defined]
    cursor.execute("SELECT series_id, project, source, metric FROM series")
    place = {series: i for i, series in enumerate(names)}
    numbers = {row[0]: place[row[1], row[2], row[3]] for row in cursor.fetchall() if (row[1], row[2], row[3]) in place}
    copied = io.BytesIO()
    cursor.execute(
        "COPY (SELECT series_id, (extract(epoch FROM event_time) * 1000000)::bigint,"
        " (extract(epoch FROM publish_time) * 1000000)::bigint, value FROM points) TO STDOUT (FORMAT binary)",
        stream=copied,
    )
    raw = np.frombuffer(copied.getbuffer()[_HEADER:-2], _COPIED)
    if set(np.unique(raw["c0"]).tolist()) - numbers.keys():
        raise ValueError("points of series that nobody sent")
    found = np.empty(len(raw), COLUMNS)
    lookup = np.zeros(max(numbers, default=0) + 1, np.int32)
    for series_id, at in numbers.items():
        lookup[series_id] = at
    found["series"] = lookup[raw["c0"]]
    found["event"], found["publish"], found["value"] = raw["c1"], raw["c2"], raw["c3"]
    return found[np.lexsort((found["event"], found["series"]))]


def unexplained(wanted: np.ndarray, found: np.ndarray) -> int:
    """Points that are only in one of the two, or differ, which counts for two; each of them holds a key once."""
    every = np.concatenate((wanted, found))
    every = every[np.lexsort((every["value"], every["publish"], every["event"], every["series"]))]
    pair = every[1:] == every[:-1]
    return len(every) - 2 * int(pair.sum())
