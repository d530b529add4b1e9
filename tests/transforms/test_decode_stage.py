"""The stage that decodes, with a mapping and without, on a pipeline."""

from __future__ import annotations

import json

import apache_beam as beam
import pytest
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that

from tests.wire.bodies import PUBLISHED_US
from tidemark.mapping.program import Program, program
from tidemark.wire.block import BLOCK_POINTS, Block
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from transforms.decode import DecodeMessages

CONTRACT = '.body | {source: .id, metric: "fps", event_time: .at, value: .fps}'
POINTS, A_MESSAGE = 40_000, 100


def messages(mapped: bool) -> list[list[Message]]:
    def value(number: int) -> dict:
        at = PUBLISHED_US // 1000 - number
        if mapped:
            return {"id": "gw", "at": at, "fps": number}
        return {"source": "gw", "metric": "fps", "event_time": at, "value": number}

    bodies = [
        json.dumps([value(number) for number in range(begin, begin + A_MESSAGE)]).encode()
        for begin in range(0, POINTS, A_MESSAGE)
    ]
    made = [Message(data, {"project": "p"}, PUBLISHED_US, str(number)) for number, data in enumerate(bodies)]
    return [made[begin : begin + 50] for begin in range(0, len(made), 50)]


@pytest.mark.parametrize("mapping", [None, program(CONTRACT, "m.jq")])
def test_messages_become_blocks_of_about_ten_thousand_points(mapping: Program | None) -> None:
    def right(blocks: list[Block]) -> None:
        assert sorted(value for block in blocks for value in block.points["value"].tolist()) == list(range(POINTS))
        assert all(len(block.points) < 2 * BLOCK_POINTS and not block.dead_letters for block in blocks)

    with test_pipeline.TestPipeline() as pipeline:
        blocks = pipeline | beam.Create(messages(mapping is not None)) | DecodeMessages(Limits(), mapping)
        assert_that(blocks, right)
