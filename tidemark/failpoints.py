"""Named places at which a test can break the program, as PostgreSQL's injection points do.

`TIDEMARK_FAILPOINTS="raw.committed=kill@3,settle.appended=raise@1"` kills the process the third time it has committed
raw points, and raises once after rows were appended. Nothing happens where the variable is not set.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter

_passed: Counter[str] = Counter()
_lock = threading.Lock()


class FailpointError(RuntimeError):
    """Raised on purpose by a failpoint; deliberately no TidemarkError, so that nothing expects it."""


def reach(name: str) -> None:
    """Do what `TIDEMARK_FAILPOINTS` says of this place: nothing, `kill` (SIGKILL) or `raise` at the n-th passage."""
    plan = os.environ.get("TIDEMARK_FAILPOINTS")
    if not plan:
        return
    for entry in plan.split(","):
        place, _, action = entry.partition("=")
        if place != name:
            continue
        what, _, nth = action.partition("@")
        with _lock:
            _passed[entry] += 1
            if _passed[entry] != int(nth or 1):
                continue
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise FailpointError(f"failpoint {name}")
