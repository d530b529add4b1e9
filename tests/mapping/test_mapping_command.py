"""`tidemark mapping`, as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """.body
| if .skip then empty elif .wrong then error("no \\(.wrong) here") else . end
| {source: .id, metric: "fps", event_time: 1769860800000, value: .fps}
"""


def run(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidemark", "mapping", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "m.jq"
    path.write_text(PROGRAM)
    return str(path)


def test_it_says_what_becomes_of_each_line(program: str) -> None:
    given = '{"id":"a","fps":1}\n\n[{"id":"b","fps":2},{"skip":1}]\n{"wrong":"x"}\n{"id":"c","fps":"high"}\nnonsense\n'
    done = run("try", program, given=given)
    assert done.returncode == 1
    *lines, last = done.stdout.splitlines()
    assert lines[:3] == [
        '1: {"project": "example", "source": "a", "metric": "fps", "event_time": 1769860800000, "value": 1.0}',
        '3: {"project": "example", "source": "b", "metric": "fps", "event_time": 1769860800000, "value": 2.0}',
        "3: filtered",
    ]
    assert lines[3] == "4: REFUSED mapping_failed: no x here"
    assert lines[4].startswith("5: REFUSED bad_value: output 1: ")
    assert lines[5].startswith("6: REFUSED not_json: ")
    assert last.startswith(
        "5 lines: 2 points, 1 values filtered, 3 refused, mapping_failed 1, bad_value 1, not_json 1; "
    )
    assert done.stderr == ""


def test_it_says_so_in_json(program: str) -> None:
    done = run("try", program, "--json", "--series_project=mine", given='{"id":"a","fps":1}\n{"wrong":"x"}\n')
    first, second, total = map(json.loads, done.stdout.splitlines())
    assert (first["line"], first["points"][0]["project"], first["refused"]) == (1, "mine", [])
    assert second["refused"] == [
        {"reason": "mapping_failed", "detail": "no x here", "points": 1, "value": '{"wrong":"x"}'}
    ]
    assert (total["lines"], total["points"], total["refused"]) == (2, 1, 1)
    assert done.returncode == 1


def test_lines_may_be_whole_inputs_and_attributes_be_given(tmp_path: Path) -> None:
    path = tmp_path / "m.jq"
    path.write_text("{source: .attributes.topic, metric: .message_id, event_time: .publish_time, value: .body}")
    line = '{"body": 3, "attributes": {"topic": "t"}, "publish_time": "2026-01-31T12:00:00Z", "message_id": "m"}'
    point = {"source": "t", "metric": "m", "event_time": 1769860800000, "value": 3.0}
    done = run("try", str(path), "--inputs", "--json", given=line)
    assert json.loads(done.stdout.splitlines()[0])["points"] == [{"project": "example", **point}]
    done = run("try", str(path), "--attribute=topic=a=b", given="1")
    assert '"source": "a=b"' in done.stdout
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "given", "sentence"),
    [
        (["none.jq"], "", "The mapping none.jq cannot be read: No such file or directory."),
        (["PROGRAM", "--attribute=x"], "", "--attribute needs NAME=VALUE, not 'x'."),
        (["PROGRAM", "--inputs"], "3", "Line 1 is no input of a mapping: "),
        (["PROGRAM", "--inputs"], '{"body":1,"publish_time":"2026-01-01"}', "Line 1 is no input of a mapping: "),
        (["PROGRAM", "--mapping_cpu_s=0"], "", "--mapping_cpu_s must be at least 0.01, not '0'."),
        (["PROGRAM", "--sample"], "", "There is no mapping "),
    ],
)
def test_what_is_wrong_is_one_sentence(program: str, arguments: list[str], given: str, sentence: str) -> None:
    done = run("try", *(program if one == "PROGRAM" else one for one in arguments), given=given)
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert len(done.stderr.splitlines()) == 1


def test_who_reads_only_the_first_lines_is_no_error(program: str) -> None:
    given = '{"id":"a","fps":1}\n' * 20_000
    command = f"{sys.executable} -m tidemark mapping try {program} | head -1"
    done = subprocess.run(["bash", "-c", command], input=given, capture_output=True, text=True, timeout=60, check=True)
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_those_that_are_shipped_are_listed_and_shown() -> None:
    done = run("list", "--json")
    every = json.loads(done.stdout)["mappings"]
    assert len(every) >= 12
    assert all(one["about"] for one in every)
    assert [line.split()[0] for line in run("list").stdout.splitlines()] == [one["name"] for one in every]
    for one in every:
        assert one["about"] in run("show", one["name"]).stdout
        tried = run("try", one["name"], "--sample")
        assert tried.returncode == 0, tried.stdout
    assert run("show", "none").stderr.startswith("There is no mapping 'none'; there are ")
