"""Starts `bqemulator`, in its own virtual environment, with one thing mended.

It sends every statement through one DuckDB connection, queries on one thread and appends on others: a statement then
ends the result of another one that is still being read ("closed pending query result"). Here each statement has a
cursor of its own, except those that name a relation that was registered with the connection.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, Final

from bqemulator.cli import main
from bqemulator.storage.engine import DuckDBEngine

_REGISTERED: Final = "_bqemu_"
"""In the name of every relation the emulator registers."""
_lock: Final = threading.Lock()


def _execute(self: Any, sql: str, parameters: list[Any] | None = None) -> Any:
    if _REGISTERED in sql:
        with _lock:
            return self.connection.execute(sql, parameters)
    return self.connection.cursor().execute(sql, parameters)


if __name__ == "__main__":
    DuckDBEngine.execute = _execute
    sys.exit(main())
