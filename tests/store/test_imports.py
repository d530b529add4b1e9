"""How archives are loaded into a real PostgreSQL: what is noted as done is, what is stored is owed, and by few marks."""

from __future__ import annotations

import itertools
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sqlalchemy import Engine

from tests.store.chunks import drop_chunks, has_chunks
from tidemark.errors import UsageError
from tidemark.settings import DAY_S
from tidemark.store.connection import make_engine, transaction
from tidemark.store.imports import GATHERED, RANGES_A_BLOCK, Importing, forget, kept_from, known, left, marks, summarize
from tidemark.store.ledger import totals
from tidemark.store.owing import SERIES_A_WINDOW, Policy
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT, Points

BASE_S = 60
TIERS_S = (60, 3600, 86_400)
BEGIN_US = 1_600_000_000_000_000 // (DAY_S * 1_000_000) * DAY_S * 1_000_000
DAY_US = DAY_S * 1_000_000
HOUR_S = 3600.0
FEW_S = 0.001


@pytest.fixture
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 4, 60)
    drop_chunks(made)
    with transaction(made) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, dead_letters, ledger, imports")
    yield made
    made.dispose()


def writer(pool: Engine) -> Writer:
    return Writer(pool, SeriesCache(pool), Policy(BASE_S, 0, 0))


def begun(pool: Engine, *, part: int = 0, fingerprint: str = "f", gather_s: float = HOUR_S) -> Importing:
    return Importing.begin(writer(pool), "file", part, fingerprint, gather_s)


def points_of(series: Sequence[int], times_us: Sequence[int]) -> Points:
    made = np.empty(len(times_us), POINT)
    made["series_id"] = series
    made["event_time"] = times_us
    made["publish_time"] = times_us
    made["value"] = 1
    return made


def block(series: Sequence[int], times_us: Sequence[int]) -> Block:
    """Points of series by their number."""
    numbers, place = np.unique(np.asarray(series), return_inverse=True)
    return Block([SeriesKey("imports", f"s{n}", "m") for n in numbers], points_of(place.tolist(), times_us))


def uncovered(pool: Engine) -> int:
    """Points whose window no mark of the base tier owes."""
    with transaction(pool) as connection:
        return int(
            connection.exec_driver_sql(
                """SELECT count(*) FROM points p WHERE NOT EXISTS (
                     SELECT FROM marks m WHERE tier_s = 60 AND coalesce(m.series_id, p.series_id) = p.series_id
                     AND date_bin('60 s', event_time, to_timestamp(0)) >= window_from
                     AND date_bin('60 s', event_time, to_timestamp(0)) + interval '60 s' <= window_to)"""
            ).scalar_one()
        )


def marked(pool: Engine, which: str = "true") -> int:
    with transaction(pool) as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM marks WHERE {which}").scalar_one())


def of_file(pool: Engine, what: str) -> int:
    with transaction(pool) as connection:
        return int(connection.exec_driver_sql(f"SELECT {what} FROM imports").scalar_one())


def settled(pool: Engine) -> tuple[int, int]:
    """Rows that were settled, of the base tier and of all."""
    settler = Settler(pool, TIERS_S, 0, archives=True)
    base = rows = 0
    while found := list(settler.due()):
        for one in found:
            settler.forget(one.mark_ids)
            rows += len(one.rows)
            base += int(np.count_nonzero(one.rows["tier_s"] == BASE_S))
    return base, rows


@given(
    st.lists(
        st.tuples(st.integers(1, 90), st.integers(-(10**9), 10**9).map(lambda s: s * 1_000_000)),
        min_size=1,
        max_size=400,
    ),
    st.sampled_from([2, 60, 3600, DAY_S, 3 * DAY_S]),
    st.integers(1, 10**6),
)
def test_every_window_is_in_a_range_of_its_series_or_of_all(
    found: list[tuple[int, int]], base_s: int, squeeze: int
) -> None:
    rows = sorted((series, time // squeeze) for series, time in found)
    some = points_of([row[0] for row in rows], [row[1] for row in rows])
    starts, ends, owners = marks(some, base_s)
    assert len(starts) == len(ends) == len(owners) <= RANGES_A_BLOCK
    assert all(start < end and start % base_s == end % base_s == 0 for start, end in zip(starts, ends, strict=True))
    ranges = list(zip(starts, ends, owners, strict=True))
    for series, time in rows:
        window = time // (base_s * 1_000_000) * base_s
        assert any(start <= window < end and owner in (None, series) for start, end, owner in ranges)
    # no range begins or ends with windows that nothing touches
    touched = {time // (base_s * 1_000_000) * base_s for _, time in rows}
    assert touched >= set(starts)
    assert touched >= {end - base_s for end in ends}


def orders() -> dict[str, list[tuple[int, int]]]:
    """Points of 100 series over 20 days, one an hour, in the orders that files have."""
    hours = 20 * 24
    by_time = [(series, BEGIN_US + hour * 3_600_000_000) for hour in range(hours) for series in range(100)]
    shuffled = by_time.copy()
    random.Random(3).shuffle(shuffled)
    apart = [(s, t - (3000 * DAY_US if place % 2 else 0)) for place, (s, t) in enumerate(by_time)]
    newest_first = by_time[::-1]
    return {
        "by time": by_time,
        "by series": sorted(by_time),
        "shuffled": shuffled,
        "newest first": newest_first,
        "two far apart times": apart,
        "by series, shuffled": [one for s in shuffled[:100] for one in by_time[s[0] :: 100]],
    }


@pytest.mark.parametrize("order", list(orders()))
def test_a_file_in_any_order_makes_few_marks_and_each_rollup_once(pool: Engine, order: str) -> None:
    rows = orders()[order]
    importing = begun(pool)
    most = blocks = 0
    for at in range(0, len(rows), 500):
        some = rows[at : at + 500]
        importing.write(block([s for s, _ in some], [t for _, t in some]), at, at + len(some))
        most, blocks = max(most, marked(pool)), blocks + 1
    assert blocks > 2 * GATHERED
    assert settled(pool) == (0, 0), "nothing is due before the part is through"
    assert uncovered(pool) == 0
    importing.finish(through=True)
    assert uncovered(pool) == 0
    assert not list(Settler(pool, TIERS_S, 0).due()), "live windows need not wait for it"
    transactions = 2 if order == "two far apart times" and has_chunks(pool) else 1  # of a block
    assert most <= (GATHERED + 1) * RANGES_A_BLOCK * transactions
    by_series = order.startswith("by series") or transactions > 1  # each with fewer series than make a range of all
    assert marked(pool) <= (100 if by_series else 2 * 21), marked(pool)
    windows = len({(s, t // 60_000_000) for s, t in rows})
    assert settled(pool)[0] == windows
    assert marked(pool) == 0
    assert of_file(pool, "received") == len(rows)


def test_ten_thousand_series_at_once_are_owed_by_few_ranges() -> None:
    chance = random.Random(1)
    some = points_of(range(10_000), [BEGIN_US + chance.randrange(3000) * DAY_US for _ in range(10_000)])
    assert len(marks(some, BASE_S)[0]) <= RANGES_A_BLOCK
    near = points_of(range(10_000), [BEGIN_US] * 10_000)
    assert marks(near, BASE_S) == ([BEGIN_US // 10**6], [BEGIN_US // 10**6 + 60], [None])
    borders = points_of(range(SERIES_A_WINDOW), [BEGIN_US] * SERIES_A_WINDOW)
    assert marks(borders, BASE_S)[2] == list(range(SERIES_A_WINDOW))


def owed(pool: Engine) -> dict[tuple[int, int | None], set[int]]:
    """The hours that marks owe, by tier and series."""
    with transaction(pool) as connection:
        rows = connection.exec_driver_sql(
            """SELECT tier_s, series_id, floor(extract(epoch FROM window_from) / 3600)::bigint,
                      ceil(extract(epoch FROM window_to) / 3600)::bigint FROM marks"""
        ).all()
    found: dict[tuple[int, int | None], set[int]] = {}
    for tier_s, series, begin, end in rows:
        found.setdefault((tier_s, series), set()).update(range(begin, end))
    return found


def within_a_day(some: set[int], more: set[int]) -> bool:
    """Whether `more` has all of `some`, and beside it only gaps of at most a day between these."""
    places = sorted(some)
    gaps = {hour for low, high in itertools.pairwise(places) if high - low <= 25 for hour in range(low, high)}
    return some <= more <= some | gaps


@pytest.mark.parametrize("seed", range(8))
def test_joining_marks_loses_nothing(pool: Engine, seed: int) -> None:
    chance = random.Random(seed)
    importing = begun(pool)
    for number in range(GATHERED - 1):
        owners = chance.choice([1, 5, 100])
        times = [BEGIN_US + chance.randrange(20 * DAY_US) for _ in range(20)]
        if seed == 3:  # to both ends of what an event time may be
            times = [chance.choice([200_000_000, 9_000_000_000]) * 1_000_000 + time % DAY_US for time in times]
        importing.write(block([chance.randrange(owners) for _ in times], times), number, number + 1)
    assert uncovered(pool) == 0
    with transaction(pool) as connection:  # of others, which are left alone
        connection.exec_driver_sql(
            "INSERT INTO marks (tier_s, window_from, window_to, ready_at) VALUES"
            " (3600, '2020-01-01Z', '2020-01-05Z', now()), (60, '1990-01-01Z', '1990-02-05Z', 'infinity')"
        )
    before, number = owed(pool), marked(pool)
    importing.write(block([], []), GATHERED - 1, GATHERED)
    between = owed(pool)
    assert marked(pool) < number
    importing.finish(through=True)
    after = owed(pool)
    assert before.keys() == between.keys() == after.keys()
    assert all(within_a_day(hours, between[whose]) for whose, hours in before.items())
    assert between == after
    assert uncovered(pool) == 0
    assert marked(pool, "import_id IS NOT NULL AND ready_at <= clock_timestamp()") == 0
    assert marked(pool, "series_id IS NULL AND tier_s = 60 AND window_to - window_from > '1 day'") == 1


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)).map(lambda at: (at[0], at[0] + at[1]))),
    st.integers(0, 40),
)
def test_the_first_place_that_is_not_done(ranges: list[tuple[int, int]], begin: int) -> None:
    done = {place for start, stop in ranges for place in range(start, stop)}
    apart = sorted((min(run), max(run) + 1) for run in runs(sorted(done)))
    expected = next(place for place in itertools.count(begin) if place not in done)
    assert left(apart, begin) == expected
    part = Importing(None, 1, apart, finished=False, gather_s=1)  # type: ignore[arg-type]  # writes nothing
    for end in range(begin + 1, begin + 4):
        assert part.is_done(begin, end) == (set(range(begin, end)) <= done)


def runs(places: list[int]) -> Iterator[list[int]]:
    for _, run in itertools.groupby(enumerate(places), lambda at: at[1] - at[0]):
        yield [place for _, place in run]


def test_what_is_done_is_remembered_and_another_file_refused(pool: Engine) -> None:
    first = begun(pool)
    first.write(block([1], [BEGIN_US]), 0, 10)
    first.write(block([2], [BEGIN_US]), 20, 30)
    again = begun(pool)
    assert (again.id, again.done, again.finished) == (first.id, [(0, 10), (20, 30)], False)
    with pytest.raises(UsageError, match="file has changed"):
        begun(pool, fingerprint="another")
    begun(pool, part=1)
    again.write(block([3], [BEGIN_US]), 10, 20, filtered=4)
    again.finish(through=True)
    assert (begun(pool).done, begun(pool).finished) == ([(0, 30)], True)
    (file,) = known(pool, ["file", "nobody's"])
    assert (file.through, file.parts, file.received, file.filtered) == (False, 2, 3, 4)
    begun(pool, part=1).finish(through=True)
    assert known(pool, ["file"])[0].through
    forget(pool, "file")
    assert known(pool, ["file"]) == []
    assert marked(pool) > 0


def test_two_programs_with_the_same_part_store_it_once(pool: Engine) -> None:
    places = list(range(0, 60 * 50, 50))

    def load(seed: int) -> None:
        order = places.copy()
        random.Random(seed).shuffle(order)
        mine = begun(pool)
        for at in order:
            mine.write(block([1, 2] * 25, [BEGIN_US + (at + i) * 10_000_000 for i in range(50)]), at, at + 50)
        mine.finish(through=True)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(load, (1, 2)))
    assert begun(pool).done == [(0, 60 * 50)]
    assert uncovered(pool) == 0
    with transaction(pool) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one() == 60 * 50
        assert totals(connection).unbalanced == 0
    assert settled(pool)[0] == len({(i % 2, (BEGIN_US + i * 10_000_000) // 60_000_000) for i in range(3000)})


def far_reaching(pool: Engine, importing: Importing) -> Importing:
    """As on a hypertable, of which a transaction takes some chunks at once."""
    importing.writer.reach_of._seconds = 10 * DAY_S  # what it would find there
    return importing


def one_transaction(_pool: Engine, importing: Importing) -> Importing:
    """As on a plain table."""
    importing.writer.reach_of._seconds = math.inf
    return importing


@pytest.mark.parametrize("reach", [one_transaction, far_reaching])
def test_begun_anew_by_another_program_nothing_is_stored_that_is_not_owed(
    pool: Engine, reach: Callable[[Engine, Importing], Importing]
) -> None:
    importing = reach(pool, begun(pool))
    times = [BEGIN_US + day * DAY_US for day in range(100)]
    importing.write(block([1] * 100, times), 0, 10)
    forget(pool, "file")
    with pytest.raises(UsageError, match="loaded anew by another program"):
        importing.write(block([2] * 100, times), 10, 20)
    assert uncovered(pool) == 0
    anew = begun(pool)
    assert anew.done == []
    with pytest.raises(UsageError, match="loaded anew by another program"):
        importing.write(block([], []), 10, 20)
    importing.finish(through=True)
    assert not begun(pool).finished, "that is another row"
    assert settled(pool)[0] == 100, "what was stored before is due"


def test_thousands_of_days_in_one_block_are_stored_in_spans_and_noted_once(pool: Engine) -> None:
    importing = far_reaching(pool, begun(pool))
    times = [BEGIN_US + day * DAY_US for day in range(3000)]
    written = importing.write(block([day % 7 for day in range(3000)], times), 0, 99)
    assert (written.inserted, of_file(pool, "received"), of_file(pool, "blocks")) == (3000, 3000, 1)
    assert uncovered(pool) == 0
    importing.finish(through=True)
    assert uncovered(pool) == 0
    assert settled(pool)[0] == 3000


def test_what_the_database_refuses_is_a_dead_letter_and_the_rest_is_done(pool: Engine) -> None:
    importing = begun(pool)
    some = block([1] * 100, [BEGIN_US + i * 1_000_000 for i in range(100)])
    some.points["value"][50] = 666
    with transaction(pool) as connection:
        connection.exec_driver_sql("ALTER TABLE points ADD CONSTRAINT odd CHECK (value <> 666) NOT VALID")
    try:
        written = importing.write(some, 0, 10)
    finally:
        with transaction(pool) as connection:
            connection.exec_driver_sql("ALTER TABLE points DROP CONSTRAINT odd")
    assert (written.inserted, written.dead_lettered) == (99, 1)
    assert (of_file(pool, "received"), of_file(pool, "dead_lettered")) == (100, 1)
    assert begun(pool).done == [(0, 10)]
    assert uncovered(pool) == 0
    with transaction(pool) as connection:
        assert totals(connection).unbalanced == 0


_KILLED = """
import sys
from tests.store.test_imports import BEGIN_US, begun, block, far_reaching, one_transaction
from tidemark.store.connection import make_engine
pool = make_engine(sys.argv[1], 2, 60)
importing = globals()[sys.argv[2]](pool, begun(pool))
importing.write(block([1] * 100, [BEGIN_US + day * 86_400_000_000 for day in range(100)]), 0, 10)
importing.finish(through=True)
"""


@pytest.mark.parametrize(
    ("failpoint", "reach", "done"),
    [
        ("raw.written=kill", "one_transaction", []),
        ("raw.committed=kill", "one_transaction", [(0, 10)]),
        ("raw.written=kill@3", "far_reaching", []),
        ("raw.committed=kill@3", "far_reaching", []),
        ("raw.committed=kill@10", "far_reaching", []),
    ],
)
def test_killed_between_rows_and_note_nothing_is_lost(
    url: str, pool: Engine, failpoint: str, reach: str, done: list[tuple[int, int]]
) -> None:
    command = [sys.executable, "-c", _KILLED, url, reach]
    killed = subprocess.run(command, env={**os.environ, "TIDEMARK_FAILPOINTS": failpoint}, check=False, timeout=60)
    assert killed.returncode == -9
    assert uncovered(pool) == 0, "what is stored is owed"
    assert begun(pool).done == done
    subprocess.run(command, check=True, timeout=60)
    assert (begun(pool).done, begun(pool).finished) == ([(0, 10)], True)
    with transaction(pool) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one() == 100
        assert totals(connection).unbalanced == 0
    assert settled(pool)[0] == 100


def test_marks_that_were_gathered_long_enough_are_due(pool: Engine) -> None:
    importing = begun(pool, gather_s=FEW_S)
    importing.write(block([1], [BEGIN_US]), 0, 1)
    with transaction(pool) as connection:
        connection.exec_driver_sql("SELECT pg_sleep(0.01)")
    assert settled(pool)[0] == 1
    # what comes later is gathered anew, and joined with nothing that is due
    late = replace(importing, gather_s=HOUR_S)
    late = replace(late, writer=replace(late.writer, owe=late.owe))
    late.write(block([1], [BEGIN_US + DAY_US]), 1, 2)
    assert settled(pool) == (0, 0)
    importing.finish(through=False)
    assert settled(pool)[0] == 1
    assert not begun(pool).finished


def test_from_when_points_are_kept(pool: Engine) -> None:
    assert kept_from(pool) is None
    with transaction(pool) as connection:
        before = connection.exec_driver_sql("UPDATE retention SET removed_before = '2024-01-01Z' RETURNING 1").all()
        assert before or connection.exec_driver_sql("INSERT INTO retention (removed_before) VALUES ('2024-01-01Z')")
    try:
        assert kept_from(pool) == 1_704_067_200_000_000
    finally:
        with transaction(pool) as connection:
            connection.exec_driver_sql("UPDATE retention SET removed_before = '-infinity'")


def test_a_series_of_one_point_a_window_is_no_flood() -> None:
    gaps = points_of([1] * 500, [BEGIN_US + i * 2 * DAY_US for i in range(500)])
    starts, _, owners = marks(gaps, BASE_S)
    assert (len(starts), set(owners)) == (RANGES_A_BLOCK, {1})
    assert math.isclose(len(marks(gaps[:1], BASE_S)[0]), 1)


def test_the_index_by_time_is_brought_up_to_what_was_stored(pool: Engine) -> None:
    importing = begun(pool)
    for at in range(0, 60_000, 10_000):
        times = [BEGIN_US + (at + i) * 1_000_000 for i in range(10_000)]
        importing.write(block([1] * 10_000, times), at, at + 10_000)
    summarize(pool)
    with transaction(pool) as connection:
        left_over = connection.exec_driver_sql("SELECT brin_summarize_new_values('points_event_time_idx')").scalar_one()
    assert left_over <= 1, "all but the pages that are being filled"
