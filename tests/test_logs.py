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
from tidemark.logs import REPEATS, Json, Repeats, log

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
    now += 61
    logger.warning("The database is away, %d.", 501)
    assert stream.getvalue().endswith("away, 501.\n")


def test_another_severity_is_another_text() -> None:
    logger, stream = logged(logging.Formatter("%(levelname)s"))
    logger.warning("x")
    logger.error("x")
    assert stream.getvalue() == "WARNING\nERROR\n"


def test_every_process_of_ours_holds_repeats_back() -> None:
    assert REPEATS in log.filters


def program(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.ingest", *arguments],
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


def test_a_format_that_there_is_not_is_refused() -> None:
    refused = program([], TIDEMARK_LOG_FORMAT="xml")
    assert refused.returncode == 2
    assert refused.stderr == "TIDEMARK_LOG_FORMAT needs text or json, not 'xml'.\n"
