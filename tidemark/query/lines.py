"""The answer of `/v1/query`, from its buckets: what it says of all of it, and a line a series."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np

from tidemark.query.answers import Answer, encoded, shown
from tidemark.query.beside import beside
from tidemark.query.buckets import Buckets, Line
from tidemark.query.intervals import REMEMBERED, Axis
from tidemark.query.reading import SKETCH
from tidemark.wire.labels import parsed
from tidemark.wire.quantiles import ERROR

Values = dict[str, Any]
_INTEGERS: Final = frozenset({"count", "late-count", "revision", "corrected"})
_EXACT: Final = 2.0**53
"""Below this a double can be every whole number; JSON has room for no greater ones than 2^64."""


async def answered(values: Values, over: Axis, found: Buckets, known: Mapping[str, Any]) -> Answer:
    """The answer.

    Args:
        values: Of the request's parameters.
        over: The intervals.
        found: What is in them.
        known: How complete that is.
    """
    provisional, quantiles, names = _ranges(over, found), _quantiles(found), _columns(values)
    told = {
        "project": values["project"],
        "from": shown(over.start_us),
        "until": shown(over.end_us),
        "interval-sec": over.interval_s,
        "as-of": shown(found.as_of_us),
        **known,
        "provisional": provisional,
        "read": _read(found),
        **quantiles,
    }
    if values["tz"]:
        told["tz"] = values["tz"]
    if found.cut_us is not None and over.start_us < found.cut_us:
        told["points-removed-before"] = shown(found.cut_us)
    start = _starts(over)
    size = len(over) * len(found.lines) * len(names)
    lines = await beside(size, lambda: encoded([_line(line, values) for line in found.lines]))
    skip = values["fill"] == "none"
    header = ("start", "source", "metric", *names)
    return Answer(
        {**told, "start": msgspec.Raw(start), "series": msgspec.Raw(lines)},
        header,
        _rows(over, found, values, names, skip=skip),
        b"".join((start, lines, encoded(provisional), encoded(quantiles))),
        size,
    )


@lru_cache(maxsize=REMEMBERED)
def _starts(over: Axis) -> bytes:
    return encoded((over.boundaries[:-1] // 1000).tolist())


def _columns(values: Values) -> list[str]:
    return [*values["aggregation"], *(name for name in values["columns"] if name not in values["aggregation"])]


def _line(line: Line, values: Values) -> Values:
    if line.series is None:
        told: Values = {"across": values["across"]}
    else:
        name, labels = parsed(line.series.metric)
        told = {"metric": line.series.metric, "name": name, "source": line.series.source, "labels": labels}
    for column, array in line.values.items():
        told[column] = _whole(array) if column in _INTEGERS else array.tolist()
    if line.state is not None:
        told["state"] = line.state
    if line.filled:
        told["filled"] = line.filled
    return told


def _whole(array: Any) -> list[int | float | None]:
    """Numbers without a point, where they are whole."""
    if not (np.abs(array) < _EXACT).all():  # where something is none as well
        return [None if math.isnan(value) else _plain(value) for value in array.tolist()]
    whole = array.astype(np.int64)
    return (whole if (whole == array).all() else array).tolist()  # type: ignore[no-any-return]


def _plain(value: float) -> int | float:
    return int(value) if abs(value) < _EXACT and value == int(value) else value


def _rows(over: Axis, found: Buckets, values: Values, columns: Sequence[str], *, skip: bool) -> Iterator[Sequence[Any]]:
    starts = [shown(int(at)) for at in over.boundaries[:-1]]
    for number, line in enumerate(found.lines):
        source = line.series.source if line.series else ""
        metric = line.series.metric if line.series else f"across={values['across']}"
        lists = [
            list(line.state or "")
            if name == "state"
            else _whole(line.values[name])
            if name in _INTEGERS
            else line.values[name].tolist()
            for name in columns
        ]
        there = found.there[number].tolist()
        for at, start in enumerate(starts):
            if there[at] or not skip:
                yield (start, source, metric, *(column[at] for column in lists))


def _ranges(over: Axis, found: Buckets) -> list[list[str | None]]:
    """The stretches of provisional intervals."""
    if not found.provisional.any():
        return []
    edges = np.flatnonzero(np.diff(np.concatenate(([False], found.provisional, [False])).astype(np.int8)))
    pairs = edges.reshape(-1, 2).tolist()
    return [[shown(int(over.boundaries[begin])), shown(int(over.boundaries[end]))] for begin, end in pairs]


def _read(found: Buckets) -> Values:
    return {"rollups": found.tier_s, "intervals-from-points": found.points}


def _quantiles(found: Buckets) -> Values:
    if found.quantiles is None:
        return {}
    return {"quantiles": found.quantiles, **({"error": ERROR} if found.quantiles == SKETCH else {})}
