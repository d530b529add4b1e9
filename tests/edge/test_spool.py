"""A record of the spool is whole or not there, whatever happens to the file."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemark.edge import spool as module
from tidemark.edge.spool import FullError, Record, Spool, packed, read
from tidemark.errors import TidemarkError, UnavailableError, UsageError

RECORDS = [Record(f"p{i % 3}", bytes([i]) * (50 + i)) for i in range(20)]


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_cut_at_every_byte_of_its_last_record_all_before_it_are_there(tmp_path: Path) -> None:
    data = b"".join(map(packed, RECORDS))
    last = len(packed(RECORDS[-1]))
    for cut in range(len(data) - last, len(data)):
        found, damaged = read(written(tmp_path / "segment", data[:cut]))
        assert found == RECORDS[:-1]
        assert damaged == cut - (len(data) - last)
    assert read(written(tmp_path / "segment", data)) == (RECORDS, 0)


def test_a_flipped_bit_costs_its_record_alone(tmp_path: Path) -> None:
    data = b"".join(map(packed, RECORDS))
    chance = random.Random(7)
    for _ in range(1000):
        bit = chance.randrange(8 * len(data))
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        found, damaged = read(written(tmp_path / "segment", bytes(broken)))
        assert len(found) == len(RECORDS) - 1
        assert [record for record in RECORDS if record in found] == found
        assert damaged > 0


def test_what_is_kept_is_drained_by_the_next_process_and_then_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 500)

    async def keep() -> None:
        spool = Spool(tmp_path, 1 << 20)
        for record in RECORDS:
            await spool.keep(*record)
        assert len(list(tmp_path.glob("*.spool"))) > 2  # noqa: ASYNC240  # nothing else runs
        with pytest.raises(UsageError, match="Another edge"):
            Spool(tmp_path, 1 << 20)
        spool.close()

    found: list[Record] = []

    async def drain() -> None:
        spool = Spool(tmp_path, 1 << 20)

        async def publish(records: list[Record]) -> list[Record]:
            found.extend(records)
            return [record for record in records if record == RECORDS[3]]

        await spool.drain(publish, for_ever=False)
        assert (spool.size, spool.empty) == (0, True)
        spool.close()

    asyncio.run(keep())
    asyncio.run(drain())
    assert found == RECORDS
    assert list(tmp_path.glob("*.spool")) == []
    assert read(tmp_path / "refused")[0] == [RECORDS[3]]


def test_a_damaged_segment_is_kept_aside_and_does_not_come_again(tmp_path: Path) -> None:
    data = b"".join(map(packed, RECORDS))
    (tmp_path / "0000000000000001.spool").write_bytes(data[: len(data) // 2])

    async def drain() -> int:
        spool = Spool(tmp_path, 1 << 20)
        found: list[Record] = []

        async def publish(records: list[Record]) -> list[Record]:
            found.extend(records)
            return []

        await spool.drain(publish, for_ever=False)
        spool.close()
        return len(found)

    assert asyncio.run(drain()) > 5
    assert [path.suffix for path in tmp_path.iterdir() if path.name != "lock"] == [".damaged"]


def test_beyond_its_bytes_or_the_disks_nothing_is_kept(tmp_path: Path) -> None:
    async def full(most: int, free: int) -> None:
        spool = Spool(tmp_path / f"{most}-{free}", most, free)
        with pytest.raises(FullError):
            await spool.keep("p", b"x" * 2000)
        assert spool.empty
        spool.close()

    asyncio.run(full(1000, 0))
    asyncio.run(full(1 << 20, 1 << 60))


async def keep_one(spool: Spool, message: bytes) -> None:
    await spool.keep("p", message)


def fill(spool: Spool) -> tuple[list[Record], TidemarkError]:
    """Keep records until there is no room; what is kept, and what was told of the first that is not."""
    kept: list[Record] = []

    async def keep() -> TidemarkError:
        while True:
            record = Record("p", os.urandom(3000))
            try:
                await spool.keep(*record)
            except TidemarkError as error:
                return error
            kept.append(record)

    return kept, asyncio.run(keep())


def test_what_is_written_in_part_is_taken_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1 << 30)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # a file cannot grow beyond it
    try:
        kept, error = fill(spool)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(error, UnavailableError)
    assert len(kept) == 100_000 // len(packed(kept[0]))
    asyncio.run(keep_one(spool, b"again"))
    first, second = sorted(tmp_path.glob("*.spool"))
    assert read(first) == (kept, 0)
    assert read(second) == ([Record("p", b"again")], 0)
    assert spool.size == sum(path.stat().st_size for path in (first, second))
    spool.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tidemark", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("mount is not here")
    if done.returncode:
        pytest.skip(f"this user cannot mount a file system: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def test_a_full_disk_costs_what_does_not_fit_and_nothing_that_was_kept(small_disk: Path) -> None:
    spool = Spool(small_disk, 1 << 30)
    kept, error = fill(spool)
    assert isinstance(error, FullError)
    assert len(kept) > 300
    found: list[Record] = []

    async def publish(records: list[Record]) -> list[Record]:
        found.extend(records)
        return []

    asyncio.run(spool.drain(publish, for_ever=False))
    assert found == kept
    asyncio.run(keep_one(spool, b"there is room again"))
    spool.close()
