"""Settings of roles, databases and servers that change what statements mean, how they run, or whether they do."""

from __future__ import annotations

from sqlalchemy import Engine

from tidemark.store.connection import transaction

SETTINGS = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "array_nulls": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "extra_float_digits": "-15",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "synchronous_commit": "off",
    "lock_timeout": "1",
    "statement_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "idle_session_timeout": "20",
    "jit": "on",
    "jit_above_cost": "0",
    "constraint_exclusion": "off",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
    "enable_hashjoin": "off",
    "from_collapse_limit": "1",
    "join_collapse_limit": "1",
    "plan_cache_mode": "force_generic_plan",
    "random_page_cost": "100000",
    "work_mem": "64",
}
SCOPES = ("role", "database", "server")


def _scope(pool: Engine, scope: str) -> str:
    with transaction(pool) as connection:
        user, database = connection.exec_driver_sql(
            "SELECT quote_ident(current_user), quote_ident(current_database())"
        ).one()
    return {"role": f"ALTER ROLE {user}", "database": f"ALTER DATABASE {database}", "server": "ALTER SYSTEM"}[scope]


def _run(pool: Engine, statements: list[str]) -> None:
    raw = pool.raw_connection()
    try:
        raw.driver_connection.autocommit = True  # ALTER SYSTEM runs in no transaction
        cursor = raw.cursor()
        for statement in statements:
            cursor.execute(statement)
        raw.driver_connection.autocommit = False
    finally:
        raw.invalidate()


def impose(pool: Engine, scope: str, **others: str) -> None:
    """Set all of them, some to others than here, for new connections."""
    where, wanted = _scope(pool, scope), SETTINGS | others
    _run(pool, [f"{where} SET {name} = '{value}'" for name, value in wanted.items()] + ["SELECT pg_reload_conf()"])


def lift(pool: Engine, scope: str) -> None:
    """Take them back."""
    where = _scope(pool, scope)
    _run(pool, [f"{where} RESET {name}" for name in SETTINGS] + ["SELECT pg_reload_conf()"])
