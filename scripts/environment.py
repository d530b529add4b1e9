"""Makes .venv from requirements.lock, unless it is made already from this lock and in this place; then runs a command.

    python -m scripts.environment [COMMAND …]

Needs the standard library only. Nothing is printed to standard output. Half of an environment is taken away when this
is ended meanwhile, and what installs is ended with it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tidemark.errors import LocalError
from tidemark.local import install
from tidemark.local.cache import locked, say
from tidemark.stop import end_by_signals

ROOT: Final = Path(__file__).resolve().parents[1]
LOCK: Final = ROOT / "requirements.lock"
VENV: Final = ROOT / ".venv"
MADE_FROM: Final = VENV / "made-from"
_ENSUREPIP: Final = "import ensurepip"


def main(argv: Sequence[str] | None = None) -> int:
    """Make it where it is missing, then become the command.

    Returns:
        0 without a command; 1 after one sentence that says what is missing.
    """
    command = list(sys.argv[1:] if argv is None else argv)
    if not _made():
        end_by_signals(install.interrupt)
        try:
            with locked(ROOT / ".venv.lock"):
                if not _made():
                    _make()
        except LocalError as error:
            say(str(error))
            return 1
        except OSError as error:
            say(f"{error.filename or ROOT} cannot be written: {error.strerror}.")
            return 1
    if command:
        os.execv(command[0], command)  # noqa: S606  # one process from here on, which its signals reach
    return 0


def _identity() -> str:
    """Of what an environment must have been made from; scripts in it know the place that they are in."""
    return f"{hashlib.sha256(LOCK.read_bytes()).hexdigest()} {VENV}\n"


def _made() -> bool:
    try:
        return MADE_FROM.read_text() == _identity()
    except OSError:
        return False


def _make() -> None:
    say("Installing the locked packages into .venv (once; about a minute) …")
    shutil.rmtree(VENV, ignore_errors=True)
    try:
        uv = _make_empty()
        python = str(VENV / "bin" / "python")
        quietly = [uv, "pip", "install", "--quiet", "--python", python]
        install.run([*quietly, "--require-hashes", "-r", str(LOCK)], "What Tidemark needs", directory=ROOT)
        install.run([*quietly, "--no-deps", "--editable", "."], "Tidemark", directory=ROOT)
        MADE_FROM.write_text(_identity())
    except BaseException:
        shutil.rmtree(VENV, ignore_errors=True)
        raise


def _make_empty() -> str:
    """An environment without packages; returns the uv to fill it with.

    Raises:
        LocalError: this Python cannot make one, and there is no uv.
    """
    # the one below an active virtual environment, which may be the very one that is removed now
    python = getattr(sys, "_base_executable", sys.executable)
    if subprocess.run([python, "-c", _ENSUREPIP], capture_output=True, check=False).returncode == 0:
        install.run([python, "-m", "venv", str(VENV)], "An environment for Python")
        wanted = re.search(r"^uv==[0-9.]+", LOCK.read_text(), re.MULTILINE)
        assert wanted is not None
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        install.run([*pip, wanted[0]], "uv")
        return str(VENV / "bin" / "uv")
    uv = shutil.which("uv")
    if uv is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise LocalError(
            f"{python} has no ensurepip, as Debian ships Python: install python{version}-venv, or put uv on the PATH."
        )
    install.run([uv, "venv", "--quiet", "--python", python, str(VENV)], "An environment for Python")
    return uv


if __name__ == "__main__":
    sys.exit(main())
