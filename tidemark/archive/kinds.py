"""Tells by a file's first bytes how it is packed, and by its name what its text is."""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import islice
from typing import Final, Literal

from tidemark.archive.members import BZIP2, GZIP, XZ, ZSTD
from tidemark.archive.unpack import texts
from tidemark.errors import MisconfiguredError

Packing = Literal["", "gzip", "bzip2", "xz", "zstd"]
Shape = Literal["lines", "csv", "parquet"]

HEAD_BYTES: Final = 1 << 16
"""So many first bytes tell all that can be told: they have a block of most packings, whose text is looked at, too."""
_MAGICS: Final[tuple[tuple[bytes, Packing], ...]] = (
    (GZIP, "gzip"),
    (BZIP2, "bzip2"),
    (XZ, "xz"),
    (ZSTD, "zstd"),
    *((bytes((0x50 + low, 0x2A, 0x4D, 0x18)), "zstd") for low in range(16)),
)
_SUFFIXES: Final[dict[str, Packing]] = {
    ".gz": "gzip",
    ".gzip": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
}
_SHAPES: Final[dict[str, Shape]] = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
_TAR_SUFFIXES: Final = (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst")
_PARQUET: Final = b"PAR1"
_UNPACK: Final = "unpack it and give its files"
_CONVERT: Final = "write its rows as JSON lines, CSV or Parquet"
_REFUSED: Final = (
    (b"\xff\xfe\0\0", "UTF-32", "convert it with iconv -t UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32", "convert it with iconv -t UTF-8"),
    (b"\xff\xfe", "UTF-16", "convert it with iconv -t UTF-8"),
    (b"\xfe\xff", "UTF-16", "convert it with iconv -t UTF-8"),
    (b"PK\3\4", "a zip", _UNPACK),
    (b"PK\5\6", "a zip", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z", _UNPACK),
    (b"Rar!\x1a\x07", "a RAR", _UNPACK),
    (b"\x1f\x9d", "packed by compress", "pack it as gzip or zstd"),
    (b"LZIP", "packed by lzip", "pack it as gzip or zstd"),
    (b"\x04\x22\x4d\x18", "packed by lz4", "pack it as gzip or zstd"),
    (b"\xff\x06\0\0sNaPpY", "packed by snappy", "pack it as gzip or zstd"),
    (b"Obj\1", "Avro", _CONVERT),
    (b"ORC", "ORC", _CONVERT),
    (b"ARROW1", "Arrow", _CONVERT),
    (b"FEA1", "Feather", _CONVERT),
    (b"\x89HDF\r\n\x1a\n", "HDF5", _CONVERT),
    (b"SQLite format 3\0", "a SQLite database", _CONVERT),
    (b"\xd0\xcf\x11\xe0", "an Office document", _CONVERT),
    (b"%PDF-", "a PDF", _CONVERT),
    (b"PARE", "an encrypted Parquet", "decrypt it"),
)


@dataclass(frozen=True)
class Kind:
    """What a file is: how it is packed, and what is in it."""

    packing: Packing
    shape: Shape


def kind_of(name: str, head: bytes) -> Kind:
    """What the file is.

    The bytes tell whether it is packed: one that is named .gz and is not packed is read as it is, unless it has bytes that no
    text has; then it is damaged at its beginning.

    Args:
        name: Its path; `-` for standard input.
        head: Its first 64 KiB, or all of it.

    Raises:
        MisconfiguredError: it is something that is not read here.
    """
    stem, suffix = _split(name)
    packing = _packing(head)
    inside = head
    if packing:
        inside = _begin(head, packing)
    elif suffix and head and _is_binary(head):
        packing, inside = suffix, b""
    _refuse(stem, inside, inside_of=packing)
    shape = _SHAPES.get(_suffix(stem), "lines")
    if inside.startswith(_PARQUET):
        shape = "parquet"
    if packing and shape == "parquet":
        raise MisconfiguredError(f"It is Parquet in {packing}, and Parquet is read from its end: unpack it first.")
    return Kind(packing, shape)


def _packing(head: bytes) -> Packing:
    for magic, packing in _MAGICS:
        if head.startswith(magic):
            return packing
    return ""


def _split(name: str) -> tuple[str, Packing]:
    """The name in small letters without the packing's suffix, and which packing that is."""
    stem = name.lower()
    suffix = _suffix(stem)
    packing = _SUFFIXES.get(suffix, "")
    return (stem.removesuffix(suffix) if packing else stem), packing


def _suffix(name: str) -> str:
    dot = name.rfind(".")
    return name[dot:] if dot > name.rfind("/") else ""


def _begin(head: bytes, packing: Packing) -> bytes:
    """The first bytes of the text, as far as `head` has them."""
    blocks = islice(texts(io.BytesIO(head), packing, 0, skip_damaged=False), 1)
    return b"".join(block for block in blocks if isinstance(block, bytes))[:HEAD_BYTES]


def _is_binary(head: bytes) -> bool:
    return any(byte < 0x20 and byte not in b"\t\n\v\f\r\x1e" for byte in head)


def _refuse(stem: str, inside: bytes, *, inside_of: Packing) -> None:
    where = f" in {inside_of}" if inside_of else ""
    for magic, what, then in _REFUSED:
        if inside.startswith(magic):
            raise MisconfiguredError(f"It is {what}{where}: {then}.")
    if stem.endswith(_TAR_SUFFIXES) or inside[257:262] == b"ustar":
        raise MisconfiguredError(f"It is a tar{where}: {_UNPACK}.")
    if inside_of and (again := _packing(inside)):
        raise MisconfiguredError(f"It is {again}{where}, packed twice: unpack it once.")
