"""docs/sending.md is true: each body in its table becomes what the page says, and no reason or field is left out."""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import zstandard

from tidemark.settings import INGEST, read
from tidemark.store.read import StoredPoint
from tidemark.wire.block import Block, Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from tidemark.wire.reasons import Reason

PAGE = (Path(__file__).parents[2] / "docs" / "sending.md").read_text()
PUBLISHED_US = 1_769_860_810_000_000
FIRST_US = 1_769_860_800_000_000
PACKERS: dict[str, Callable[[bytes], bytes]] = {"gzip:": gzip.compress, "zstd:": zstandard.compress}


class Row(NamedTuple):
    body: str
    attributes: str
    becomes: str


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables under a heading, without their heads."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"[|-]+", line)]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


BODIES = [
    Row(*(row if len(row) == 3 else [row[0], "", row[-1].lstrip("| ")]))
    for row in rows("Bodies, and what becomes of them")
]


def decoded(row: Row) -> Block:
    text = row.body.strip("`")
    packer = next((p for p in PACKERS if text.startswith(p)), "")
    data = text.removeprefix(packer).replace("⏎", "\n").encode()
    data = PACKERS[packer](data) if packer else data
    attributes = dict(part.split("=") for part in row.attributes.strip("`").split(",") if part)
    columns = Columns()
    decoder = Decoder(Limits.of(read(INGEST, {}, environment={})))
    decoder.decode(Message(data, attributes, PUBLISHED_US, "1"), columns, PUBLISHED_US)
    return columns.block()


def test_there_are_enough_of_them() -> None:
    assert len(BODIES) >= 25


@pytest.mark.parametrize("row", BODIES, ids=[f"{i}" for i in range(len(BODIES))])
def test_each_body_becomes_what_the_page_says(row: Row) -> None:
    block = decoded(row)
    number = re.search(r"(\d+) points?", row.becomes)
    wanted = 1 if row.becomes.startswith("the same point") else int(number[1]) if number else 0
    assert len(block.points) == wanted, row
    refused = re.search(r"`(\w+_\w+)`(?:: (.*))?$", row.becomes)
    assert [letter.reason.value for letter in block.dead_letters] == ([refused[1]] if refused else [])
    if refused and refused[2]:
        assert block.dead_letters[0].detail.startswith(refused[2].rstrip("?")), block.dead_letters[0].detail
    if "microsecond later" in row.becomes:
        assert block.points["event_time"].tolist() == [FIRST_US + 1]
    elif wanted:
        assert set(block.points["event_time"].tolist()) == {FIRST_US}


def test_every_reason_is_explained_and_no_other() -> None:
    told = [row[0].strip("`") for row in rows("What is refused")]
    assert told == [reason.value for reason in Reason]


def test_every_field_and_the_settings_that_bound_it_are_there() -> None:
    fields = [row[0].strip("`") for row in rows("The body") if row[0].startswith("`")]
    assert fields == ["project", "source", "metric", "event_time", "value", "attributes"]
    known = {setting.name for setting in INGEST}
    named = set(re.findall(r"`((?:max_|retention_)\w+)`", PAGE))
    assert named <= known
    assert {setting.name for setting in INGEST if setting.name.startswith("max_")} <= named
    defaults = read(INGEST, {}, environment={})
    assert f"1 to {defaults.max_name_bytes} bytes" in PAGE
    assert f"{defaults.max_attributes_bytes // 1024} KiB as JSON" in PAGE
    assert f"nested {defaults.max_attributes_depth} deep" in PAGE
    assert f"{defaults.max_message_bytes >> 20} MiB" in PAGE
    assert f"{defaults.max_future_s // 60:g} minutes" in PAGE


def test_the_points_columns_are_those_that_are_read_back() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "tables.md").read_text()
    points = page.partition("## PostgreSQL: `points`")[2].partition("##")[0]
    for name in StoredPoint._fields:
        assert f"`{name}`" in points
