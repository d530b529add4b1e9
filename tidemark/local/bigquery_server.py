"""Starts `bqemulator`, in its own virtual environment, with three things mended.

It sends every statement through one DuckDB connection, queries on one thread and appends on others: a statement then
ends the result of another one that is still being read ("closed pending query result"). Here each statement has a
cursor of its own, except those that name a relation that was registered with the connection.

It serves each open stream with a thread of a pool of a few, so that a handful of idle or broken streams stops every
append. Here the pool has many.

After each append it copies the whole table, so that queries can look back in time, and an append to a large table then
takes half a second. Here nothing is copied: nobody looks back.
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import grpc.aio
from bqemulator.cli import main
from bqemulator.domain.events import TableDataChanged
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.versioning.snapshots import SnapshotManager

_REGISTERED: Final = "_bqemu_"
"""In the name of every relation the emulator registers."""
_STREAMS: Final = 1000
_lock: Final = threading.Lock()


def _execute(self: Any, sql: str, parameters: list[Any] | None = None) -> Any:
    if _REGISTERED in sql:
        with _lock:
            return self.connection.execute(sql, parameters)
    return self.connection.cursor().execute(sql, parameters)


def _record_change(self: Any, *table: str) -> None:
    self._events.publish(TableDataChanged(*table))  # caches of queries and views


if __name__ == "__main__":
    SnapshotManager.record_change = _record_change
    DuckDBEngine.execute = _execute
    grpc.aio.server = partial(grpc.aio.server, ThreadPoolExecutor(_STREAMS))
    sys.exit(main())
