"""When a message was accepted: the register's clock."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemark.wire.block import Columns, winners
from tidemark.wire.decode import Decoder
from tidemark.wire.message import Message, delivered
from tidemark.wire.messages import SHARE_BYTES, Messages, shares

NOW = 1_767_225_600_000_000


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        (str(NOW - 5), NOW - 5),
        (str(NOW), NOW),
        (str(NOW + 1), NOW),
        (str(NOW * 1000), NOW),  # nanoseconds
        (str(NOW // 1000), NOW),  # milliseconds
        (str(NOW // 1_000_000), NOW),
        ("0", NOW),
        ("-1", NOW),
        ("", NOW),
        ("9" * 40, NOW),
        ("١٢٣٤٥٦٧٨٩٠١٢٣٤٥٦", NOW),
        ("2026-01-01T00:00:00Z", NOW),
        ("1e15", NOW),
    ],
)
def test_it_is_the_earlier_of_what_is_stated_and_what_pubsub_says(text: str, taken: int) -> None:
    assert delivered(b"", {"accepted_time": text}, NOW, "1").publish_time == taken


def body(value: int) -> bytes:
    return b'{"project":"p","source":"s","metric":"m","event_time":1767225500000,"value":%d}' % value


@given(st.data(), st.integers(1, 6))
def test_whatever_is_retried_repeated_or_kept_the_value_accepted_last_stands(data: st.DataObject, number: int) -> None:
    """Each write is accepted a microsecond after the last, and published at any time after that, any number of times."""
    deliveries: list[Message] = []
    for value in range(number):
        accepted = NOW + value
        for published in data.draw(st.lists(st.integers(0, 10**9), min_size=1, max_size=3)):
            attributes = {"accepted_time": str(accepted)}
            deliveries.append(delivered(body(value), attributes, accepted + published, f"{value}-{published}"))
    columns = Columns()
    for message in data.draw(st.permutations(deliveries)):
        Decoder().decode(message, columns, NOW + 10**9)
    block = columns.block()
    assert winners(block.points).points["value"].tolist() == [number - 1]


def test_a_clock_far_behind_is_held_against_the_event_time_as_any_publish_time() -> None:
    columns = Columns()
    message = delivered(body(1), {"accepted_time": str(NOW - 86_400_000_000)}, NOW, "1")
    Decoder().decode(message, columns, NOW)
    assert [letter.reason for letter in columns.dead_letters] == ["event_time_in_future"]


def test_messages_are_taken_in_shares_by_their_text() -> None:
    sizes = [10, SHARE_BYTES, 5, 5, 2 * SHARE_BYTES, 1]
    messages = [Message(b"x" * size, {}, 0, str(number)) for number, size in enumerate(sizes)]
    packed = Message(b"x" * (SHARE_BYTES // 16), {"content_encoding": "gzip"}, 0, "6")
    parts = [[one.message_id for one in part] for part in shares(Messages.of([*messages, packed, messages[0]]))]
    assert parts == [["0", "1"], ["2", "3", "4"], ["5", "6"], ["0"]]
    assert not [*shares(Messages.of([]))]


_TEXTS = st.sampled_from(
    ["", "0", "1767225600000", "99999999999", "100000000000", "253402300799999", "253402300800000", "1767225600000000",
     "-1767225600000", "+1767225600000", "1_767_225_600_000", "2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "x", "\u0661" * 13]
)  # fmt: skip
_ATTRIBUTES = st.dictionaries(
    st.sampled_from(["event_time", "accepted_time", "content_encoding", "project"]), _TEXTS, max_size=4
)


@given(st.lists(st.tuples(_ATTRIBUTES, st.integers(NOW - 10**15, NOW + 10**6)), min_size=1, max_size=12))
def test_columns_of_messages_say_what_each_says(some: list[tuple[dict[str, str], int]]) -> None:
    data = [str(number).encode() for number in range(len(some))]
    alone = [delivered(data[n], attributes, at, str(n)) for n, (attributes, at) in enumerate(some)]
    together = Messages.delivered(
        data,
        [attributes for attributes, _ in some],
        np.array([at for _, at in some]),
        [one.message_id for one in alone],
    )
    assert [*together] == alone
    assert together.earliest().tolist() == [one.earliest for one in alone]
    assert together.unstated() == sum(one.stated is None for one in alone)
    assert sorted(together.packed) == [n for n, one in enumerate(alone) if "content_encoding" in one.attributes]
    assert [*Messages.of(alone)[1:]] == alone[1:]
