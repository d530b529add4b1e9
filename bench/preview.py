"""Messages to preview rows through Beam on the local engine: no Pub/Sub, no database, no warehouse.

    python bench/preview.py [ours] [merge] [--points 3000000]

`ours`: decode → number the series → shards → `Preview`, from a source in the worker whose event time goes a hundred
times as fast as the clock; beside it naive Beam (an element a point, `FixedWindows` and `CombinePerKey`) on a tenth
of the points, and the limit script (msgspec and numpy in a loop, no Beam). Points a CPU second, Python and engine
together, what an empty pipeline costs taken off. `merge`: the algebra alone, one thread.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import apache_beam as beam
import msgspec
import numpy as np
import rig
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Duration, Timestamp

from pipelines.local_engine import LocalEngine
from tidemark.local.prism import find_or_build
from tidemark.settings import INGEST, read
from tidemark.wire.block import Block, Columns, SeriesKey, winners
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from tidemark.wire.messages import Messages
from tidemark.wire.summary import MICROSECONDS, POINT, summarise
from tidemark.wire.window import WindowState
from transforms.decode import DecodeMessages
from transforms.preview import Preview, block_of
from transforms.source import FOR_EVER
from transforms.write_raw import by_shard

START_US = 1_767_225_600 * MICROSECONDS
POINTS_A_SECOND = 10_000
"""Of event time: 600,000 in a window."""
PULL_POINTS = 10_000
VALUES = read(INGEST, {}, environment={})


def pull(first: int, a_message: int, series: int) -> list[Message]:
    """The messages of 10,000 points from number `first` on."""
    made = []
    for at in range(first, first + PULL_POINTS, a_message):
        ms = START_US // 1000 + at * 1000 // POINTS_A_SECOND
        if a_message == 1:
            body = b'{"project":"bench","source":"s%d","metric":"m","event_time":%d,"value":%d.5}' % (
                at % series,
                ms,
                at % 97,
            )
        else:
            # `metrics` of one source in turn, the later ones of a metric further back in the same two seconds
            metrics = max(10, min(a_message, series // 200))
            step_ms = 2000 * metrics // a_message
            points = b",".join(
                b'{"metric":"m%d","event_time":%d,"value":%d.25}' % (k % metrics, ms + k // metrics * step_ms, k)
                for k in range(a_message)
            )
            source = at // a_message * 7919 % (series // metrics)
            body = b'{"project":"bench","source":"s%d","points":[%b]}' % (source, points)
        made.append(Message(body, {}, ms * 1000 + 1_000_000, str(at), ms * 1000))
    return made


class Feed(beam.DoFn):
    """Prepared pulls, a few a bundle, with a watermark; they are made before the clock starts."""

    pulls: ClassVar[list[list[Message]]] = []

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        _start: int,
        tracker: Any = beam.DoFn.RestrictionParam(FOR_EVER),
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),
    ) -> Iterator[TimestampedValue]:
        position = tracker.current_restriction().start
        for _ in range(4):
            if position >= len(Feed.pulls):
                tracker.try_claim(tracker.current_restriction().stop - 1)
                watermark.set_watermark(MAX_TIMESTAMP)
                return
            if not tracker.try_claim(position):
                return
            messages = Feed.pulls[position]
            position += 1
            yield TimestampedValue(Messages.of(messages), Timestamp(micros=messages[0].earliest))
        watermark.set_watermark(Timestamp(micros=Feed.pulls[position - 1][-1].earliest - 1_000_000))
        tracker.defer_remainder(Duration(seconds=0))


class Shards(beam.DoFn):
    """Blocks to (shard, points) as the raw writer passes them on, the numbers from a dictionary."""

    def setup(self) -> None:
        self._ids: dict[SeriesKey, int] = {}

    def process(self, block: Block) -> Iterator[TimestampedValue]:
        for shard, start, points in by_shard(numbered(block, self._ids), VALUES.tiers_s[0], VALUES.shards):
            yield TimestampedValue((shard, block_of(points)), Timestamp(micros=start))


def numbered(block: Block, ids: dict[SeriesKey, int]) -> np.ndarray:
    """The block's winners, under numbers of their series."""
    number = np.array([ids.setdefault(key, len(ids)) for key in block.keys], np.int32)
    points = block.points.copy()
    points["series_id"] = number[points["series_id"]]
    return winners(points).points


class Count(beam.DoFn):
    """Adds up the points in the rows that are shown on time or late: every window shows all of its points once."""

    seen = 0
    rows = 0

    def process(self, batch: Any) -> None:
        Count.rows += len(batch.rollups())


def run(build: Any) -> float:
    """Run a pipeline on the local engine; CPU seconds of this process and of the engine."""
    options = PipelineOptions(["--streaming"])
    engine = LocalEngine(find_or_build())
    before = rig.cpu_seconds(rig.processes(os.getpid()))
    pipeline = beam.Pipeline(options=options)
    build(pipeline)
    engine.run(pipeline, options).wait_until_finish()
    spent = rig.cpu_seconds(rig.processes(os.getpid())) - before
    engine.close()
    return spent


def taken(nothing: Any) -> None:
    """Another stage takes what never comes, as in `WriteRollups`: Prism spins while a stage without output works."""
    _ = (nothing,) | "taken" >> beam.Flatten()


def ours(pipeline: beam.Pipeline) -> None:
    """As ingest does, without its stores."""
    lateness_s = VALUES.horizon_s + VALUES.lateness_slack_s
    counted = (
        pipeline
        | beam.Create([0])
        | beam.ParDo(Feed()).with_output_types(Messages)
        | DecodeMessages(Limits())
        | beam.ParDo(Shards()).with_output_types(tuple[int, bytes])
        | Preview(VALUES.tiers_s[0], VALUES.early_firing_s, lateness_s)
        | beam.ParDo(Count())
    )
    taken(counted)


class Sample(msgspec.Struct):
    project: str
    source: str
    metric: str
    event_time: int
    value: float


class Summary(beam.CombineFn):
    """What the naive program keeps of a window."""

    def create_accumulator(self) -> tuple[int, float, float, float]:
        return 0, 0.0, float("inf"), float("-inf")

    def add_input(self, summary: tuple[int, float, float, float], value: float) -> tuple[int, float, float, float]:
        return summary[0] + 1, summary[1] + value, min(summary[2], value), max(summary[3], value)

    def merge_accumulators(self, some: Iterable[tuple[int, float, float, float]]) -> tuple[int, float, float, float]:
        counts, sums, least, most = zip(*some, strict=True)
        return sum(counts), sum(sums), min(least), max(most)

    def extract_output(self, summary: tuple[int, float, float, float]) -> tuple[int, float, float, float]:
        return summary


def flat(messages: Messages) -> Iterator[TimestampedValue]:
    """A point an element, as the tutorials do it."""
    for message in messages:
        body = msgspec.json.decode(message.data)
        for point in body.get("points") or [body]:
            key = (body["project"], body["source"], point["metric"])
            yield TimestampedValue((key, point["value"]), point["event_time"] / 1000)


def naive(pipeline: beam.Pipeline) -> None:
    """FixedWindows and CombinePerKey over points."""
    summaries = (
        pipeline
        | beam.Create([0])
        | beam.ParDo(Feed()).with_output_types(Messages)
        | beam.FlatMap(flat)
        | beam.WindowInto(FixedWindows(VALUES.tiers_s[0]))
        | beam.CombinePerKey(Summary())
        | beam.Filter(lambda _: False)
    )
    taken(summaries)


def limit() -> float:
    """The same work in a loop: CPU seconds."""
    began = time.process_time()
    decoder, ids, state = Decoder(Limits()), dict[SeriesKey, int](), list[np.ndarray]()
    window = START_US
    for messages in Feed.pulls:
        columns = Columns()
        for message in messages:
            decoder.decode(message, columns, START_US)
        state.append(numbered(columns.block(), ids))
        while messages[-1].earliest - 2_000_000 > window + VALUES.tiers_s[0] * MICROSECONDS:
            window += VALUES.tiers_s[0] * MICROSECONDS
            every = np.concatenate(state)
            closed = every["event_time"] < window
            summarise(winners(every[closed]).points, VALUES.tiers_s[0])
            state = [every[~closed]]
    summarise(winners(np.concatenate(state)).points, VALUES.tiers_s[0])
    return time.process_time() - began


def through_beam(points: int) -> dict[str, float]:
    """Points a CPU second of each program, for each shape of messages."""
    found = {}
    Feed.pulls = []
    nothing = run(ours)
    for name, a_message, series in (("single_1000", 1, 1000), ("batch_100", 500, 100), ("batch_100000", 500, 100_000)):
        Feed.pulls = [pull(first, a_message, series) for first in range(0, points, PULL_POINTS)]
        gc.freeze()  # as `pipelines.local_run` does: the messages that wait are not looked at again and again
        Count.rows = 0
        found[name] = points / (run(ours) - nothing)
        assert Count.rows, "nothing was shown"
        found[f"{name}_limit"] = points / limit()
        Feed.pulls = Feed.pulls[: max(1, len(Feed.pulls) // 10)]
        found[f"{name}_naive"] = len(Feed.pulls) * PULL_POINTS / (run(naive) - nothing)
        print({key: round(value) for key, value in found.items()}, file=sys.stderr)
    return found


STATE_POINTS, BLOCKS, OF_SERIES = 100_000, 12, 1000
"""A window of 60 s with a firing every 5 s: 12 firings, each with a twelfth of the points."""


def algebra() -> dict[str, float]:
    """Merge and summary without Beam: points a second in blocks of 10,000; many firings of a window against one."""
    rng = np.random.default_rng(20130711)

    def points(number: int) -> np.ndarray:
        made = np.zeros(number, POINT)
        made["series_id"] = rng.integers(0, OF_SERIES, number)
        made["event_time"] = START_US + np.sort(rng.integers(0, 60 * MICROSECONDS, number))
        made["publish_time"] = made["event_time"] + rng.integers(0, 5 * MICROSECONDS, number)
        made["value"] = rng.normal(size=number)
        return made

    blocks = [points(PULL_POINTS) for _ in range(50)]
    window = points(STATE_POINTS)
    late = rng.random(STATE_POINTS) < 0.1  # a tenth comes with any later firing
    firing = np.arange(STATE_POINTS) * BLOCKS // STATE_POINTS
    firing[late] = rng.integers(firing[late], BLOCKS)
    parts = [window[firing == i] for i in range(BLOCKS)]

    def merged() -> float:
        began = time.process_time()
        for block in blocks:
            summarise(winners(block).points, 60)
        return time.process_time() - began

    def fired(every: int) -> float:
        began = time.process_time()
        state = WindowState(60)
        for number, part in enumerate(parts, start=1):
            state.add(part)
            if number % every == 0:
                state.rollups()
        return time.process_time() - began

    rounds = [(merged(), fired(BLOCKS), fired(1)) for _ in range(9)]
    return {
        "merge_points_a_s": statistics.median(len(blocks) * PULL_POINTS / m for m, _, _ in rounds),
        "one_firing_ms": statistics.median(one for _, one, _ in rounds) * 1000,
        "all_firings_to_one": statistics.median(many / one for _, one, many in rounds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["ours", "merge"])
    parser.add_argument("--points", type=int, default=3_000_000)
    arguments = parser.parse_args()
    figures: dict[str, object] = {}
    bars: dict[str, tuple[float, str, float]] = {}
    if "ours" in arguments.cases:
        found = {name: round(value) for name, value in through_beam(arguments.points).items()}
        figures["points_a_cpu_second"] = found
        bars |= {
            "single_1000": (found["single_1000"], ">=", 300_000),
            "batch_100": (found["batch_100"], ">=", 700_000),
            "batch_100000": (found["batch_100000"], ">=", 450_000),
        }
    if "merge" in arguments.cases:
        found = {name: round(value, 2) for name, value in algebra().items()}
        figures["algebra"] = found
        bars |= {
            "merge_points_a_s": (found["merge_points_a_s"], ">=", 4_000_000),
            "all_firings_to_one": (found["all_firings_to_one"], "<=", 2),
        }
    return rig.finish("preview", figures, bars)


if __name__ == "__main__":
    import preview  # by name: what is in __main__ would be pickled with the pipeline, all the messages too

    sys.exit(preview.main())
