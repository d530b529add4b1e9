from __future__ import annotations

import csv
import io
import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.archive.archives import PACK, Pipe, joined, lines, read
from tidemark.archive.damage import DamagedError
from tidemark.archive.kinds import Kind, Packing
from tidemark.archive.reader import Chunk
from tidemark.errors import MisconfiguredError
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.message import Message

CSV = Kind("", "csv")
HEADER = b"project,source,metric,event_time,value,attributes\n"
CELL = st.text(st.sampled_from('ab,;\t" \n{}\0ü1.'), max_size=6)


def found_in(text: bytes, **settings: Any) -> list[Any]:
    return [json.loads(line) for line in lines(joined(read(text, kind=CSV, **settings)))]


def goes_on_from_each(data: bytes, kind: Kind, found: list[Chunk], **settings: Any) -> None:
    begin = 0
    for at, chunk in enumerate(found):
        assert chunk.begin == begin
        begin = chunk.end
        rest = read(data, chunk.end, kind=kind, **settings)
        assert [again._replace(line=None) for again in rest] == [one._replace(line=None) for one in found[at + 1 :]]


@given(
    rows=st.lists(st.lists(CELL, min_size=3, max_size=3).filter(any)),
    chunk_bytes=st.integers(1, 60),
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from(",;\t"),
    packing=st.sampled_from([*PACK]),
)
@example(rows=[['"', "\n", '\n"'], ["a", "b", "c"]], chunk_bytes=1, end="\r\n", delimiter=",", packing="")
def test_rows_are_objects_and_reading_goes_on_from_each(
    rows: list[list[str]], chunk_bytes: int, end: str, delimiter: str, packing: Packing
) -> None:
    into = io.StringIO(newline="")
    csv.writer(into, delimiter=delimiter, lineterminator=end).writerows([["a", "b", "c"], *rows])
    text, kind = into.getvalue().encode(), Kind(packing, "csv")
    found = read(PACK[packing](text), kind=kind, chunk_bytes=chunk_bytes)
    expected = [{name: cell for name, cell in zip("abc", row, strict=True) if cell} for row in rows]
    assert [json.loads(line) for line in lines(joined(found))] == expected
    goes_on_from_each(PACK[packing](text), kind, found, chunk_bytes=chunk_bytes)


@given(st.binary(), st.integers(1, 20))
@example(b"1,2\n3,4\n5,6", 7)
@example(b'"', 1)
@example(b'"\n', 5)
@example(b"1\r2\n3,4\n", 1)
@example(b'x","\n' * 10, 1)
@example(b'1,"\n\n",\n2', 6)
def test_whatever_the_bytes_every_line_is_one_json_text(tail: bytes, chunk_bytes: int) -> None:
    text = b"a,b\n" + tail
    found = read(text, kind=CSV, chunk_bytes=chunk_bytes)
    for line in lines(joined(found)):
        json.loads(line.decode("utf-8", "surrogateescape"))
    goes_on_from_each(text, CSV, found, chunk_bytes=chunk_bytes)


def test_known_columns_become_what_points_have() -> None:
    rows = b'p,s,m,1769860800000,-1.5e3,"{""a"":\r\n""b""}"\np,s,m,2026-02-01T00:00:00Z,01,{\n,,,007,NaN,[]\n'
    assert found_in(HEADER + rows) == [
        {
            "project": "p",
            "source": "s",
            "metric": "m",
            "event_time": 1769860800000,
            "value": -1500.0,
            "attributes": {"a": "b"},
        },
        {
            "project": "p",
            "source": "s",
            "metric": "m",
            "event_time": "2026-02-01T00:00:00Z",
            "value": "01",
            "attributes": "{",
        },
        {"event_time": 7, "value": "NaN", "attributes": "[]"},
    ]


def test_rows_are_points_and_broken_ones_dead_letters_one_each() -> None:
    row = b'p,s,m,%d,2.5,"{""a"":""b""}"\n'
    broken = b'p,s,m,1769860800000\np,s,m,1769860800000,1,,extra\n"no\nend,x\n'
    text = joined(read(HEADER + row % 1_769_860_800_000 + row % 1_769_860_801_000 + broken, kind=CSV))
    into = Columns()
    Decoder().decode(Message(text, {}, 1_769_860_810_000_000, "1"), into, 1_769_860_810_000_000)
    assert len(into.block().points) == 2
    assert [letter.data for letter in into.dead_letters] == [
        b'"p,s,m,1769860800000"',
        b'"p,s,m,1769860800000,1,,extra"',
        b'"\\"no\\nend,x"',
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"a,b\n1,2", [{"a": "1", "b": "2"}]),
        (b"a,b\r\n1,2\r\n\r\n3,4\r\n", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        (b"\xef\xbb\xbfa,b\n1,2\n", [{"a": "1", "b": "2"}]),
        (b"\n\n a , b \n1,2\n", [{"a": "1", "b": "2"}]),
        (b"a;b\n1,5;2\n", [{"a": "1,5", "b": "2"}]),
        (b"a\tb\n1\t\n", [{"a": "1"}]),
        (b'"a","b"\n"1","2"\n', [{"a": "1", "b": "2"}]),
        (b'a,b\n5" pipe,2\n', [{"a": '5" pipe', "b": "2"}]),
        (b"a,b\n1\r2,3\n4,5\n", ["1\r2,3", {"a": "4", "b": "5"}]),
        (b"a,b\n \n1\n,\n", ["1", {}]),
        (b"a\n1\n\n2\n", [{"a": "1"}, {"a": "2"}]),
        (b"a,b\n", []),
        (b"a,b", []),
        (b"", []),
        (b"\n\n", []),
        (b"\xef\xbb\xbf", []),
    ],
)
def test_dialects(text: bytes, expected: list[Any]) -> None:
    for chunk_bytes in (1, 5, 1000):
        assert found_in(text, chunk_bytes=chunk_bytes) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"a,,b\n", "without a name"), (b"a,b,a\n", "'a' twice"), (b'"a,b\n' + b"x\n" * (1 << 20), "does not end")],
)
def test_a_header_that_names_no_fields_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(MisconfiguredError, match=said):
        read(text, kind=CSV)


def test_bytes_that_are_no_utf8_stay() -> None:
    assert joined(read(b"a,b\n\xe9t\xe9,\xed\xa0\x80\n", kind=CSV)) == b'{"a":"\xe9t\xe9","b":"\xed\xa0\x80"}\n'


@pytest.mark.parametrize("chunk_bytes", [100, 1 << 20])
def test_a_quote_that_is_never_closed_costs_a_mebibyte(chunk_bytes: int) -> None:
    row = b"1,2\n"
    text = b"a,b\n" + row * 10 + b'"3,4\n' + row * 300_000
    found = read(text, kind=CSV, chunk_bytes=chunk_bytes)
    (long,) = [one for chunk in found for one in chunk.long]
    assert long.at == 44
    assert long.head == text[44:1044]
    assert (1 << 20) - 10 < long.size < (1 << 20) + 10
    assert len(lines(joined(found))) == 300_010 - (long.size - 4) // 4
    assert found[-1].end == len(text)


def test_a_row_longer_than_a_line_may_be_is_a_long_line() -> None:
    text = b"a,b\n1,2\n" + b"x" * 5000 + b",1\n3,4\n"
    found = read(text, kind=CSV, chunk_bytes=50, max_line_bytes=4000)
    assert [(one.at, one.size) for chunk in found for one in chunk.long] == [(8, 5002)]
    assert lines(joined(found)) == [b'{"a":"1","b":"2"}', b'{"a":"3","b":"4"}']
    goes_on_from_each(text, CSV, found, chunk_bytes=50, max_line_bytes=4000)


def test_lines_are_counted_over_quoted_newlines() -> None:
    found = read(b'a,b\n"1\n\n",2\n3,4\n5,6\n', kind=CSV, chunk_bytes=1)
    assert [chunk.line for chunk in found] == [2, 5, 6]


def test_a_pipe_is_read_to_a_position() -> None:
    text = b"a,b\n" + b"".join(b"%d,%d\n" % (i, i) for i in range(10_000))
    found = read(text, kind=CSV, chunk_bytes=5000)
    assert read(Pipe(text), found[3].end, kind=CSV, chunk_bytes=5000) == found[4:]


@pytest.mark.parametrize("packing", [name for name in PACK if name])
def test_damage_gives_up_the_rows_at_its_sides(packing: Packing) -> None:
    rng, kind = random.Random(8), Kind(packing, "csv")
    rows = b"".join(b"%d,%d\n" % (i, rng.randrange(1000)) for i in range(1000))
    data, told = PACK[packing](b"a,b\n" + rows + b"7") + b"#" + PACK[packing](b",8\n" + rows), list[DamagedError]()
    found = read(data, kind=kind, told=told, chunk_bytes=700)
    assert len(lines(joined(found))) == 2000
    assert "1 bytes before it and 2 behind it" in str(told[0])
    again: list[DamagedError] = []
    assert read(data, found[-3].end, kind=kind, told=again, chunk_bytes=700)[0][:3] == found[-2][:3]
    assert not again


@pytest.mark.parametrize("skip", [False, True])
def test_without_its_header_nothing_can_be_read(skip: bool) -> None:
    data = b"#" + PACK["gzip"](b"a,b\n1,2\n")
    with pytest.raises(DamagedError):
        read(data, kind=Kind("gzip", "csv"), skip_damaged=skip)
