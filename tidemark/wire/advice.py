"""Says why a text is no point in the words of whoever sent it: what stands there, and what should.

Only asked about what was refused already, so it may take its time; what it looks at is bounded all the same.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

_LOOKED_AT_BYTES: Final = 1 << 16
"""Of what is larger nothing more is said than why it cannot be read."""
_TAKEN: Final = ("gzip", "zstd")
_MAGIC: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x78\x01", "zlib"),
    (b"\x78\x9c", "zlib"),
    (b"\x78\xda", "zlib"),
    (b"PAR1", "Parquet"),
    (b"Obj\x01", "Avro"),
)
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/\-_\s]{16,}={0,2}\s*")
_FORM: Final = re.compile(rb"[\w.%+-]+=[^&\s]*(&[\w.%+-]+=[^&\s]*)*")
_LINE_PROTOCOL: Final = re.compile(rb"[\w.-]+(,[^\s]+)? [^\s]+=[^\s]+( \d+)?\s*")
_SINGLE_QUOTES: Final = re.compile(rb"[{\[]\s*[{\[]?\s*'")
_DIGITS: Final = re.compile(r"-?\d+(\.\d+)?")
_OTHERS: Final = {
    "project": ("tenant", "namespace", "org", "organization", "customer", "gcp_project"),
    "source": (
        "device",
        "device_id",
        "deviceid",
        "host",
        "hostname",
        "sensor",
        "sensor_id",
        "client",
        "id",
        "instance",
    ),
    "metric": ("name", "metric_name", "metricname", "measurement", "key", "field", "series"),
    "event_time": ("timestamp", "time", "ts", "t", "date", "datetime", "at", "event_timestamp"),
    "value": ("val", "v", "y", "reading", "data", "number"),
    "points": ("values", "samples", "datapoints", "data_points", "measurements", "metrics", "items"),
    "attributes": ("tags", "labels", "meta", "metadata", "attrs", "properties"),
}
"""What others call the fields."""
_POINT: Final = ("metric", "event_time", "value")
_HEAD: Final = ("project", "source")


def _is_base64(text: bytes) -> bool:
    if not _BASE64.fullmatch(text):
        return False
    packed = b"".join(text.split())
    with contextlib.suppress(binascii.Error, ValueError):
        plain = base64.b64decode(
            packed + b"=" * (-len(packed) % 4), altchars=b"-_" if b"-" in packed or b"_" in packed else None
        )
        return plain.lstrip()[:1] in (b"{", b"[") or any(plain.startswith(magic) for magic, _ in _MAGIC)
    return False


_WIDE: Final = "UTF-16 or UTF-32 without a byte order mark; send UTF-8"
_LOOKS_LIKE: Final[tuple[tuple[Callable[[bytes], Any], str], ...]] = (
    (lambda start: start[:1] == b"<", "XML or HTML; a body is JSON"),
    (lambda start: b"\x00" in start[:4], _WIDE),
    (_is_base64, "base64; the body is the JSON itself"),
    (lambda start: _LINE_PROTOCOL.fullmatch(start[:256].split(b"\n")[0]), "InfluxDB's line protocol; a body is JSON"),
    (_FORM.fullmatch, "a form; a body is JSON"),
)


def of_text(text: bytes, said: str) -> str:
    """Why a body is not JSON.

    Args:
        text: The body as it came, or a part of it.
        said: What the parser says.
    """
    start = text[:_LOOKED_AT_BYTES].lstrip()
    if start[:1] in (b"{", b"["):
        if _SINGLE_QUOTES.match(start):
            return "this looks like the repr of a program's object; in JSON names and texts stand in double quotes"
        return f"this looks like {_WIDE}" if b"\x00" in start[:4] else said
    packed = next((name for magic, name in _MAGIC if start.startswith(magic)), None)
    if packed in _TAKEN:
        return f"this looks like {packed}: say so in the attribute content_encoding"
    if packed is not None:
        return f"this looks like {packed}, which is not taken; {' and '.join(_TAKEN)} are"
    return next((f"this looks like {what}" for looks, what in _LOOKS_LIKE if looks(start)), said)


def of_packed(data: bytes, encoding: str, said: str) -> str:
    """Why bytes are not packed as is said.

    Args:
        data: Bytes.
        encoding: What they are said to be.
        said: What the unpacker says.
    """
    packed = next((name for magic, name in _MAGIC if data.startswith(magic)), None)
    if packed == encoding:
        return f"the {encoding} is damaged: {said}"
    if packed is not None:
        return f"this is not {encoding}; it looks like {packed}"
    if data.lstrip()[:1] in (b"{", b"["):
        return f"this is not {encoding}; it looks like JSON that is not packed: leave content_encoding out"
    if _is_base64(data[:_LOOKED_AT_BYTES]):
        return f"this is not {encoding}; it looks like base64: send the bytes themselves"
    return f"this is not {encoding}: {said}"


def of_shape(text: bytes, said: str) -> str:
    """Why a JSON text is no point and no batch.

    Args:
        text: One element of a body.
        said: What the decoder says.
    """
    if len(text) > _LOOKED_AT_BYTES:
        return said
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return said
    if isinstance(found, dict):
        return (_of_batch(found) if "points" in found else _of_head(found) or _of_point(found)) or said
    if isinstance(found, list):
        return "an array of points stands alone in a body: not inside an array, and not one a line"
    if isinstance(found, str) and found.lstrip()[:1] in ("{", "["):
        return "this is JSON packed into a JSON text; send it unpacked"
    return f"a body is an object, an array of objects or lines of objects, and this is {_kind(found)}"


def _of_head(found: Mapping[str, Any]) -> str | None:
    for name in _HEAD:
        if name not in found:
            return _missing(name, found)
        if (wrong := _wrong_name(name, found[name])) is not None:
            return wrong
    return None


def _of_batch(batch: Mapping[str, Any]) -> str | None:
    points = batch["points"]
    if not isinstance(points, list):
        return f"`points` is an array of points, and this is {_kind(points)}"
    # of a batch that was looked at point by point this is the one that was refused
    point = points[0] if len(points) == 1 else {}
    if not isinstance(point, dict):
        return f"each of `points` is an object with {_listed(_POINT)}, and this is {_kind(point)}"
    inside = next((name for name in _HEAD if name not in batch and name in point), None)
    if inside is not None:
        return f"a batch's {inside} stands in its head, beside `points`, and not in each point"
    return _of_head(batch) or (_of_point(point, batch=True) if point else None)


def _of_point(point: Mapping[str, Any], *, batch: bool = False) -> str | None:
    for name in _POINT:
        if name not in point:
            return _missing(name, point, others=() if batch else ("points",))
    return (
        _wrong_name("metric", point["metric"])
        or _wrong_time(point["event_time"])
        or _wrong_value(point["value"])
        or _wrong_attributes(point.get("attributes"))
    )


def _missing(name: str, found: Mapping[str, Any], others: tuple[str, ...] = ()) -> str:
    for wanted in (name, *others):
        for given in found:
            plain = given.lower().replace("-", "_").replace(" ", "_")
            squeezed = plain.replace("_", "")
            if given != wanted and (
                squeezed == wanted.replace("_", "") or plain in _OTHERS[wanted] or squeezed in _OTHERS[wanted]
            ):
                return f"`{name}` is missing; is it what stands in `{given[:64]}`? Here it is called `{wanted}`"
    return f"`{name}` is missing"


def _wrong_name(name: str, given: Any) -> str | None:
    if isinstance(given, str):
        return None
    quoted = (
        f'; write it in quotes: "{given}"' if isinstance(given, int | float) and not isinstance(given, bool) else ""
    )
    return f"`{name}` is a text, and this is {_kind(given)}{quoted}"


def _wrong_time(given: Any) -> str | None:
    if isinstance(given, str):
        if _DIGITS.fullmatch(given.strip()):
            return "`event_time` is a number of milliseconds without quotes, or a text like 2026-01-31T12:00:00Z"
        if re.search(r"\d{4}-\d\d-\d\d", given) and not re.search(r"(Z|[+-]\d\d:?\d\d)$", given.strip(), re.IGNORECASE):
            return "`event_time` has no zone; write 2026-01-31T12:00:00Z, or +01:00 at its end"
        return f"`event_time` is not a time that exists, or not written as 2026-01-31T12:00:00Z: {given[:64]!r}"
    if isinstance(given, float):
        return "`event_time` is a whole number of milliseconds since 1970, without a fraction"
    if isinstance(given, bool) or not isinstance(given, int):
        return (
            f"`event_time` is a number of milliseconds or a text like 2026-01-31T12:00:00Z, and this is {_kind(given)}"
        )
    return None


def _wrong_value(given: Any) -> str | None:
    if isinstance(given, str):
        if _DIGITS.fullmatch(given.strip()):
            return "`value` is a number without quotes"
        return f"`value` is a number, and this is the text {given[:64]!r}"
    if isinstance(given, bool):
        return "`value` is a number: write 1 for true and 0 for false"
    if not isinstance(given, int | float):
        return f"`value` is a number, and this is {_kind(given)}"
    return None


def _wrong_attributes(given: Any) -> str | None:
    return (
        None if given is None or isinstance(given, dict) else f"`attributes` is an object, and this is {_kind(given)}"
    )


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return {str: "a text", int: "a number", float: "a number", list: "an array", dict: "an object"}[type(value)]


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(f'`{name}`' for name in names[:-1])} and `{names[-1]}`"
