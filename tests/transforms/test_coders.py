"""Encodings last: what an older program left in an engine's state is read."""

from __future__ import annotations

import base64

import apache_beam as beam
import numpy as np
import pytest
from apache_beam import coders as beam_coders

from tidemark.wire.block import Block, DeadLetter, SeriesKey
from tidemark.wire.message import Message
from tidemark.wire.messages import Messages
from tidemark.wire.reasons import Reason
from tidemark.wire.summary import POINT
from transforms.coders import BlockCoder, MessageCoder, MessagesCoder
from transforms.counters import tally
from transforms.preview import BLOCK_NAME, block_of, points_of

LETTER = DeadLetter("7", -1, b"\xff{", {"a": "ü"}, "decode", Reason.NOT_JSON, "why", 3)
BLOCK = Block(
    [SeriesKey("p", "s", "m"), SeriesKey("p", "ü", "n")],
    np.array([(0, 1, 2, 3.5), (1, -4, 2**62, -1e150)], POINT),
    [None, b'{"a":1}'],
    [LETTER],
)
MESSAGE = Message(b"\x00\xff", {"event_time": "5", "ü": "ä"}, 9, "id", None)
MESSAGES = Messages.of([MESSAGE, Message(b"", {}, 1_767_225_600_000_000, "", 7)])
OLD_BLOCK = (
    "AZSSk6FwoXOhbZOhcKLDvKFuxDgAAAAAAQAAAAAAAAACAAAAAAAAAAAAAAAAAAxAAQAAAPz/////////AAAAAAAAAECvllAuNY0T"
    "35LAxAd7ImEiOjF9kZihN//EAv97gaFhosO8pmRlY29kZahub3RfanNvbqN3aHkD"
)
OLD_PREVIEW_BLOCK = "AXNldmVuMDAAAAAAAQAAAAAAAAACAAAAAAAAAAAAAAAAAAxAAQAAAPz/////////AAAAAAAAAECvllAuNY0T3w=="
OLD_COMPRESSED_BLOCK = "AnNldmVuMDAotS/9YGADbQEA0AAAAAABAAIADEABAAAA/P8AQK+WUC41jRPfBgARftYD4+KGEuFnhQHHAygC"
OLD_MESSAGE = "AZXEAgD/gqpldmVudF90aW1loTWiw7yiw6QJomlkwA=="


def assert_is_block(found: Block) -> None:
    assert found.keys == BLOCK.keys
    assert all(isinstance(key, SeriesKey) for key in found.keys)
    np.testing.assert_array_equal(found.points, BLOCK.points)
    assert found.attributes == BLOCK.attributes
    assert found.dead_letters == BLOCK.dead_letters
    assert isinstance(found.dead_letters[0].reason, Reason)
    found.points["value"] = 0  # not read-only


def test_there_and_back() -> None:
    assert_is_block(BlockCoder().decode(BlockCoder().encode(BLOCK)))
    assert MessageCoder().decode(MessageCoder().encode(MESSAGE)) == MESSAGE
    assert [*MessagesCoder().decode(MessagesCoder().encode(MESSAGES))] == [*MESSAGES]


def test_the_bytes_of_version_1_are_read() -> None:
    assert_is_block(BlockCoder().decode(base64.b64decode(OLD_BLOCK)))
    assert MessageCoder().decode(base64.b64decode(OLD_MESSAGE)) == MESSAGE


def test_a_block_of_previews_of_each_encoding_is_read() -> None:
    many = np.repeat(BLOCK.points, 20)
    np.testing.assert_array_equal(points_of(base64.b64decode(OLD_PREVIEW_BLOCK)), BLOCK.points)
    np.testing.assert_array_equal(points_of(base64.b64decode(OLD_COMPRESSED_BLOCK)), many)
    np.testing.assert_array_equal(points_of(block_of(many)), many)
    assert len(block_of(many)) < many.nbytes / 2
    np.testing.assert_array_equal(points_of(block_of(BLOCK.points)), BLOCK.points)
    assert block_of(BLOCK.points)[:BLOCK_NAME] != block_of(BLOCK.points)[:BLOCK_NAME]


def test_a_block_of_previews_of_another_version_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    before = tally().get("preview_blocks_unreadable", 0)
    assert len(points_of(b"\x63" + block_of(BLOCK.points)[1:])) == 0
    assert tally()["preview_blocks_unreadable"] == before + 1
    assert "another version" in caplog.text


def test_bytes_of_a_later_version_are_refused_with_a_way_out() -> None:
    for coder, value in ((BlockCoder(), BLOCK), (MessageCoder(), MESSAGE), (MessagesCoder(), MESSAGES)):
        with pytest.raises(ValueError, match="drain"):
            coder.decode(b"\x63" + coder.encode(value)[1:])


def test_beam_uses_them() -> None:
    assert isinstance(beam_coders.registry.get_coder(Block), BlockCoder)
    assert isinstance(beam_coders.registry.get_coder(Message), MessageCoder)
    assert isinstance(beam_coders.registry.get_coder(Messages), MessagesCoder)
    hint = beam.typehints.native_type_compatibility.convert_to_beam_type(list[Message])
    assert "MessageCoder" in repr(beam_coders.registry.get_coder(hint))


def test_sizes_are_about_right() -> None:
    number = 10_000
    block = Block([SeriesKey("p", f"s{i}", "m") for i in range(100)], np.zeros(number, POINT))
    assert BlockCoder().estimate_size(block) == pytest.approx(len(BlockCoder().encode(block)), rel=0.2)
    message = Message(b"x" * 5000, {"event_time": "1767225600000"}, 1_767_225_600_000_000, "12345", 1)
    assert MessageCoder().estimate_size(message) == pytest.approx(len(MessageCoder().encode(message)), rel=0.2)
