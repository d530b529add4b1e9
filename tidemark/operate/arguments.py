"""Times and numbers as arguments of a command."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from tidemark.errors import UsageError
from tidemark.wire.message import microseconds, moment_s

GREATEST_NUMBER: Final = 2**63 - 1
"""Of the database's bigint."""


def seconds(text: str | None) -> int | None:
    """Whole seconds since 1970 of an RFC 3339 time, rounded down; None stays None.

    Raises:
        UsageError: it is no time, has no zone, or is in no year from 1 to 9999 of UTC.
    """
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time; write it as 2026-01-31T00:00:00Z.") from None
    if parsed.tzinfo is None:
        raise UsageError(f"{text!r} has no zone; write it as 2026-01-31T00:00:00Z.")
    found = microseconds(parsed) // 1_000_000
    try:
        moment_s(found)
    except OverflowError:
        raise UsageError(f"{text!r} is in no year from 1 to 9999 of UTC.") from None
    return found


def span(start: str | None, end: str | None) -> tuple[int | None, int | None]:
    """A range as `--from` and `--to` give it, each as `seconds`.

    Raises:
        UsageError: as `seconds`; or nothing is between them.
    """
    found = seconds(start), seconds(end)
    if found[0] is not None and found[1] is not None and found[0] >= found[1]:
        raise UsageError(f"--to must be later than --from, and {end} is not later than {start}.")
    return found
