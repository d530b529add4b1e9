"""Windows, triggers and lateness of the previews: the local engine, on a clock that the test moves.

An engine may fire a pane once more: so a test names what must be seen, and that nothing else is ever shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream as streams
from apache_beam.testing.util import assert_that
from apache_beam.transforms.window import TimestampedValue

from pipelines.local_engine import LocalEngine
from tidemark.local.prism import find_or_build
from tidemark.wire.summary import MICROSECONDS, POINT
from tidemark.wire.window import WindowState
from transforms.preview import _WINDOWS, Preview, Windows, block_of
from transforms.rollup_batch import RollupBatch

BASE_S, EARLY_S, LATENESS_S = 60, 10, 120
START_S = 1_767_225_600


def points(*values: tuple[int, float, float]) -> TimestampedValue:
    """(series, seconds after START_S, value) as what the raw writer passes on: one sub-block of one base window."""
    rows = [(s, int((START_S + at) * 1e6), int((START_S + at) * 1e6) + i, v) for i, (s, at, v) in enumerate(values)]
    window = int(values[0][1]) // BASE_S * BASE_S
    return TimestampedValue((0, block_of(np.array(rows, POINT))), START_S + window)


def described(batch: RollupBatch) -> list[tuple[str, int, int, int, float]]:
    return [
        (
            batch.pane,
            int(row["series_id"]),
            int(row["window_start"]) // 1_000_000 - START_S,
            int(row["count"]),
            row["sum"],
        )
        for row in batch.rollups()
    ]


@contextmanager
def local_pipeline() -> Iterator[beam.Pipeline]:
    """A pipeline that is run on Prism at the end."""
    options = PipelineOptions(["--streaming"])
    pipeline = beam.Pipeline(options=options)
    yield pipeline
    engine = LocalEngine(find_or_build())
    try:
        engine.run(pipeline, options).wait_until_finish()
    finally:
        engine.close()


def run(stream: streams.TestStream, wanted: Callable[[list], None], early_s: int = EARLY_S) -> None:
    with local_pipeline() as pipeline:
        found = pipeline | stream | Preview(BASE_S, early_s, LATENESS_S) | beam.FlatMap(described)
        assert_that(found, wanted)


Shown = tuple[int, int, int, float]
"""(series, window start, count, sum)"""


def shows(*panes: tuple[str, Shown]) -> Callable[[list], None]:
    """Each of these panes was seen, and nothing but what they show."""

    def check(found: list) -> None:
        seen = {(pane, tuple(shown)) for pane, *shown in found}
        assert set(panes) <= seen, found
        assert {shown for _, shown in seen} <= {shown for _, shown in panes}, found

    return check


def test_early_on_time_and_late_panes_show_all_that_was_seen() -> None:
    stream = (
        streams.TestStream()
        .advance_watermark_to(START_S)
        .add_elements([points((1, 1, 2.0))])
        .advance_processing_time(EARLY_S + 1)
        .add_elements([points((1, 2, 3.0))])
        .advance_watermark_to(START_S + BASE_S + 1)
        .add_elements([points((1, 3, 5.0))])
        .advance_processing_time(EARLY_S + 1)
        .advance_watermark_to_infinity()
    )
    run(stream, shows(("early", (1, 0, 1, 2.0)), ("on_time", (1, 0, 2, 5.0)), ("late", (1, 0, 3, 10.0))))


def test_what_comes_after_the_allowed_lateness_fires_nothing() -> None:
    stream = (
        streams.TestStream()
        .add_elements([points((1, 1, 2.0))])
        .advance_watermark_to(START_S + BASE_S + LATENESS_S + 1)
        .add_elements([points((1, 2, 3.0))])
        .advance_processing_time(EARLY_S + 1)
        .advance_watermark_to_infinity()
    )
    run(stream, shows(("on_time", (1, 0, 1, 2.0))))


def test_the_pane_that_closes_a_window_shows_nothing_and_its_state_is_forgotten() -> None:
    stream = (
        streams.TestStream()
        .add_elements([points((1, 1, 2.0))])
        .advance_watermark_to(START_S + BASE_S + 1)
        .advance_watermark_to(START_S + BASE_S + LATENESS_S + 1)
        .add_elements([points((1, BASE_S + LATENESS_S, 4.0))])
        .advance_watermark_to_infinity()
    )

    def once(found: list) -> None:
        assert sorted(found) == [("on_time", 1, 0, 1, 2.0), ("on_time", 1, 180, 1, 4.0)]

    before = set(_WINDOWS._kept)
    run(stream, once)
    new = {start for _, _, start in set(_WINDOWS._kept) - before}
    assert START_S * MICROSECONDS not in new


def test_a_point_written_again_counts_once_and_the_later_publication_wins() -> None:
    stream = (
        streams.TestStream()
        .add_elements([points((1, 1, 2.0), (1, 1, 7.0)), points((1, 1, 2.0)), points((2, 1, 1.0), (2, 30, 1.0))])
        .advance_watermark_to_infinity()
    )
    run(stream, shows(("on_time", (1, 0, 1, 7.0)), ("on_time", (2, 0, 2, 2.0))))


def test_windows_are_aligned_to_utc_and_kept_apart() -> None:
    stream = (
        streams.TestStream()
        .add_elements([points((1, 59.9, 1.0)), points((1, 60, 2.0)), points((1, -1, 4.0))])
        .advance_watermark_to_infinity()
    )
    run(stream, shows(("on_time", (1, 0, 1, 1.0)), ("on_time", (1, 60, 1, 2.0)), ("on_time", (1, -60, 1, 4.0))))


@pytest.mark.parametrize("times", [1, 5])
def test_many_early_firings_accumulate(times: int) -> None:
    stream = streams.TestStream().advance_watermark_to(START_S)
    for i in range(times):
        stream = stream.add_elements([points((1, i + 1, 1.0))]).advance_processing_time(EARLY_S + 1)
    run(
        stream.advance_watermark_to_infinity(),
        shows(*(("early", (1, 0, i + 1, i + 1.0)) for i in range(times)), ("on_time", (1, 0, times, float(times)))),
    )


def test_without_early_firings_a_window_shows_itself_on_time() -> None:
    stream = streams.TestStream().advance_watermark_to(START_S)
    for i in range(5):
        stream = stream.add_elements([points((1, i + 1, 1.0))]).advance_processing_time(EARLY_S + 1)
    run(stream.advance_watermark_to_infinity(), shows(("on_time", (1, 0, 5, 5.0))), early_s=0)


def state(number: int) -> WindowState:
    made = WindowState(BASE_S)
    made.add(np.array([(1, int(START_S * 1e6) + i, 0, 1.0) for i in range(number)], POINT))
    return made


def test_a_process_remembers_windows_up_to_a_number_of_points_and_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("transforms.preview.time.monotonic", lambda: clock[0])
    windows = Windows(limit=25)
    for shard in range(3):
        kept = windows.take(("p", shard, 0), lambda: state(10))
        kept.seen.add(b"block")
        windows.keep(("p", shard, 0), kept, for_s=60)
    found = [windows.take(("p", shard, 0), lambda: state(0)) for shard in range(3)]
    assert [len(kept.state) for kept in found] == [0, 10, 10], "30 points are too many: the oldest is forgotten"
    assert [kept.seen for kept in found] == [set(), {b"block"}, {b"block"}]

    windows.keep(("p", 1, 0), found[1], for_s=60)
    assert len(windows.take(("p", 1, 0), lambda: state(0)).state) == 10
    assert len(windows.take(("p", 1, 0), lambda: state(0)).state) == 0, "in use elsewhere: a second one is made"
    windows.keep(("p", 1, 0), found[1], for_s=60)
    clock[0] += 61
    windows.keep(("p", 2, 0), found[2], for_s=60)
    assert len(windows.take(("p", 1, 0), lambda: state(0)).state) == 0, "not touched for a minute"
    assert len(windows.take(("p", 2, 0), lambda: state(0)).state) == 10


def test_two_threads_with_one_window_leave_one_state(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = Windows(limit=1000)
    one, two = (windows.take(("p", 0, 0), lambda: state(10)) for _ in range(2))
    windows.keep(("p", 0, 0), one, for_s=60)
    windows.keep(("p", 0, 0), two, for_s=60)
    assert windows._points == 10
    assert len(windows._kept) == 1


def test_previews_have_quantiles_when_asked_for() -> None:
    stream = (
        streams.TestStream()
        .add_elements([points(*((1, i / 2, float(i)) for i in range(101)))])
        .advance_watermark_to_infinity()
    )

    def check(found: list) -> None:
        assert found
        for p50, p90, p99 in found:
            assert (p50, p90, p99) == (
                pytest.approx(50, rel=0.01),
                pytest.approx(90, rel=0.01),
                pytest.approx(99, rel=0.01),
            )

    with local_pipeline() as pipeline:
        found = pipeline | stream | Preview(BASE_S, EARLY_S, LATENESS_S, quantiles=True) | beam.FlatMap(quantiles)
        assert_that(found, check)


def quantiles(batch: RollupBatch) -> list[tuple[float, float, float]]:
    return [(row["p50"].item(), row["p90"].item(), row["p99"].item()) for row in batch.rollups()]
