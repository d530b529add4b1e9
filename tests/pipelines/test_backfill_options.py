"""What is given to a backfill, by people in a hurry: files under any name, options however they are spelt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.archive_plan import planned
from pipelines.backfill_options import parse
from tidemark.errors import UsageError

LINE = b'{"project":"p","source":"s","metric":"m","event_time":1735689600000,"value":1}\n'
GIVEN = ("--rollup_dataset=project.dataset", "--database_url=postgresql://u:p@h/d")


def test_a_file_may_be_called_like_the_value_of_an_option() -> None:
    _, values, files = parse([*GIVEN, "--series_project", "x", "x", "--max-rate", "5", "5", "--dry-run"])
    assert (values.series_project, values.max_rate, values.dry_run, files) == ("x", 5.0, True, ["x", "5"])


@pytest.mark.parametrize("value", ["false", "False", "FALSE", "0"])
def test_a_flag_takes_what_reads_like_its_value(value: str) -> None:
    _, values, files = parse([*GIVEN, "--dry-run", value, "a.jsonl"])
    assert (values.dry_run, files) == (False, ["a.jsonl"])


def test_behind_two_dashes_everything_is_a_file() -> None:
    _, values, files = parse([*GIVEN, "a", "--again", "--", "--dry-run", "-b", "--"])
    assert (values.again, values.dry_run, files) == (True, False, ["a", "--dry-run", "-b", "--"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "A file is missing"),
        (["--dryrun", "a"], "--dryrun is not an option"),
        (["--max-rate=abc", "a"], "--max_rate needs a number"),
        (["--max-rate", "nan", "a"], "--max_rate must be at least 0"),
        (["--series_project", "a"], "A file is missing"),
        (["--subscription=projects/p/subscriptions/s", "a"], "--subscription is an option of pipelines.ingest"),
        (["--runner=Nope", "a"], "--runner=Nope is none"),
        (["-a"], "-a is not an option"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError) as wrong:
        parse([*GIVEN, *arguments])
    assert str(wrong.value).startswith(said)


def test_files_of_any_name_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        "with blank.jsonl",
        "[b]rackets.jsonl",
        "star*.jsonl",
        "-dash.jsonl",
        "ünï→.jsonl",
        "new\nline",
        "~",
        "a.b",
    ]
    for name in names:
        (tmp_path / name).write_bytes(LINE)
    (tmp_path / "directory.jsonl").mkdir()
    (tmp_path / "link.jsonl").symlink_to("a.b")
    monkeypatch.chdir(tmp_path)
    given = [*names, "./a.b", "link.jsonl", str(tmp_path / "a.b"), "*.jsonl"]
    assert [one.file for one in planned(given, remote=False)] == [str(tmp_path / name) for name in names]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "A file has no name"),
        ("nothing", "nothing is not there."),
        ("*.nothing", "No file matches *.nothing."),
        ("directory", "directory is a directory"),
        ("broken", "broken leads to what is not there."),
        ("loop", "loop cannot be found: Too many levels of symbolic links."),
        ("n" * 300, f"{'n' * 300} cannot be found: File name too long."),
        ("pipe", "pipe is a pipe or a device"),
        ("/dev/null", "/dev/null is a pipe or a device"),
        ("\udcff", "/"),
        ("twice.csv", "/"),
        ("nameless.csv", "/"),
        ("odd.parquet", "/"),
        ("cut.parquet", "/"),
        ("a.zip", "/"),
        ("nope://a/b", "nope://a/b cannot be found"),
    ],
)
def test_what_is_no_archive_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "directory").mkdir()
    (tmp_path / "broken").symlink_to("away")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "\udcff").write_bytes(LINE)
    (tmp_path / "twice.csv").write_bytes(b"a,a,b\n1,2,3\n")
    (tmp_path / "nameless.csv").write_bytes(b"a,,b\n")
    (tmp_path / "a.zip").write_bytes(b"PK\3\4")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"value": pa.array([1], pa.duration("s"))}), tmp_path / "odd.parquet")
    with pytest.raises(UsageError) as wrong:
        planned([name], remote=False)
    assert str(wrong.value).startswith(said)
    assert str(wrong.value).endswith(".")
    assert "\n" not in str(wrong.value)


def run(
    *arguments: str, stdin: int | None = subprocess.DEVNULL, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.backfill", *arguments],
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_keyboard_is_not_waited_for() -> None:
    keyboard, terminal = os.openpty()
    try:
        done = run("-", "--dry-run", stdin=terminal)
    finally:
        os.close(keyboard)
        os.close(terminal)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("Standard input is a terminal")


def test_standard_input_twice_and_beside_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINE)
    with (tmp_path / "a.jsonl").open("rb") as file:
        done = run("-", "-", str(tmp_path / "a.jsonl"), "--dry-run", stdin=file.fileno())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["points"] == 2
