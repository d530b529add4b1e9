"""Looks at the raw store before a job writes to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection

from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError, UsageError
from tidemark.findings import Finding, passed, refused, warned
from tidemark.settings import Values
from tidemark.store.agreement import adopted, check_first, kept
from tidemark.store.connection import make_engine, transaction
from tidemark.store.errors import DRIVER_ERRORS, sqlstate, translate
from tidemark.store.ground import faults, revision
from tidemark.store.hypertable import hypertable
from tidemark.store.identity import identity
from tidemark.store.location import database_url
from tidemark.store.migrate import newest, revisions
from tidemark.wire.identity import StoreIdentity

TIMEOUT_S: Final = 8.0
OLDEST_SERVER: Final = 140_000
SKEW_S: Final = 5
PRIVILEGES: Final = {
    "points": "SELECT INSERT UPDATE",
    "rollups": "SELECT INSERT UPDATE",
    "marks": "SELECT INSERT DELETE",
    "series": "SELECT INSERT",
    "dead_letters": "SELECT INSERT",
    "ledger": "SELECT INSERT",
    "retention": "SELECT",
    "identity": "SELECT",
    "settings": "SELECT INSERT",
    "sources": "SELECT INSERT UPDATE",
    "heartbeats": "SELECT INSERT UPDATE",
    "corrections": "SELECT INSERT",
}
"""What ingest does with each table."""
LOCKS_A_CHUNK: Final = 5
"""The chunk, its two indexes, its columns and their index."""
_LOCKS: Final = """
SELECT (SELECT count(*) FROM pg_inherits WHERE inhparent = CAST('points' AS regclass)),
       current_setting('max_locks_per_transaction')::int
           * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int)"""
_REMEDIES: Final = {
    "28P01": "correct the user or the password in the secret",
    "28000": "correct the user, or let it in by pg_hba.conf",
    "3D000": "create the database, then run `tidemark migrate`",
    "42501": "grant CONNECT on the database to this user",
    "53300": "free connections, or raise max_connections",
}


def database(values: Values, workers: int, processes: int) -> Iterator[Finding]:
    """Whether the database can be reached, is migrated, may be written, and has room for the fleet.

    Args:
        values: `database_url` or `database_secret`, and `database_pool_size`.
        workers: Most machines.
        processes: Worker processes on each.

    Raises:
        UnavailableError, MisconfiguredError: it broke while it was looked at.
    """
    try:
        url = database_url(values)
        pool = make_engine(url, 1, TIMEOUT_S, connect_timeout_s=TIMEOUT_S)
    except (UsageError, UnavailableError) as error:
        yield refused("database URL", str(error), "see --database_secret, and who may read it")
        return
    yield passed("database URL", "read")
    try:
        try:
            pool.connect().close()
        except DRIVER_ERRORS as error:
            yield _unreachable(error)
            return
        with transaction(pool) as connection:
            yield from _server(connection)
            yield from _chunks(connection, values.retention_days)
            found = [refused("database", *fault) for fault in faults(connection, revisions(), to_create=False)]
            yield from found
            if not found:
                at = revision(connection)
                yield _schema(at)
                if at is not None:
                    yield from _privileges(connection)
                if at == newest():
                    yield _settings(connection, values)
            yield _budget(connection, workers, processes, values.database_pool_size)
    finally:
        pool.dispose()


def asked_identity(values: Values) -> StoreIdentity | None:
    """Of the store; None where it cannot be asked, as `database` tells."""
    try:
        pool = make_engine(database_url(values), 1, TIMEOUT_S, connect_timeout_s=TIMEOUT_S)
    except (UsageError, UnavailableError):
        return None
    try:
        with transaction(pool) as connection:
            return identity(connection)
    except TidemarkError:
        return None
    finally:
        pool.dispose()


def _unreachable(error: BaseException) -> Finding:
    code = sqlstate(error)
    remedy = _REMEDIES.get(code, "look at host and port, the firewall and the VPC of --subnetwork; is it running?")
    said = translate(error)
    told = str(said).rsplit("; ", 1)[0] if isinstance(said, MisconfiguredError) else str(said)
    return refused("database", told.rstrip("."), remedy)


def _server(connection: Connection) -> Iterator[Finding]:
    number, version, standby, read_only, clock, timescale, available = connection.exec_driver_sql(
        """SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery(),
                  current_setting('default_transaction_read_only') = 'on',
                  extract(epoch FROM clock_timestamp())::float8,
                  (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
                  EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')"""
    ).one()
    if number < OLDEST_SERVER:
        yield refused("database", f"PostgreSQL {version}", "PostgreSQL 14 or newer is needed")
    elif standby or read_only:
        what = "a standby" if standby else "read-only for this user"
        yield refused("database", f"PostgreSQL {version}, {what}", "connect to the primary, as a user that may write")
    else:
        yield passed("database", f"PostgreSQL {version}")
    if timescale:
        yield passed("TimescaleDB", timescale)
        yield from _policies(connection)
    elif available:
        yield warned("TimescaleDB", "there, but not in this database", "CREATE EXTENSION timescaledb, before `migrate`")
    else:
        yield warned(
            "TimescaleDB", "not there: points are in a plain table", "no chunks, compression or cheap retention"
        )
    skew_s = clock - time.time()
    if abs(skew_s) > SKEW_S:
        yield warned(
            "database clock", f"{skew_s:+.0f} s from this machine's", "set both by NTP: it says when windows are due"
        )


def _chunks(connection: Connection, retention_days: int) -> Iterator[Finding]:
    """Whether a query over all points, as people write them, finds locks for all of their chunks."""
    table = hypertable(connection) if connection.exec_driver_sql("SELECT to_regclass('points')").scalar() else None
    if table is None:
        return
    there, room = connection.exec_driver_sql(_LOCKS).one()
    chunks = max(there, retention_days * 86_400 / table.chunk_s)
    needed = int(chunks * LOCKS_A_CHUNK)
    told = f"{chunks:,.0f} of {table.chunk_s / 86_400:g} days need {needed:,} locks at once, of {room:,}"
    if needed <= room / 2:
        yield passed("chunks", told)
    else:
        longer = -(-needed * table.chunk_s // (room / 2 * 86_400))
        yield warned(
            "chunks",
            f"{told}: a query over all points would fail, and others with it",
            f"`tidemark migrate --chunk_days={longer:.0f}`, or raise max_locks_per_transaction",
        )


def _policies(connection: Connection) -> Iterator[Finding]:
    """TimescaleDB's own jobs on our table: one that drops chunks takes points that nobody accounts for."""
    table = hypertable(connection) if connection.exec_driver_sql("SELECT to_regclass('points')").scalar() else None
    found = {} if table is None else table.policies(connection)
    if "policy_retention" in found:
        yield refused(
            "TimescaleDB policy",
            f"drops chunks of points by itself: {found['policy_retention']}; a late point would then shrink its windows",
            "SELECT remove_retention_policy('points'), and `tidemark maintain --retention_days=…` instead",
        )
    if "policy_compression" in found:
        yield warned(
            "TimescaleDB policy",
            f"makes chunks columnar by itself: {found['policy_compression']}; corrections may still be expected there",
            "SELECT remove_compression_policy('points'): `tidemark maintain` does it",
        )


def _schema(at: str | None) -> Finding:
    wanted = newest()
    if at == wanted:
        return passed("schema", f"revision {at}")
    if at is None:
        return refused("schema", "the database is empty", "run `tidemark migrate`")
    return refused("schema", f"revision {at} and must be {wanted}", "run `tidemark migrate`")


def _settings(connection: Connection, values: Values) -> Finding:
    found = kept(connection)
    try:
        if found is None:
            check_first(connection, values)
        else:
            adopted(found, values)
    except UsageError as error:
        return refused(
            "shared settings", str(error), "leave it out, or `tidemark settings`" if found else "tell them once"
        )
    return passed("shared settings", str(found or "none are kept yet; the job keeps its own"))


def _privileges(connection: Connection) -> Iterator[Finding]:
    missing = [
        f"{privilege} on {table}"
        for table, wanted in PRIVILEGES.items()
        for privilege in wanted.split()
        if not connection.exec_driver_sql(
            "SELECT coalesce((SELECT has_table_privilege(to_regclass(%s)::oid, %s)), false)", (table, privilege)
        ).scalar_one()
    ]
    if not connection.exec_driver_sql("SELECT has_database_privilege(current_database(), 'TEMPORARY')").scalar_one():
        missing.append("TEMPORARY on the database")
    if missing:
        told = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        yield refused("privileges", f"missing: {told}", "GRANT them to this user: docs/operations/grants.sql")
    else:
        yield passed("privileges", "enough")


def _budget(connection: Connection, workers: int, processes: int, pool_size: int) -> Finding:
    """The fleet's connections against what is free; those of a job that runs now may be about to end, in an update.

    Of other roles' sessions an ordinary role sees the database, not the kind.
    """
    free, ours = connection.exec_driver_sql(
        """SELECT least(
            current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                - (SELECT count(*) FROM pg_stat_activity
                   WHERE coalesce(backend_type, 'client backend') = 'client backend' AND datid IS NOT NULL),
            (SELECT CASE WHEN datconnlimit < 0 THEN NULL ELSE datconnlimit - (
                SELECT count(*) FROM pg_stat_activity a WHERE a.datid = d.oid) END
             FROM pg_database d WHERE datname = current_database()),
            (SELECT CASE WHEN rolconnlimit < 0 THEN NULL ELSE rolconnlimit - (
                SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid) END
             FROM pg_roles r WHERE rolname = current_user)) + 1,
            (SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()
             AND usename = current_user AND application_name = current_setting('application_name'))"""
    ).one()
    wanted = workers * processes * pool_size
    told = f"{workers} workers x {processes} processes x {pool_size} = {wanted} of {free} free"
    remedy = "lower --max_num_workers or --database_pool_size, raise max_connections, or use a pooler"
    if wanted <= free:
        return passed("connections", told)
    if wanted <= free + ours:
        return warned("connections", f"{told}, once the {ours} of the job that runs now have ended", remedy)
    return refused("connections", told, remedy)
