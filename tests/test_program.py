"""What every program does first and last, and what signals mean to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tidemark.errors import UsageError
from tidemark.operate.reference import TAKEN_BY
from tidemark.program import LOOPBACK, reach_loopback_directly
from tidemark.settings import refuse_unknown

ROOT = Path(__file__).parents[1]
WAITS = """
import sys, time
from tidemark.stop import STOP
STOP.listen("asked to stop")
STOP.then(lambda: print("then", flush=True))
print("ready", flush=True)
STOP.asked.wait(30)
print("ending", flush=True)
{after}
"""
CLEANS = """
import time
from tidemark.stop import end_by_signals
end_by_signals()
try:
    print("ready", flush=True)
    time.sleep(30)
finally:
    {after}
    print("clean", flush=True)
"""


def start(text: str, **options: object) -> subprocess.Popen[str]:
    made = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        **{"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options},  # type: ignore[call-overload]
    )
    assert made.stdout is not None
    assert made.stdout.readline() == "ready\n"
    return made


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_and_the_program_ends_as_it_will(number: int) -> None:
    program = start(WAITS.format(after=""))
    program.send_signal(number)
    out, err = program.communicate(timeout=20)
    assert program.returncode == 0
    assert sorted(out.split()) == ["ending", "then"]
    assert err == "asked to stop\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_but_not_one_that_comes_with_the_first(number: int) -> None:
    program = start(WAITS.format(after="time.sleep(30)"))
    program.send_signal(number)
    assert program.stdout is not None
    while program.stdout.readline() != "ending\n":
        pass
    program.send_signal(number)
    time.sleep(0.3)
    assert program.poll() is None, "the same wish, sent twice"
    until = time.monotonic() + 10
    while program.poll() is None and time.monotonic() < until:
        program.send_signal(number)
        time.sleep(0.2)
    assert program.wait(10) == 128 + number
    program.communicate()


def test_who_was_started_to_outlive_its_terminal_does() -> None:
    program = start(WAITS.format(after=""), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    program.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert program.poll() is None
    program.send_signal(signal.SIGTERM)
    program.communicate(timeout=20)
    assert program.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_only_cleans_up_does_so_and_says_by_which_signal(number: int) -> None:
    program = start(CLEANS.format(after="pass"))
    program.send_signal(number)
    program.send_signal(number)
    out, err = program.communicate(timeout=20)
    assert program.returncode in (128 + number, -number), "the second one may come when Python is at its very end"
    assert (out, err) == ("clean\n", "")


def test_an_interrupted_command_says_nothing() -> None:
    program = start(
        "import time\nfrom tidemark.program import reported\n"
        "def run():\n    print('ready', flush=True)\n    time.sleep(30)\nraise SystemExit(reported(run))"
    )
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=20)
    assert (program.returncode, out, err) == (130, "", "")


def test_a_pipe_that_nobody_reads_is_no_traceback() -> None:
    command = "from tidemark.program import reported\ndef run():\n    for _ in range(100000): print('…' * 50)\n    return 0\nraise SystemExit(reported(run))"
    program = subprocess.Popen(
        [sys.executable, "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert program.stdout is not None
    program.stdout.readline()
    program.stdout.close()
    _, err = program.communicate(timeout=20)
    assert (program.returncode, err) == (141, "")


def test_what_the_terminal_has_no_letters_for_is_escaped() -> None:
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        done = subprocess.run(
            [sys.executable, "-m", "tidemark", "local", "down", "--state", "/nowhere/ä…"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert "/nowhere/" in done.stderr


def test_loopback_is_reached_without_the_proxy() -> None:
    environment = {"http_proxy": "http://proxy:3128", "NO_PROXY": "internal, localhost"}
    reach_loopback_directly(environment)
    for name in ("no_proxy", "NO_PROXY"):
        assert environment[name].split(",") == ["internal", "localhost", "127.0.0.1", "::1"]
    before = dict(environment)
    reach_loopback_directly(environment)
    assert environment == before
    of_grpc = {"grpc_proxy": "http://proxy:1", "no_grpc_proxy": "x"}
    reach_loopback_directly(of_grpc)
    assert set(LOOPBACK) < set(of_grpc["no_grpc_proxy"].split(","))
    none = {"PATH": "/bin"}
    reach_loopback_directly(none)
    assert none == {"PATH": "/bin"}


def test_a_variable_that_no_setting_knows_is_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError, match=r"TIDEMARK_TIER_S .*TIDEMARK_TIERS_S is meant"):
        refuse_unknown({"TIDEMARK_TIER_S": "60"})
    with pytest.raises(UsageError, match="TIDEMARK_NONSENSE"):
        refuse_unknown({"TIDEMARK_NONSENSE": ""})
    refuse_unknown({"TIDEMARK_TIERS_S": "60", "TIDEMARK_LOG_FORMAT": "json", "TIDEMARK_TOPIC": "t", "OTHER_X": "1"})
    for settings in TAKEN_BY.values():
        refuse_unknown({setting.variable: "x" for setting in settings})


def test_what_kubernetes_gives_every_pod_is_none_of_ours() -> None:
    service = {
        "TIDEMARK_JOB_SERVER_SERVICE_HOST": "10.0.0.1",
        "TIDEMARK_JOB_SERVER_SERVICE_PORT": "8099",
        "TIDEMARK_JOB_SERVER_SERVICE_PORT_JOB": "8099",
        "TIDEMARK_JOB_SERVER_PORT": "tcp://10.0.0.1:8099",
        "TIDEMARK_JOB_SERVER_PORT_8099_TCP": "tcp://10.0.0.1:8099",
        "TIDEMARK_JOB_SERVER_PORT_8099_TCP_ADDR": "10.0.0.1",
    }
    refuse_unknown(service)
    del service["TIDEMARK_JOB_SERVER_SERVICE_HOST"]
    with pytest.raises(UsageError):
        refuse_unknown(service)


@pytest.mark.parametrize("command", [["tidemark", "verify"], ["tidemark", "maintain"], ["pipelines.ingest"]])
def test_programs_refuse_it(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        env={**os.environ, "TIDEMARK_TIER_S": "60"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "TIDEMARK_TIER_S" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
