from __future__ import annotations

import datetime as dt
import io
import json
import random
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.archive.archives import Pipe, joined, lines, read
from tidemark.archive.damage import DamagedError
from tidemark.archive.kinds import Kind
from tidemark.archive.parts import Part, parts_of
from tidemark.archive.reader import Chunk
from tidemark.errors import MisconfiguredError
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.message import Message

PARQUET = Kind("", "parquet")


def written(table: pa.Table, **settings: Any) -> bytes:
    into = io.BytesIO()
    pq.write_table(table, into, **settings)
    return into.getvalue()


def series(rows: int) -> pa.Table:
    rng = random.Random(9)
    return pa.table(
        {
            "project": ["p"] * rows,
            "source": [f"s{rng.randrange(50)}" for _ in range(rows)],
            "metric": pa.array(["m"] * rows).dictionary_encode(),
            "event_time": pa.array([1_769_860_800_000_000 + i for i in range(rows)], pa.timestamp("us", "UTC")),
            "value": [rng.random() for _ in range(rows)],
        }
    )


def objects(found: list[Chunk]) -> list[Any]:
    return [json.loads(line) for line in lines(joined(found))]


def of(values: Any, kind: pa.DataType | None = None, name: str = "x") -> list[Any]:
    return objects(read(written(pa.table({name: pa.array(values, kind), "n": [1] * len(values)})), kind=PARQUET))


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip", "brotli", "lz4"])
@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_whoever_packed_it_rows_are_points(compression: str, dictionary: bool, version: str) -> None:
    data = written(
        series(5000), compression=compression, use_dictionary=dictionary, data_page_version=version, row_group_size=1700
    )
    found = read(data, kind=PARQUET, chunk_bytes=20_000)
    assert len(found) > 3
    into = Columns()
    for chunk in found:
        Decoder().decode(Message(chunk.data, {}, 1_769_860_910_000_000, "1"), into, 1_769_860_910_000_000)
    assert not into.dead_letters
    assert len(into.block().points) == 5000
    assert sorted(into.event_time) == [1_769_860_800_000_000 + i for i in range(5000)]


def test_reading_goes_on_from_each_chunk_and_parts_are_all_rows() -> None:
    data = written(series(5000), row_group_size=1700)
    file = io.BytesIO(data)
    groups = parts_of(PARQUET, len(data), file, 1)
    assert groups == [Part(0, 0, 1), Part(1, 1, 2), Part(2, 2, 3)]
    assert parts_of(PARQUET, len(data), file) == [Part(0, 0, 3)]
    whole = objects(read(data, kind=PARQUET))
    assert len(whole) == 5000
    got = []
    for part in [*groups, Part(0, 0, None)]:
        found = read(data, kind=PARQUET, part=part, chunk_bytes=5000)
        begin = 0
        for at, chunk in enumerate(found):
            assert chunk.begin == begin
            begin = chunk.end
            assert read(data, chunk.end, kind=PARQUET, part=part, chunk_bytes=5000) == found[at + 1 :]
        got += objects(found)
    assert got == whole * 2


def test_a_position_may_be_any_row() -> None:
    data = written(series(500), row_group_size=170)
    assert objects(read(data, 333, kind=PARQUET)) == objects(read(data, kind=PARQUET))[333:]


UTC = dt.UTC


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, None, -(2**63)], pa.int64(), [1, None, -(2**63)]),
        ([2**64 - 1], pa.uint64(), [2**64 - 1]),
        ([0.1, 1e300, float("nan"), float("-inf")], pa.float64(), [0.1, 1e300, "nan", "-inf"]),
        ([0.5], pa.float32(), [0.5]),
        ([True, None], pa.bool_(), [True, None]),
        ([Decimal("1.50"), Decimal("1E+3")], pa.decimal128(20, 2), [1.5, 1000.0]),
        (['a\n"\\', "ü", ""], pa.string(), ['a\n"\\', "ü", ""]),
        (["a"], pa.large_string(), ["a"]),
        ([b"\xff\0"], pa.binary(), ["/wA="]),
        ([b"ab"], pa.binary(2), ["YWI="]),
        ([0], pa.timestamp("s"), ["1970-01-01T00:00:00.000Z"]),
        ([1], pa.timestamp("ms", "Europe/Berlin"), ["1970-01-01T00:00:00.001Z"]),
        ([1, None], pa.timestamp("us"), ["1970-01-01T00:00:00.000001Z", None]),
        ([-1], pa.timestamp("ns"), ["1969-12-31T23:59:59.999999999Z"]),
        ([dt.date(2026, 2, 1)], pa.date32(), ["2026-02-01"]),
        ([dt.time(1, 2, 3)], pa.time64("us"), ["01:02:03.000000"]),
        ([["a", None], [], None], pa.list_(pa.string()), [["a", None], [], None]),
        ([{"a": 1, "b": float("nan")}], pa.struct({"a": pa.int64(), "b": pa.float64()}), [{"a": 1, "b": "nan"}]),
        ([[("k", "v")], []], pa.map_(pa.string(), pa.string()), [{"k": "v"}, {}]),
        (
            [{"t": dt.datetime(2026, 2, 1, tzinfo=UTC), "d": Decimal("1.5"), "b": b"a", "y": dt.date(2026, 2, 1)}],
            None,
            [{"t": "2026-02-01T00:00:00Z", "d": 1.5, "b": "YQ==", "y": "2026-02-01"}],
        ),
        ([None], pa.null(), [None]),
        (
            [[[{"a": [("b", 1)]}]]],
            pa.list_(pa.list_(pa.struct({"a": pa.map_(pa.string(), pa.int8())}))),
            [[[{"a": {"b": 1}}]]],
        ),
    ],
)
def test_types(values: list[Any], kind: pa.DataType | None, expected: list[Any]) -> None:
    assert [row.get("x") for row in of(values, kind)] == expected


@pytest.mark.parametrize("kind", [pa.duration("s"), pa.list_(pa.timestamp("ns"))])
def test_types_that_json_has_not_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(MisconfiguredError, match="'x' has the type"):
        of([None], kind)


def test_attributes_that_are_text_are_what_they_are_the_json_of() -> None:
    assert [row["attributes"] for row in of(['{"a":"b"}', "no"], name="attributes")] == [{"a": "b"}, "no"]
    of_map = of([[("a", "b")], []], pa.map_(pa.string(), pa.string()), name="attributes")
    assert [row["attributes"] for row in of_map] == [{"a": "b"}, {}]


def test_text_that_is_no_utf8_stays() -> None:
    raw = pa.array([b"\xe9"], pa.binary()).view(pa.string())
    assert joined(read(written(pa.table({"x": raw})), kind=PARQUET)) == b'{"x":"\xe9"}\n'


def test_a_row_that_is_too_long_is_told() -> None:
    data = written(pa.table({"x": ["a", "b" * 5000, "c"]}))
    (chunk,) = read(data, kind=PARQUET, max_line_bytes=4000)
    assert [(one.at, one.size, len(one.head)) for one in chunk.long] == [(1, 5008, 1000)]
    assert objects([chunk]) == [{"x": "a"}, {"x": "c"}]


@pytest.mark.parametrize("rows", [0, 1])
def test_a_table_of_hardly_anything(rows: int) -> None:
    data = written(series(rows))
    (part,) = parts_of(PARQUET, len(data), io.BytesIO(data))
    assert len(objects(read(data, kind=PARQUET, part=part))) == rows


def test_a_pipe_is_refused() -> None:
    assert parts_of(PARQUET, None, Pipe(b"")) == [Part(0, 0, None)]  # type: ignore[arg-type]
    with pytest.raises(MisconfiguredError, match="store it as a file"):
        read(Pipe(written(series(1))), kind=PARQUET)


def test_two_columns_of_one_name_are_refused() -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["x", "x"])
    with pytest.raises(MisconfiguredError, match="two columns"):
        read(written(table), kind=PARQUET)


@pytest.mark.parametrize("cut", [0, 3, 4, 11, 100, -1, -4, -100])
def test_without_a_footer_it_is_damaged(cut: int) -> None:
    data = written(series(100))[:cut]
    for call in (lambda: read(data, kind=PARQUET), lambda: parts_of(PARQUET, len(data), io.BytesIO(data))):
        with pytest.raises(DamagedError, match="footer") as damage:
            call()
        assert damage.value.offset == len(data)


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_damaged_row_group_is_gone_over(compression: str) -> None:
    settings: dict[str, Any] = {
        "row_group_size": 1000,
        "use_dictionary": False,
        "compression": compression,
        "write_page_checksum": True,
    }
    data = bytearray(written(series(5000), **settings))
    whole = objects(read(bytes(data), kind=PARQUET))
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(2)
    at = group.column(4).data_page_offset + group.column(4).total_compressed_size // 2
    data[at] ^= 0x55
    told: list[DamagedError] = []
    found = read(bytes(data), kind=PARQUET, told=told, chunk_bytes=20_000)
    (error,) = told
    assert "row group 2" in error.why
    assert 4 <= error.offset <= at
    assert 2000 <= error.text_offset < 3000
    assert objects(found) == whole[: error.text_offset] + whole[3000:]
    begin = 0
    for number, chunk in enumerate(found):
        assert chunk.begin == begin
        begin = chunk.end
        again: list[DamagedError] = []
        rest = read(bytes(data), chunk.end, kind=PARQUET, told=again, chunk_bytes=20_000)
        assert rest == found[number + 1 :]
        assert [*map(str, again)] == ([str(error)] if chunk.end <= error.text_offset else [])
    with pytest.raises(DamagedError, match="row group 2"):
        read(bytes(data), kind=PARQUET)


def test_bits_that_flip_anywhere_end_in_no_other_error() -> None:
    good = written(series(300), row_group_size=100, write_page_checksum=True)
    rng = random.Random(10)
    for _ in range(300):
        data = bytearray(good)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            read(bytes(data), kind=PARQUET, told=[])
        except (DamagedError, MisconfiguredError):
            continue


def test_an_error_of_the_file_stays_what_it_is() -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:  # noqa: ARG002
            raise ConnectionResetError(104, "reset")

    with pytest.raises(ConnectionResetError):
        read(Failing(written(series(1))), kind=PARQUET)
