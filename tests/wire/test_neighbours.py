"""One bad element costs itself alone, packed bodies are whole or refused, and units are told: each right value, as a test."""

from __future__ import annotations

import gzip
import json

import pytest
import zstandard

from tests.wire.bodies import GOOD, HEAD, POINT, PUBLISHED_US
from tidemark.wire.block import Block, Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.message import Message

OTHER = GOOD.replace(b'"m"', b'"n"')


def decoded(data: bytes, **attributes: str) -> Block:
    into = Columns()
    Decoder().decode(Message(data, attributes, PUBLISHED_US, "1"), into, PUBLISHED_US)
    return into.block()


def reasons(block: Block) -> list[str]:
    return [letter.reason.value for letter in block.dead_letters]


BAD = {
    "a lone surrogate in an unknown field": GOOD[:-1] + b',"x":"\\ud800"}',
    "a TAB in a string": GOOD[:-1] + b',"x":"a\tb"}',
    "a NUL in a string": GOOD[:-1] + b',"x":"a\0b"}',
    "bytes that are no UTF-8": GOOD[:-1] + b',"attributes":{"a":"\xff"}}',
    "a trailing comma": GOOD[:-1] + b",}",
    "single quotes": b"{'project':'p'}",
    "no value": GOOD[:-2] + b"}",
    "NaN": GOOD[:-2] + b"NaN}",
    "a word": b"nul",
    "a number": b"7",
    "nothing in it": b"{}",
    "seconds": GOOD.replace(b"1769860800000", b"1769860800"),
}
FORMS = {
    "an array": lambda some: b"[" + b",".join(some) + b"]",
    "a pretty array": lambda some: b"[\n  " + b",\n  ".join(some) + b"\n]\n",
    "lines": b"\n".join,
    "lines of Windows": b"\r\n".join,
    "blanks between": b"  ".join,
    "RFC 7464": lambda some: b"".join(b"\x1e" + one + b"\n" for one in some),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_element_costs_itself_alone(form: str, bad: str) -> None:
    block = decoded(FORMS[form]([GOOD, BAD[bad], OTHER]))
    assert [key.metric for key in block.keys] == ["m", "n"]
    assert len(block.points) == 2
    assert len(block.dead_letters) == 1
    assert BAD[bad] in block.dead_letters[0].data


@pytest.mark.parametrize("bad", [name for name, text in BAD.items() if text.startswith(b"{")])
def test_with_nothing_between_as_well(bad: str) -> None:
    block = decoded(GOOD + BAD[bad] + OTHER)
    assert [key.metric for key in block.keys] == ["m", "n"]
    assert [letter.data for letter in block.dead_letters] == [BAD[bad]]


@pytest.mark.parametrize("blank", [b"", b"\n", b"\n    "])
@pytest.mark.parametrize(
    "bad",
    [b'{"metric":"m"', b'{"metric":"m\t"}', b"{'a':1}", b"nul", b"1", b"[]", b'"x"', POINT[:-1] + b',"x":"\\udc00"}'],
)
def test_and_in_a_batch(bad: bytes, blank: bytes) -> None:
    if bad == b'{"metric":"m"' and not blank:
        pytest.skip("one that is cut on its line takes what follows on that line along")
    points = (b"," + blank).join([POINT, bad, POINT.replace(b'"m"', b'"n"')])
    block = decoded(HEAD + blank + points + blank + b"]}")
    assert [key.metric for key in block.keys] == ["m", "n"]
    assert len(block.dead_letters) == 1
    assert block.dead_letters[0].data.startswith(HEAD), "it can be read by itself, and says whose it is"


@pytest.mark.parametrize("comment", [b"# comment", b"// comment", b"-- a, b", b'say "hi', b"", b"<xml>", b"data: x"])
def test_lines_that_are_none(comment: bytes) -> None:
    block = decoded(GOOD + b"\n" + comment + b"\n" + OTHER)
    assert len(block.points) == 2
    assert reasons(block) == (["not_json"] if comment else [])


@pytest.mark.parametrize("end", [b"\0", b"\0\0\0", b"\n\0", b"\x1e", b"\xef\xbb\xbf"])
def test_what_some_senders_leave_at_the_end(end: bytes) -> None:
    block = decoded(GOOD + end)
    assert (len(block.points), block.dead_letters) == (1, [])


def test_where_the_text_cannot_be_cut_any_more_the_good_prefix_stands() -> None:
    rest = b'{"a":"' + b'\\"' * 8000
    block = decoded(GOOD + OTHER + rest)
    assert len(block.points) == 2
    assert [(letter.reason.value, letter.data) for letter in block.dead_letters] == [("not_json", rest)]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("spelt", [str.lower, str.upper, str.title])
def test_streams_in_a_row_are_read_whatever_case_their_name_has(pack: object, spelt: object) -> None:
    name = spelt("gzip" if pack is gzip.compress else "zstd")  # type: ignore[operator]
    data = pack(GOOD + b"\n") + pack(b"") + pack(OTHER)  # type: ignore[operator]
    assert len(decoded(data, content_encoding=name).points) == 2


@pytest.mark.parametrize(
    "pack", [gzip.compress, zstandard.compress, zstandard.ZstdCompressor(write_checksum=True).compress]
)
def test_a_stream_that_was_cut_is_refused_wherever_that_was(pack: object) -> None:
    lines = b"\n".join(GOOD.replace(b"800000", b"%06d" % i) for i in range(800_000, 803_000))
    data = pack(lines)  # type: ignore[operator]
    name = "gzip" if pack is gzip.compress else "zstd"
    assert len(decoded(data, content_encoding=name).points) == 3000
    for cut in {*range(1, 40), *range(40, len(data), 97), *range(len(data) - 12, len(data))}:
        block = decoded(data[:cut], content_encoding=name)
        assert (len(block.points), reasons(block)) == (0, ["bad_compression"]), cut
        assert block.dead_letters[0].data == data[:cut]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (0, "seconds"),
        (1_769_860_800, "seconds"),
        (10**11 - 1, "seconds"),
        (1_769_860_800_000_000, "microseconds"),
        (1_769_860_800_000_000_000, "nanoseconds"),
    ],
)
def test_units_are_told_by_name(number: int, said: str) -> None:
    text = GOOD.replace(b"1769860800000", b"%d" % number)
    for body in (
        text,
        text + b"\n" + text,
        HEAD + b",".join([POINT.replace(b"1769860800000", b"%d" % number)] * 20) + b"]}",
    ):
        block = decoded(body)
        assert len(block.points) == 0
        assert set(reasons(block)) == {"bad_event_time"}
        assert f"looks like {said}; milliseconds are wanted" in block.dead_letters[0].detail


def test_times_of_the_seventies_stay_good_as_texts() -> None:
    texts = ["1970-01-01T00:00:00Z", "1972-06-30T23:59:59+01:00", "1973-03-03T09:46:39.999Z"]
    points = [{**json.loads(GOOD), "event_time": text, "metric": text} for text in texts]
    assert len(decoded(json.dumps(points).encode()).points) == 3
    block = decoded(GOOD.replace(b"1769860800000", b"%d" % 10**11))
    assert len(block.points) == 1


def test_a_message_of_refused_points_takes_about_twice_its_size() -> None:
    attributes = {f"name-{i}": "x" * 600 for i in range(100)}
    sent = sum(len(name) + len(value) for name, value in attributes.items())
    for body in (b"[" + b",".join([b"1"] * 50_000) + b"]", b"[" + b",".join([BAD["seconds"]] * 3000) + b"]"):
        block = decoded(body, **attributes)
        kept = sum(
            len(letter.data)
            + len(letter.detail)
            + sum(len(name) + len(value) for name, value in letter.attributes.items())
            for letter in block.dead_letters
        )
        assert kept <= 2 * (len(body) + sent) + (64 << 10)
        assert block.received >= len(block.dead_letters)
        assert reasons(block)[-1] == "too_many_refused"
    assert block.received == 3000
