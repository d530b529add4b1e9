"""Appends good points as columns, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from tidemark.wire.block import Columns, SeriesKey
from tidemark.wire.body import NO_PROJECT, Body
from tidemark.wire.limits import MAX_VALUE, Limits
from tidemark.wire.message import LAST_EVENT_TIME, LEAST_MS, microseconds
from tidemark.wire.reasons import RejectedError

_LAST_MS: Final = LAST_EVENT_TIME // 1000


@dataclass(frozen=True)
class Appender:
    """Appends all of some bodies, or nothing, within these bounds."""

    limits: Limits

    def points(self, items: Sequence[Body], published: npt.NDArray[np.int64], into: Columns, now_us: int) -> bool:
        """Append points as columns; False: one of them is a batch, or not good, and nothing was appended.

        Args:
            items: At least one.
            published: Their publish times in microseconds since 1970. Shape (len(items),).
            into: Filled in place.
            now_us: The clock in microseconds, from which the retention is counted.
        """
        if [item.points for item in items].count(UNSET) < len(items):
            return False
        micros = _micros([item.event_time for item in items])
        if micros is None or not self._is_timely(micros, published, now_us):
            return False
        try:
            values = np.array([item.value for item in items], np.float64)
            if values.min() < -MAX_VALUE or values.max() > MAX_VALUE:
                return False
            series = self._numbers(items, into)
            self._append_attributes([item.attributes for item in items], into)
        except (RejectedError, TypeError):
            return False
        into.series.frombytes(np.array(series, np.int32).tobytes())
        into.event_time.frombytes(micros.tobytes())
        into.publish_time.frombytes(published.tobytes())
        into.value.frombytes(values.tobytes())
        return True

    def batches(self, items: Sequence[Body], published: npt.NDArray[np.int64], into: Columns, now_us: int) -> bool:
        """Append the points of batches as columns; False: one of them is none, or not good, and nothing was appended.

        Args:
            items: At least one.
            published: Their publish times in microseconds since 1970. Shape (len(items),).
            into: Filled in place.
            now_us: The clock in microseconds, from which the retention is counted.
        """
        if not all(map(_has_points_alone, items)):
            return False
        lists = [item.points for item in items]
        counts = [*map(len, lists)]  # type: ignore[arg-type]  # they have some
        points = [*chain.from_iterable(lists)]  # type: ignore[arg-type]
        micros = _micros([point.event_time for point in points])
        if micros is None:
            return False
        times = np.repeat(published, counts)
        values = np.array([point.value for point in points], np.float64)
        if not self._is_timely(micros, times, now_us) or values.min() < -MAX_VALUE or values.max() > MAX_VALUE:
            return False
        try:
            series = self._numbers_of(items, counts, [point.metric for point in points], into)
            self._append_attributes([point.attributes for point in points], into)
        except RejectedError:
            return False
        into.series.frombytes(np.array(series, np.int32).tobytes())
        into.event_time.frombytes(micros.tobytes())
        into.publish_time.frombytes(times.tobytes())
        into.value.frombytes(values.tobytes())
        return True

    def _is_timely(self, micros: npt.NDArray[np.int64], published: npt.NDArray[np.int64], now_us: int) -> bool:
        earliest = now_us - self.limits.retention_us if self.limits.retention_us else 0
        return int((micros - published).max()) <= self.limits.max_future_us and int(micros.min()) >= earliest

    def _numbers_of(self, items: Sequence[Body], counts: Sequence[int], names: list[str], into: Columns) -> list[int]:
        """The numbers of the series of batches' points.

        Raises:
            RejectedError: a name is not good.
        """
        series: list[int] = []
        begin = 0
        for item, count in zip(items, counts, strict=True):
            some = names[begin : begin + count] if len(items) > 1 else names
            begin += count
            metrics = into.metrics_of(item.project, item.source)
            metrics.made = partial(self.number, item.project, item.source, metrics=metrics, into=into)
            try:
                series += map(metrics.__getitem__, some)
            finally:
                metrics.made = None  # which holds what holds it
        return series

    def _numbers(self, items: Sequence[Body], into: Columns) -> list[int]:
        """The numbers of points' series.

        Raises:
            RejectedError, TypeError: a name is not good, or missing.
        """
        numbers = into.numbers
        names = zip([item.project for item in items], [item.source for item in items], [item.metric for item in items])  # noqa: B905  # of one length
        numbers.made = partial(self._number_single, into=into)
        try:
            return [*map(numbers.__getitem__, names)]  # type: ignore[arg-type]  # a metric that is missing is refused
        finally:
            numbers.made = None  # which holds what holds it

    def _number_single(self, names: tuple[str, str, Any], into: Columns) -> int:
        """A number for the series of a point, if it has all its names.

        Raises:
            RejectedError, TypeError: a name is not good, or missing.
        """
        project, source, metric = names
        if project is NO_PROJECT or not isinstance(metric, str):
            raise TypeError
        metrics = into.metrics_of(project, source)
        number = metrics.get(metric)
        if number is None:
            number = self.number(project, source, metric, metrics, into)
        into.numbers[project, source, metric] = number
        return number

    def _append_attributes(self, attributes: list[dict[str, Any] | None], into: Columns) -> None:
        if any(attributes):
            into.attributes += [self.limits.canonical(some) if some else None for some in attributes]
        else:
            into.attributes += [None] * len(attributes)

    def number(self, project: str, source: str, metric: str, metrics: dict[str, int], into: Columns) -> int:
        """A number for a series whose name is good."""
        if not metrics:
            self.limits.check_name("project", project)
            self.limits.check_name("source", source)
        self.limits.check_name("metric", metric)
        return into.number(SeriesKey(project, source, metric), metrics)


def _has_points_alone(item: Body) -> bool:
    """Whether it is a batch with a project and points, and no point itself."""
    return bool(
        item.points  # UNSET is false
        and item.project is not NO_PROJECT
        and item.metric is UNSET
        and item.event_time is UNSET
        and item.value is UNSET
        and not item.attributes
    )


def _micros(stated: list[Any]) -> npt.NDArray[np.int64] | None:
    """Event times in microseconds; None: one of them is none, or may be in another unit."""
    try:
        found = np.array(stated, np.int64)
    except TypeError:
        if not all(isinstance(at, datetime) for at in stated):
            return None
        return np.array([microseconds(at) for at in stated], np.int64)
    except OverflowError:
        return None
    if int(found.min()) < LEAST_MS or int(found.max()) > _LAST_MS:
        return None
    return found * 1000
