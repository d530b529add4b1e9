from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

MB = 60
READ = """
import re, sys
from tidemark.archive.kinds import kind_of
from tidemark.archive.parts import Part
from tidemark.archive.reader import chunks

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

with open(sys.argv[1], "rb") as file:
    kind, before, size = kind_of(sys.argv[1], file.read(4096)), peak(), 0
    for chunk in chunks(file, kind, Part(0, 0, None), None, told=print, skip_damaged=True):
        size += len(chunk.data) + sum(long.size for long in chunk.long)
    print(size, peak() - before)
"""


def read_apart(path: Path) -> tuple[int, float]:
    """The bytes that were read, and by how many MB the process grew."""
    command = [sys.executable, "-c", READ, path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    size, grown = done.stdout.split("\n")[-2].split()
    return int(size), float(grown)


def packed(path: Path, texts: Iterator[bytes]) -> None:
    with path.open("wb") as file, zstandard.ZstdCompressor(1, write_checksum=True).stream_writer(file) as into:
        for text in texts:
            into.write(text)


@pytest.mark.parametrize("newlines", [True, False])
def test_a_gigabyte_from_a_small_file_is_read_in_little_memory(tmp_path: Path, newlines: bool) -> None:
    rng, end = random.Random(11), b"\n" if newlines else b"x"
    path = tmp_path / "points.zst"
    packed(path, ((rng.randbytes(4000).hex().encode() + end) * 400 for _ in range(313)))
    assert path.stat().st_size < 4 << 20
    size, grown = read_apart(path)
    assert size == 313 * 400 * 8001
    assert grown < MB


def test_a_quote_that_is_never_closed(tmp_path: Path) -> None:
    path = tmp_path / "points.csv.zst"
    row = b"1," + b"2" * 500 + b"\n"
    packed(path, (b'a,b\n"' * (at == 0) + row * 100 for at in range(500)))
    _, grown = read_apart(path)
    assert grown < MB
