"""`tidemark token`: makes tokens for those who send points."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
from pathlib import Path
from typing import Any

from tidemark.edge.tokens import RIGHTS, line_of, new_token, parse
from tidemark.errors import UsageError


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("token", help="make a token", description="Makes tokens for those who send points.")
    more = parser.add_subparsers(required=True, metavar="add")
    add = more.add_parser(
        "add",
        help="make a token and the line by which it is known",
        description="Prints a new token, once: only its SHA-256 is kept, in the line below it, which belongs into the tokens "
        "file or secret. With --tokens=file:/path the line is added to that file.",
    )
    add.add_argument("--project", required=True, metavar="NAME", help="whose points may be sent")
    add.add_argument("--may", default="write", metavar="RIGHTS", help=f"of {', '.join(RIGHTS)}, separated by commas")
    add.add_argument("--source", metavar="NAME", help="only points of this source")
    add.add_argument("--points_per_s", type=float, metavar="N", help="quota of points a second")
    add.add_argument("--max_series", type=int, metavar="N", help="most series of the project")
    add.add_argument(
        "--tokens", metavar="file:/path", help="add the line to this file, which is made where it is missing"
    )
    add.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a token and its line.

    Raises:
        UsageError: the line could not be used, or the file not written.
    """
    token = new_token()
    more = {
        name: getattr(arguments, name)
        for name in ("source", "points_per_s", "max_series")
        if getattr(arguments, name) is not None
    }
    line = line_of(token, arguments.project, [right for right in arguments.may.split(",") if right], **more)
    try:
        parse(line)
    except UsageError as error:
        raise UsageError(str(error).replace("Line 1 of the tokens: ", "").capitalize()) from None
    if arguments.tokens:
        _append(arguments.tokens, line)
    print(f"{token}\n{line}")  # noqa: T201
    return 0


def _append(reference: str, line: str) -> None:
    if not reference.startswith("file:"):
        raise UsageError("--tokens: a line can be added to file:/path only; add a version to the secret yourself.")
    path = Path(reference.removeprefix("file:")).resolve()
    try:
        with (path.parent / f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _append_to(path, line)
            Path(lock.name).unlink()
    except OSError as error:
        raise UsageError(f"--tokens: {path} cannot be written: {error.strerror}.") from None


def _append_to(path: Path, line: str) -> None:
    """Whole or not at all; who may read it stays as it was, and at first it is its owner alone."""
    old = path.read_text() if path.exists() else ""
    parse(old)
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(old + ("\n" if old and not old.endswith("\n") else "") + line + "\n")
    if path.exists():
        found = path.stat()
        shutil.copymode(path, fresh)
        if (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(fresh, found.st_uid, found.st_gid)
    fresh.replace(path)
