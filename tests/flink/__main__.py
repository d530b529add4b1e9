"""Runs the scenarios where a Flink can be started: `python -m tests.flink [options of pytest]`; what they report is shown."""

from __future__ import annotations

import sys

from tests.flink import network

if __name__ == "__main__":
    sys.exit(
        network.run(
            [sys.executable, "-m", "pytest", "-p", "no:randomly", "-n", "0", "-rP", *sys.argv[1:], "tests/flink"]
        )
    )
