from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tidemark.wire.block import Block, Columns
from tidemark.wire.body import NO_PROJECT
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import MAX_VALUE, Limits
from tidemark.wire.message import LAST_EVENT_TIME, LEAST_MS, Message, event_time
from tidemark.wire.reasons import Reason

NOW = 1_767_225_600_000_000  # 2026-01-01
POINT: dict[str, Any] = {
    "project": "p",
    "source": "s",
    "metric": "m",
    "event_time": 1_767_225_599_000,
    "value": 1.5,
}


def decode(data: bytes, limits: Limits | None = None, **attributes: str) -> Block:
    columns = Columns()
    Decoder(limits or Limits()).decode(Message(data, attributes, NOW, "id"), columns, NOW)
    return columns.block()


def one(**changes: Any) -> bytes:
    return json.dumps({k: v for k, v in {**POINT, **changes}.items() if v is not ...}).encode()


def reasons(block: Block) -> list[str]:
    return [letter.reason.value for letter in block.dead_letters]


def test_one_object_is_one_point() -> None:
    block = decode(one(attributes={"b": 1, "a": [True, None, "x"]}))
    assert block.keys == [("p", "s", "m")]
    assert block.points.tolist() == [(0, 1_767_225_599_000_000, NOW, 1.5)]
    assert block.attributes == [b'{"a":[true,null,"x"],"b":1}']
    assert block.dead_letters == []


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("2025-12-31T23:59:59Z", 1_767_225_599_000_000),
        ("2025-12-31T23:59:59.123456Z", 1_767_225_599_123_456),
        ("2026-01-01T00:59:59+01:00", 1_767_225_599_000_000),
        ("2025-12-31t23:59:59z", 1_767_225_599_000_000),
        ("1970-01-01T00:00:00Z", 0),
        ("2025-10-26T02:30:00+02:00", 1_761_438_600_000_000),  # twice in Berlin, told apart by its offset
        ("2025-10-26T02:30:00+01:00", 1_761_442_200_000_000),
    ],
)
def test_an_event_time_may_be_rfc_3339(text: str, micros: int) -> None:
    assert decode(one(event_time=text)).points["event_time"].tolist() == [micros]


def test_an_array_json_lines_and_a_batch_give_the_same_points() -> None:
    points = [{**POINT, "metric": f"m{i}", "value": i} for i in range(5)]
    array = decode(json.dumps(points).encode())
    lines = decode(b"\n".join(json.dumps(p).encode() for p in points) + b"\n")
    head = {"project": "p", "source": "s"}
    batch = decode(
        json.dumps({**head, "points": [{k: p[k] for k in ("metric", "event_time", "value")} for p in points]}).encode()
    )
    assert array.points.tolist() == lines.points.tolist() == batch.points.tolist()
    assert len(array.points) == 5
    assert array.keys == lines.keys == batch.keys


def test_a_pretty_printed_object_is_not_taken_for_lines() -> None:
    assert len(decode(json.dumps(POINT, indent=2).encode()).points) == 1


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("zstd", zstandard.compress)])
def test_a_compressed_body_is_unpacked(encoding: str, pack: Any) -> None:
    assert len(decode(pack(one()), content_encoding=encoding).points) == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_MESSAGE),
        (b" \n", Reason.EMPTY_MESSAGE),
        (b"[]", Reason.EMPTY_MESSAGE),
        (b'{"project":"p","source":"s","points":[]}', Reason.EMPTY_MESSAGE),
        (b"\xff\xfe", Reason.EMPTY_MESSAGE),  # UTF-16 of nothing
        (b"\xff\xff", Reason.NOT_JSON),
        (b"{", Reason.NOT_JSON),
        (b"[" * 100_000, Reason.NOT_JSON),
        (b'{"project":' + b"[" * 100_000, Reason.NOT_JSON),
        (b"7", Reason.WRONG_SHAPE),
        (b'"text"', Reason.WRONG_SHAPE),
        (b"null", Reason.WRONG_SHAPE),
        (one(metric=...), Reason.MISSING_FIELD),
        (one(project=...), Reason.MISSING_FIELD),
        (one(value=...), Reason.MISSING_FIELD),
        (one(event_time=...), Reason.MISSING_FIELD),
        (one(project=""), Reason.BAD_NAME),
        (one(project=7), Reason.BAD_NAME),
        (one(project="x" * 257), Reason.BAD_NAME),
        (one(source="\u00e9" * 129), Reason.BAD_NAME),
        (one(metric="a\u0000b"), Reason.BAD_NAME),
        (one(metric="a\nb"), Reason.BAD_NAME),
        (one(metric="a\u0085b"), Reason.BAD_NAME),
        (b'{"project":"\\ud800","source":"s","metric":"m","event_time":1,"value":1}', Reason.NOT_JSON),
        (one(event_time="yesterday"), Reason.BAD_EVENT_TIME),
        (one(event_time="2025-12-31T23:59:59"), Reason.BAD_EVENT_TIME),
        (one(event_time="2016-12-31T23:59:60Z"), Reason.BAD_EVENT_TIME),
        (one(event_time="0001-01-01T00:00:00Z"), Reason.BAD_EVENT_TIME),
        (one(event_time=-1), Reason.BAD_EVENT_TIME),
        (one(event_time=1.5), Reason.BAD_EVENT_TIME),
        (one(event_time=10**30), Reason.BAD_EVENT_TIME),
        (one(event_time=LAST_EVENT_TIME // 1000), Reason.EVENT_TIME_IN_FUTURE),
        (one(event_time=NOW // 1000 + 600_001), Reason.EVENT_TIME_IN_FUTURE),
        (one(value="1"), Reason.BAD_VALUE),
        (one(value=True), Reason.BAD_VALUE),
        (one(value=None), Reason.BAD_VALUE),
        (one(value=float("nan")), Reason.BAD_VALUE),
        (one(value=float("-inf")), Reason.BAD_VALUE),
        (b'{"project":"p","source":"s","metric":"m","event_time":1,"value":1e400}', Reason.BAD_VALUE),
        (b'{"project":"p","source":"s","metric":"m","event_time":1,"value":1' + b"0" * 400 + b"}", Reason.BAD_VALUE),
        (one(value=1.1e150), Reason.BAD_VALUE),
        (one(attributes=[1]), Reason.BAD_ATTRIBUTES),
        (one(attributes={"a": "x\u0000"}), Reason.BAD_ATTRIBUTES),
        (one(attributes={"x\u0000": 1}), Reason.BAD_ATTRIBUTES),
        (one(attributes={"a": "x" * 9000}), Reason.ATTRIBUTES_TOO_LARGE),
        (one(attributes={"a": [[[[[[[[1]]]]]]]]}), Reason.ATTRIBUTES_TOO_DEEP),
        (b" " * (8 << 20) + one(), Reason.MESSAGE_TOO_LARGE),
    ],
)
def test_what_cannot_be_accepted_is_a_dead_letter_with_its_reason(data: bytes, reason: Reason) -> None:
    block = decode(data)
    assert reasons(block) == [reason]
    assert len(block.points) == 0
    assert block.received == 1


@pytest.mark.parametrize(
    ("data", "encoding", "reason"),
    [
        (b"not gzip", "gzip", Reason.BAD_COMPRESSION),
        (gzip.compress(one(), mtime=0)[:-4], "gzip", Reason.BAD_COMPRESSION),
        (gzip.compress(one(), mtime=0) + b"more", "gzip", Reason.BAD_COMPRESSION),
        (b"not zstd", "zstd", Reason.BAD_COMPRESSION),
        (gzip.compress(b" " * (9 << 20), mtime=0), "gzip", Reason.MESSAGE_TOO_LARGE),
        (zstandard.compress(b" " * (9 << 20)), "zstd", Reason.MESSAGE_TOO_LARGE),
        (one(), "br", Reason.UNKNOWN_ENCODING),
    ],
)
def test_a_body_that_is_not_what_it_says_is_a_dead_letter(data: bytes, encoding: str, reason: Reason) -> None:
    block = decode(data, content_encoding=encoding)
    assert reasons(block) == [reason]
    assert block.dead_letters[0].data == data
    assert block.dead_letters[0].attributes == {"content_encoding": encoding}


def test_a_bad_point_does_not_take_its_neighbours_along() -> None:
    bad = b'{"metric":"m","event_time":"soon","value":1}'
    good = b'{"metric":"m","event_time":1767225599000,"value":2}'
    block = decode(b'{"project":"p", "source":"s", "points":[' + b",".join([good, bad, good, bad]) + b"]}")
    assert len(block.points) == 2
    assert [letter.position for letter in block.dead_letters] == [1, 3]
    assert block.dead_letters[0].data == b'{"project":"p","source":"s","points":[' + bad + b"]}"
    assert block.received == 4


def test_a_nan_in_an_array_spoils_only_its_own_point() -> None:
    block = decode(b"[" + one() + b"," + one(value=float("nan")) + b"," + one(value=3) + b"]")
    assert block.points["value"].tolist() == [1.5, 3.0]
    assert reasons(block) == [Reason.BAD_VALUE]


@pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
def test_a_number_that_json_does_not_know_is_a_bad_value_and_its_bytes_are_kept(constant: bytes) -> None:
    bad = one(metric='a "NaN" \\ NaN').replace(b"1.5", constant)
    assert decode(bad).dead_letters[0].data == bad
    for data in (bad, b"[" + bad + b" , " + one() + b"]", one() + b"\n" + bad):
        block = decode(data)
        assert [(letter.data, letter.reason) for letter in block.dead_letters] == [(bad, Reason.BAD_VALUE)]
        assert len(block.points) == (data != bad)
    point = b'{"metric":"m","event_time":1767225599000,"value":%b}' % constant
    batch = b'{"points":[%b,%b],"project":"p","source":"s"}' % (point, point.replace(constant, b"1"))
    block = decode(batch)
    assert [letter.reason for letter in block.dead_letters] == [Reason.BAD_VALUE]
    assert point in block.dead_letters[0].data
    assert len(block.points) == 1


def test_a_nan_in_the_attributes_is_not_stored_as_a_text() -> None:
    bad = one(attributes={"a": "b"}).replace(b'"b"', b"NaN")
    for data in (bad, b"[" + bad + b"]"):
        assert [(letter.data, letter.reason) for letter in decode(data).dead_letters] == [(bad, Reason.BAD_ATTRIBUTES)]


def test_a_bad_line_spoils_only_itself_and_keeps_its_bytes() -> None:
    block = decode(one() + b'\n{"project": oops}\n' + one(value=2))
    assert len(block.points) == 2
    assert block.dead_letters[0].data == b'{"project": oops}'
    assert block.dead_letters[0].position == 1


def test_points_older_than_the_retention_are_refused() -> None:
    limits = Limits(retention_us=60_000_000)
    assert reasons(decode(one(event_time=NOW // 1000 - 60_001), limits)) == [Reason.OLDER_THAN_RETENTION]
    assert reasons(decode(one(event_time=NOW // 1000 - 60_000), limits)) == []


def test_the_bounds_themselves_are_allowed() -> None:
    assert reasons(decode(one(event_time=NOW // 1000 + 600_000))) == []
    assert reasons(decode(one(project="x" * 256, value=MAX_VALUE))) == []
    assert reasons(decode(one(value=-MAX_VALUE, attributes={"a": [[[[[[[1]]]]]]]}))) == []
    assert reasons(decode(one(event_time=LEAST_MS))) == []
    assert reasons(decode(one(event_time="1970-01-01T00:00:00Z"))) == []


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + one(), one().decode().encode("utf-16")])
def test_a_byte_order_mark_does_not_cost_the_point(data: bytes) -> None:
    assert len(decode(data).points) == 1


def test_minus_zero_becomes_zero() -> None:
    value = float(decode(one(value=-0.0)).points["value"][0])
    assert str(value) == "0.0"


names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=60).filter(
    lambda text: len(text.encode()) <= 256
)
values = st.floats(-MAX_VALUE, MAX_VALUE)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text("abc", max_size=2), children, max_size=3),
    max_leaves=5,
)
points = st.fixed_dictionaries(
    {
        "project": names,
        "source": names,
        "metric": names.filter(lambda name: "{" not in name),
        "event_time": st.integers(LEAST_MS, NOW // 1000 + 600_000),
        "value": values,
    },
    optional={"attributes": st.dictionaries(st.text("abc", max_size=2), json_values, max_size=3)},
)


@given(st.lists(points, min_size=1, max_size=20))
def test_what_was_encoded_is_decoded(sent: list[dict[str, Any]]) -> None:
    block = decode(json.dumps(sent).encode())
    assert block.dead_letters == []
    got = [(*block.keys[p["series_id"]], int(p["event_time"]) // 1000, float(p["value"])) for p in block.points]
    assert got == [(p["project"], p["source"], p["metric"], p["event_time"], p["value"] + 0.0) for p in sent]
    stored = block.attributes or [None] * len(sent)
    assert [json.loads(a or b"{}") for a in stored] == [p.get("attributes", {}) for p in sent]


@given(st.binary(max_size=200))
def test_no_bytes_raise_and_each_message_is_accounted_for(data: bytes) -> None:
    assert decode(data).received >= 1


@given(st.lists(points | st.just({"project": "p"}) | st.none() | st.integers(), min_size=1, max_size=20))
def test_every_element_of_an_array_becomes_a_point_or_a_dead_letter(sent: list[Any]) -> None:
    block = decode(json.dumps(sent).encode())
    good = [p for p in sent if isinstance(p, dict) and "value" in p]
    assert len(block.points) == len(good)
    assert len(block.dead_letters) == len(sent) - len(good)


@pytest.mark.parametrize(
    ("attributes", "micros"),
    [
        ({"event_time": "1767225599000"}, 1_767_225_599_000_000),
        ({"event_time": "2025-12-31T23:59:59Z"}, 1_767_225_599_000_000),
        ({"event_time": "2025-12-31T23:59:59"}, None),
        ({"event_time": "soon"}, None),
        ({"event_time": "-5"}, None),
        ({"event_time": "9" * 30}, None),
        ({"event_time": ""}, None),
        ({}, None),
    ],
)
def test_a_bad_event_time_attribute_counts_as_missing(attributes: dict[str, str], micros: int | None) -> None:
    assert event_time(attributes) == micros
    message = Message(b"", attributes, NOW, "id", event_time(attributes))
    assert message.earliest == (NOW if micros is None else micros)


@pytest.mark.parametrize("form", ["%s", "[%s]", "%s\n%s", "[%s, {}]"])
def test_a_project_that_is_left_out_is_the_messages(form: str) -> None:
    text = one(project=...).decode()
    body = (form % ((text,) * form.count("%s"))).encode()
    assert {key.project for key in decode(body, project="cams").keys} == {"cams"}
    assert {key.project for key in decode(body.replace(text.encode(), one()), project="cams").keys} == {"p"}
    assert set(reasons(decode(body))) == {"missing_field"}
    assert "`project`" in decode(body).dead_letters[0].detail


def test_what_is_wrong_is_not_the_project_that_the_message_has() -> None:
    for text in (one(project=..., source=...), one(project=..., source=..., points=[{"metric": "m"}])):
        assert decode(text, project="cams").dead_letters[0].detail.startswith("`source` is missing")


def test_a_batch_may_leave_its_project_out() -> None:
    points = [{"metric": "m", "event_time": POINT["event_time"], "value": value} for value in (1, 2)]
    batch = {"source": "s", "points": [*points, {"metric": ""}]}
    block = decode(json.dumps(batch).encode(), project="cams")
    assert block.keys == [("cams", "s", "m")]
    assert (len(block.points), reasons(block)) == (2, ["missing_field"])


@pytest.mark.parametrize("project", ["", None, 7, "\x00", NO_PROJECT])
def test_a_wrong_project_is_not_replaced(project: Any) -> None:
    assert reasons(decode(one(project=project), project="cams")) == ["bad_name"]
