"""Changes the settings that all programs of a store share, and marks what the change owes."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection, Engine

from tidemark.errors import UsageError
from tidemark.retry import a_few_times
from tidemark.store.agreement import Agreement, kept, put
from tidemark.store.connection import transaction
from tidemark.store.fold import Range
from tidemark.store.hypertable import extent, hypertable
from tidemark.store.marks import insert_marks
from tidemark.store.remove import cut
from tidemark.wire.message import microseconds, moment_s
from tidemark.wire.summary import MICROSECONDS

LOCK_TIMEOUT_S: Final = 5
_ROLLUPS: Final = "SELECT min(window_start), max(window_start) FROM rollups WHERE tier_s = %s"
_MOVE_MARKS: Final = """
UPDATE marks SET tier_s = above.tier_s, window_from = date_bin(above.length, window_from, to_timestamp(0)),
    window_to = date_bin(above.length, window_to + above.length - interval '1 microsecond', to_timestamp(0))
FROM (
    SELECT gone_s, min(t) AS tier_s, min(t) * interval '1 second' AS length
    FROM (SELECT DISTINCT tier_s AS gone_s FROM marks WHERE tier_s <> ALL(CAST(%s AS integer[]))) g
    JOIN unnest(CAST(%s AS integer[])) AS u(t) ON t > gone_s GROUP BY gone_s
) above
WHERE marks.tier_s = gone_s AND NOT closing"""
_DROP_MARKS: Final = "DELETE FROM marks WHERE tier_s <> ALL(CAST(%s AS integer[]))"


class Owed(NamedTuple):
    """What a change makes the store owe.

    Attributes:
        tiers_s: Whose windows are settled, all of them.
        within: From the first to the last.
        removed_s: Tiers that are no more; their rows stay as they are.
    """

    tiers_s: tuple[int, ...]
    within: Range
    removed_s: tuple[int, ...]


def owed(pool: Engine, old: Agreement | None, new: Agreement) -> Owed:
    """What a change would owe; nothing where nothing is kept yet.

    Raises:
        UsageError: the smallest tier cannot become that: points of which its rollups would be made are gone.
        UnavailableError, MisconfiguredError: the store could not be asked.
    """
    if old is None:
        return Owed((), Range(0, 0), ())
    with transaction(pool) as connection:
        gone_before = cut(connection)
        found = [
            extent(connection, hypertable(connection)),
            connection.exec_driver_sql(_ROLLUPS, (old.tiers_s[0],)).one(),
        ]
    if gone_before is not None and new.tiers_s[0] not in old.tiers_s:
        raise UsageError(
            f"--tiers_s cannot begin with {new.tiers_s[0]}: the points before {moment_s(gone_before).isoformat()} are gone, "
            f"and their rollups are of {', '.join(map(str, old.tiers_s))} s."
        )
    times = [microseconds(at) // MICROSECONDS for pair in found for at in pair if at is not None]
    largest_s = max(old.tiers_s[-1], new.tiers_s[-1])
    within = (
        Range(min(times) // largest_s * largest_s, (max(times) // largest_s + 1) * largest_s) if times else Range(0, 0)
    )
    everything = new.tiers_s[0] != old.tiers_s[0] or (new.quantiles and not old.quantiles)
    tiers_s = new.tiers_s if everything else tuple(t for t in new.tiers_s if t not in old.tiers_s)
    return Owed(tiers_s if times else (), within, tuple(t for t in old.tiers_s if t not in new.tiers_s))


def change(pool: Engine, new: Agreement) -> Owed:
    """Change them, and owe what follows; programs that run with the old ones store and settle nothing from then on.

    Raises:
        UsageError: as `owed`.
        UnavailableError, MisconfiguredError: nothing was changed.
    """
    with transaction(pool) as connection:
        old = kept(connection)
    found = owed(pool, old, new)
    a_few_times(lambda: _change(pool, new, found))
    return found


def _change(pool: Engine, new: Agreement, found: Owed) -> None:
    with transaction(pool) as connection:
        connection.exec_driver_sql("SELECT set_config('lock_timeout', %s, true)", (str(LOCK_TIMEOUT_S * 1000),))
        # waits for transactions that store with the old ones; the next find the new ones
        connection.exec_driver_sql("LOCK TABLE marks IN SHARE ROW EXCLUSIVE MODE")
        put(connection, new)
        _keep_marks(connection, new.tiers_s)
        for tier_s in found.tiers_s:
            insert_marks(connection, new.tiers_s, tier_s, [found.within])


def _keep_marks(connection: Connection, tiers_s: tuple[int, ...]) -> None:
    """What is owed in a tier that is no more is owed in the next one above; its last looks have nothing to look at."""
    connection.exec_driver_sql(_MOVE_MARKS, (list(tiers_s), list(tiers_s)))
    connection.exec_driver_sql(_DROP_MARKS, (list(tiers_s),))
