"""What a connection states: every setting on which the meaning or the plan of a statement depends.

Roles, databases and servers have settings of their own, and some of them change what a statement says: `DateStyle` turns
a day and a month round, `bytea_output` writes bytes otherwise, `jit` makes a plan take ten times as long. What is stated
when a connection is made goes before all of them. A pooler may ignore it: then each transaction states it.
"""

from __future__ import annotations

import json
from typing import Any, Final

MEANING: Final = {
    "array_nulls": "on",
    "bytea_output": "hex",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "default_table_access_method": "heap",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "read committed",
    "extra_float_digits": "1",
    "idle_session_timeout": "0",
    "IntervalStyle": "postgres",
    "lock_timeout": "0",
    "row_security": "off",
    "standard_conforming_strings": "on",
    "synchronous_commit": "on",
    "TimeZone": "UTC",
    "transform_null_equals": "off",
}
"""Rows that a policy hides are an error and not missing. A commit has been written to disk; where a standby has to have it
as well, that too."""
PLAN: Final = {
    "constraint_exclusion": "partition",
    "cpu_index_tuple_cost": "0.005",
    "cpu_operator_cost": "0.0025",
    "cpu_tuple_cost": "0.01",
    "cursor_tuple_fraction": "0.1",
    "default_statistics_target": "100",
    "effective_cache_size": "524288",
    "enable_bitmapscan": "on",
    "enable_gathermerge": "on",
    "enable_hashagg": "on",
    "enable_hashjoin": "on",
    "enable_incremental_sort": "on",
    "enable_indexonlyscan": "on",
    "enable_indexscan": "on",
    "enable_material": "on",
    "enable_memoize": "on",
    "enable_mergejoin": "on",
    "enable_nestloop": "on",
    "enable_parallel_append": "on",
    "enable_parallel_hash": "on",
    "enable_partition_pruning": "on",
    "enable_partitionwise_aggregate": "off",
    "enable_partitionwise_join": "off",
    "enable_seqscan": "on",
    "enable_sort": "on",
    "enable_tidscan": "on",
    "from_collapse_limit": "8",
    "geqo": "on",
    "geqo_threshold": "12",
    "hash_mem_multiplier": "2",
    "jit": "off",
    "join_collapse_limit": "8",
    "max_parallel_workers_per_gather": "2",
    "min_parallel_index_scan_size": "64",
    "min_parallel_table_scan_size": "1024",
    "parallel_leader_participation": "on",
    "parallel_setup_cost": "1000",
    "parallel_tuple_cost": "0.1",
    "plan_cache_mode": "auto",
    "random_page_cost": "1.1",
    "seq_page_cost": "1",
    "work_mem": "4096",
}
"""PostgreSQL's defaults, but for three: no compiling of statements, which take milliseconds; pages at random cost little
more than in a row, since points lie by time and most of what is read is in memory or on a disk that does not turn; and
each hash table may have twice `work_mem`, as from version 15 on."""
COLUMNAR: Final = {"timescaledb.max_tuples_decompressed_per_dml_transaction": "0"}
"""TimescaleDB ends a transaction that has to unpack more of columnar chunks than this, as a late point of many series does;
what ours do is bounded otherwise. Without TimescaleDB it is the name of nothing."""
LATER: Final = {"transaction_timeout": "0"}
"""These are not in every version: stated by each transaction where the server has them and they are set otherwise."""

DIFFERING: Final = """
SELECT s.name FROM pg_catalog.pg_settings s, pg_catalog.json_each_text(CAST(%s AS pg_catalog.json)) w
WHERE pg_catalog.lower(s.name) OPERATOR(pg_catalog.=) pg_catalog.lower(w.key) AND s.setting OPERATOR(pg_catalog.<>) w.value"""


def startup(statement_timeout_s: float) -> dict[str, str]:
    """What a connection is made with.

    Args:
        statement_timeout_s: Bounds each statement, and the idling of an open transaction.
    """
    milliseconds = str(round(statement_timeout_s * 1000))
    return {
        **MEANING,
        **PLAN,
        **COLUMNAR,
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": milliseconds,
    }


def unheard(connection: Any, stated: dict[str, str]) -> dict[str, str]:
    """What of `stated` a new connection has otherwise: a pooler did not pass it on, or the server is of a later version.

    Args:
        connection: Of the driver, without a transaction.
        stated: As `startup` gives it.
    """
    wanted = {name.lower(): value for name, value in {**stated, **LATER}.items()}
    cursor = connection.cursor()
    try:
        cursor.execute(DIFFERING, (json.dumps(wanted),))
        return {name: wanted[name.lower()] for (name,) in cursor.fetchall()}
    finally:
        cursor.close()
        connection.rollback()


def statement(settings: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    """What states `settings` for one transaction: a statement and its parameters."""
    calls = ", ".join("set_config(%s, %s, true)" for _ in settings)
    return f"SELECT {calls}", tuple(text for pair in settings.items() for text in pair)
