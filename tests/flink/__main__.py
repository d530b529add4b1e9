"""Downloads what a Flink needs, then runs the scenarios in a network of their own, which has nothing but loopback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.flink import jars

INSIDE = 'ip link set lo up && exec "$@"'
NETWORK = ("unshare", "--net")
UNPRIVILEGED = ("unshare", "--user", "--map-root-user", "--net")


def main() -> int:
    missing = [name for name in ("java", "mvn", "unshare", "ip") if shutil.which(name) is None]
    if missing:
        print(f"SKIPPED: no {', '.join(missing)} here; see docs/operations/flink.md.")
        return 0
    network = next((n for n in (NETWORK, UNPRIVILEGED) if _works(n)), None)
    if network is None:
        print("SKIPPED: this system grants no network namespaces, and Flink listens on every interface.")
        return 0
    environment = {
        **os.environ,
        "FLINK_CLUSTER_JARS": str(jars.cluster()),
        "FLINK_JOB_SERVER_JARS": str(jars.job_server()),
        # the pool starts workers as `python`
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:randomly", "-n", "0", *sys.argv[1:], "tests/flink"]
    return subprocess.run([*network, "sh", "-c", INSIDE, "sh", *command], env=environment, check=False).returncode


def _works(network: tuple[str, ...]) -> bool:
    return not subprocess.run([*network, "sh", "-c", INSIDE, "sh", "true"], capture_output=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
