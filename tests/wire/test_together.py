"""Messages that are decoded together become what each becomes alone."""

from __future__ import annotations

import gzip
import json
import random

import pytest

from tests.wire import fuzz
from tests.wire.bodies import GOOD, PUBLISHED_US
from tidemark.wire import block as block_module
from tidemark.wire.block import Columns, DeadLetter
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message

FIELDS = ("project", "source", "metric", "event_time", "value", "attributes", "points", "note")
OTHERS = (1, 1.5, "12", "x", "", None, True, [], {}, {"a": 1}, -1e151, 2**70, "2026-01-31T12:00:00Z", "2026-01-31", "'")
RAW = (b"NaN", b"-Infinity", b"nul", b'"open', b"01", b"1.", b'"\xff"', b'"\\ud800"', b"'x'", b"1}", b'"a":1', b"\0")


def broken(chance: random.Random) -> bytes:
    """A point with something else in it, most often one thing."""
    point = json.loads(GOOD)
    for _ in range(chance.choice((0, 1, 1, 1, 2))):
        name = chance.choice(FIELDS)
        if chance.random() < 0.3:
            point.pop(name, None)
        else:
            point[name] = chance.choice(OTHERS)
    text = json.dumps(point).encode()
    kind = chance.random()
    if kind < 0.3:
        name = chance.choice([*point] or ["value"]).encode()
        value = json.dumps(point.get(name.decode())).encode()
        text = text.replace(b'"%b": %b' % (name, value), b'"%b": %b' % (name, chance.choice(RAW)), 1)
    elif kind < 0.5:
        begin = chance.randrange(len(text))
        text = text[:begin] + bytes([chance.choice(b'{}[]",:\\ \nx\xff')]) + text[begin + chance.randrange(2) :]
    elif kind < 0.55:
        text = text[: chance.randrange(1, len(text))]
    elif kind < 0.6:
        text = chance.choice((b" %b", b"%b ", b"%b\n", b"\xef\xbb\xbf%b", b"[%b]", b"%b%b" % (GOOD, b"%b"))) % text
    return text


def message(chance: random.Random, number: int) -> Message:
    data = broken(chance) if chance.random() < 0.8 else fuzz.body(chance).data
    attributes = chance.choice(({}, {"project": "given"}, {"a": "b"}))
    if chance.random() < 0.05:
        data, attributes = chance.choice((data, gzip.compress(data))), {**attributes, "content_encoding": "gzip"}
    return Message(data, attributes, PUBLISHED_US, str(number))


def content(columns: Columns) -> tuple[list[tuple[object, ...]], list[DeadLetter]]:
    block = columns.block()
    attributes = block.attributes or [None] * len(block.points)
    points = [
        (block.keys[series], *rest, some)
        for (series, *rest), some in zip(block.points.tolist(), attributes, strict=True)
    ]
    return sorted(points, key=repr), sorted(
        block.dead_letters, key=lambda letter: (int(letter.message_id), letter.position)
    )


@pytest.mark.parametrize("seed", range(4))
def test_decoding_together_and_alone_is_the_same(seed: int) -> None:
    chance = random.Random(seed)
    decoder = Decoder(Limits(max_message_bytes=100_000))
    told: set[str] = set()
    for _ in range(60):
        some = [message(chance, number) for number in range(100)]
        together, alone = Columns(), Columns()
        decoder.decode_all(some, together, PUBLISHED_US)
        for one in some:
            decoder.decode(one, alone, PUBLISHED_US)
        found, wanted = content(together), content(alone)
        assert found == wanted
        told |= {letter.reason for letter in wanted[1]}
    assert len(told) > 10


def test_columns_that_follow_others_make_the_same_blocks_of_their_own_series() -> None:
    chance = random.Random(5)
    decoder = Decoder(Limits(max_message_bytes=100_000))
    columns = Columns()
    for _ in range(40):
        some = [message(chance, number) for number in range(30)]
        alone = Columns()
        decoder.decode_all(some, columns, PUBLISHED_US)
        decoder.decode_all(some, alone, PUBLISHED_US)
        if chance.random() < 0.2:  # nobody wanted these
            columns = columns.following()
            continue
        known = len(columns.keys)
        block = columns.block()
        assert sorted(block.keys) == sorted(alone.block().keys)
        assert content(columns) == content(alone)
        columns = columns.following()
        assert (len(columns), len(columns.keys)) == (0, known)


@pytest.mark.parametrize("name", ["s%d", "\x00%d"])
def test_names_beyond_a_bound_are_not_remembered_good_or_not(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(block_module, "KNOWN_BYTES", 100_000)
    columns, most = Columns(), 0
    for number in range(2000):
        body = json.dumps({**json.loads(GOOD), "source": name % number}).encode()
        Decoder().decode(Message(body, {}, PUBLISHED_US, str(number)), columns, PUBLISHED_US)
        columns = columns.following()
        most = max(most, len(columns._metrics), len(columns.keys))
    assert 50 < most < 500
