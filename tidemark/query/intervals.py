"""Moments and intervals of a request: one list of boundaries, by which points are folded and gaps are filled alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import numpy.typing as npt

from tidemark.query.problems import ProblemError, bad
from tidemark.wire.message import moment

SECOND_US: Final = 1_000_000
DAY_S: Final = 86_400
LADDER_S: Final = (
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10_800,
    21_600,
    43_200,
    DAY_S,
    7 * DAY_S,
)
"""Lengths that are chosen from where none is asked for."""
MOST_A_SERIES: Final = 11_000
REMEMBERED: Final = 64
"""Axes, and what is made of each."""
_LEAST_MS: Final = 10**11
_FIRST_US: Final = 0
_LAST_US: Final = 253_402_300_800 * SECOND_US
"""The end of the year 9999."""
_WEEK_US: Final = 7 * DAY_S * SECOND_US
_MONDAY_US: Final = 4 * DAY_S * SECOND_US
"""1970-01-05: weeks begin on Mondays."""
_AGO: Final = re.compile(r"now(?:-([0-9]{1,9})(s|m|h|d|w))?")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": DAY_S, "w": 7 * DAY_S}
_WHOLE: Final = re.compile(r"[0-9]{1,15}")
_RFC_3339: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?([Zz]|[+-]\d\d:[0-5]\d)", re.ASCII
)
Boundaries = npt.NDArray[np.int64]


def time_us(parameter: str, text: str, now_us: int) -> int:
    """A moment in microseconds since 1970: RFC 3339 with a zone, whole seconds or milliseconds, `now`, `now-28d`.

    Raises:
        ProblemError: it is none.
    """
    if (ago := _AGO.fullmatch(text)) is not None:
        found = now_us - (int(ago[1]) * _UNITS_S[ago[2]] * SECOND_US if ago[1] else 0)
    elif _WHOLE.fullmatch(text):
        found = int(text) * (1000 if int(text) >= _LEAST_MS else SECOND_US)
    else:
        found = _stated(parameter, text)
    if not _FIRST_US <= found < _LAST_US:
        raise bad(parameter, f"`{parameter}` has to lie between 1970 and 9999.")
    return found


def _stated(parameter: str, text: str) -> int:
    found = _RFC_3339.fullmatch(text)
    if found is None:
        raise bad(
            parameter,
            f"`{parameter}` has to be RFC 3339 with a zone (2026-01-31T12:00:00Z), seconds or milliseconds since 1970, `now`, or "
            "`now-28d`; a + is written as %2B.",
        )
    day, clock, fraction, zone = found.groups()
    try:
        whole = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'Zz' else zone}")
        seconds = round((whole - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    except (ValueError, OverflowError) as error:
        raise bad(parameter, f"`{parameter}` is no time: {error}.") from None
    return seconds * SECOND_US + int((fraction or "0").ljust(9, "0")[:6])


class Asked(NamedTuple):
    """A range and how it is to be divided; times in microseconds since 1970."""

    start_us: int
    end_us: int
    interval_s: int | None
    max_points: int
    zone: str | None
    aligned_to_start: bool


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """Intervals, of which one is the same as itself alone.

    Attributes:
        boundaries: One more than there are intervals, ascending, in microseconds since 1970.
        interval_s: Their length where it is the same everywhere.
    """

    boundaries: Boundaries
    interval_s: int

    @property
    def start_us(self) -> int:
        """The first interval's start."""
        return int(self.boundaries[0])

    @property
    def end_us(self) -> int:
        """The last one's end."""
        return int(self.boundaries[-1])

    def __len__(self) -> int:
        return len(self.boundaries) - 1


@lru_cache(maxsize=REMEMBERED)
def axis(asked: Asked) -> Axis:
    """The intervals of a request: whole ones, so that its range is widened to them, unless they are aligned to its start.

    Those of one request after the other are often the same.

    Raises:
        ProblemError: there are too many, or they cannot be.
    """
    if asked.start_us >= asked.end_us:
        raise bad("from", "`from` has to be before `until`.")
    try:
        found = _divided(asked, _zone(asked.zone))
    except OverflowError:
        found = None
    if found is None or found.end_us >= _LAST_US:
        raise bad("until", "`until` is so late that the last interval ends after the year 9999.")
    found.boundaries.flags.writeable = False
    return found


def _divided(asked: Asked, zone: ZoneInfo | None) -> Axis:
    interval_s = asked.interval_s or _chosen(asked, zone)
    if zone is not None:
        if interval_s % DAY_S:
            raise bad("tz", "`tz` is for intervals of whole days: `interval-sec` has to be a multiple of 86400.")
        if asked.aligned_to_start:
            raise bad("align", "`align=from` and `tz` exclude each other.")
    if (count := _count(asked, interval_s, zone)) > MOST_A_SERIES:
        raise ProblemError(
            "too-many-intervals",
            f"That is {count:,} intervals a series, and may be {MOST_A_SERIES:,}.",
            parameter="interval-sec",
            least_interval_sec=_fitting(asked, MOST_A_SERIES, zone),
        )
    return Axis(_equal(asked, interval_s) if zone is None else _calendar(asked, interval_s // DAY_S, zone), interval_s)


def _chosen(asked: Asked, zone: ZoneInfo | None) -> int:
    """The shortest usual interval with which there are no more than `max_points`."""
    return _fitting(asked, asked.max_points, zone)


def _fitting(asked: Asked, most: int, zone: ZoneInfo | None) -> int:
    """The shortest usual interval with which there are no more than so many, or whole days that are no usual ones.

    Raises:
        ProblemError: there is none: the range has 1970-01-01 inside, from which all are counted.
    """
    for each in LADDER_S:
        if not (zone is not None and each % DAY_S) and _count(asked, each, zone) <= most:
            return each
    days = max(8, (asked.end_us - asked.start_us) // (most * DAY_S * SECOND_US))
    while _count(asked, days * DAY_S, zone) > most:
        if days * DAY_S * SECOND_US > _LAST_US:
            raise bad("max-points", "So few intervals cannot be with this range: ask for more, or for `align=from`.")
        days += 1 + days // 64
    return days * DAY_S


def _count(asked: Asked, interval_s: int, zone: ZoneInfo | None) -> int:
    """How many intervals there are, or one more where a zone has left out a day."""
    width = interval_s * SECOND_US
    if asked.aligned_to_start:
        return -(-(asked.end_us - asked.start_us) // width)
    if zone is None:
        origin = _origin(width)
        return -(-(asked.end_us - origin) // width) - (asked.start_us - origin) // width
    days = interval_s // DAY_S
    first, last = _day_of(asked.start_us, zone), _day_of(asked.end_us - 1, zone)
    return (last - _origin_day(days)).days // days - (first - _origin_day(days)).days // days + 1


def _origin(width_us: int) -> int:
    """From where intervals of a length are counted."""
    return 0 if width_us % _WEEK_US else _MONDAY_US


def _origin_day(days: int) -> date:
    """The same of whole days of a zone."""
    return date(1970, 1, 1) if days % 7 else date(1970, 1, 5)


def _day_of(us: int, zone: ZoneInfo) -> date:
    return moment(us).astimezone(zone).date()


def _equal(asked: Asked, interval_s: int) -> Boundaries:
    """Multiples of a length since 1970, or since the start."""
    width = interval_s * SECOND_US
    origin = asked.start_us if asked.aligned_to_start else _origin(width)
    first = origin + (asked.start_us - origin) // width * width
    last = origin + -(-(asked.end_us - origin) // width) * width
    found = np.arange(first, last + 1, width, dtype=np.int64)
    if asked.aligned_to_start:
        found[-1] = asked.end_us
    return found


def _zone(name: str | None) -> ZoneInfo | None:
    if name is None or name.upper() == "UTC":
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise bad(
            "tz", f"`tz` has to be a zone of the IANA database, such as Europe/Berlin, and {name[:64]!r} is none."
        ) from None


def _calendar(asked: Asked, days: int, zone: ZoneInfo) -> Boundaries:
    """Midnights of the zone, each `days` apart; weeks begin on Mondays."""
    epoch = _origin_day(days)
    first = (_day_of(asked.start_us, zone) - epoch).days // days * days
    found = [midnight_us(epoch + timedelta(days=first), zone)]
    while found[-1] < asked.end_us:
        first += days
        at = midnight_us(epoch + timedelta(days=first), zone)
        if at <= asked.start_us:  # the clock was turned back over midnight, and shows the day before again
            found = [at]
        elif at > found[-1]:  # where a day was left out, there is no interval for it
            found.append(at)
    return np.array(found, np.int64)


@lru_cache(maxsize=30_000)
def midnight_us(day: date, zone: ZoneInfo) -> int:
    """The first moment of a day, in microseconds since 1970; where a clock is turned on over midnight, that is later than 0:00."""
    local = datetime(day.year, day.month, day.day, tzinfo=zone)
    seconds = round((local - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    # of a time that does not exist or exists twice fold=0 gives the earlier offset; the day begins where its date does
    while moment(seconds * SECOND_US).astimezone(zone).date() < day:
        seconds += 900
    while moment((seconds - 900) * SECOND_US).astimezone(zone).date() >= day:
        seconds -= 900
    return seconds * SECOND_US
