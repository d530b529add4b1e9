"""Texts of archives."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from tests.wire.test_decode import POINT
from tests.wire.test_together import broken, content
from tidemark.wire.archived import ArchiveDecoder, archived, lines
from tidemark.wire.block import Block, Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message

NOW = 1_769_860_810_000_000
EVENT = 1_767_225_599_000_000
SAID = 1_767_225_700_000_000


def line(**changes: Any) -> bytes:
    return json.dumps({name: said for name, said in {**POINT, **changes}.items() if said is not ...}).encode()


def read(*texts: bytes, project: str | None = None, limits: Limits | None = None) -> Block:
    columns = Columns()
    text = b"".join(text + b"\n" for text in texts)
    ArchiveDecoder(limits or Limits()).decode(archived("a.jsonl", 0, 0, 1, text, project, NOW), columns, NOW)
    return columns.block()


def published(block: Block) -> list[int]:
    return sorted(block.points["publish_time"].tolist())


def batch(*points: dict[str, Any], **head: Any) -> bytes:
    plain = {name: POINT[name] for name in ("metric", "event_time", "value")}
    return json.dumps({"project": "p", "source": "s", **head, "points": [{**plain, **one} for one in points]}).encode()


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (line(), [EVENT]),
        (line(publish_time=None), [EVENT]),
        (line(publish_time=SAID // 1000), [SAID]),
        (line(publish_time="2026-01-01T01:01:40+01:00"), [SAID - 0]),
        (line(attributes={"publish_time": 1}), [EVENT]),
        (batch({}, {"value": 2.0}), [EVENT, EVENT]),
        (batch({}, {"metric": "n"}, publish_time=SAID // 1000), [SAID, SAID]),
        (batch({}, {"metric": "n", "publish_time": SAID // 1000}), [EVENT, SAID]),
        (
            batch({"publish_time": None}, {"publish_time": SAID // 1000}, publish_time=SAID // 1000 + 1000),
            [EVENT, SAID],
        ),
        (batch({}, {"publish_time": SAID // 1000}, publish_time=SAID // 1000 + 1), [SAID, SAID + 1000]),
    ],
)
def test_a_point_is_published_when_it_says_or_when_it_happened(text: bytes, times: list[int]) -> None:
    block = read(text)
    assert block.dead_letters == []
    assert published(block) == times
    assert published(read(line(metric="other"), text)) == sorted([EVENT, *times])


@pytest.mark.parametrize(
    "said", [SAID // 1_000_000, NOW // 1000 + 601_000, "yesterday", "2026-01-01", True, 1.5, [], -1, 10**30]
)
@pytest.mark.parametrize("wrap", [line, lambda **said: batch({}, **said), lambda **said: batch(said, {"metric": "n"})])
def test_what_cannot_be_one_is_refused_alone(said: Any, wrap: Any) -> None:
    block = read(line(metric="before"), wrap(publish_time=said), line(metric="behind"))
    reasons = [letter.reason for letter in block.dead_letters]
    assert set(reasons) <= {"bad_publish_time", "not_json"}
    assert reasons
    assert {key.metric for key in block.keys} >= {"before", "behind"}


def test_the_future_is_counted_from_the_publish_time_that_is_said() -> None:
    block = read(line(event_time=NOW // 1000, publish_time=SAID // 1000), line(event_time=NOW // 1000 + 601_000))
    assert [letter.reason for letter in block.dead_letters] == ["event_time_in_future"] * 2


def test_of_many_lines_each_bad_one_is_told_by_itself_with_its_place() -> None:
    texts = [line(metric=f"m{number}", value="x" if number in (3, 500) else number) for number in range(1000)]
    block = read(*texts)
    assert len(block.points) == 998
    assert published(block) == [EVENT] * 998
    told = [(letter.message_id, letter.attributes["line"], letter.data) for letter in block.dead_letters]
    assert told == [("archive:a.jsonl@0+3", "4", texts[3]), ("archive:a.jsonl@0+500", "501", texts[500])]


def test_a_project_that_is_left_out_is_the_one_that_is_given() -> None:
    assert read(line(project=...), project="mine").keys[0].project == "mine"
    assert [letter.reason for letter in read(line(project=...)).dead_letters] == ["missing_field"]


def test_nobody_else_is_believed() -> None:
    columns = Columns()
    Decoder().decode(Message(line(publish_time=SAID // 1000), {}, NOW, "1"), columns, NOW)
    assert columns.block().points["publish_time"].tolist() == [NOW]


@pytest.mark.parametrize("seed", range(3))
def test_lines_together_and_each_alone_are_the_same(seed: int) -> None:
    chance = random.Random(seed)
    decoder = ArchiveDecoder(Limits())
    for _ in range(50):
        some = [broken(chance).replace(b"\n", b" ") for _ in range(50)]
        some = [
            text[:-1] + b',"publish_time":%d}' % (SAID // 1000) if chance.random() < 0.2 and text[-1:] == b"}" else text
            for text in some
        ]
        together, alone = Columns(), Columns()
        message = archived("a", 7, 0, None, b"\n".join(some), "given", NOW)
        decoder.decode(message, together, NOW)
        for one in lines(message):
            decoder.decode(one, alone, NOW)
        assert _by_id(together) == _by_id(alone)


def _by_id(columns: Columns) -> Any:
    letters = [letter._replace(message_id="0") for letter in columns.dead_letters]
    columns.dead_letters = []
    return content(columns)[0], sorted(letters, key=repr)
