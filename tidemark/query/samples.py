"""`/v1/points`: stored points of series, a page at a time, or so few of them that the shape is still there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tidemark.query import columns, statement
from tidemark.query.answers import shown
from tidemark.query.beside import beside
from tidemark.query.catalogue import Series
from tidemark.query.database import Database
from tidemark.query.problems import ProblemError, bad
from tidemark.wire.message import microseconds, moment

Row = dict[str, Any]
_MOST_CHOSEN: Final = 100_000
_PAGE: Final = """
    SELECT series_id, event_time, value, publish_time, attributes::text FROM points
    WHERE series_id = $1 AND event_time >= $2 AND event_time < $3
    AND ($4::text[] IS NULL OR (SELECT bool_and(attributes ->> a.key = a.value) FROM unnest($4::text[], $5::text[]) AS a(key, value)))
    ORDER BY event_time LIMIT $6"""
_CHOSEN: Final = """
    SELECT event_time, value, publish_time, attributes::text FROM points
    WHERE series_id = $1 AND event_time = ANY($2::timestamptz[]) ORDER BY event_time"""


async def points(
    database: Database,
    series: Sequence[Series],
    start_us: int,
    end_us: int,
    values: dict[str, Any],
    after: Sequence[Any] | None,
) -> tuple[list[Row], list[Any] | None]:
    """Points in the order of series and event time, and behind which one to go on.

    Args:
        database: Asked.
        series: Whose, in order.
        start_us: Of the range, in microseconds since 1970.
        end_us: Its end.
        values: Parameters of the path.
        after: The number of a series and an event time in microseconds; only what comes behind it.

    Raises:
        ProblemError: it reads too many points, or a parameter cannot be.
    """
    keys, texts = _attributes(values["attribute"])
    if values["downsample"]:
        if keys:
            raise bad("attribute", "`attribute` and `downsample` exclude each other.")
        return await _downsampled(database, series, start_us, end_us, values["downsample"], values["points"]), None
    number, time_us = after or (0, -1)
    span = start_us, end_us
    return await _page(
        database,
        [each for each in series if each.number >= number],
        span,
        (number, time_us),
        keys,
        texts,
        values["limit"],
    )


async def _page(
    database: Database,
    series: Sequence[Series],
    span: tuple[int, int],
    after: tuple[int, int],
    keys: list[str],
    texts: list[str],
    limit: int,
) -> tuple[list[Row], list[Any] | None]:
    found: list[tuple[int, int, Row]] = []
    for each in sorted(series, key=lambda each: each.number):
        begin_us = max(span[0], after[1] + 1) if each.number == after[0] else span[0]
        if begin_us < span[1]:
            arguments = (moment(begin_us), moment(span[1]), keys or None, texts or None, limit + 1 - len(found))
            rows = await database.rows(_PAGE, each.number, *arguments)
            found += [(each.number, microseconds(row[1]), _row(each, *row[1:])) for row in rows]
        if len(found) > limit:
            break
    following = list(found[limit - 1][:2]) if len(found) > limit else None
    return [row for _, _, row in found[:limit]], following


def _attributes(asked: Sequence[str]) -> tuple[list[str], list[str]]:
    keys, texts = [], []
    for each in asked:
        key, colon, text = each.partition(":")
        if not key or not colon:
            raise bad("attribute", "`attribute` has to be KEY:VALUE.")
        keys.append(key)
        texts.append(text)
    return keys, texts


def _row(series: Series, time: Any, value: float, published: Any, attributes: str | None) -> Row:
    return {
        "source": series.source,
        "metric": series.metric,
        "time": shown(microseconds(time)),
        "value": value,
        "publish-time": shown(microseconds(published)),
        "attributes": None if attributes is None else json.loads(attributes),
    }


async def _downsampled(
    database: Database, series: Sequence[Series], start_us: int, end_us: int, how: str, most: int
) -> list[Row]:
    span = moment(start_us), moment(end_us)
    found = await database.row(
        statement.POINTS, *span, [each.number for each in series], False, statement.MOST_TAKEN + 1
    )
    number, time = columns.integers(found["series_id"]), columns.moments(found["event_time"])
    value = columns.doubles(found["value"])
    if len(value) > statement.MOST_TAKEN:
        raise ProblemError(
            "too-many-points", f"That reads more than {statement.MOST_TAKEN:,} points: ask for less of it."
        )

    def choose() -> list[npt.NDArray[np.int64]]:
        order = np.lexsort((time, number))
        ends = np.searchsorted(number[order], [(each.number, each.number + 1) for each in series])
        return [
            time[places][(m4 if how == "m4" else lttb)(time[places], value[places], start_us, end_us, most)]
            for places in (order[begin:end] for begin, end in ends)
        ]

    chosen = await beside(len(value), choose)
    total = sum(map(len, chosen))
    if total > _MOST_CHOSEN:
        raise ProblemError(
            "answer-too-large",
            f"That would be {total:,} points, and may be {_MOST_CHOSEN:,}: ask for fewer series, or fewer `points`.",
        )
    rows: list[Row] = []
    for each, times in zip(series, chosen, strict=True):
        moments = [moment(at) for at in times.tolist()]
        rows += [_row(each, *row) for row in await database.rows(_CHOSEN, each.number, moments)]
    return rows


def m4(
    time: npt.NDArray[np.int64], value: npt.NDArray[np.float64], start_us: int, end_us: int, most: int
) -> npt.NDArray[np.int64]:
    """Which points to keep: of each of `most / 4` stretches of the range the first, the last, the least and the greatest.

    A line through them covers the same pixels as one through all, where a stretch is a pixel wide (Jugel et al., 2014).
    """
    if len(time) <= most:
        return np.arange(len(time))
    stretch = (time - start_us) // -(-(end_us - start_us) // (most // 4))
    at = np.flatnonzero(np.concatenate(([True], stretch[1:] != stretch[:-1])))
    last = np.append(at[1:], len(time)) - 1
    order = np.lexsort((value, stretch))
    least, greatest = order[at], order[last]
    return np.unique(np.concatenate((at, last, least, greatest)))


def lttb(
    time: npt.NDArray[np.int64], value: npt.NDArray[np.float64], _start_us: int, _end_us: int, most: int
) -> npt.NDArray[np.int64]:
    """Which points to keep: those of the largest triangles.

    The first, the last, and of each stretch between the one that makes the largest triangle with the one chosen before and
    the mean of the next stretch (Steinarsson, 2013).
    """
    if len(time) <= most:
        return np.arange(len(time))
    edges = np.linspace(1, len(time) - 1, most - 1).astype(np.int64)
    x = (time - time[0]).astype(np.float64)
    scale = 1 / max(1.0, float(np.abs(value).max()))  # so that no area overflows
    y = value * scale
    chosen = [0]
    for begin, end, beyond in zip(
        edges[:-1].tolist(), edges[1:].tolist(), [*edges[2:].tolist(), len(time)], strict=True
    ):
        mean_x, mean_y = x[end:beyond].mean(), y[end:beyond].mean()
        a = chosen[-1]
        area = np.abs((x[a] - mean_x) * (y[begin:end] - y[a]) - (x[a] - x[begin:end]) * (mean_y - y[a]))
        chosen.append(begin + int(area.argmax()))
    return np.array([*chosen, len(time) - 1])
