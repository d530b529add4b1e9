"""What the product must say, computed in another way: dictionaries and `math.fsum`, none of its code."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

Key = tuple[str, str, str]


@dataclass
class Oracle:
    winners: dict[tuple[Key, int], tuple[int, float]] = field(default_factory=dict)
    """(series, event time in µs) to (publish time in µs, value)."""

    def publish(self, key: Key, event_us: int, publish_us: int, value: float) -> None:
        candidate = (publish_us, value)
        self.winners[key, event_us] = max(self.winners.get((key, event_us), candidate), candidate)

    def rollups(
        self, tier_s: int, base_s: int, *, quantiles: bool = False
    ) -> dict[tuple[Key, int], dict[str, float | None]]:
        """By (series, window start in µs)."""
        width, base = tier_s * 1_000_000, base_s * 1_000_000
        groups = defaultdict(list)
        for (key, event_us), (publish_us, value) in self.winners.items():
            groups[key, event_us - event_us % width].append((event_us, publish_us, value))
        found: dict[tuple[Key, int], dict[str, float | None]] = {}
        for (key, start), members in groups.items():
            members.sort()
            values = [value for _, _, value in members]
            mean = math.fsum(values) / len(values)
            found[key, start] = {
                "count": len(values),
                "sum": math.fsum(values),
                "min": min(values),
                "max": max(values),
                "first": values[0],
                "last": values[-1],
                "m2": math.fsum((value - mean) ** 2 for value in values),
                "first_publish_time": min(published for _, published, _ in members),
                "last_publish_time": max(published for _, published, _ in members),
                "late_count": sum(published > event - event % base + base for event, published, _ in members),
            }
            ranked = sorted(values)
            for name, hundredths in (("p50", 50), ("p90", 90), ("p99", 99)):
                rank = hundredths * (len(ranked) - 1) // 100
                found[key, start][name] = ranked[rank] if quantiles else None
        return found


def differences(wanted: dict[tuple[Key, int], dict[str, float | None]], rows: list[object]) -> list[str]:
    """Where rows (of `rollups_latest`) differ from what is wanted."""
    left, found = dict(wanted), []
    for row in rows:
        key = ((row.project, row.source, row.metric), row.window_start)  # type: ignore[attr-defined]
        expected = left.pop(key, None)
        if expected is None:
            found.append(f"{key} should not be there")
            continue
        for name, value in expected.items():
            got = getattr(row, name)
            if name in ("sum", "m2"):
                same = math.isclose(got, value, rel_tol=1e-9, abs_tol=1e-6)
            elif name in ("p50", "p90", "p99") and None not in (got, value):
                same = abs(got - value) <= 0.01 * abs(value) * (1 + 1e-9)
            else:
                same = got == value
            if not same:
                found.append(f"{key} {name}: {got}, should be {value}")
    return found + [f"{key} is missing" for key in left]
