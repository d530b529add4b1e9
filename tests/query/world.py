"""A store with everything in it that a query may meet, and what should be said of it."""

from __future__ import annotations

import asyncio
import bisect
import csv
import io
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import numpy as np
from sqlalchemy import Engine

from tests.query import oracle
from tests.query.oracle import DAY_S, SECOND, Contents, Mark, Point, Request
from tidemark.edge.tokens import Grant
from tidemark.query.answers import CSV, JSON, NDJSON, written
from tidemark.query.buckets import Store
from tidemark.query.catalogue import Catalogue
from tidemark.query.completeness import Completeness
from tidemark.query.database import Database
from tidemark.query.parameters import QUERY, parsed
from tidemark.query.service import Service
from tidemark.store.connection import transaction
from tidemark.store.fold import Range
from tidemark.store.housekeeping import Housekeeping
from tidemark.store.marks import insert_marks
from tidemark.store.owing import Policy
from tidemark.store.remove import Deletion
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

SOURCES = ("gw-0", "gw-1", "gw-2")
METRICS = ("a", 'b{x="1"}', 'b{x="2"}')
KEYS = [*(SeriesKey("p", source, metric) for metric in METRICS for source in SOURCES), SeriesKey("p", "gw-0", "empty")]
NUMBERS = {(key.metric, key.source): number for number, key in enumerate(KEYS)}
HISTORY = (
    ("Europe/Berlin", date(2025, 3, 30)),
    ("Europe/Berlin", date(2024, 10, 27)),
    ("America/Sao_Paulo", date(2018, 11, 4)),
    ("America/Sao_Paulo", date(2019, 2, 17)),
    ("Asia/Beirut", date(2025, 3, 30)),
    ("Africa/Cairo", date(2024, 4, 26)),
    ("Africa/Cairo", date(2024, 11, 1)),
    ("Pacific/Apia", date(2011, 12, 30)),
    ("Australia/Lord_Howe", date(2025, 4, 6)),
    ("Australia/Lord_Howe", date(2024, 10, 6)),
    ("America/St_Johns", date(2006, 4, 2)),
    ("America/St_Johns", date(2006, 10, 29)),
    ("Asia/Kathmandu", date(1986, 1, 1)),
    ("Africa/Casablanca", date(2025, 2, 23)),
)
ZONES = (*sorted({zone for zone, _ in HISTORY}), "UTC", "Asia/Kolkata", "America/New_York", "Pacific/Kiritimati")
TIERS = ((60, 3600, DAY_S), (60, 3600, DAY_S), (10, 60, 1800), (300, 43_200), (60,))
Row = tuple[int, int, int, float]


@dataclass(frozen=True)
class Plan:
    """Which world."""

    seed: int
    zone: str
    around: int
    days: int
    tiers_s: tuple[int, ...]
    horizon_s: float


def planned(seed: int) -> Plan:
    rng = random.Random(seed)
    tiers_s = TIERS[seed % len(TIERS)]
    if seed % 4 == 3:
        return Plan(seed, rng.choice(ZONES), time.time_ns() // 1000, 2, tiers_s, rng.choice([600.0, 5400.0]))
    zone, day = HISTORY[seed % len(HISTORY)] if seed < 2 * len(HISTORY) else rng.choice(HISTORY)
    around = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * SECOND
    return Plan(seed, zone, around, rng.choice([1, 3, 9]), tiers_s, 0.0)


class World:
    """One project's store, whose contents are known."""

    def __init__(self, plan: Plan, pool: Engine, database: Database, loop: asyncio.Runner) -> None:
        self.plan, self.pool, self.loop = plan, pool, loop
        self.rng = random.Random(plan.seed)
        with transaction(pool) as connection:
            connection.exec_driver_sql(
                "TRUNCATE points, rollups, marks, ledger, series, settings, sources, corrections"
            )
            connection.exec_driver_sql("UPDATE retention SET removed_before = '-infinity'")
            connection.exec_driver_sql(
                "INSERT INTO settings (tiers_s, horizon_s, debounce_s, quantiles) VALUES (CAST(%s AS integer[]), %s, 0, false)",
                (list(plan.tiers_s), plan.horizon_s),
            )
        self.cache = SeriesCache(pool)
        self.ids: list[int] = list(self.cache.ids(KEYS))
        self.writer = Writer(pool, self.cache, Policy(plan.tiers_s[0], plan.horizon_s, 0))
        self.contents = Contents(plan.tiers_s)
        self.low = plan.around - plan.days * DAY_S * SECOND
        self.high = plan.around + (1800 * SECOND if plan.horizon_s else plan.days * DAY_S * SECOND)
        self.spots = self._spots()
        self.styles = [self.rng.choice(["usual", "usual", "rising", "extreme", "tiny", "far", "zeros"]) for _ in KEYS]
        store = Store(database, plan.tiers_s, plan.horizon_s)
        self.service = Service(store, Catalogue(database), Completeness(store))
        self.sketches = False
        self.said: Counter[str | None] = Counter()

    def _spots(self) -> list[int]:
        """Moments at which something begins: of days of the zone, of hours, of windows."""
        first = datetime.fromtimestamp(self.low / SECOND, UTC).date()
        days = [
            oracle.midnight(first + timedelta(days=number), self.plan.zone) for number in range(2 * self.plan.days + 2)
        ]
        hours = [self.low // 3600 // SECOND * 3600 * SECOND + self.rng.randrange(48) * 3600 * SECOND for _ in range(12)]
        near = [self.plan.around + self.rng.randrange(-600, 600) * SECOND for _ in range(20)]
        windows = [self.rng.randrange(self.low, self.high) // 10_000_000 * 10_000_000 for _ in range(20)]
        return [at for at in (*days, *hours, *near, *windows) if self.low <= at < self.high]

    def moment(self) -> int:
        rng = self.rng
        if rng.random() < 0.4:
            return rng.choice(self.spots) + rng.choice([0, 0, 0, 1, -1, 60 * SECOND, 60 * SECOND - 1])
        if rng.random() < 0.3:
            return rng.choice(self.spots) + rng.randrange(-300, 300) * SECOND // 2
        return rng.randrange(self.low, self.high)

    def value(self, series: int, time_us: int) -> float:
        rng, style = self.rng, self.styles[series]
        if style == "rising":
            return float((time_us - self.low) // (7 * SECOND) % 5000)
        if style == "extreme":
            return rng.choice([1e150, -1e150, 1.0, -3e149])
        if style == "tiny":
            return rng.choice([1e-300, -5e-324, 3e-200, 0.0, 1e-12])
        if style == "far":
            return 1e9 + rng.random()
        if style == "zeros":
            return rng.choice([0.0, -0.0, 0.0, 1.0])
        return rng.uniform(-9, 9)

    def rows(self, number: int) -> list[Row]:
        rng, found = self.rng, []
        for _ in range(number):
            series, at = rng.randrange(len(KEYS) - 1), self.moment()
            late = rng.choice([0, 1, 59_999_999, 60_000_000, 60_000_001, rng.randrange(300 * SECOND)])
            found.append((series, at, at + late, self.value(series, at)))
        return found

    def write(self, rows: Sequence[Row]) -> None:
        """Store points; of one series and time the one that was published last stays."""
        self.writer.write(Block(KEYS, np.array(rows, POINT)))
        for series, at, published, value in rows:
            stored = self.contents.stored.setdefault(series, {})
            if at not in stored or (published, value) > stored[at][1:]:
                stored[at] = Point(at, published, value)

    def settle(self, most: int | None = None, *, forget: bool = True) -> None:
        """Settle all that is owed, or so many transactions of it."""
        settler = Settler(self.pool, self.plan.tiers_s, self.plan.horizon_s, self.sketches)
        done = 0
        while True:
            again = False
            for settled in settler.due(everything=True):
                again = True
                if forget:
                    settler.forget(settled.mark_ids)
                done += 1
                if most is not None and done >= most:
                    return
            if not again or not forget:
                return

    def sketch(self, *, wanted: bool) -> None:
        """From now on rollups have sketches, or none."""
        self.sketches = wanted
        with transaction(self.pool) as connection:
            connection.exec_driver_sql("UPDATE settings SET quantiles = %s", (wanted,))

    def bare(self) -> list[tuple[int, int, int]]:
        """Series, tier and start of each rollup that has points and no sketch."""
        numbers = {number: at for at, number in enumerate(self.ids)}
        with transaction(self.pool) as connection:
            rows = connection.exec_driver_sql(
                "SELECT series_id, tier_s, window_start FROM rollups WHERE bins IS NULL AND count > 0"
            ).all()
        return [(numbers[row[0]], row[1], round(row[2].timestamp()) * SECOND) for row in rows]

    def owe(self) -> None:
        """Marks as of a rebuild: of all series, or of one, in any tier."""
        with transaction(self.pool) as connection:
            for _ in range(self.rng.randrange(1, 4)):
                tier_s = self.rng.choice(self.plan.tiers_s)
                start = self.moment() // SECOND
                series = self.rng.choice([None, *self.ids])
                length = self.rng.choice([1, 3600, 2 * DAY_S])
                insert_marks(connection, self.plan.tiers_s, tier_s, [Range(start, start + length, series)])

    def delete(self) -> None:
        """Remove points of some series in a range."""
        base_s = self.plan.tiers_s[0]
        chosen = self.rng.sample(range(len(KEYS)), self.rng.randrange(1, 4))
        start = self.moment() // SECOND
        end = start + self.rng.choice([1, 60, 3600, DAY_S, 3 * DAY_S])
        if self.contents.cut is not None:
            if self.rng.random() < 0.7:
                start = self.contents.cut // SECOND - self.rng.choice([3600, DAY_S, 2 * DAY_S])
                end = start + self.rng.choice([3600, DAY_S, 3 * DAY_S])
            start, end = start // base_s * base_s, -(-end // base_s) * base_s
        list(Deletion(self.pool, self.plan.tiers_s, [self.ids[number] for number in chosen], start, end).run())
        for number in chosen:
            for points in (self.contents.stored, self.contents.rolled):
                points[number] = {
                    at: point for at, point in points.get(number, {}).items() if not start * SECOND <= at < end * SECOND
                }

    def cut(self) -> bool:
        """Move the cut of retention; nothing is owed before it."""
        largest_s = self.plan.tiers_s[-1]
        before_s = self.rng.randrange(self.low, self.high) // SECOND // largest_s * largest_s
        if self.plan.horizon_s:
            before_s = min(before_s, (int(time.time()) - round(self.plan.horizon_s)) // largest_s * largest_s)
        moved = Housekeeping(self.pool).move_cut(before_s, largest_s)
        assert moved.held_back is None
        before = before_s * SECOND
        if self.contents.cut is not None and self.contents.cut >= before:
            return False
        for number in range(len(KEYS)):
            seen = self.contents.seen(number, self.plan.tiers_s[0])
            self.contents.rolled[number] = {point.time: point for point in seen if point.time < before}
        self.contents.cut = before
        return True

    def remove_cut(self) -> None:
        """Remove the points before the cut."""
        cut = self.contents.cut
        assert cut is not None
        sum(Housekeeping(self.pool).remove_points(cut // SECOND))
        for number, points in self.contents.stored.items():
            self.contents.stored[number] = {at: point for at, point in points.items() if at >= cut}

    def corrections(self) -> list[tuple[int, int, int]]:
        """Series, tier and start of each window that was corrected, as often as it was."""
        with transaction(self.pool) as connection:
            return [
                (row[0], row[1], round(row[2].timestamp()) * SECOND)
                for row in connection.exec_driver_sql("SELECT series_id, tier_s, window_start FROM corrections").all()
            ]

    def marks(self) -> list[Mark]:
        with transaction(self.pool) as connection:
            rows = connection.exec_driver_sql(
                "SELECT tier_s, extract(epoch FROM window_from)::bigint, extract(epoch FROM window_to)::bigint, series_id, closing"
                " FROM marks"
            ).all()
        numbers = {number: at for at, number in enumerate(self.ids)}
        return [
            Mark(tier_s, start * SECOND, end * SECOND, None if series is None else numbers[series], closing)
            for tier_s, start, end, series, closing in rows
        ]

    def life(self) -> Iterator[str]:
        """What happens to a store; after each step it is looked at."""
        rng = self.rng
        self.sketch(wanted=rng.random() < 0.8)
        self.write(self.rows(rng.choice([200, 700, 1500])))
        yield "written"
        self.settle(rng.randrange(1, 4), forget=rng.random() < 0.5)
        yield "partly settled"
        self.settle()
        yield "settled"
        self.write(self.rows(rng.choice([3, 40])))
        yield "late"
        self.owe()
        yield "owed"
        self.settle(rng.randrange(1, 6))
        yield "late and partly settled"
        self.delete()
        yield "deleted"
        self.settle(rng.randrange(1, 3), forget=False)
        yield "deleted, settled, not forgotten"
        self.sketch(wanted=rng.random() < 0.8)
        self.settle()
        yield "deleted and settled"
        self.cut()
        yield "cut"
        self.remove_cut()
        yield "removed before the cut"
        self.write(self.rows(40))
        yield "late around the cut"
        self.owe()
        yield "owed around the cut"
        self.settle(rng.randrange(1, 6))
        yield "partly settled around the cut"
        self.settle()
        yield "settled around the cut"
        self.delete()
        yield "deleted around the cut"
        self.settle(rng.randrange(1, 4))
        yield "partly settled after that"
        self.settle()
        self.cut()
        yield "cut again"

    # what is asked

    def question(self) -> tuple[Request, list[tuple[str, str]]]:
        rng = self.rng
        series, names = self._chosen()
        kind = rng.choice(["tier", "tier", "tier", "odd", "short", "points", "days", "days"])
        tz: str | None = None
        interval: int | None = None
        length = 0
        if kind == "tier":
            interval = rng.choice([60, 60, 120, 300, 900, 3600, 3600, 7200, 10_800, DAY_S, 2 * DAY_S, 7 * DAY_S])
        elif kind == "odd":
            interval = rng.choice([61, 90, 100, 1000, 5400, 7777, 100_000, 86_401])
        elif kind == "short":
            interval = rng.choice([1, 2, 5, 7, 10, 30])
        elif kind == "days":
            interval, tz = DAY_S * rng.choice([1, 1, 1, 2, 7, 14, 30]), rng.choice([self.plan.zone, rng.choice(ZONES)])
        else:
            length = rng.randrange(1, self.high - self.low)
            tz = rng.choice([None, None, None, self.plan.zone])
        if interval is not None:
            length = min(interval * SECOND * rng.choice([1, 3, 24, 200]), 2 * (self.high - self.low))
            length = max(1, length + rng.choice([0, 0, 1, -1, rng.randrange(-length, length)]))
        start = self.moment() - rng.choice([0, 0, 0, length, length // 2, 400 * DAY_S * SECOND])
        if rng.random() < 0.4:
            unit = rng.choice([1, 60, 3600, DAY_S]) * SECOND
            start, length = start // unit * unit, -(-length // unit) * unit
        if interval is not None:
            length = min(length, 1500 * interval * SECOND)
        through = self.contents.cut is not None and rng.random() < 0.3
        if self.contents.cut is not None and through:  # intervals that the cut goes through
            largest_s = self.plan.tiers_s[-1]
            interval, tz, align = largest_s * rng.choice([2, 3, 7]), None, rng.choice(["from", "epoch"])
            start = self.contents.cut - largest_s * rng.choice([1, 2, 5]) * SECOND
            length = interval * rng.choice([1, 5]) * SECOND
        else:
            align = "from" if tz is None and rng.random() < 0.25 else "epoch"
        number = 6 if through else rng.choice([1, 1, 2, 4])
        aggregations = tuple(rng.sample(oracle.AGGREGATIONS, number))
        if rng.random() < 0.5:
            aggregations = tuple(name for name in aggregations if name not in oracle.OF_POINTS) or ("last",)
        across = rng.choice(["none"] * 6 + ["sum", "avg", "min", "max", "count"])
        fill = rng.choice(["null", "none", "previous", "linear", "0", "-2.5", "1e150"])
        columns = tuple(
            rng.sample(["count", "min", "max", "late-count", "revision", "state", "corrected"], rng.randrange(8))
        )
        return (
            Request(
                series,
                start,
                start + length,
                interval,
                rng.choice([1, 2, 7, 100, 500]),
                tz,
                align,
                aggregations,
                across,
                fill,
                columns if across == "none" else (),
                rng.choice(["exact", "sketch", "sketch"]),
            ),
            names,
        )

    def _chosen(self) -> tuple[tuple[int, ...], list[tuple[str, str]]]:
        rng = self.rng
        sources = rng.sample(SOURCES, rng.randrange(1, 4))
        metrics = rng.sample(METRICS, rng.choice([1, 1, 2]))
        how = rng.randrange(6)
        if how < 3:
            names = [("metric", metric) for metric in metrics] + [("source", source) for source in sources]
            chosen = [(metric, source) for metric in metrics for source in sources]
        elif how == 3:
            names = [("metric", metric) for metric in metrics]
            chosen = [(metric, source) for metric in metrics for source in SOURCES]
        elif how == 4:
            names = [("match", f'b{{source=~"{"|".join(sources)}"}}')]
            chosen = [(metric, source) for metric in METRICS[1:] for source in sources]
        else:
            names, chosen = [("metric", "empty")], [("empty", "gw-0")]
        return tuple(sorted(NUMBERS[key] for key in chosen)), names

    def fields(self, request: Request, names: Sequence[tuple[str, str]]) -> str:
        """The request as a query of HTTP."""
        found = [
            ("project", "p"),
            *names,
            ("from", self._written(request.start)),
            ("until", self._written(request.end)),
        ]
        if request.interval_s is not None:
            found.append(("interval-sec", str(request.interval_s)))
        else:
            found.append(("max-points", str(request.max_points)))
        if request.tz is not None:
            found.append(("tz", request.tz))
        found += [("aggregation", name) for name in request.aggregations]
        found += [("align", request.align), ("across", request.across), ("fill", request.fill)]
        found += [("quantiles", request.quantiles)] if request.quantiles != "exact" or self.rng.random() < 0.3 else []
        return urlencode([*found, *(("columns", name) for name in request.columns)])

    def _written(self, us: int) -> str:
        if us % SECOND == 0 and us // SECOND < 10**11 and self.rng.random() < 0.3:
            return str(us // SECOND)
        whole = (oracle.EPOCH + timedelta(microseconds=us)).astimezone(
            self.rng.choice([UTC, UTC, datetime.now().astimezone().tzinfo])
        )
        return whole.isoformat().replace("+00:00", "Z")

    def ask(self, fields: str, form: str = JSON) -> tuple[Any, Any]:
        """The answer as JSON, and what else it is in a form."""
        values = parsed(QUERY, fields.encode())
        grant = Grant("", frozenset({"read"}))
        answer = self.loop.run(self.service.query(values, grant, time.time_ns() // 1000))
        told = json.loads(written(answer, JSON).body)
        return told, None if form == JSON else written(answer, form).body.decode()

    def check(self, request: Request, names: Sequence[tuple[str, str]], marks: list[Mark], form: str = JSON) -> None:
        fields = self.fields(request, names)
        told, more = self.ask(fields, form)
        Judged(self, request, told, marks, fields).judge()
        if more is not None:
            rows = (
                list(csv.DictReader(io.StringIO(more, newline="")))
                if form == CSV
                else map(json.loads, more.splitlines())
            )
            same_rows(request, told, list(rows), form)


@dataclass
class Judged:
    """An answer, held against the oracle.

    Attributes:
        marks: What was owed when it was asked; None: that changes, and letters and revisions are not held against it.
    """

    world: World
    request: Request
    told: Any
    marks: list[Mark] | None
    fields: str

    def judge(self) -> None:
        request, told, contents = self.request, self.told, self.world.contents
        interval_s = self._interval()
        edges = oracle.boundaries(request, interval_s)
        self.same("start", told["start"], [at // 1000 for at in edges[:-1]])
        self.same("from", told["from"], shown(edges[0]))
        self.same("until", told["until"], shown(edges[-1]))
        tier_s = oracle.tier(contents.tiers_s, edges)
        self.same("read", told["read"]["rollups"], tier_s)
        self._quantiles(edges, tier_s)
        cut = contents.cut
        removed = shown(cut) if cut is not None and edges[0] < cut else None
        self.same("points-removed-before", told.get("points-removed-before"), removed)
        as_of = self._as_of()
        known = {sum(end <= at for end in edges[1:]) for at in as_of}
        base = contents.tiers_s[0] * SECOND
        closed = {(at - round(self.world.plan.horizon_s * SECOND)) // base * base for at in as_of}
        if len(known) > 1 or len(closed) > 1:
            return  # a matter of the millisecond
        cells = [oracle.cells(contents, number, edges, tier_s) for number in request.series]
        there = [[bool(points) for points in each.members] for each in cells]
        marks = self.marks or []
        states = oracle.states(request, edges, tier_s or contents.tiers_s[0], marks, there, closed.pop(), as_of)
        if self.marks is not None:
            self._provisional(edges, states)
            settled = datetime.fromisoformat(told["settled-until"])
            self.same("settled-until", settled, oracle.EPOCH + timedelta(microseconds=states.settled))
        columns = {name: self._column(name, edges, cells) for name in request.aggregations}
        self._lines(columns, cells, edges, states, known.pop())

    def _quantiles(self, edges: list[int], tier_s: int | None) -> None:
        request, said = self.request, self.told.get("quantiles")
        wanted: str | None = None
        if not oracle.PERCENT.keys().isdisjoint(request.aggregations):
            wanted = "exact" if tier_s is None else request.quantiles
            if wanted == "sketch" and self._lacks(edges, tier_s):
                wanted = "exact" if self.marks is not None else said
        self.same("quantiles", said, wanted)
        self.same("error", self.told.get("error"), 0.01 if wanted == "sketch" else None)
        self.world.said[wanted] += 1

    def _lacks(self, edges: list[int], tier_s: int | None) -> bool:
        contents = self.world.contents
        return self.marks is None or any(
            series in self.request.series
            and edges[0] <= start < edges[-1]
            and oracle.needed((series, each, start), contents.tiers_s, tier_s or 0, self.marks, contents.cut)
            for series, each, start in self.world.bare()
        )

    def same(self, what: str, said: Any, wanted: Any) -> None:
        assert said == wanted, (
            f"{what}: {said} is said, and wanted {wanted}\n{self.fields}\n{self.request}\n{self.world.plan}"
        )

    def _interval(self) -> int:
        """The one that was asked for, or the shortest usual one that gives no more than was asked."""
        request, said = self.request, self.told["interval-sec"]
        if request.interval_s is not None:
            self.same("interval-sec", said, request.interval_s)
            return request.interval_s

        def number(seconds: int) -> int:
            return len(oracle.boundaries(request, seconds)) - 1

        assert number(said) <= request.max_points, (said, self.fields)
        whole = [each for each in oracle.LADDER if request.tz in (None, "UTC") or each % DAY_S == 0]
        if said in whole:
            shorter = [each for each in whole if each < said and (request.end - request.start) / each < 2e9]
            assert not shorter or number(shorter[-1]) > request.max_points, (said, self.fields)
        else:
            assert said % DAY_S == 0
            assert number(whole[-1]) > request.max_points, (said, self.fields)
        return int(said)

    def _as_of(self) -> tuple[int, int]:
        at = datetime.fromisoformat(self.told["as-of"]) - oracle.EPOCH
        us = round(at / timedelta(microseconds=1))
        return us, us + 999

    def _provisional(self, edges: list[int], states: oracle.States) -> None:
        said = [
            tuple(round((datetime.fromisoformat(each) - oracle.EPOCH) / timedelta(microseconds=1)) for each in pair)
            for pair in self.told["provisional"]
        ]
        assert said == sorted(said)
        for at, (start, end) in enumerate(pairwise(edges)):
            if end - start < 1000:
                continue  # less than a text shows
            inside = any(low <= start and end // 1000 * 1000 <= high for low, high in said)
            self.same(f"provisional {shown(start)}", inside, states.provisional[at])
        for one, other in pairwise(said):
            assert one[1] < other[0]

    def _column(self, name: str, edges: list[int], cells: list[oracle.Cells]) -> list[list[oracle.Near | None]]:
        if name in oracle.PERCENT and self.told["quantiles"] == "sketch":
            return [[oracle.sketched(name, points) for points in each.members] for each in cells]
        if name in oracle.OF_POINTS:
            cells = [oracle.raw_cells(self.world.contents, number, edges) for number in self.request.series]
        seconds = [(end - start) / SECOND for start, end in pairwise(edges)]
        return [
            [
                oracle.aggregate(name, points, rises, length)
                for points, rises, length in zip(each.members, each.rises, seconds, strict=True)
            ]
            for each in cells
        ]

    def _lines(
        self,
        columns: dict[str, list[list[oracle.Near | None]]],
        cells: list[oracle.Cells],
        edges: list[int],
        states: oracle.States,
        known: int,
    ) -> None:
        request, lines = self.request, self.told["series"]
        if request.across != "none":
            self.same("lines", len(lines), 1)
            for name, column in columns.items():
                folded = [
                    oracle.fold(request.across, name, [row[at] for row in column], [each.members[at] for each in cells])
                    for at in range(len(edges) - 1)
                ]
                self._values(lines[0], name, folded, known, exact=False)
            return
        order = [NUMBERS[line["metric"], line["source"]] for line in lines]
        names = [(KEYS[number].metric, KEYS[number].source) for number in order]
        self.same("order", names, sorted(names))
        self.same("series", sorted(order), list(request.series))
        for line in lines:
            row = request.series.index(NUMBERS[line["metric"], line["source"]])
            for name, column in columns.items():
                self._values(line, name, column[row], known, exact=name in oracle.EXACT)
            self._more(line, row, cells[row], columns, states)

    def _values(self, line: Any, name: str, wanted: list[oracle.Near | None], known: int, *, exact: bool) -> None:
        values, where = oracle.fill(self.request.fill, wanted, known)
        said = line[name]
        self.same(f"length of {name}", len(said), len(values))
        for at, (one, other) in enumerate(zip(said, values, strict=True)):
            if not oracle.agrees(one, other, exact=exact):
                self.same(f"{name} of {line.get('metric')} {line.get('source')} at {at}", one, other)
        self.same(f"filled of {name}", line.get("filled", {}).get(name, []), where)

    def _more(
        self,
        line: Any,
        row: int,
        cells: oracle.Cells,
        columns: dict[str, list[list[oracle.Near | None]]],
        states: oracle.States,
    ) -> None:
        unknown = () if self.marks is not None else ("state", "revision", "corrected")
        for name in (each for each in self.request.columns if each not in unknown):
            if name == "state":
                for said, letter in zip(line["state"], states.letters[row], strict=True):
                    if letter is not None and said != letter:
                        self.same("state", line["state"], "".join(each or "?" for each in states.letters[row]))
            elif name in ("late-count", "corrected"):
                counted = self._corrected(row) if name == "corrected" else [self._late(each) for each in cells.members]
                self.same(name, line[name], counted)
            elif name == "revision":
                self._revisions(line[name], states.letters[row], cells)
            elif name not in columns:
                wanted = [oracle.aggregate(name, points, [], 1) for points in cells.members]
                for said, near in zip(line[name], wanted, strict=True):
                    if not oracle.agrees(said, near, exact=True):
                        self.same(name, line[name], wanted)

    def _corrected(self, row: int) -> list[int]:
        tier_s = self.told["read"]["rollups"] or self.world.contents.tiers_s[0]
        of = self.world.ids[self.request.series[row]]
        starts = sorted(start for series, tier, start in self.world.corrections() if (series, tier) == (of, tier_s))
        edges = oracle.boundaries(self.request, self.told["interval-sec"])
        return [bisect.bisect_left(starts, end) - bisect.bisect_left(starts, start) for start, end in pairwise(edges)]

    def _late(self, points: list[Point]) -> int | None:
        base = self.world.contents.tiers_s[0] * SECOND
        return sum(point.published > point.time // base * base + base for point in points) if points else None

    def _revisions(self, said: list[int | None], letters: list[str | None], cells: oracle.Cells) -> None:
        from_points = self.told["read"]["rollups"] is None
        for revision, letter, points in zip(said, letters, cells.members, strict=True):
            if not points or from_points:
                self.same("revision", revision, None)
            elif letter == "f":
                assert revision is not None
                assert revision > 10**15


def shown(us: int) -> str:
    text = (oracle.EPOCH + timedelta(microseconds=us // 1000 * 1000)).isoformat(
        timespec="milliseconds" if us % SECOND else "seconds"
    )
    return text.replace("+00:00", "Z")


def same_rows(request: Request, told: Any, rows: list[dict[str, Any]], form: str) -> None:
    """Rows of CSV or NDJSON say what the JSON says."""
    names = [*request.aggregations, *(name for name in request.columns if name not in request.aggregations)]
    at = 0
    for line in told["series"]:
        there = _there(request, line)
        for place, start in enumerate(told["start"]):
            if request.fill == "none" and there is not None and not there[place]:
                continue
            row = rows[at]
            at += 1
            moment = datetime.fromisoformat(row["start"]) - oracle.EPOCH
            assert moment // timedelta(milliseconds=1) == start
            assert (row["source"], row["metric"]) == (
                line.get("source", ""),
                line.get("metric", f"across={request.across}"),
            )
            for name in names:
                wanted, said = line[name][place], row[name]
                if form == CSV and name != "state":
                    assert "np." not in said
                    said = None if said == "" else float(said)
                assert said == wanted or (said is None and wanted is None), (name, said, wanted)
                assert not isinstance(said, float) or not math.isnan(said)
            assert set(row) == {"start", "source", "metric", *names}
    assert at == len(rows)


def _there(request: Request, line: Any) -> list[bool] | None:
    """Where a line has points; None: it does not say."""
    of_each = [name for name in request.aggregations if name not in oracle.OF_POINTS] + [
        name for name in request.columns if name in ("count", "min", "max", "late-count")
    ]
    if of_each:
        return [value is not None for value in line[of_each[0]]]
    return None


def asked(world: World, number: int) -> int:
    """Ask so many random questions of a world over its life; returns how many there were."""
    total = 0
    for step in world.life():
        marks = world.marks()
        for _ in range(number):
            request, names = world.question()
            form = world.rng.choice([JSON] * 4 + [CSV, NDJSON])
            if (
                form != JSON
                and request.fill == "none"
                and all(name in oracle.OF_POINTS for name in request.aggregations)
            ):
                request = replace(request, fill="null")
            try:
                world.check(request, names, marks, form)
            except AssertionError as error:
                error.add_note(f"{step}, world {world.plan}")
                raise
            total += 1
    return total
