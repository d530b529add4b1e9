"""The SQL of moments and durations, and of parameters as either driver has them."""

from __future__ import annotations

from tidemark.wire.summary import MICROSECONDS


def pyformat(_number: int) -> str:
    """A place for a parameter as pg8000 has it, and psycopg."""
    return "%s"


def numbered(number: int) -> str:
    """The same as asyncpg has it."""
    return f"${number}"


def moment_of(microseconds: str) -> str:
    """A moment, from microseconds since 1970."""
    return f"to_timestamp(0) + CAST({microseconds} AS bigint) * interval '1 microsecond'"


def microseconds_of(moment: str) -> str:
    """Microseconds since 1970 of a moment."""
    return f"(extract(epoch FROM {moment}) * {MICROSECONDS:d})::bigint"


def seconds(number: str) -> str:
    """A duration of so many seconds."""
    return f"{number} * interval '1 second'"
