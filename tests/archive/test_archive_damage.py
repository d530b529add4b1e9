from __future__ import annotations

import io
import itertools
import lzma
import random
import zlib

import pytest

from tests.archive.archives import PACK, PACKINGS, joined, lines, points, read, until_damage
from tidemark.archive import unpack
from tidemark.archive.damage import DamagedError
from tidemark.archive.kinds import Kind, Packing, kind_of
from tidemark.archive.reader import Chunk
from tidemark.archive.whole import damage_of

SMALL = points(400)
LARGE = points(60_000)
GARBAGE = {
    "a byte": b"x",
    "one behind zeros": b"\0\0x\0",
    "a lot": b"garbage" * 20_000,
    "lines": SMALL,
    "half a magic": b"\x1f\x8b",
    "some of bzip2's": b"BZ",
    "some of xz's": b"\xfd7",
    "some of zstd's": b"\x28",
}


def goes_on_from_each(data: bytes, found: list[Chunk], told: list[DamagedError], kind: Kind) -> None:
    for at in range(0, len(found), 1 + len(found) // 20):
        again: list[DamagedError] = []
        rest = read(data, found[at].end, kind=kind, told=again, chunk_bytes=3000)
        assert [one[:3] for one in rest] == [one[:3] for one in found[at + 1 :]]
        assert [*map(str, again)] == [*map(str, told[len(told) - len(again) :])]


@pytest.mark.parametrize("packing", PACKINGS)
def test_of_one_that_was_cut_the_whole_lines_are_given(packing: Packing) -> None:
    data, rng = PACK[packing](LARGE), random.Random(4)
    longest = b""
    for cut in [*rng.sample(range(1, len(data)), 12), len(data) - 1]:
        text, error = until_damage(data[:cut], kind=Kind(packing, "lines"))
        assert error is not None, cut
        assert "cut" in error.why
        assert LARGE.startswith(text)
        assert not text or text.endswith(b"\n")
        assert error.offset <= cut
        assert 0 <= error.text_offset - len(text) < 200
        longest = max(longest, text, key=len)
    assert len(longest) > len(LARGE) // 2


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("skip", [False, True])
def test_a_bit_that_flipped_gives_no_wrong_line(packing: Packing, skip: bool) -> None:
    members = [PACK[packing](points(400, seed)) for seed in range(3)]
    good, rng = set(lines(b"".join(points(400, seed) for seed in range(3)))), random.Random(5)
    kind, silent = Kind(packing, "lines"), 0
    for _ in range(40):
        data = bytearray(b"".join(members))
        at = len(members[0]) + rng.randrange(len(members[1]))
        data[at] ^= 1 << rng.randrange(8)
        if not skip:
            text, error = until_damage(bytes(data), kind=kind)
            assert text.startswith(points(400, 0))
            silent += error is None
        else:
            told: list[DamagedError] = []
            found = read(bytes(data), kind=kind, told=told, chunk_bytes=3000)
            text = joined(found)
            assert text.startswith(points(400, 0))
            assert lines(text)[-399:] == lines(points(400, 2))[1:]
            silent += not told
            goes_on_from_each(bytes(data), found, told, kind)
        assert good.issuperset(lines(text))
    assert silent <= 8  # in a name or a time of the header


@pytest.mark.parametrize("packing", PACKINGS)
def test_of_a_large_one_most_before_the_damage_is_given(packing: Packing) -> None:
    text = points(120_000)
    data = bytearray(PACK[packing](text))
    at = len(data) * 3 // 4
    data[at : at + 100] = random.Random(6).randbytes(100)
    found, error = until_damage(bytes(data))
    assert error is not None
    right = sum(1 for a, b in zip(found.split(b"\n"), text.split(b"\n"), strict=False) if a == b)
    assert right > 20_000
    assert error.text_offset >= len(found)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_what_follows_the_last_member_is_told_after_all_lines(packing: Packing, garbage: bytes) -> None:
    data = PACK[packing](SMALL)
    text, error = until_damage(data + garbage)
    assert text == SMALL
    assert error is not None
    assert (error.part, error.text_offset) == (0, len(SMALL))
    assert len(data) <= error.offset <= len(data) + len(garbage)
    told: list[DamagedError] = []
    assert joined(read(data + garbage + data, told=told)) == SMALL + SMALL[SMALL.index(b"\n") + 1 :]
    assert len(told) == 1


@pytest.mark.parametrize("packing", PACKINGS)
def test_garbage_in_front_is_told_first(packing: Packing) -> None:
    data = b"\x01\x02garbage" + PACK[packing](SMALL)
    kind = kind_of(f"points.json.{ {'gzip': 'gz', 'bzip2': 'bz2', 'zstd': 'zst'}.get(packing, packing) }", data)
    assert kind == Kind(packing, "lines")
    text, error = until_damage(data, kind=kind)
    assert text == b""
    assert error is not None
    assert (error.offset, error.text_offset) == (0, 0)
    told: list[DamagedError] = []
    assert lines(joined(read(data, kind=kind, told=told))) == lines(SMALL)[1:]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_cut_member_before_others_is_gone_over(packing: Packing) -> None:
    data, rng = PACK[packing](SMALL), random.Random(7)
    for cut in rng.sample(range(1, len(data)), 20):
        broken, told = data + data[:cut] + data * 2, list[DamagedError]()
        kind = Kind(packing, "lines")
        found = read(broken, kind=kind, told=told, chunk_bytes=3000)
        assert told
        assert set(lines(SMALL)).issuperset(lines(joined(found)))
        assert len(lines(joined(found))) >= 800 + 399
        goes_on_from_each(broken, found, told, kind)
        text, error = until_damage(broken, kind=kind)
        assert joined(found).startswith(text)
        assert error is not None


@pytest.mark.parametrize("packing", PACKINGS)
def test_broken_lines_at_both_sides_are_left_out_and_told(packing: Packing) -> None:
    pack, kind = PACK[packing], Kind(packing, "lines")
    data, told = pack(b"one\ntwo\nthr") + b"#" + pack(b"ee\nfour\nfive"), list[DamagedError]()
    found = read(data, kind=kind, told=told)
    assert joined(found) == b"one\ntwo\nfour\nfive\n"
    assert [(chunk.begin, chunk.end, chunk.line) for chunk in found] == [(0, 8, 1), (8, 19, None), (19, 23, None)]
    assert "3 bytes before it and 2 behind it" in str(told[0])
    assert told[0].text_offset == 11


def test_the_sentence_has_everything() -> None:
    said = str(DamagedError(3, 700, 900, "it was cut"))
    assert said == "part 3 is damaged at byte 700, 900 into its text: it was cut"


def test_a_wrong_checksum_says_what_may_be_wrong() -> None:
    data = bytearray(PACK["gzip"](SMALL))
    data[-8] ^= 1
    _, error = until_damage(bytes(data))
    assert error is not None
    assert "checksum" in error.why
    assert f"{len(SMALL)} bytes" in error.why


@pytest.mark.parametrize("packing", PACKINGS)
def test_whether_a_file_is_whole_can_be_asked_first(packing: Packing) -> None:
    data, kind = bytearray(PACK[packing](LARGE)), Kind(packing, "lines")
    assert not list(damage_of(io.BytesIO(data), kind))
    assert list(damage_of(io.BytesIO(data[:-1]), kind))
    data[len(data) // 2] ^= 4
    (error,) = damage_of(io.BytesIO(data), kind)
    assert str(error) == str(until_damage(bytes(data))[1]).partition("; of the broken lines")[0]
    assert not list(damage_of(io.BytesIO(LARGE), Kind("", "lines")))


def test_text_that_was_given_before_it_was_checked_is_told() -> None:
    first, data = PACK["gzip"](SMALL), bytearray(PACK["gzip"](LARGE))
    data[-1] ^= 1
    text, error = until_damage(first + data)
    assert len(text) > len(SMALL)
    assert f"from byte {len(SMALL)} on" in str(error)
    assert "given before" not in str(until_damage(first + b"garbage")[1])


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_bomb_is_given_up(packing: Packing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "BOMB_TEXT_BYTES", 8 << 20)
    monkeypatch.setattr(unpack, "BOMB_RATIO", 100)
    data = PACK[packing]((b" " * 1000 + b"\n") * 20_000)
    text, error = until_damage(data, skip_damaged=False)
    assert error is not None
    assert "times its bytes" in error.why
    assert len(text) <= 10 << 20
    told: list[DamagedError] = []
    read(data + data, told=told)
    assert len(told) == 1


def test_a_file_of_damage_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "_TRIALS", 20)
    told: list[DamagedError] = []
    member = PACK["gzip"](b"{}\n")[:-1] + b"#"
    read(member * 100, told=told)
    assert 10 <= len(told) <= 21


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(PACKINGS, 2)])
def test_another_packing_behind_one_is_garbage(first: str, second: str) -> None:
    text, error = until_damage(PACK[first](SMALL) + PACK[second](SMALL))
    assert text == SMALL
    assert error is not None
    assert f"no {first}" in error.why


def test_fields_of_a_gzip_header_are_stepped_over() -> None:
    deflated = zlib.compressobj(wbits=-15)
    body = deflated.compress(SMALL) + deflated.flush()
    trailer = zlib.crc32(SMALL).to_bytes(4, "little") + len(SMALL).to_bytes(4, "little")
    fields = b"\x05\0extra" + b"name\0" + b"comment" * 20_000 + b"\0" + b"cc"
    data = b"\x1f\x8b\x08\x1e" + bytes(6) + fields + body + trailer
    assert until_damage(data) == (SMALL, None)
    for cut in (5, 11, 15, 20, 100_000):
        _, error = until_damage(data[:cut])
        assert error is not None
        assert "cut" in error.why


def test_what_would_take_too_much_memory_or_a_dictionary_is_told() -> None:
    window = b"\x28\xb5\x2f\xfd\x00\x90\x01\x00\x00"
    assert "a window of 256 MiB, more than 128" in str(until_damage(window)[1])
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 28}]
    large = lzma.LZMACompressor(filters=filters)
    assert "xz -9 or less" in str(until_damage(large.compress(SMALL) + large.flush())[1])
    named = b"\x28\xb5\x2f\xfd\x21\x07\x00" + b"\x01\x00\x00"
    assert "dictionary" in str(until_damage(named)[1])
