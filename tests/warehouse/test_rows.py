"""Rows that are made together are, to the byte, those that the library makes one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tidemark.warehouse.rows import FEW, Row, serialize
from tidemark.wire.quantiles import QUANTILES
from tidemark.wire.summary import MICROSECONDS, ROLLUP

AT_US = 1_767_225_600_000_000
WHOLE = [name for name in ROLLUP.names if ROLLUP[name].kind == "i" and name not in ("series_id", "tier_s")]
VALUES = (0.0, -0.0, 1.5, -1e150, 5e-324, np.inf, -np.inf)


def rows(rng: np.random.Generator, number: int, *, odd: float) -> np.ndarray:
    """Of times and counts as they are, and some that are anything."""
    made = np.zeros(number, ROLLUP)
    made["series_id"] = rng.integers(0, 50, number)
    made["tier_s"] = rng.choice([1, 60, 3600, 86_400, 2**31 - 1], number)
    for name in WHOLE:
        made[name] = (
            AT_US + rng.integers(0, 10**12, number) if name.endswith(("_time", "_start")) else rng.integers(0, 300)
        )
        strange = rng.random(number) < odd
        made[name][strange] = rng.integers(-(2**62), 2**62, strange.sum()) >> rng.integers(0, 62, strange.sum())
    for name in ("sum", "min", "max", "first", "last", "m2"):
        made[name] = rng.choice(VALUES, number)
    made["final"] = rng.random(number) < 0.5
    for name in QUANTILES:
        made[name] = rng.choice([np.nan, *VALUES], number) if odd else np.nan
    return made


def by_library(made: np.ndarray, names: list[tuple[str, str, str]], panes: list[str]) -> list[bytes]:
    found = []
    for row, (project, source, metric), pane in zip(made, names, panes, strict=True):
        message = Row(project=project, source=source, metric=metric, pane=pane, emitted_at=AT_US)
        for name in ROLLUP.names[1:]:
            value = row[name].item()
            if name not in QUANTILES or not np.isnan(value):
                setattr(message, name, value)
        message.window_end = row["window_start"].item() + row["tier_s"].item() * MICROSECONDS
        found.append(message.SerializeToString(deterministic=True))
    return found


@pytest.mark.parametrize("odd", [0.0, 0.02, 1.0])
@pytest.mark.parametrize("number", [0, 1, FEW, 3000])
def test_rows_are_the_librarys(number: int, odd: float) -> None:
    rng = np.random.default_rng(number)
    made = rows(rng, number, odd=odd)
    names = [("p", "ü" * (one % 5), f"m{one}") for one in made["series_id"].tolist()]
    panes = rng.choice(["early", "on_time", "late"], number).tolist()
    assert serialize(made, names, panes, AT_US) == by_library(made, names, panes)
    assert serialize(made, names, "settled", AT_US) == by_library(made, names, ["settled"] * number)


def test_each_length_of_a_number_is_the_librarys() -> None:
    edges = [2**bits + more for bits in range(63) for more in (-1, 0, 1)]
    made = np.zeros(len(edges) * FEW, ROLLUP)
    made["count"] = np.repeat(edges, FEW)
    names = [("p", "s", "m")] * len(made)
    assert serialize(made, names, "settled", AT_US) == by_library(made, names, ["settled"] * len(made))
    made["count"] = -made["count"]
    assert serialize(made, names, "settled", AT_US) == by_library(made, names, ["settled"] * len(made))
