"""A network of its own, which has nothing but loopback: Flink and Beam's job server listen on every interface."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from tests.flink import jars

PLACE: Final = "FLINK_CLUSTER_JARS"
"""Set inside: the directory of the cluster's jars."""
_INSIDE = 'ip link set lo up && exec "$@"'
_WAYS = (("unshare", "--net"), ("unshare", "--user", "--map-root-user", "--net"))


def run(command: Sequence[str]) -> int:
    """Download what a Flink needs, once, and run a command where one can be started.

    Returns:
        The command's status; 0 when this machine lacks something, which is said.
    """
    missing = [name for name in ("java", "mvn", "unshare", "ip") if shutil.which(name) is None]
    if missing:
        print(f"SKIPPED: no {', '.join(missing)} here; see docs/operations/flink.md.")
        return 0
    way = next((way for way in _WAYS if _works(way)), None)
    if way is None:
        print("SKIPPED: this system grants no network namespaces, and Flink listens on every interface.")
        return 0
    environment = {
        **os.environ,
        PLACE: str(jars.cluster()),
        "FLINK_JOB_SERVER_JARS": str(jars.job_server()),
    }
    return subprocess.run([*way, "sh", "-c", _INSIDE, "sh", *command], env=environment, check=False).returncode


def _works(way: tuple[str, ...]) -> bool:
    return not subprocess.run([*way, "sh", "-c", _INSIDE, "sh", "true"], capture_output=True, check=False).returncode
