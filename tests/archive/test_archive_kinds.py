from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from typing import cast

import pytest

from tests.archive.archives import PACK, PACKINGS, Pipe, points
from tidemark.archive import parts
from tidemark.archive.identity import fingerprint
from tidemark.archive.kinds import HEAD_BYTES, Kind, Packing, kind_of
from tidemark.archive.peek import peeked
from tidemark.errors import MisconfiguredError

TEXT = points(100)


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("name", ["-", "points", "points.jsonl", "gs://bucket/a.csv/points.gz", "points.json.zst"])
def test_the_bytes_tell_the_packing(packing: Packing, name: str) -> None:
    assert kind_of(name, PACK[packing](TEXT)[:HEAD_BYTES]) == Kind(packing, "lines")


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.tsv", "a.csv.gz", "/dir/a.tsv.zst"])
def test_the_name_tells_csv(packing: Packing, name: str) -> None:
    assert kind_of(name, PACK[packing](b"a,b\n")) == Kind(packing, "csv")


def test_parquet_is_known_by_its_bytes_or_its_name() -> None:
    assert kind_of("a", b"PAR1....") == kind_of("a.parquet", b"....") == Kind("", "parquet")


@pytest.mark.parametrize("name", ["-", "a.gz", "a.jsonl"])
def test_an_empty_file_is_lines(name: str) -> None:
    assert kind_of(name, b"") == Kind("", "lines")


def test_what_is_named_packed_and_is_no_text_is_damaged() -> None:
    assert kind_of("a.json.zst", b"\0\1\2") == Kind("zstd", "lines")
    assert kind_of("a.csv.gz", b"a,b\n") == Kind("", "csv")


def test_a_frame_that_is_skipped_is_zstd() -> None:
    assert kind_of("a", b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + PACK["zstd"](TEXT)) == Kind("zstd", "lines")


def tarred() -> bytes:
    into = io.BytesIO()
    with tarfile.open(fileobj=into, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("points.jsonl"), io.BytesIO())
    return into.getvalue()


def zipped() -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w") as archive:
        archive.writestr("points.jsonl", TEXT)
    return into.getvalue()


REFUSED = {
    "UTF-16": ("a", "{}".encode("utf-16"), "UTF-16: convert it with iconv"),
    "UTF-16, the other way": ("a", b"\xfe\xff\0{", "UTF-16"),
    "UTF-32": ("a", "{}".encode("utf-32"), "UTF-32: convert it with iconv"),
    "UTF-16 in gzip": ("a.csv.gz", gzip.compress("a".encode("utf-16")), "UTF-16 in gzip"),
    "zip": ("a", zipped(), "a zip"),
    "tar": ("a", tarred(), "a tar"),
    "tar in gzip": ("a", gzip.compress(tarred()), "a tar in gzip"),
    "named tar.gz": ("a.tar.gz", gzip.compress(b""), "a tar"),
    "named tgz": ("a.tgz", gzip.compress(b""), "a tar"),
    "7z": ("a", b"7z\xbc\xaf\x27\x1c\0\4", "a 7z"),
    "Avro": ("a", b"Obj\1\4", "Avro"),
    "SQLite": ("a", b"SQLite format 3\0", "SQLite"),
    "encrypted Parquet": ("a", b"PARE", "encrypted"),
    "packed twice": ("a", gzip.compress(gzip.compress(b"")), "packed twice"),
    "Parquet in gzip": ("a", gzip.compress(b"PAR1"), "unpack it first"),
    "named parquet.zst": ("a.parquet.zst", PACK["zstd"](b""), "unpack it first"),
}


@pytest.mark.parametrize(("name", "data", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_none_is_refused_with_what_to_do(name: str, data: bytes, said: str) -> None:
    with pytest.raises(MisconfiguredError, match=said) as refusal:
        kind_of(name, data[:HEAD_BYTES])
    assert str(refusal.value).endswith(".")


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_head_may_end_anywhere(packing: Packing) -> None:
    data = PACK[packing](TEXT)
    for size in (*range(6, 40), 200):
        assert kind_of("a.csv", data[:size]) == Kind(packing, "csv")


@pytest.mark.parametrize("size", [0, 1, 2500, 4096])
def test_peeking_takes_nothing(size: int) -> None:
    data = bytes(range(250)) * 10
    head, file = peeked(cast("io.BytesIO", Pipe(data, 7)), size)
    assert head == data[:size]
    assert not file.seekable()
    assert file.read() == data
    head, file = peeked(io.BytesIO(data), size)
    assert head == data[:size]
    assert file.read() == data


def test_a_fingerprint_tells_files_apart_by_size_and_ends() -> None:
    mib = 1 << 20
    data = bytearray(3 * mib)

    def of(some: bytes) -> str:
        return fingerprint(io.BytesIO(some), len(some))

    first = of(bytes(data))
    assert first.startswith(f"{3 * mib}:")
    seen = {first, of(b""), of(bytes(mib - 1)), of(bytes(mib)), of(bytes(mib + 1)), of(bytes(3 * mib + 1))}
    for at in (0, mib - 1, 2 * mib, 3 * mib - 1):
        other = bytearray(data)
        other[at] = 1
        seen.add(of(bytes(other)))
    assert len(seen) == 10
    data[mib] = 1
    assert of(bytes(data)) == first


def test_row_groups_are_put_together_to_parts() -> None:
    assert parts._grouped([5, 5, 12, 1, 1], 10) == [(0, 0, 2), (1, 2, 3), (2, 3, 5)]
    assert parts._grouped([], 10) == [(0, 0, 0)]
