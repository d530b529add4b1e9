"""Answers as JSON, CSV or NDJSON; packed, and with a tag by which a client has them again for nothing."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
import zstandard

from tidemark.query.problems import ProblemError

JSON: Final = "application/json"
CSV: Final = "text/csv"
NDJSON: Final = "application/x-ndjson"
FORMS: Final = (JSON, CSV, NDJSON)
MOST_BYTES: Final = 64 << 20
_PACKED_FROM: Final = 1024
_TEXT: Final = msgspec.json.Encoder()
_RANGE: Final = re.compile(r"\s*([\w*.+-]+/[\w*.+-]+)\s*((?:;[^,]*)?)")
_QUALITY: Final = re.compile(r";\s*q=([0-9.]+)")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Answer(NamedTuple):
    """What is told, in whichever form it is wanted.

    Attributes:
        told: All of it, for JSON.
        header: Names of the columns of rows, for CSV and NDJSON.
        rows: Made only where they are wanted.
        of_the_data: What the tag is made of, as JSON: not the moment at which it was read, nor how complete it was then.
        size: About how many values it has.
    """

    told: Mapping[str, Any]
    header: Sequence[str]
    rows: Iterable[Sequence[Any]]
    of_the_data: bytes
    size: int


class Written(NamedTuple):
    """An answer's bytes.

    Attributes:
        media_type: With its charset.
        body: As it is sent.
        tag: Of the data.
        encoding: Of the body; empty: none.
    """

    media_type: str
    body: bytes
    tag: str
    encoding: str = ""


@lru_cache(maxsize=64)
def form(accept: str) -> str:
    """The form that a client likes best of those there are.

    Raises:
        ProblemError: it takes none of them.
    """
    if not accept.strip():
        return JSON
    best, found = 0.0, None
    for media_type, more in _RANGE.findall(accept):
        quality = (
            float(match[1]) if (match := _QUALITY.search(more)) and match[1].count(".") < 2 and match[1] != "." else 1.0
        )
        for each in FORMS:
            if media_type.lower() in (each, "*/*", each.split("/")[0] + "/*") and quality > best:
                best, found = quality, each
    if found is None:
        raise ProblemError("not-acceptable", f"It can be had as {', '.join(FORMS)}.")
    return found


def written(answer: Answer, as_form: str) -> Written:
    """An answer in a form.

    Raises:
        ProblemError: it would be too large.
    """
    if as_form == JSON:
        body = _TEXT.encode(answer.told) + b"\n"
    elif as_form == CSV:
        body = _csv(answer)
    else:
        body = b"".join(_lines(answer))
    if len(body) > MOST_BYTES:
        raise _too_large()
    tag = hashlib.blake2b(answer.of_the_data, digest_size=12, person=as_form.encode()[:16]).hexdigest()
    return Written(f"{as_form}; charset=utf-8" if as_form == CSV else as_form, body, tag)


def encoded(value: Any) -> bytes:
    """As JSON; a part of an answer that is written once, for the answer (as `msgspec.Raw`) and for its tag."""
    return _TEXT.encode(value)


def _csv(answer: Answer) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(answer.header)
    for row in answer.rows:
        writer.writerow(
            ["" if value is None or (isinstance(value, float) and math.isnan(value)) else value for value in row]
        )
        if text.tell() > MOST_BYTES:
            raise _too_large()
    return text.getvalue().encode()


def _lines(answer: Answer) -> Iterator[bytes]:
    size = 0
    for row in answer.rows:
        line = _TEXT.encode(dict(zip(answer.header, row, strict=True))) + b"\n"
        size += len(line)
        if size > MOST_BYTES:
            raise _too_large()
        yield line


def _too_large() -> ProblemError:
    return ProblemError(
        "answer-too-large", f"The answer would have more than {MOST_BYTES:,} bytes: ask for less of it."
    )


def accepts(accept_encoding: str, name: str) -> bool:
    """Whether a client takes an encoding."""
    names = {part.partition(";")[0].strip().lower(): part for part in accept_encoding.split(",")}
    part = names.get(name, "")
    return bool(part) and not re.search(r";\s*q=0(?:\.0*)?\s*$", part)


@lru_cache(maxsize=64)
def encoding(accept_encoding: str) -> str:
    """In which of those there are a client takes answers; empty: in none."""
    return next((name for name in ("zstd", "gzip") if accepts(accept_encoding, name)), "")


def packed(answer: Written, by: str) -> Written:
    """An answer as it is sent, by an encoding where it is long enough for one."""
    if not by or len(answer.body) < _PACKED_FROM:
        return answer
    body = answer.body
    made = zstandard.ZstdCompressor(level=1).compress(body) if by == "zstd" else gzip.compress(body, 1, mtime=0)
    return answer._replace(body=made, encoding=by)


@lru_cache(maxsize=4096)
def shown(us: int | None) -> str | None:
    """A moment in microseconds since 1970 as RFC 3339."""
    if us is None:
        return None
    at = _EPOCH + timedelta(microseconds=us)
    text = at.replace(tzinfo=None).isoformat(timespec="milliseconds" if us % 1_000_000 else "seconds")
    return text + "Z"
