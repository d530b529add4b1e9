"""Installs what is not this project's own: locked packages of PyPI, by uv, which is told what pip is told.

uv reads neither pip's variables nor its files. Who has to reach PyPI by a mirror, a proxy or an authority of their own
has set up pip for it; so what pip would do is done here too. Imports nothing but the standard library: it makes the
environment that this project runs in.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final

from tidemark.errors import LocalError
from tidemark.local import cache

_LIST_OF: Final = {"find-links": ",", "trusted-host": ",", "extra-index-url": " "}
"""What separates several values in uv's variables; pip has spaces and lines."""
_OF_PIP: Final = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "timeout": "UV_HTTP_TIMEOUT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "proxy": "HTTPS_PROXY",
    "cert": "SSL_CERT_FILE",
}
_ADVICE: Final = (
    (
        re.compile(r"certificate|UnknownIssuer|\bx509\b", re.IGNORECASE),
        "Set SSL_CERT_FILE to a file with the certificate of whoever answers for the registries in your network.",
    ),
    (
        re.compile(
            r"connect|proxy|dns|resolve|no such host|timed? ?out|timeout|unreachable|error sending request|network",
            re.IGNORECASE,
        ),
        "Where the registries are reached by a proxy or a mirror, set HTTPS_PROXY, or PIP_INDEX_URL and GOPROXY.",
    ),
    (re.compile(r"no space left", re.IGNORECASE), "Make room, or set XDG_CACHE_HOME to a directory with more."),
)
SITE: Final = Path("/etc/pip.conf")
_running: Final[set[subprocess.Popen[str]]] = set()
_lock: Final = threading.RLock()
"""A signal's handler takes it in the middle of whatever the main thread does."""
_interrupted: Final = threading.Event()


def environment(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of installers: what is given, with what pip's settings mean to uv and Go.

    What uv has been told itself stays. Certificates are the system's, to which a network's own authority is added,
    unless a file is named.
    """
    found = dict(given)
    for option, value in _pip_settings(given).items():
        found.setdefault(_OF_PIP[option], _LIST_OF[option].join(value.split()) if option in _LIST_OF else value)
    if "UV_INDEX" in found and "UV_INDEX" not in given:
        found.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip does; every package has its hash
    named = next((given[name] for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if given.get(name)), None)
    if named is not None:
        found.setdefault("SSL_CERT_FILE", named)
    system = _system_certificates()
    if found.get("SSL_CERT_FILE"):
        found.setdefault("PIP_CERT", found["SSL_CERT_FILE"])
    elif system is not None:
        found.setdefault("UV_SYSTEM_CERTS", "true")
        found.setdefault("PIP_CERT", system)
    found.setdefault("UV_PYTHON_DOWNLOADS", "never")
    if not _writable_home(given):
        found.setdefault("UV_CACHE_DIR", str(cache.directory() / "uv"))
        found.setdefault("PIP_CACHE_DIR", str(cache.directory() / "pip"))
    return found


def _pip_settings(given: Mapping[str, str]) -> dict[str, str]:
    """What pip's files and variables say, of what there is a word for in uv; variables go before files.

    https://pip.pypa.io/en/stable/topics/configuration/
    """
    found: dict[str, str] = {}
    for path in _pip_files(given):
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue  # pip will say so itself
        for section in ("global", "install"):
            if parser.has_section(section):
                found |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    found |= {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in given.items()
        if name.startswith("PIP_")
    }
    return {name: value for name, value in found.items() if name in _OF_PIP and value.strip()}


def _pip_files(given: Mapping[str, str]) -> Iterator[Path]:
    chosen = given.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return
    for directory in reversed(given.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":")):
        yield Path(directory) / "pip" / "pip.conf"
    yield SITE
    if given.get("HOME"):
        yield Path(given["HOME"]) / ".pip" / "pip.conf"
        yield Path(given.get("XDG_CONFIG_HOME") or Path(given["HOME"]) / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if chosen:
        yield Path(chosen)


def _system_certificates() -> str | None:
    paths = ssl.get_default_verify_paths()
    places = (
        paths.cafile,
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    )
    return next((place for place in places if place and Path(place).is_file()), None)


def _writable_home(given: Mapping[str, str]) -> bool:
    home = given.get("HOME")
    return bool(home) and os.access(str(home), os.W_OK | os.X_OK)


def uv(*arguments: str) -> list[str]:
    """The command line of uv, in this virtual environment or on the path."""
    beside = Path(sys.executable).with_name("uv")
    return [str(beside) if beside.exists() else "uv", *arguments]


def package(lock: Path, directory: Path, what: str) -> None:
    """Install the packages of a lock file into a directory, for their files: nothing that they need themselves.

    Raises:
        LocalError: they cannot be installed; the sentence has `what`, and what to do.
    """
    command = uv("pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python", sys.executable)
    run([*command, "--target", str(directory), "-r", str(lock)], what)


def run(
    command: Sequence[str], what: str, environ: Mapping[str, str] | None = None, directory: Path | None = None
) -> str:
    """Run an installer quietly; returns what it says on standard output.

    It has a session of its own, so that a Ctrl-C is this program's to answer: see `interrupt`.

    Raises:
        LocalError: it failed; the sentence has what it said last, and what to do.
    """
    with _lock:
        if _interrupted.is_set():
            raise LocalError(f"{what} is not installed: the program was told to stop.")
        try:
            child = subprocess.Popen(
                command,
                env=dict(environment() if environ is None else environ),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise LocalError(f"{what} cannot be installed: {command[0]}: {error.strerror}.") from None
        _running.add(child)
    try:
        said, complained = child.communicate()
    finally:
        with _lock:
            _running.discard(child)
    if child.returncode:
        raise LocalError(f"{what} cannot be installed: {_why(complained or said)}")
    return said


def interrupt() -> None:
    """End the installers that run, with all that they have started; no more are begun."""
    with _lock:
        _interrupted.set()
        for child in list(_running):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def side_by_side(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """What each call returns; they run at once.

    Raises:
        Exception: the first failure, after all have ended. What interrupts the wait ends what they install.
    """
    with ThreadPoolExecutor(max(1, len(calls))) as pool:
        futures = [pool.submit(call) for call in calls]
        try:
            wait(futures)
        except BaseException:
            interrupt()
            raise
    return [future.result() for future in futures]


def _why(said: str) -> str:
    """What an installer complained of, in a line, and what to do about it where that is known."""
    lines = [line.strip(" \t│├╰▶─\N{MULTIPLICATION SIGN}·") for line in said.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("hint:", "warning:"))]
    if not lines:
        return "no reason was given."
    causes = [line for line in lines if line.startswith(("Caused by:", "error:", "ERROR:"))]
    told = lines[-1] if lines[-1] in causes or not causes else f"{causes[-1]} {lines[-1]}"
    advice = next((text for pattern, text in _ADVICE if pattern.search(said)), "")
    return f"{told[:600].rstrip('.')}. {advice}".rstrip()
