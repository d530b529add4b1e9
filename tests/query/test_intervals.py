"""Moments and boundaries, against calculations of their own."""

from __future__ import annotations

import importlib.resources
import random
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.query import oracle
from tests.query.oracle import DAY_S, LADDER, SECOND, Request
from tidemark.query.intervals import LADDER_S, MOST_A_SERIES, Asked, axis, midnight_us, time_us
from tidemark.query.problems import ProblemError

NOW = 1_790_000_000_123_456
NINE = datetime(9999, 12, 31, tzinfo=UTC)
GOOD = {
    "now": NOW,
    "now-0s": NOW,
    "now-1s": NOW - SECOND,
    "now-90m": NOW - 5400 * SECOND,
    "now-3h": NOW - 10_800 * SECOND,
    "now-28d": NOW - 28 * DAY_S * SECOND,
    "now-2w": NOW - 14 * DAY_S * SECOND,
    "0": 0,
    "1": SECOND,
    "99999999999": 99_999_999_999 * SECOND,
    "100000000000": 100_000_000_000 * 1000,
    "1769860800": 1_769_860_800 * SECOND,
    "1769860800123": 1_769_860_800_123_000,
    "253402300799999": 253_402_300_799_999_000,
    "1970-01-01T00:00:00Z": 0,
    "1970-01-01T00:00:00.000001Z": 1,
    "1970-01-01T00:00:00.0000019Z": 1,
    "2026-01-31T12:00:00Z": 1_769_860_800 * SECOND,
    "2026-01-31t12:00:00z": 1_769_860_800 * SECOND,
    "2026-01-31 12:00:00Z": 1_769_860_800 * SECOND,
    "2026-01-31T12:00:00.5Z": 1_769_860_800_500_000,
    "2026-01-31T13:30:00+01:30": 1_769_860_800 * SECOND,
    "2026-01-31T06:15:00-05:45": 1_769_860_800 * SECOND,
    "2026-01-31T12:00:00-00:00": 1_769_860_800 * SECOND,
    "2024-02-29T00:00:00Z": 1_709_164_800 * SECOND,
    "1969-12-31T23:00:00-01:00": 0,
    "9999-12-31T23:59:59.999999Z": 253_402_300_799_999_999,
}
BAD = [
    "",
    " ",
    "now ",
    "now+1d",
    "now-",
    "now-1",
    "now-1y",
    "now-1.5d",
    "now--1d",
    "now-9999999999s",
    "now-999999999w",
    "NOW",
    "-1",
    "+1",
    "1.5",
    "1e9",
    "0x10",
    "١٢٣",
    "now-٣d",
    "253402300800000",
    "999999999999999",
    "9999999999999999",
    "2026-01-31",
    "2026-01-31T12:00:00",
    "2026-01-31T12:00Z",
    "2026-01-31T12:00:00.Z",
    "2026-01-31T12:00:00,5Z",
    "2026-01-31T12:00:00.1234567890Z",
    "2026-01-31T12:00:00+0100",
    "2026-01-31T12:00:00+01",
    "2026-01-31T12:00:00+14:60",
    "2026-01-31T12:00:00+24:00",
    "2026-01-31T12:00:00 01:00",
    "2026-01-31T12:00:00ZZ",
    "2026-01-31T24:00:00Z",
    "2026-01-31T12:60:00Z",
    "2026-01-31T23:59:60Z",
    "2026-02-29T00:00:00Z",
    "2026-13-01T00:00:00Z",
    "2026-00-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "20260131T120000Z",
    "10000-01-01T00:00:00Z",
    "1969-12-31T23:59:59Z",
    "1970-01-01T00:00:00+00:01",
    "9999-12-31T23:59:59-00:01",
    "٢٠٢٦-01-31T12:00:00Z",
    "2026-01-31T12:00:00Z\n",
]


@pytest.mark.parametrize("text", GOOD)
def test_a_time_is_read(text: str) -> None:
    assert time_us("from", text, NOW) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_time_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ProblemError, match="`until`") as caught:
        time_us("until", text, NOW)
    assert caught.value.kind == "bad-parameter"
    assert caught.value.more == {"parameter": "until"}


@given(st.integers(DAY_S * SECOND, 253_402_214_400 * SECOND), st.integers(-14 * 60, 14 * 60))
def test_a_time_is_read_in_any_offset(us: int, minutes: int) -> None:
    at = oracle.EPOCH + timedelta(microseconds=us)
    sign, size = "-" if minutes < 0 else "+", abs(minutes)
    local = (at + timedelta(minutes=minutes)).replace(tzinfo=None).isoformat()
    assert time_us("from", f"{local}{sign}{size // 60:02d}:{size % 60:02d}", 0) == us
    assert time_us("from", at.isoformat().replace("+00:00", "Z"), 0) == us


# midnights

YEARS = range(1970, 2038)


@lru_cache(maxsize=1)
def zones() -> list[str]:
    """One name of each zone that differs from others."""
    found: dict[bytes, str] = {}
    root = importlib.resources.files("tzdata.zoneinfo")
    for name in sorted(available_timezones()):
        there = root.joinpath(*name.split("/"))
        found.setdefault(there.read_bytes() if there.is_file() else name.encode(), name)
    return sorted(found.values())


def changes(zone: ZoneInfo, step_days: int) -> Iterator[date]:
    """Days on which the clock was changed, to a day or so."""
    day, end = date(YEARS[0], 1, 1), date(YEARS[-1], 12, 31)
    step = timedelta(days=step_days)

    def offset(at: date) -> object:
        return datetime(at.year, at.month, at.day, tzinfo=zone).utcoffset()

    while day < end:
        if offset(day) != offset(day + step):
            yield from (day + timedelta(days=number) for number in range(step_days + 1))
        day += step


def right(days: list[date], name: str) -> None:
    zone = ZoneInfo(name)
    found = [midnight_us(day, zone) for day in days]
    assert found == [oracle.midnight(day, name) for day in days], name
    assert found == sorted(found)


def test_midnights_of_all_zones_where_a_clock_is_changed() -> None:
    rng, looked = random.Random(1), 0
    for name in zones():
        days = {day for day in changes(ZoneInfo(name), 10) if rng.random() < 0.02}
        days |= {date(rng.choice(YEARS), rng.randrange(1, 13), rng.randrange(1, 29)) for _ in range(3)}
        right(sorted(days), name)
        looked += len(days)
    assert len(zones()) > 300
    assert looked > 1000


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_midnights_of_all_zones_on_all_days() -> None:
    for name in zones():
        zone = ZoneInfo(name)
        right(sorted({day + timedelta(days=more) for day in changes(zone, 3) for more in (-1, 0, 1)}), name)
        first = date(YEARS[0], 1, 1)
        every = [midnight_us(first + timedelta(days=number), zone) for number in range(68 * 365)]
        assert (np.diff(every) >= 0).all(), name
        assert (np.diff(every) <= 2 * DAY_S * SECOND).all(), name


KNOWN = [
    ("Europe/Berlin", "2025-03-30", 23),
    ("Europe/Berlin", "2025-10-26", 25),
    ("America/Sao_Paulo", "2018-11-04", 23),
    ("America/Sao_Paulo", "2018-02-17", 25),
    ("Asia/Beirut", "2025-03-30", 23),
    ("Africa/Cairo", "2024-04-26", 23),
    ("Africa/Cairo", "2024-10-31", 25),
    ("Australia/Lord_Howe", "2025-04-06", 24.5),
    ("Australia/Lord_Howe", "2025-10-05", 23.5),
    ("America/St_Johns", "2006-04-02", 23),
    ("America/St_Johns", "2006-10-28", 24),
    ("Asia/Kathmandu", "1986-01-01", 23.75),
    ("Asia/Kathmandu", "2026-01-01", 24),
    ("Pacific/Apia", "2011-12-29", 24),
    ("Pacific/Apia", "2011-12-30", 0),
    ("Pacific/Kwajalein", "1993-08-21", 0),
]


@pytest.mark.parametrize(("name", "day", "hours"), KNOWN)
def test_days_are_as_long_as_their_clock_says(name: str, day: str, hours: float) -> None:
    one, zone = date.fromisoformat(day), ZoneInfo(name)
    width = midnight_us(one + timedelta(days=1), zone) - midnight_us(one, zone)
    assert width == hours * 3600 * SECOND


# boundaries


def asked(request: Request) -> Asked:
    return Asked(
        request.start, request.end, request.interval_s, request.max_points, request.tz, request.align == "from"
    )


@st.composite
def requests(draw: st.DrawFn) -> Request:
    interval = draw(st.sampled_from([None, *LADDER, 7, 90, 86_401, 2 * DAY_S, 14 * DAY_S, 30 * DAY_S, 365 * DAY_S]))
    start = draw(st.integers(0, 2_100_000_000)) * SECOND + draw(st.sampled_from([0, 0, 1, -1, 500_000]))
    length = draw(st.integers(1, 200 * (interval or 4_000_000))) * SECOND + draw(st.sampled_from([0, 1, -1]))
    zone = draw(st.sampled_from([None, None, "UTC", *(name for name, _, _ in KNOWN)]))
    if interval is not None and interval % DAY_S and zone != "UTC":
        zone = None
    align = draw(st.sampled_from(["epoch", "epoch", "from"])) if zone is None else "epoch"
    start, length = max(start, 0), min(length, 4_000_000_000 * SECOND)
    return Request((), start, start + length, interval, draw(st.integers(1, 600)), zone, align)


@given(requests())
def test_boundaries_are_the_oracles_and_no_more_than_asked(request: Request) -> None:
    found = axis(asked(request))
    edges = found.boundaries.tolist()
    assert edges == oracle.boundaries(request, found.interval_s)
    assert (np.diff(found.boundaries) > 0).all()
    assert edges[0] <= request.start < edges[1]
    assert edges[-2] < request.end <= edges[-1]
    if request.interval_s is not None:
        assert found.interval_s == request.interval_s
    else:
        assert len(found) <= request.max_points
        shorter = [
            each
            for each in LADDER
            if each < found.interval_s and (not request.tz or request.tz == "UTC" or each % DAY_S == 0)
        ]
        if shorter and (request.end - request.start) // (shorter[-1] * SECOND) < 20_000:
            assert len(oracle.boundaries(request, shorter[-1])) - 1 > request.max_points


def test_the_usual_lengths() -> None:
    assert LADDER_S == LADDER


@pytest.mark.parametrize("start", [0, 1, 1_769_860_800_000_000, 1_769_860_799_999_999])
@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "Pacific/Apia"])
@pytest.mark.parametrize("most", [1, 2, 3, 499, 11_000])
def test_never_more_intervals_than_asked(start: int, zone: str | None, most: int) -> None:
    if zone == "Pacific/Apia" and start < SECOND and most == 1:
        with pytest.raises(ProblemError, match="So few"):
            axis(Asked(start, 40 * DAY_S * SECOND, None, most, zone, False))
        return
    for length in (1, SECOND, DAY_S * SECOND, 40 * DAY_S * SECOND, 7000 * DAY_S * SECOND):
        for more in (-1, 0, 1):
            found = axis(Asked(start, max(start + 1, start + length + more), None, most, zone, False))
            assert len(found) <= most
            assert found.start_us <= start


@pytest.mark.parametrize("zone", [None, "Asia/Beirut"])
@pytest.mark.parametrize("length_s", [1, 60, DAY_S])
def test_the_least_interval_that_is_told_fits(zone: str | None, length_s: int) -> None:
    if zone is not None and length_s % DAY_S:
        return
    end = 1_769_860_800_000_001
    for number in (MOST_A_SERIES - 1, MOST_A_SERIES, MOST_A_SERIES + 1, 2 * MOST_A_SERIES):
        start = end - number * length_s * SECOND
        if start < 0:
            continue
        request = Asked(start, end, length_s, 500, zone, False)
        try:
            assert len(axis(request)) <= MOST_A_SERIES
        except ProblemError as problem:
            least = problem.more["least_interval_sec"]
            assert least > length_s
            assert len(axis(request._replace(interval_s=least))) <= MOST_A_SERIES


@pytest.mark.parametrize("zone", [None, "Europe/Berlin", "America/New_York"])
def test_what_ends_after_the_year_9999_is_refused(zone: str | None) -> None:
    end = int((NINE - oracle.EPOCH).total_seconds()) * SECOND + DAY_S * SECOND - 1
    for interval_s in (DAY_S, 7 * DAY_S, 36_600 * DAY_S):
        with pytest.raises(ProblemError, match="9999"):
            axis(Asked(end - 5, end, interval_s, 500, zone, False))
    if zone is None:
        assert axis(Asked(end - 5, end, 1, 500, None, True)).end_us == end


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start_us": 5, "end_us": 5}, "`from` has to be before"),
        ({"start_us": 6, "end_us": 5}, "`from` has to be before"),
        ({"zone": "Europe/Nowhere"}, "IANA"),
        ({"zone": "../etc/passwd"}, "IANA"),
        ({"zone": "/etc/localtime"}, "IANA"),
        ({"zone": "Europe"}, "IANA"),
        ({"zone": "Europe/Berlin", "interval_s": 3600}, "whole days"),
        ({"zone": "Europe/Berlin", "interval_s": DAY_S, "aligned_to_start": True}, "exclude"),
    ],
)
def test_what_cannot_be_divided_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ProblemError, match=re.escape(said)):
        axis(Asked(0, DAY_S * SECOND, DAY_S, 500, None, False)._replace(**change))
