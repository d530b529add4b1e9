"""The README's commands on machines unlike the developer's: a fresh clone, an empty home, and something that is not there."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.store.test_tls import Authority, pem
from tidemark.local import install

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]
ROOT = Path(__file__).parents[2]
COREUTILS = [
    "[",
    "arch",
    "b2sum",
    "base32",
    "base64",
    "basename",
    "basenc",
    "cat",
    "chcon",
    "chgrp",
    "chmod",
    "chown",
    "cksum",
    "comm",
    "cp",
    "csplit",
    "cut",
    "date",
    "dd",
    "df",
    "dir",
    "dircolors",
    "dirname",
    "du",
    "echo",
    "env",
    "expand",
    "expr",
    "factor",
    "false",
    "fmt",
    "fold",
    "groups",
    "head",
    "hostid",
    "id",
    "install",
    "join",
    "link",
    "ln",
    "logname",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mknod",
    "mktemp",
    "mv",
    "nice",
    "nl",
    "nohup",
    "nproc",
    "numfmt",
    "od",
    "paste",
    "pathchk",
    "pinky",
    "pr",
    "printenv",
    "printf",
    "ptx",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "runcon",
    "seq",
    "sha1sum",
    "sha224sum",
    "sha256sum",
    "sha384sum",
    "sha512sum",
    "shred",
    "shuf",
    "sleep",
    "sort",
    "split",
    "stat",
    "stdbuf",
    "stty",
    "sum",
    "sync",
    "tac",
    "tail",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "truncate",
    "tsort",
    "tty",
    "uname",
    "unexpand",
    "uniq",
    "unlink",
    "users",
    "vdir",
    "wc",
    "who",
    "whoami",
    "yes",
]
HIDDEN = ("/usr/lib/postgresql", "/usr/lib/jvm", "/usr/local/go")
"""What the machine may have beside the PATH."""
DEMO_S = 480
PIP = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_CERT", "GOPROXY"))}


class Machine:
    """A clone of what is committed, a home, and a PATH."""

    def __init__(self, base: Path, name: str = "project") -> None:
        self.base, self.tree, self.home = base, base / name, base / "home"
        subprocess.run(["git", "clone", "--quiet", ROOT, self.tree], check=True)
        self.home.mkdir()
        self.path = base / "bin"
        self.path.mkdir()
        wanted = ["git", "bash", "sh", *COREUTILS]
        for tool in wanted:
            found = shutil.which(tool)
            if found is not None:
                (self.path / tool).symlink_to(found)
        for python in ("python3", "python3.11"):
            (self.path / python).symlink_to(getattr(sys, "_base_executable", sys.executable))
        self.environment = {"PATH": str(self.path), "HOME": str(self.home), **PIP}

    def run(self, *command: str, seconds: float = 600, **environment: str | None) -> subprocess.CompletedProcess[str]:
        """A command in the tree; None takes a variable away."""
        together = {name: value for name, value in {**self.environment, **environment}.items() if value is not None}
        return subprocess.run(
            self.wrapped(list(command)),
            cwd=self.tree,
            env=together,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )

    def wrapped(self, command: list[str]) -> list[str]:
        return command


class Bare(Machine):
    """One on which PostgreSQL, Go and Java are nowhere, for a user who is not root."""

    def __init__(self, base: Path, python: str) -> None:
        super().__init__(base)
        for name in ("python3", "python3.11"):
            (self.path / name).unlink()
            (self.path / name).symlink_to(python)
        for path in (base, *base.rglob("*")):
            os.chown(path, 65534, 65534, follow_symlinks=False)

    def wrapped(self, command: list[str]) -> list[str]:
        mount = shutil.which("mount")
        hide = " && ".join(f"{mount} -t tmpfs none {place}" for place in HIDDEN if Path(place).exists()) or "true"
        script = f'{hide} && exec {" ".join(as_nobody())} "$@"'
        return ["/usr/bin/unshare", "--mount", "/bin/bash", "-c", script, "bare", *command]


def as_nobody() -> list[str]:
    return [str(shutil.which("setpriv")), "--reuid=65534", "--regid=65534", "--clear-groups"]


def python_for_all() -> str | None:
    """A Python 3.11 or newer that not only root can reach."""
    test = "import sys, ensurepip; sys.exit(sys.version_info < (3, 11))"
    for candidate in (sys._base_executable, *map(str, sorted(Path("/usr/bin").glob("python3.1[1-4]")))):  # type: ignore[attr-defined]
        # by way of another program: the first one that is executed still has what root may do
        if (
            subprocess.run([*as_nobody(), "env", candidate, "-c", test], capture_output=True, check=False).returncode
            == 0
        ):
            return str(candidate)
    return None


def grants_namespaces() -> bool:
    if os.geteuid() != 0 or not all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount")):
        return False
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def base() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tidemark-machine-", dir="/tmp", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What need not be downloaded again for each: a way in which these machines are friendlier than a new one."""
    cache = install.environment().get("UV_CACHE_DIR") or str(Path.home() / ".cache" / "uv")
    return {"UV_CACHE_DIR": cache, "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))}


def succeeded(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert "Traceback" not in done.stderr


def test_the_demo_with_nothing_but_python_git_and_coreutils(base: Path) -> None:
    if not grants_namespaces():
        pytest.skip("hiding what the machine has needs root, unshare, setpriv and mount")
    python = python_for_all()
    if python is None:
        pytest.skip("no Python here is for others than root")
    machine = Bare(base, python)
    for _ in range(2):
        done = machine.run("scripts/demo", seconds=DEMO_S)
        succeeded(done)
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["verify"] == "PASS"
        assert result["inserted"] == result["published"] > 1800
        for pane in ("early", "on_time", "settled", "corrected"):
            assert f"s  {pane} " in done.stdout, "a rollup with a row of each kind is shown"
    assert [path.name for path in machine.home.iterdir()] == [".cache"]


def test_a_path_with_blanks_and_letters_of_others(base: Path, shared: dict[str, str]) -> None:
    machine = Machine(base, "meine Gezeiten-Märke")
    machine.environment |= shared
    succeeded(machine.run("scripts/setup"))
    script = (
        'eval "$(.venv/bin/tidemark local up --state "a state")"; '
        "timeout --preserve-status -s INT 8 .venv/bin/python -m pipelines.ingest; .venv/bin/tidemark verify; "
        '.venv/bin/tidemark local down --purge --state "a state"'
    )
    done = machine.run("bash", "-ec", script)
    succeeded(done)
    assert '"event": "drained"' in done.stdout
    assert "PASS" in done.stdout


@pytest.mark.parametrize(
    "proxies", [("http_proxy",), ("HTTP_PROXY", "HTTPS_PROXY", "grpc_proxy"), ("all_proxy", "https_proxy")]
)
def test_a_proxy_that_knows_nothing_of_loopback(proxies: tuple[str, ...], base: Path) -> None:
    environment = {**os.environ, **dict.fromkeys(proxies, "http://127.0.0.1:9")}
    tidemark = Path(sys.executable).with_name("tidemark")
    script = (
        f'eval "$({tidemark} local up --state state)"; '
        f"timeout --preserve-status -s INT 8 {sys.executable} -m pipelines.ingest; {tidemark} verify"
    )
    try:
        done = subprocess.run(
            ["bash", "-ec", script], cwd=base, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        succeeded(done)
        assert "ready" in done.stdout
    finally:
        subprocess.run(
            [tidemark, "local", "down", "--purge", "--state", base / "state"], check=False, capture_output=True
        )


class Mirror(BaseHTTPRequestHandler):
    """An index that hands on what pip's own index says."""

    asked: ClassVar[list[str]] = []
    upstream = "https://pypi.org"

    def do_GET(self) -> None:
        self.asked.append(self.path)
        request = urllib.request.Request(
            self.upstream + self.path, headers={"Accept": self.headers.get("Accept", "*/*"), "User-Agent": "mirror"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = answer.read()
            self.send_response(200)
            self.send_header("Content-Type", answer.headers["Content-Type"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def mirror(certificate: Path | None = None) -> Iterator[str]:
    Mirror.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://localhost:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_packages_from_a_mirror(base: Path) -> None:
    machine = Machine(base)
    with mirror() as url:
        succeeded(machine.run("scripts/setup", PIP_INDEX_URL=url))
        asked = {path.rstrip("/").rpartition("/")[2] for path in Mirror.asked}
        assert {"uv", "apache-beam", "numpy"} <= asked, "pip and uv both asked it"
    gone = machine.run(
        "bash", "-c", "rm -r .venv; scripts/setup", seconds=120, PIP_INDEX_URL="http://localhost:9/simple"
    )
    assert gone.returncode == 1
    assert "PIP_INDEX_URL" in gone.stderr.splitlines()[-1]


def test_packages_through_who_answers_for_the_registries_with_a_certificate_of_its_own(base: Path) -> None:
    authority = Authority("a proxy's")
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), key)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    both = base / "both.pem"
    both.write_bytes(key.private_bytes(*form) + pem(certificate))
    system = install._system_certificates()
    assert system is not None
    trusted = base / "trusted.pem"
    trusted.write_bytes(Path(system).read_bytes() + pem(authority.certificate))
    machine = Machine(base)
    machine.environment = {"PATH": str(machine.path), "HOME": str(machine.home)}
    with mirror(both) as url:
        refused = machine.run("scripts/setup", seconds=120, PIP_INDEX_URL=url, SSL_CERT_FILE=system)
        assert refused.returncode == 1
        assert "SSL_CERT_FILE" in refused.stderr.splitlines()[-1], refused.stderr
        succeeded(machine.run("scripts/setup", PIP_INDEX_URL=url, SSL_CERT_FILE=str(trusted)))


def test_a_python_without_ensurepip(base: Path, shared: dict[str, str]) -> None:
    machine = Machine(base)
    machine.environment |= shared
    (base / "debian").mkdir()
    (base / "debian" / "ensurepip.py").write_text("raise ImportError('as Debian ships it')\n")
    told = machine.run("scripts/setup", seconds=20, PYTHONPATH=str(base / "debian"))
    assert told.returncode == 1
    assert "python3.11-venv" in told.stderr
    assert "uv" in told.stderr
    (machine.path / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    succeeded(machine.run("scripts/setup", PYTHONPATH=str(base / "debian")))
    succeeded(machine.run(".venv/bin/tidemark", "--version"))


@pytest.mark.parametrize(
    "changed",
    [
        {"HOME": None},
        {"HOME": "/nowhere"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=["no home", "a home that is not there", "ASCII", "the C locale"],
)
def test_without_a_home_and_without_letters(
    changed: Mapping[str, str | None], base: Path, shared: dict[str, str]
) -> None:
    machine = Machine(base)
    machine.environment |= {"UV_CACHE_DIR": shared["UV_CACHE_DIR"], "TMPDIR": str(base)}
    if "HOME" not in changed:
        machine.environment |= shared
    succeeded(machine.run("scripts/setup", **changed))
    script = (
        'eval "$(.venv/bin/tidemark local up)"; .venv/bin/tidemark local status; '
        "timeout --preserve-status -s INT 8 .venv/bin/python -m pipelines.ingest; .venv/bin/tidemark local down --purge"
    )
    succeeded(machine.run("bash", "-ec", script, **changed))
    succeeded(machine.run(".venv/bin/python", "-m", "tidemark.local.demo", "--help", **changed))


def test_an_environment_that_was_moved_is_made_anew(base: Path, shared: dict[str, str]) -> None:
    machine = Machine(base)
    machine.environment |= shared
    succeeded(machine.run("scripts/setup"))
    assert machine.run("scripts/setup").stderr == "", "nothing to do"
    machine.tree = machine.tree.rename(base / "moved")
    succeeded(machine.run("scripts/setup", ".venv/bin/tidemark", "--version"))
