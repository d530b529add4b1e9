"""The unit of work: columns of points, still under their series' names, with the dead letters of the same messages."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from tidemark.wire.reasons import Reason
from tidemark.wire.summary import POINT, Points

KNOWN_BYTES: Final = 64 << 20
"""So much of the names of series is remembered from one block to the next, good ones or not."""
_ENTRY_BYTES: Final = 300
"""What remembering a name takes beside its text."""
BLOCK_POINTS: Final = 10_000
_WIDEST: Final = 2**62


class SeriesKey(NamedTuple):
    """Who owns a series, which device or client sent it, and what it measures."""

    project: str
    source: str
    metric: str


class DeadLetter(NamedTuple):
    """A message (position -1), one of its points, or some of them, with the original bytes and why it cannot be accepted.

    The bytes of points are their own JSON, without the message's `content_encoding`. `points` is how many there are, as
    which it counts.
    """

    message_id: str
    position: int
    data: bytes
    attributes: dict[str, str]
    stage: str
    reason: Reason
    detail: str
    publish_time: int
    points: int = 1


@dataclass(frozen=True)
class Block:
    """Columns of up to about 10,000 points, in the order they came.

    Attributes:
        keys: The distinct series.
        points: Shape (n,), dtype `POINT`, whose `series_id` is an index into `keys`.
        attributes: Canonical JSON a point or None, length n; None when no point has any.
        dead_letters: Of the messages these points came from.
    """

    keys: list[SeriesKey]
    points: Points
    attributes: list[bytes | None] | None = None
    dead_letters: list[DeadLetter] = field(default_factory=list)

    @property
    def received(self) -> int:
        """Points received: those here and those dead-lettered; an undecodable message counts one."""
        return len(self.points) + sum(letter.points for letter in self.dead_letters)

    def take(self, index: npt.NDArray[np.intp]) -> Block:
        """The block of the points at `index`, without dead letters."""
        chosen = None if self.attributes is None else [self.attributes[i] for i in index.tolist()]
        return Block(self.keys, self.points[index], chosen)


Name = TypeVar("Name")


class Numbers(dict[Name, int]):
    """Numbers of series by their names; a missing one is made while `made` says how."""

    made: Callable[[Name], int] | None = None

    def __missing__(self, name: Name) -> int:
        """Make it.

        Raises:
            KeyError: nobody says how.
        """
        if self.made is None:
            raise KeyError(name)
        return self.made(name)


@dataclass
class Columns:
    """A block that is being filled."""

    keys: list[SeriesKey] = field(default_factory=list)
    series: array[int] = field(default_factory=partial(array, "i"))
    event_time: array[int] = field(default_factory=partial(array, "q"))
    publish_time: array[int] = field(default_factory=partial(array, "q"))
    value: array[float] = field(default_factory=lambda: array("d"))
    attributes: list[bytes | None] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    numbers: Numbers[tuple[str, str, str]] = field(default_factory=Numbers)
    """Of series, by their names; of those that were asked for so."""
    known_bytes: int = 0
    """About how much memory the names take."""
    _metrics: dict[tuple[str, str], Numbers[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.series) + len(self.dead_letters)

    def metrics_of(self, project: str, source: str) -> Numbers[str]:
        """The metrics of a source that are in the block, with the numbers of their series."""
        found = self._metrics.get((project, source))
        if found is None:
            found = self._metrics[project, source] = Numbers()
            self.known_bytes += _ENTRY_BYTES + len(project) + len(source)
        return found

    def number(self, key: SeriesKey, metrics: dict[str, int]) -> int:
        """A number for a series that is not in the block yet; `metrics` is that of its source."""
        metrics[key.metric] = number = len(self.keys)
        self.keys.append(key)
        self.known_bytes += _ENTRY_BYTES + len(key.project) + len(key.source) + len(key.metric)
        return number

    def truncate(self, points: int) -> None:
        """Take back every point after the first `points`."""
        for column in (self.series, self.event_time, self.publish_time, self.value):
            del column[points:]
        del self.attributes[points:]

    def block(self) -> Block:
        """The finished block."""
        points = np.empty(len(self.series), POINT)
        points["series_id"] = np.frombuffer(self.series, np.int32) if self.series else 0
        points["event_time"] = np.frombuffer(self.event_time, np.int64) if self.series else 0
        points["publish_time"] = np.frombuffer(self.publish_time, np.int64) if self.series else 0
        points["value"] = np.frombuffer(self.value, np.float64) if self.series else 0
        points["value"] += 0.0  # -0.0 becomes 0.0
        attributes = self.attributes if self.attributes.count(None) < len(self.attributes) else None
        # some are of points that were taken back, or of an earlier block: only a point that is stored makes a series
        used = np.bincount(points["series_id"], minlength=len(self.keys)) > 0
        keys = [*compress(self.keys, used.tolist())]
        points["series_id"] = (np.cumsum(used) - 1)[points["series_id"]]
        return Block(keys, points, attributes, self.dead_letters)

    def following(self) -> Columns:
        """Those of the next block, once this one is finished: its series keep their numbers, unless that takes too much."""
        if self.known_bytes > KNOWN_BYTES:
            return Columns()
        return Columns(self.keys, numbers=self.numbers, known_bytes=self.known_bytes, _metrics=self._metrics)


@dataclass(frozen=True)
class Winners:
    """What is left of a block when the greatest of each (series, event time) has won.

    Attributes:
        points: Sorted by (series_id, event_time).
        attributes: As in `Block`.
        index: Where each came from in the block.
        tied: Some key still stands more than once, with equal publish time and value but different attributes: only
            the database knows their order.
    """

    points: Points
    attributes: list[bytes | None] | None
    index: npt.NDArray[np.intp]
    tied: bool


def winners(points: Points, attributes: list[bytes | None] | None = None) -> Winners:
    """Sort by (series_id, event_time) and keep, of each, the greatest (publish_time, value), once with each attributes.

    Associative, commutative and idempotent up to the order of ties: the last writer wins by the server's clock,
    whatever the order and however often.
    """
    order = _order(points)
    ordered = points[order]
    same_key = (ordered["series_id"][1:] == ordered["series_id"][:-1]) & (
        ordered["event_time"][1:] == ordered["event_time"][:-1]
    )
    last = np.ones(len(ordered), bool)
    last[:-1] = ~same_key
    keep = last.copy()
    if attributes is not None:
        equal = same_key & (ordered["publish_time"][1:] == ordered["publish_time"][:-1])
        equal &= ordered["value"][1:] == ordered["value"][:-1]
        run = last.copy()
        seen: set[bytes | None] = set()
        for i in np.flatnonzero(equal)[::-1].tolist():
            if run[i + 1]:
                # one of the equals that reach the last of their key
                run[i] = True
                if last[i + 1]:
                    seen = {attributes[order[i + 1]]}
                keep[i] = attributes[order[i]] not in seen
                seen.add(attributes[order[i]])
    index = order[keep]
    chosen = None if attributes is None else [attributes[i] for i in index.tolist()]
    return Winners(points[index], chosen, index, tied=len(index) > int(np.count_nonzero(last)))


def _order(points: Points) -> npt.NDArray[np.intp]:
    """The order by (series_id, event_time, publish_time, value); of equals, as they came.

    Series and time as one integer, where they fit, sort five times as fast as four columns; what shares a key is then
    put in order by itself.
    """
    series, event_time = points["series_id"], points["event_time"]
    if len(points):
        least, width = int(event_time.min()), int(event_time.max()) - int(event_time.min()) + 1
        first, number = int(series.min()), int(series.max()) - int(series.min()) + 1
    if not len(points) or width * number > _WIDEST:
        return np.lexsort((points["value"], points["publish_time"], event_time, series))
    key = (series.astype(np.int64) - first) * width + (event_time - least)
    order = np.argsort(key)
    ordered = key[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        shared = np.zeros(len(order), bool)
        shared[1:] = same
        shared[:-1] |= same
        some = np.sort(order[shared])
        order[shared] = some[np.lexsort((points["value"][some], points["publish_time"][some], key[some]))]
    return order
