"""What a point costs from message to raw row when an engine hands over one message an element, and one pull an element.

    python bench/shape.py

The same 50,000 single-point messages through decode and write raw on Beam's in-process runner, five times each way in
turn; CPU of this process, in microseconds a point. Dataflow hands over single messages, Prism and Flink get pulls.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import rig
from apache_beam.testing import test_pipeline as pipelines

from tidemark.local.stack import Stack
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from transforms import resources
from transforms.decode import DecodeMessages
from transforms.resources import Store
from transforms.write_raw import WriteRaw

POINTS = 50_000
ROUNDS = 5


def messages(offset: int) -> list[Message]:
    now = time.time_ns() // 1000
    made = []
    for i in range(POINTS):
        at = now - (offset * POINTS + i) * 1000
        body = b'{"project":"bench","source":"s%d","metric":"m","event_time":%d,"value":%d.5}'
        made.append(Message(body % (i % 1000, at // 1000, i), {}, now, f"{offset}-{i}", at))
    return made


ELEMENTS: list[list[Message]] = []
"""Handed over by reference: the runner is in this process, and coding them is not what is measured."""


def hand_over(_: int) -> Iterator[list[Message]]:
    yield from ELEMENTS


def run(elements: list[list[Message]]) -> float:
    ELEMENTS[:] = elements
    began = time.process_time()
    with pipelines.TestPipeline(runner="FnApiRunner") as pipeline:
        store = Store(None, 4, (60, 3600, 86_400), 120, 30)
        (
            pipeline
            | beam.Create([0])
            | beam.FlatMap(hand_over).with_output_types(list[Message])
            | DecodeMessages(Limits())
            | WriteRaw(store, 16, 1e9)
        )
    resources.close()
    return (time.process_time() - began) / POINTS * 1e6


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="tidemark-bench-") as directory:
        stack = Stack(Path(directory) / "state")
        os.environ["TIDEMARK_DATABASE_URL"] = stack.up()["TIDEMARK_DATABASE_URL"]
        single, pulls = [], []
        try:
            run([messages(2 * ROUNDS)])  # imports, pools, series
            for turn in range(ROUNDS):
                some = messages(2 * turn)
                single.append(run([[message] for message in some]))
                some = messages(2 * turn + 1)
                pulls.append(run([some[i : i + 1000] for i in range(0, POINTS, 1000)]))
        finally:
            stack.down(purge=True)
    figures = {
        "cpu_us_a_point": {
            "message_an_element": round(statistics.median(single), 1),
            "pull_an_element": round(statistics.median(pulls), 1),
        }
    }
    return rig.finish("shape", figures, {})


if __name__ == "__main__":
    import shape  # by name: what a pipeline refers to in __main__ is pickled with the pipeline, all the messages too

    sys.exit(shape.main())
