from __future__ import annotations

import io
import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.archive.archives import PACK, PACKINGS, WHOLE, Pipe, joined, lines, points, read
from tidemark.archive.kinds import Kind, Packing
from tidemark.archive.parts import Part, parts_of
from tidemark.archive.reader import Chunk, LongLine

BOM = b"\xef\xbb\xbf"
PLAIN = Kind("", "lines")
SOME = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"{}", b" ", b"\0", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"x" * 9, b"\n\n"])
).map(b"".join)


def follow(found: list[Chunk], begin: int = 0) -> None:
    """Chunks join, and are whole lines."""
    for chunk in found:
        assert chunk.begin == begin
        assert chunk.end > begin
        assert chunk.data.endswith(b"\n") or chunk.long
        begin = chunk.end


@pytest.mark.parametrize("packing", PACK)
@given(text=SOME, chunk_bytes=st.integers(1, 40))
@example(text=b"", chunk_bytes=1)
@example(text=b"\n\n\n", chunk_bytes=1)
@example(text=b"\xef\xbb\xbf", chunk_bytes=1)
@example(text=b"\xef\xbb\xbf\n{}", chunk_bytes=1)
@example(text=b"{}", chunk_bytes=1)
def test_chunks_are_the_lines_and_reading_goes_on_from_each(packing: Packing, text: bytes, chunk_bytes: int) -> None:
    data, kind = PACK[packing](text), Kind(packing, "lines")
    found = read(data, kind=kind, chunk_bytes=chunk_bytes)
    follow(found)
    assert lines(joined(found)) == lines(text.removeprefix(BOM))
    for at, chunk in enumerate(found):
        rest = read(data, chunk.end, kind=kind, chunk_bytes=chunk_bytes)
        if packing:
            assert rest == found[at + 1 :]
        else:
            assert [again._replace(line=None) for again in rest] == [one._replace(line=None) for one in found[at + 1 :]]


@given(text=SOME, chunk_bytes=st.integers(1, 40), cuts=st.lists(st.integers(0, 60)))
@example(text=b"{}\r\n{}\r\n", chunk_bytes=5, cuts=[3])
@example(text=b"{}\n{}\n", chunk_bytes=5, cuts=[3])
@example(text=b"{}\n{}\n", chunk_bytes=5, cuts=[2])
@example(text=b"x" * 50 + b"\n{}", chunk_bytes=5, cuts=[10, 20, 30, 51])
@example(text=b"\xef\xbb\xbf{}\n{}", chunk_bytes=5, cuts=[1, 2, 3, 4])
@example(text=b"\xef\xbb\xbf\n{}", chunk_bytes=5, cuts=[1, 2, 3, 4])
def test_parts_have_each_line_once(text: bytes, chunk_bytes: int, cuts: list[int]) -> None:
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    got = b""
    for index, (start, end) in enumerate(itertools.pairwise(borders)):
        part = Part(index, start, end)
        found = read(text, part=part, kind=PLAIN, chunk_bytes=chunk_bytes)
        follow(found, start)
        got += joined(found)
        for at, chunk in enumerate(found):
            rest = read(text, chunk.end, part=part, kind=PLAIN, chunk_bytes=chunk_bytes)
            assert [again[:3] for again in rest] == [one[:3] for one in found[at + 1 :]]
    assert lines(got) == lines(text.removeprefix(BOM))


def test_parts_of_plain_lines_are_ranges_of_bytes() -> None:
    assert parts_of(PLAIN, 10, None, 4) == [Part(0, 0, 4), Part(1, 4, 8), Part(2, 8, 10)]
    assert parts_of(PLAIN, 256 << 20, io.BytesIO()) == [Part(0, 0, 256 << 20)]
    assert parts_of(PLAIN, 0, None) == parts_of(PLAIN, None, None) == [WHOLE]


@pytest.mark.parametrize("kind", [Kind("gzip", "lines"), Kind("", "csv"), Kind("zstd", "csv")])
def test_others_are_one_part(kind: Kind) -> None:
    assert parts_of(kind, 1 << 40, None) == [WHOLE]


def test_what_cannot_seek_is_one_part() -> None:
    assert parts_of(PLAIN, 1 << 40, Pipe(b"")) == [WHOLE]  # type: ignore[arg-type]


@pytest.mark.parametrize("packing", PACK)
def test_a_pipe_gives_the_same_however_little_at_once(packing: Packing) -> None:
    data, kind = PACK[packing](points(5000)), Kind(packing, "lines")
    found = read(data, kind=kind, chunk_bytes=10_000)
    assert read(Pipe(data, 777), kind=kind, chunk_bytes=10_000) == found
    assert read(Pipe(data, 777), found[20].end, kind=kind, chunk_bytes=10_000) == found[21:]


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("chunk_bytes", [7, 100, 10_000])
def test_a_line_that_is_too_long_is_told_and_not_given(packing: Packing, chunk_bytes: int) -> None:
    fits, long = b"a" * 5000, b"b" * 5001
    text = b"{}\n" + fits + b"\n" + long + b"\n{}\n" + long
    found = read(PACK[packing](text), chunk_bytes=chunk_bytes, max_line_bytes=5000)
    follow(found)
    assert lines(joined(found)) == [b"{}", fits, b"{}"]
    assert [one for chunk in found for one in chunk.long] == [
        LongLine(5004, 5001, b"b" * 1000),
        LongLine(10_009, 5001, b"b" * 1000),
    ]
    for at, chunk in enumerate(found):
        rest = read(PACK[packing](text), chunk.end, chunk_bytes=chunk_bytes, max_line_bytes=5000)
        assert [again[:3] for again in rest] == [one[:3] for one in found[at + 1 :]]


@given(text=SOME, max_line_bytes=st.integers(1, 12), chunk_bytes=st.integers(1, 40))
def test_every_line_is_given_or_told(text: bytes, max_line_bytes: int, chunk_bytes: int) -> None:
    found = read(text, kind=PLAIN, max_line_bytes=max_line_bytes, chunk_bytes=chunk_bytes)
    follow(found)
    whole = text.removeprefix(BOM).split(b"\n")
    assert lines(joined(found)) == [line for line in whole if line.strip() and len(line) <= max_line_bytes]
    long = [one for chunk in found for one in chunk.long]
    assert [one.head for one in long] == [line for line in whole if len(line) > max_line_bytes]
    assert all(text[one.at : one.at + one.size] == one.head for one in long)


@pytest.mark.parametrize("packing", PACK)
def test_a_line_of_many_blocks_is_one(packing: Packing) -> None:
    line = random.Random(2).randbytes(4 << 20).hex().encode()
    found = read(PACK[packing](line + b"\n{}"), chunk_bytes=1000)
    assert [chunk.data for chunk in found] == [line + b"\n", b"{}\n"]


@pytest.mark.parametrize("packing", PACK)
def test_chunks_know_the_numbers_of_their_lines(packing: Packing) -> None:
    text = b"{}\n\n\n[]\n{}\n"
    found = read(PACK[packing](text), chunk_bytes=3)
    assert [chunk.line for chunk in found] == [1, 4, 5]
    again = read(PACK[packing](text), found[0].end, chunk_bytes=3)
    assert [chunk.line for chunk in again] == ([4, 5] if packing else [None, None])


@pytest.mark.parametrize("packing", PACKINGS)
def test_members_in_a_row_are_one_text(packing: Packing) -> None:
    text, rng = points(3000), random.Random(3)
    cuts = sorted(rng.sample(range(len(text)), 40))
    data = b"".join(PACK[packing](text[a:b]) for a, b in itertools.pairwise([0, 0, *cuts, cuts[-1], len(text)]))
    found = read(data, chunk_bytes=5000)
    assert joined(found) == text
    for at in (0, 7, 30):
        assert read(data, found[at].end, chunk_bytes=5000) == found[at + 1 :]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("zeros", [4, 512, 1 << 20])
def test_zeros_between_members_and_at_the_end_are_no_damage(packing: Packing, zeros: int) -> None:
    data, padding = PACK[packing](points(10)), bytes(zeros)
    assert joined(read(data + padding + data + padding)) == points(10) * 2
