"""`tidemark local`: stand-ins for Pub/Sub, TimescaleDB and BigQuery on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from tidemark.errors import LocalError
from tidemark.local.stack import Stack


def add_parser(subparsers: Any) -> None:
    """Add the command and its own commands."""
    parser = subparsers.add_parser("local", help="servers on this machine to try things with", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, help_text in (
        ("up", _up, 'start the servers; prints `export NAME=value` lines, so: eval "$(tidemark local up)"'),
        ("down", _down, "stop what `up` started"),
        ("status", _status, "say what runs"),
        ("psql", _psql, "open psql on the database; arguments after -- go to it"),
    ):
        command = commands.add_parser(name, help=help_text, description=help_text)
        command.add_argument(
            "--state", type=Path, default=Path(".tidemark"), help="directory of all state; default: .tidemark"
        )
        command.set_defaults(run=run)
        if name == "down":
            command.add_argument("--purge", action="store_true", help="remove the state as well")
        if name == "psql":
            command.add_argument("arguments", nargs="*", help="for psql")


def _up(arguments: argparse.Namespace) -> int:
    for name, value in Stack(arguments.state).up().items():
        print(f"export {name}={shlex.quote(value)}")  # noqa: T201
    return 0


def _down(arguments: argparse.Namespace) -> int:
    Stack(arguments.state).down(purge=arguments.purge)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    running = Stack(arguments.state).running()
    for name, runs in running.items():
        print(f"{name:10} {'runs' if runs else 'stopped'}")  # noqa: T201
    return 0 if all(running.values()) else 1


def _psql(arguments: argparse.Namespace) -> int:
    url = Stack(arguments.state).environment()["TIDEMARK_DATABASE_URL"]
    psql = shutil.which("psql")
    if psql is None:
        raise LocalError("There is no psql on the path: install PostgreSQL's client.")
    os.execv(psql, [psql, url, *arguments.arguments])  # noqa: S606  # replaces this program on purpose
