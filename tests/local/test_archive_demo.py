"""A year of flights and weather: what the mappings make of the files is what plain Python adds up."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import islice
from pathlib import Path

import pytest

from tidemark.archive.kinds import Kind
from tidemark.archive.parts import Part
from tidemark.archive.reader import chunks
from tidemark.local import archive_demo
from tidemark.mapping.program import in_file
from tidemark.wire.limits import Limits
from transforms.archive import ArchivePart, ArchiveText
from transforms.decode_archives import Gathering

ROWS = 3000


def raising(error: Exception) -> None:
    raise error


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """Some rows of each; all of them with --long."""
    directory = tmp_path_factory.mktemp("archives")
    flights, weather = archive_demo.unpacked(directory)
    if not request.config.getoption("--long"):
        for file in (flights, weather):
            with file.open() as lines:
                # from all over the year
                kept = [next(lines), *islice((line for at, line in enumerate(lines) if at % 7 == 0), ROWS)]
            file.write_text("".join(kept))
    return flights, weather


def loaded(file: Path) -> archive_demo.Totals:
    mapping = in_file(str(archive_demo.MAPPINGS / f"{file.stem}.jq"))
    of = ArchivePart(str(file), str(file), "", Kind("", "csv"), Part(0, 0, None), None)
    gathering = Gathering(Limits(), mapping, None)
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    seen = set()
    try:
        with file.open("rb") as lines:
            for chunk in chunks(lines, of.kind, of.part, None, told=raising):
                for made in gathering.take(ArchiveText(of, chunk.data, chunk.begin, chunk.end, chunk.line)):
                    assert made.block.dead_letters == []
                    _add(made.block, values, seen)
        for made in gathering.finish():
            _add(made.block, values, seen)
    finally:
        gathering.close()
    return {key: (len(some), math.fsum(some)) for key, some in values.items()}


def _add(block: object, values: dict, seen: set) -> None:
    for series, event_time, published, value in block.points.tolist():  # type: ignore[attr-defined]
        key = block.keys[series]  # type: ignore[attr-defined]
        assert (key, event_time) not in seen, "two rows are one point"
        seen.add((key, event_time))
        assert published >= event_time
        values[key.project, key.metric].append(value)


def test_what_the_mappings_make_of_the_files_is_what_plain_python_adds_up(files: tuple[Path, Path]) -> None:
    wanted = archive_demo.by_hand(*files)
    found = loaded(files[0]) | loaded(files[1])
    assert found.keys() == wanted.keys()
    for key, (number, total) in wanted.items():
        assert found[key][0] == number, key
        assert math.isclose(found[key][1], total, rel_tol=1e-9), key
