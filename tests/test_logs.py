from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tidemark import logs
from tidemark.logs import Json, Repeats, log

ROOT = Path(__file__).parents[1]


def logged(formatter: logging.Formatter) -> tuple[logging.Logger, io.StringIO]:
    """A logger of its own that writes into a text."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logger = logging.Logger("tidemark")  # noqa: LOG001  # not the process's
    logger.addHandler(handler)
    logger.addFilter(Repeats())
    return logger, stream


def test_a_record_of_json_has_what_log_agents_read() -> None:
    logger, stream = logged(Json())
    try:
        raise ValueError("5 % of\nnothing")
    except ValueError:
        logger.exception("It broke: %s", "ü")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert (entry["severity"], entry["message"], entry["logger"]) == ("ERROR", "It broke: ü", "tidemark")
    assert entry["time"].endswith("+00:00")
    assert entry["exception"].startswith("Traceback")
    assert "5 % of\nnothing" in entry["exception"]


def test_repeats_are_held_back_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    logger, stream = logged(logging.Formatter("%(message)s"))
    now = 1000.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    for number in range(500):
        logger.warning("The database is away, %d.", number)
        logger.warning("Something else: 100 %")
        now += 0.1
    assert stream.getvalue() == "The database is away, 0.\nSomething else: 100 %\n"
    now += 15
    logger.warning("The database is away, %d.", 500)
    assert stream.getvalue().endswith("The database is away, 500. (And 499 more like it since the last one.)\n")
    logger.warning("The database is away, %d.", 501)
    now += 61
    logger.warning("The database is away, %d.", 502)
    assert stream.getvalue().endswith("away, 502. (And 1 more like it since the last one.)\n")
    logger.warning("The database is away, %d.", 503)
    now += 3600
    logger.warning("The database is away, %d.", 504)
    assert stream.getvalue().endswith("away, 504.\n"), "another outage"


def test_another_severity_or_another_cause_is_another_sentence() -> None:
    logger, stream = logged(logging.Formatter("%(levelname)s %(message)s"))
    logger.warning("%s Waiting.", "The database is away.")
    logger.error("%s Waiting.", "The database is away.")
    logger.warning("%s Waiting.", "The subscription does not exist.")
    assert stream.getvalue().splitlines() == [
        "WARNING The database is away. Waiting.",
        "ERROR The database is away. Waiting.",
        "WARNING The subscription does not exist. Waiting.",
    ]


def test_sentences_without_number_are_not_all_remembered() -> None:
    repeats = Repeats()
    for number in range(logs.SENTENCES + 50):
        repeats.filter(logging.LogRecord("tidemark", logging.WARNING, "", 0, "x" * number, (), None))
    assert len(repeats._said) == logs.SENTENCES


def test_what_others_hear_stays_when_ours_is_set_up(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    root.removeHandler(logs._handler)  # a command that ran in this process may have set it up
    others, level = list(root.handlers), root.level
    try:
        logs.set_up()
        logs.set_up()
        assert set(others) < set(root.handlers)
        assert len(root.handlers) == len(others) + 1
        log.warning("heard")
        assert "heard" in caplog.text
    finally:
        root.setLevel(level)
        for handler in set(root.handlers) - set(others):
            root.removeHandler(handler)


def program(
    arguments: list[str], module: str = "pipelines.ingest", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_program_says_the_same_to_a_person_and_to_an_agent() -> None:
    said = program(["--horizon_s=never"])
    told = program(["--horizon_s=never"], TIDEMARK_LOG_FORMAT="json")
    assert (said.returncode, told.returncode) == (2, 2)
    assert said.stderr.startswith("--horizon_s needs a number")
    entry = json.loads(told.stderr)
    assert (entry["severity"], entry["message"]) == ("ERROR", said.stderr.strip())


def test_the_command_says_the_same_as_json() -> None:
    done = program(["migrate"], "tidemark", TIDEMARK_LOG_FORMAT="json")
    assert done.returncode == 2
    assert json.loads(done.stderr)["severity"] == "ERROR"


def test_a_job_server_that_is_not_there_is_one_sentence() -> None:
    arguments = ["--runner=PortableRunner", "--job_endpoint=127.0.0.1:9", "--job_server_timeout=1", "--preflight=false"]
    arguments += ["--environment_type=EXTERNAL", "--environment_config=127.0.0.1:9", "--rollup_dataset=p-1.d"]
    arguments += ["--subscription=projects/p/subscriptions/s", "--database_secret=file:/nowhere"]
    told = program(arguments, TIDEMARK_LOG_FORMAT="json")
    assert told.returncode == 1
    entry = json.loads(told.stderr)
    assert entry["message"] == "The job server 127.0.0.1:9 does not take the job: nobody is there."


def test_a_format_that_there_is_not_is_refused() -> None:
    refused = program([], TIDEMARK_LOG_FORMAT="xml")
    assert refused.returncode == 2
    assert refused.stderr == "TIDEMARK_LOG_FORMAT needs text or json, not 'xml'.\n"
