"""What each process that reads messages says of itself every few seconds: that it lives, and what it has stored.

A belief, not an account. A process sees only what it is handed, and Pub/Sub promises no order: what it says is on the
careful side, see `tidemark.bus.frontier`, and may be wrong all the same. It is written beside the points, not with them.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Final

from sqlalchemy import Engine

from tidemark.store.connection import single_statement
from tidemark.wire.message import moment

EVERY_S: Final = 5.0
LIVE_S: Final = 60
"""Who was not heard of for so long is silent."""
COUNTS_S: Final = 90
"""So long what a process said last still counts: by then what it held when it died has been handed to another."""
PROCESS: Final = f"{socket.gethostname()}/{os.getpid()}/{time.time_ns() // 1_000_000}"
"""This one's name, which no other one has or had."""

_BEAT: Final = f"""
INSERT INTO heartbeats (process, job, at, idle, written_publish_time, watermark)
VALUES (%s, %s, clock_timestamp(), %s, coalesce(CAST(%s AS timestamptz), (
    SELECT CASE WHEN count(*) = count(written_publish_time) THEN min(written_publish_time) END FROM heartbeats
    WHERE at > (SELECT max(at) FROM heartbeats) - interval '{COUNTS_S} seconds'
)), CAST(%s AS timestamptz))
ON CONFLICT (process) DO UPDATE SET at = excluded.at, idle = excluded.idle,
    written_publish_time = excluded.written_publish_time, watermark = excluded.watermark"""
"""Who knows nothing yet takes over what was known before."""
_LIVES: Final = f"SELECT EXISTS (SELECT FROM heartbeats WHERE at > clock_timestamp() - interval '{LIVE_S} seconds')"


def beat(pool: Engine, job: str, written_us: int | None, watermark_us: int | None, *, idle: bool) -> None:
    """Write this process's row.

    Args:
        pool: Of a user that may INSERT and UPDATE.
        job: Whose process it is.
        written_us: What was published before this, in microseconds since 1970, is stored; None: not known yet.
        watermark_us: Of event time; None: the engine keeps it.
        idle: Nothing is held, and nothing comes.

    Raises:
        UnavailableError, MisconfiguredError: it was not written.
    """
    written, watermark = (None if us is None else moment(us) for us in (written_us, watermark_us))
    with single_statement(pool) as connection:
        connection.exec_driver_sql(_BEAT, (PROCESS, job, idle, written, watermark))


def is_read(pool: Engine) -> bool:
    """Whether some process reads messages now: what is owed later will then be settled by it.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    with single_statement(pool) as connection:
        return bool(connection.exec_driver_sql(_LIVES).scalar_one())
