"""Where things that take long to make are kept between runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tidemark.errors import LocalError


def directory() -> Path:
    """`$XDG_CACHE_HOME/tidemark` or `~/.cache/tidemark`; a directory of this user in the temporary one otherwise.

    Raises:
        LocalError: none of them can be written.
    """
    candidates = [Path(tempfile.gettempdir()) / f"tidemark-cache-{os.getuid()}"]
    with contextlib.suppress(RuntimeError):  # a user without a home, of whom the system knows nothing
        candidates.insert(0, Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemark")
    for candidate in candidates:
        try:
            candidate.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(candidate, os.W_OK) and candidate.stat().st_uid == os.getuid():
            return candidate
    raise LocalError(f"No cache directory can be written: make {candidates[0]} writable, or set XDG_CACHE_HOME.")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file: one process at a time, released when it dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` of the cache; made by `make` the first time, whole or not at all.

    `make` works in place under a temporary marker, since a virtual environment cannot be moved.

    Raises:
        LocalError: there is no cache directory; or what `make` raises.
    """
    target = directory() / name
    finished = target / ".finished"
    with locked(directory() / f"{name}.lock"):
        if not finished.exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            try:
                make(target)
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
            finished.touch()
    return target


def say(text: str) -> None:
    """Tell a person what takes so long."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201
