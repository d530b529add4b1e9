"""What the store sends as bytes, a column at a time, as arrays: a million values are a few arrays and no objects."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

POSTGRES_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01, from which PostgreSQL counts."""
Integers = npt.NDArray[np.int64]


def integers(data: bytes) -> Integers:
    """A column of `int4send`."""
    return np.frombuffer(data, ">i4").astype(np.int64)


def longs(data: bytes) -> Integers:
    """A column of `int8send`."""
    return np.frombuffer(data, ">i8").astype(np.int64)


def moments(data: bytes) -> Integers:
    """A column of `timestamptz_send`, in microseconds since 1970."""
    return np.frombuffer(data, ">i8").astype(np.int64) + POSTGRES_EPOCH_US


def doubles(data: bytes) -> npt.NDArray[np.float64]:
    """A column of `float8send`."""
    return np.frombuffer(data, ">f8").astype(np.float64)


_NUMBERED: Final = np.dtype([("series_id", ">i4"), ("start", ">i8"), ("number", ">i8")])


def numbered(data: bytes) -> tuple[Integers, Integers, Integers]:
    """Series, starts of intervals in microseconds since 1970, and a number of each."""
    found = np.frombuffer(data, _NUMBERED)
    start = found["start"].astype(np.int64) + POSTGRES_EPOCH_US
    return found["series_id"].astype(np.int64), start, found["number"].astype(np.int64)


_OWED: Final = np.dtype([("series_id", ">i4"), ("start", ">i8"), ("end", ">i8"), ("closing", ">i4")])


class Owed:
    """Marks that overlap a range: series (0: all), from, to in microseconds since 1970, closing."""

    def __init__(self, data: bytes) -> None:
        found = np.frombuffer(data, _OWED)
        self.series_id = found["series_id"].astype(np.int64)
        self.start = found["start"].astype(np.int64) + POSTGRES_EPOCH_US
        self.end = found["end"].astype(np.int64) + POSTGRES_EPOCH_US
        self.closing = found["closing"].astype(bool)

    def owes(self) -> bool:
        """Whether one of them is of windows that have to be settled, and not only looked at once more."""
        return not self.closing.all()
