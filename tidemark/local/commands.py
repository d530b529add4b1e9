"""`tidemark local`: stand-ins for Pub/Sub, TimescaleDB and BigQuery on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from tidemark.errors import LocalError
from tidemark.local import install
from tidemark.local.postgres import find
from tidemark.local.stack import Stack
from tidemark.stop import STOP, end_by_signals, ignore_signals


def add_parser(subparsers: Any) -> None:
    """Add the command and its own commands."""
    parser = subparsers.add_parser("local", help="servers on this machine to try things with", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, help_text in (
        ("up", _up, 'start the servers; prints `export NAME=value` lines, so: eval "$(tidemark local up)"'),
        ("run", _run, "start the servers, ingest, the edge and the query service with its page, until Ctrl-C"),
        ("down", _down, "stop what `up` started"),
        ("status", _status, "say what runs"),
        ("psql", _psql, "open psql on the database; arguments after -- go to it"),
        ("sql", _sql, "run one statement in the database and print its rows; needs no psql"),
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
        if name == "sql":
            command.add_argument("statement", help="such as 'SELECT count(*) FROM points'")


def _up(arguments: argparse.Namespace) -> int:
    """Start; ended by a signal meanwhile, nothing that it has started is left."""
    end_by_signals(install.interrupt)
    stack = Stack(arguments.state)
    started = [name for name, runs in stack.running().items() if not runs]
    try:
        for name, value in stack.up().items():
            print(f"export {name}={shlex.quote(value)}", flush=True)  # noqa: T201
        ignore_signals()
    except BaseException:
        stack.stop(started)
        raise
    what = f"Started {_listed(started)}" if started else "Everything runs already"
    _say(f"{what}, with all state in {stack.state}. `tidemark local down{_where(arguments)}` stops it.")
    if sys.stdout.isatty():
        _say('The lines above are for a shell to take: eval "$(tidemark local up)".')
    return 0


def _run(arguments: argparse.Namespace) -> int:
    """Run everything until a signal comes."""
    from tidemark.local.run import run  # noqa: PLC0415  # only this command needs it

    STOP.listen("Ending everything in order; once more ends at once.")
    STOP.then(install.interrupt)
    run(Stack(arguments.state), _say, STOP.asked)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    from tidemark.local.run import end_left  # noqa: PLC0415  # only what starts and ends programs needs it

    stack = Stack(arguments.state)
    if not stack.exists():
        raise LocalError(f"There are no servers of `tidemark local up` in {stack.state}: give its --state.")
    stopped = [*end_left(stack), *stack.down(purge=arguments.purge)]
    what = f"Stopped {_listed(stopped)}" if stopped else "Nothing ran"
    state = "has been removed" if arguments.purge else "is kept, until --purge"
    _say(f"{what}; the state in {stack.state} {state}.")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    stack = Stack(arguments.state)
    if not stack.exists():
        raise LocalError(f"There are no servers of `tidemark local up` in {stack.state}: give its --state.")
    running = stack.running()
    print(f"in {stack.state}:")  # noqa: T201
    for name, runs in running.items():
        print(f"{name:10} {'runs' if runs else 'stopped'}")  # noqa: T201
    return 0 if all(running.values()) else 1


def _psql(arguments: argparse.Namespace) -> int:
    url = Stack(arguments.state).environment()["TIDEMARK_DATABASE_URL"]
    psql = shutil.which("psql") or str(find().directory / "psql")
    if not os.access(psql, os.X_OK):
        raise LocalError("There is no psql on this machine: install PostgreSQL's client, or use `tidemark local sql`.")
    os.execv(psql, [psql, url, *arguments.arguments])  # noqa: S606  # replaces this program on purpose


def _sql(arguments: argparse.Namespace) -> int:
    from tidemark.local.sql import table  # noqa: PLC0415  # SQLAlchemy

    url = Stack(arguments.state).environment()["TIDEMARK_DATABASE_URL"]
    print("\n".join(table(url, arguments.statement)))  # noqa: T201
    return 0


def _where(arguments: argparse.Namespace) -> str:
    return "" if arguments.state == Path(".tidemark") else f" --state {shlex.quote(str(arguments.state))}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _say(text: str) -> None:
    """To a person: standard output is for a shell."""
    print(text, file=sys.stderr)  # noqa: T201
