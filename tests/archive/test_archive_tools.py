"""Files as the tools make them that people pack archives with."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.archive.archives import joined, points, read
from tidemark.archive.kinds import HEAD_BYTES, kind_of
from tidemark.archive.members import PACKINGS

TEXT = points(15_000)
COMMANDS = [
    "gzip -1",
    "gzip -9",
    "gzip --rsyncable",
    "bzip2 -1",
    "bzip2 -9",
    "xz -T2 --block-size=200000",
    "xz -9e",
    "xz --check=none",
    "xz --check=sha256",
    "zstd -1",
    "zstd -19 --long=27",
    "zstd --ultra -20",
    "zstd --no-check",
    "zstd -T2 -B200000",
    "zstd --rsyncable --adapt",
    "pzstd -p 4 -c",
    "pigz",
    "bgzip -c",
]


def by(command: str) -> Callable[[bytes], bytes]:
    name, *options = command.split()
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not on this machine")
    return lambda text: subprocess.run([path, *options], input=text, stdout=-1, stderr=-3, check=True).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_what_tools_pack_is_read(command: str) -> None:
    pack = by(command)
    data = pack(TEXT)
    assert kind_of("-", data[:HEAD_BYTES]).packing in PACKINGS
    found = read(data, chunk_bytes=40_000)
    assert joined(found) == TEXT
    assert joined(read(data, found[20].end, chunk_bytes=40_000)) == joined(found[21:])
    assert joined(read(data + pack(b"") + data)) == TEXT * 2


@pytest.mark.parametrize("command", ["gzip", "bzip2", "xz", "zstd"])
def test_a_file_that_was_appended_to(command: str, tmp_path: Path) -> None:
    pack = by(f"{command} -c")
    path = tmp_path / "points"
    for at in range(3):
        with path.open("ab") as file:
            file.write(pack(points(100, at)))
    assert joined(read(path.read_bytes())) == b"".join(points(100, at) for at in range(3))


def test_a_gzip_that_python_flushed_now_and_then() -> None:
    into = io.BytesIO()
    with gzip.GzipFile("name", "wb", fileobj=into) as file:
        for line in points(500).splitlines(keepends=True):
            file.write(line)
            file.flush()
    assert joined(read(into.getvalue())) == points(500)
