"""Times as arguments of a command."""

from __future__ import annotations

from datetime import datetime

from tidemark.errors import UsageError
from tidemark.wire.message import microseconds


def seconds(text: str | None) -> int | None:
    """Whole seconds since 1970 of an RFC 3339 time, rounded down; None stays None.

    Raises:
        UsageError: it is no time, or has no zone.
    """
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time; write it as 2026-01-31T00:00:00Z.") from None
    if parsed.tzinfo is None:
        raise UsageError(f"{text!r} has no zone; write it as 2026-01-31T00:00:00Z.")
    return microseconds(parsed) // 1_000_000
