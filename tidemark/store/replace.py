"""The statements that settle: one folds a scope, replaces the rollups that differ, and returns every row of it.

Most windows are settled once, and have no rollups then. For them there is a statement that does not look for any: it takes
two thirds of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from tidemark.store.copy import ROLLUP_COLUMNS, copy_out
from tidemark.store.errors import DRIVER_ERRORS, UNIQUE_VIOLATION, sqlstate
from tidemark.store.fold import SKETCH, SUMMARY, Range, differs, fold_base, fold_rollups, rollups_of
from tidemark.wire.summary import ROLLUP


class Kind(IntEnum):
    """What became of a row.

    It is the same to the last bit, was not there before, differs from a final row or from an open window's, or only the
    last digits of a sum, `final` or the sketch differ.
    """

    UNCHANGED = 0
    NEW = 1
    CORRECTED = 2
    REFRESHED = 3
    TOUCHED = 4


REPLACED: Final = np.dtype([*ROLLUP.descr, ("kind", "<i4")])
"""What the statement returns, a row a rollup."""


def look(connection: Connection, tier_s: int, scope: Range | list[Range]) -> tuple[int, bool]:
    """The database's clock in microseconds, and whether a scope has no rollups yet; once its windows are locked."""
    clock_us, empty = connection.exec_driver_sql(
        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,"
        f" NOT EXISTS (SELECT FROM {rollups_of(scope, tier_s)})"
    ).one()
    return clock_us, empty


def replaced(
    connection: Connection,
    tiers_s: Sequence[int],
    scope: Range | list[Range],
    horizon_s: float,
    clock_us: int,
    *,
    empty: bool,
    quantiles: bool,
) -> npt.NDArray[np.void]:
    """Fold `scope`, replace the store's rollups that differ, and return every row of it. Shape (n,), dtype `REPLACED`.

    A window without points any more becomes a row with count 0. A row that is the same to the last bit keeps its
    revision. What a final row said, and what the one says that replaces it, goes into `corrections`; so does what a window
    says whose first point was published after its horizon, when it had nothing, and was final so.

    Args:
        connection: In a transaction that has locked the windows.
        tiers_s: From the base tier to the one that is settled.
        scope: Its windows.
        horizon_s: After so long a row is final.
        clock_us: The database's, in microseconds: at least this is the revision of what changes.
        empty: `look` found no rollups in the scope: then they are inserted. A deletion may commit some meanwhile; the
            insertion is taken back then, and they are replaced.
        quantiles: With sketches.
    """
    if empty:
        savepoint = connection.begin_nested()
        try:
            found = copy_out(connection, insert(tiers_s, scope, horizon_s, clock_us, quantiles=quantiles), REPLACED)
        except DRIVER_ERRORS as error:
            if sqlstate(error) != UNIQUE_VIOLATION:
                raise
            savepoint.rollback()
        else:
            savepoint.commit()
            return found
    return copy_out(connection, replace(tiers_s, scope, horizon_s, clock_us, quantiles=quantiles), REPLACED)


def insert(
    tiers_s: Sequence[int], scope: Range | list[Range], horizon_s: float, clock_us: int, *, quantiles: bool
) -> str:
    """One statement that does what `replace` does where there are no rollups yet, and fails where there are."""
    tier_s = tiers_s[-1]
    names = ", ".join((*SUMMARY, *SKETCH))
    closes = _closes(tier_s, horizon_s)
    return f"""
        WITH r AS (
            INSERT INTO rollups (series_id, tier_s, window_start, {names}, revision, final)
            SELECT series_id, {tier_s:d}, window_start, {names}, {clock_us:d}, clock_timestamp() >= {closes}
            FROM ({_fresh(tiers_s, scope, quantiles=quantiles)}) f
            RETURNING *
        ),
        told AS (
            INSERT INTO corrections (series_id, tier_s, window_start, revision,
                                     {_listed("was_{0}")}, {_listed("is_{0}")}, last_publish_time)
            SELECT series_id, tier_s, window_start, revision, {_listed("0")}, {_listed("{0}")}, last_publish_time
            FROM r WHERE first_publish_time > {closes}
            ON CONFLICT DO NOTHING
        )
        SELECT {ROLLUP_COLUMNS}, {Kind.NEW:d} AS kind FROM r p"""


def replace(
    tiers_s: Sequence[int], scope: Range | list[Range], horizon_s: float, clock_us: int, *, quantiles: bool
) -> str:
    """The one statement of `replaced`, whatever rollups there are; arguments as there."""
    tier_s = tiers_s[-1]
    names = ", ".join((*SUMMARY, *SKETCH))
    summary = ", ".join(
        f"coalesce(f.{name}, {'window_start' if name.endswith('_time') else 0}) AS {name}" for name in SUMMARY
    )
    sketch = ", ".join(f"f.{name}" for name in SKETCH)
    olds = ", ".join(f"o.{name} AS old_{name}" for name in (*SUMMARY, *SKETCH))
    other_bits = " OR ".join(
        [f"j.{name} <> j.old_{name}" for name in SUMMARY]
        + [f"j.{name} IS DISTINCT FROM j.old_{name}" for name in SKETCH]
    )
    updates = ", ".join(f"{name} = excluded.{name}" for name in (*SUMMARY, *SKETCH, "final"))
    closes = _closes(tier_s, horizon_s)
    return f"""
        WITH r AS MATERIALIZED (
            SELECT series_id, {tier_s:d} AS tier_s, window_start, {names}, {_listed("coalesce(old_{0}, 0) AS was_{0}")},
                   kind, final,
                   CASE WHEN kind = {Kind.UNCHANGED:d} THEN old_revision
                        ELSE greatest({clock_us:d}, coalesce(old_revision, 0) + 1) END AS revision
            FROM (
                SELECT j.*, CASE WHEN j.old_revision IS NULL THEN {Kind.NEW:d}
                                 WHEN {_differs_from_old()}
                                 THEN CASE WHEN j.old_final THEN {Kind.CORRECTED:d} ELSE {Kind.REFRESHED:d} END
                                 WHEN j.final <> j.old_final OR {other_bits} THEN {Kind.TOUCHED:d}
                                 ELSE {Kind.UNCHANGED:d} END AS kind
                FROM (
                    SELECT series_id, window_start, {summary}, {sketch}, {olds}, o.revision AS old_revision,
                           coalesce(o.final, false) AS old_final,
                           coalesce(o.final, false) OR clock_timestamp() >= {closes} AS final
                    FROM ({_fresh(tiers_s, scope, quantiles=quantiles)}) f
                    FULL JOIN (SELECT p.* FROM {rollups_of(scope, tier_s)}) o USING (series_id, window_start)
                ) j
            ) k
        ),
        written AS (
            INSERT INTO rollups (series_id, tier_s, window_start, {names}, revision, final)
            SELECT series_id, tier_s, window_start, {names}, revision, final FROM r WHERE kind <> {Kind.UNCHANGED:d}
            ON CONFLICT (series_id, tier_s, window_start) DO UPDATE
            SET {updates}, revision = excluded.revision, settled_at = now()
        ),
        told AS (
            INSERT INTO corrections (series_id, tier_s, window_start, revision,
                                     {_listed("was_{0}")}, {_listed("is_{0}")}, last_publish_time)
            SELECT series_id, tier_s, window_start, revision, {_listed("was_{0}")}, {_listed("{0}")}, last_publish_time
            FROM r WHERE kind = {Kind.CORRECTED:d} OR kind = {Kind.NEW:d} AND first_publish_time > {closes}
            ON CONFLICT DO NOTHING
        )
        SELECT {ROLLUP_COLUMNS}, kind FROM r p"""


def _fresh(tiers_s: Sequence[int], scope: Range | list[Range], *, quantiles: bool) -> str:
    if len(tiers_s) == 1:
        return fold_base(tiers_s[-1], scope, quantiles=quantiles)
    return fold_rollups(tiers_s[-1], rollups_of(scope, tiers_s[-2]), quantiles=quantiles)


def _closes(tier_s: int, horizon_s: float) -> str:
    """The SQL of the moment from which on a row is final."""
    return f"window_start + interval '1 second' * ({tier_s:d} + {float(horizon_s)!r})"


def _listed(form: str) -> str:
    """What a correction tells of a summary, each written so."""
    return ", ".join(form.format(name) for name in ("count", "sum", "min", "max"))


def _differs_from_old() -> str:
    """`fold.differs` between a row j and the row it replaces, whose columns stand in the same row as old_*."""
    text = differs("j", "old")
    for name in SUMMARY:
        text = text.replace(f"old.{name}", f"j.old_{name}")
    return text
