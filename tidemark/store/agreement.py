"""The settings that all programs of a store must run with, kept in the store: one row, of whoever came first.

A program that is not told takes them from there; one that is told otherwise is refused. They are held against what a
program runs with in every transaction that stores or settles, so one that runs on after a change does nothing more.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Engine

from tidemark.errors import MisconfiguredError, UsageError
from tidemark.settings import Values
from tidemark.store.connection import transaction

NAMES: Final = ("tiers_s", "horizon_s", "debounce_s", "quantiles")
KEPT: Final = "(SELECT json_build_array(to_json(tiers_s), horizon_s, debounce_s, quantiles) FROM settings)"
"""The SQL of the row as JSON, null where there is none yet; `kept_as` reads it."""
_KEEP: Final = """
INSERT INTO settings (tiers_s, horizon_s, debounce_s, quantiles) VALUES (CAST(%s AS integer[]), %s, %s, %s)
ON CONFLICT DO NOTHING"""
_TIERS: Final = """
WITH RECURSIVE r AS (
    SELECT min(tier_s) AS tier_s FROM rollups
    UNION ALL
    SELECT (SELECT min(tier_s) FROM rollups WHERE tier_s > r.tier_s) FROM r WHERE r.tier_s IS NOT NULL
)
SELECT tier_s FROM r WHERE tier_s IS NOT NULL"""
_OWED_TIERS: Final = "SELECT tier_s FROM marks GROUP BY tier_s"
_SKETCHES: Final = """
SELECT count(bins) > 0 FROM (SELECT bins FROM rollups WHERE tier_s = %s ORDER BY window_start DESC LIMIT 10000) newest"""


@dataclass(frozen=True)
class Agreement:
    """What they must agree on; see `tidemark.settings`."""

    tiers_s: tuple[int, ...]
    horizon_s: float
    debounce_s: float
    quantiles: bool

    def texts(self) -> dict[str, str]:
        """Each as it is written on the command line."""
        return {name: _text(value) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return " ".join(f"--{name}={text}" for name, text in self.texts().items())


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}"


def kept_as(row: list[Any] | None) -> Agreement | None:
    """What `KEPT` gave."""
    return None if row is None else Agreement(tuple(row[0]), float(row[1]), float(row[2]), bool(row[3]))


def kept(connection: Connection) -> Agreement | None:
    """What is kept; None: nothing yet."""
    return kept_as(connection.exec_driver_sql(f"SELECT {KEPT}").scalar())


def check(row: list[Any] | None, **running: object) -> None:
    """Hold what `KEPT` gave against what this program runs with.

    Raises:
        MisconfiguredError: the store's settings were changed since it started.
    """
    found = kept_as(row)
    if found is not None and any(getattr(found, name) != value for name, value in running.items()):
        raise MisconfiguredError(
            f"The store's settings were changed, to {found}: this program, which runs with others, has to be started again."
        )


def hold(connection: Connection, **running: object) -> None:
    """Hold what is kept against what this program runs with, after its transaction has changed `marks`.

    A change of the settings locks that table: it waits for this transaction, whose marks it finds, or is seen here.

    Raises:
        MisconfiguredError: the store's settings were changed since it started.
    """
    check(connection.exec_driver_sql(f"SELECT {KEPT}").scalar(), **running)


def agreed(pool: Engine, values: Values, *, keep: bool) -> Values:
    """Settings as the store has them.

    Args:
        pool: Of the store.
        values: Of a program; those of `NAMES` that it was not told are taken from the store.
        keep: Where the store has none yet, let them be those of this program from now on.

    Raises:
        UsageError: the program is told another one than the store has; or it keeps none yet and was run with others.
        UnavailableError, MisconfiguredError: the store could not be asked.
    """
    with transaction(pool) as connection:
        found = kept(connection)
        if found is None:
            check_first(connection, values)
        if found is None and keep:
            mine = Agreement(*(values.by_name[name] for name in NAMES))
            connection.exec_driver_sql(_KEEP, (list(mine.tiers_s), mine.horizon_s, mine.debounce_s, mine.quantiles))
            found = kept(connection)
    return values if found is None else adopted(found, values)


def check_first(connection: Connection, values: Values) -> None:
    """Where nothing is kept yet, hold a program against the rollups that older ones have left.

    What it was told it may run with; what it would take from the defaults has to be what they ran with.

    Raises:
        UsageError: it was not told, and they ran with others.
    """
    settled = set(connection.exec_driver_sql(_TIERS).scalars())
    if not settled:
        return  # what only has marks says nothing yet
    tiers_s = tuple(sorted(settled.union(connection.exec_driver_sql(_OWED_TIERS).scalars())))
    taken = {name: values.by_name[name] for name in NAMES if name in values.by_name and name not in values.told}
    if taken.get("tiers_s", tiers_s) != tiers_s:
        raise UsageError(
            f"The rollups of this store are of {_text(tiers_s)} s, and it does not keep yet with which settings its programs "
            "run: start ingest once with the --tiers_s that it has had until now."
        )
    if taken.get("quantiles") is False and connection.exec_driver_sql(_SKETCHES, (tiers_s[0],)).scalar_one():
        raise UsageError(
            "The rollups of this store have quantiles, and it does not keep yet with which settings its programs run: "
            "start ingest once with --quantiles=true, as until now."
        )


def adopted(found: Agreement, values: Values) -> Values:
    """Settings with those that are kept, where the program was not told.

    Raises:
        UsageError: it was told another one.
    """
    own = [name for name in NAMES if name in values.by_name]
    for name in own:
        if name in values.told and values.by_name[name] != getattr(found, name):
            raise UsageError(
                f"--{name} is {_text(values.by_name[name])}, and the programs of this store run with "
                f"{found.texts()[name]}: leave it out, or change it for all of them by `tidemark settings`."
            )
    return replace(values, by_name={**values.by_name, **{name: getattr(found, name) for name in own}})


def put(connection: Connection, new: Agreement) -> None:
    """Replace what is kept."""
    connection.exec_driver_sql("DELETE FROM settings")
    connection.exec_driver_sql(_KEEP, (list(new.tiers_s), new.horizon_s, new.debounce_s, new.quantiles))
