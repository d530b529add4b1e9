"""Tokens, of which only the hash is kept; room that is shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemark import cli
from tidemark.edge.budget import Budget
from tidemark.edge.pack import Clock
from tidemark.edge.tokens import Grant, Tokens, line_of, new_token, parse
from tidemark.errors import UsageError


def test_a_token_is_printed_once_and_only_its_hash_is_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokens"
    for project in ("cams", "plant"):
        assert cli.main(["token", "add", f"--project={project}", "--may=write", f"--tokens=file:{path}"]) == 0
        token, line = capsys.readouterr().out.splitlines()
        assert token not in path.read_text()
        assert line in path.read_text().splitlines()
        grant = Tokens(f"file:{path}").grant(token)
        assert grant is not None
        assert (grant.project, grant.may) == (project, {"write"})
    assert Tokens(f"file:{path}").grant("tm_other") is None
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x", "no JSON object"),
        ('{"sha256":"ab","project":"p","may":["write"]}', "no SHA-256"),
        (line_of("t", "", ["write"]), "is empty"),
        (line_of("t", "p", ["all"]), "`may`"),
        (line_of("t", "p", []), "`may`"),
        (line_of("t", "p", ["write"], points_per_s=0.0), "points_per_s"),
        (line_of("t", "p", ["write"]) + "\n" + line_of("t", "q", ["write"]), "an earlier one"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^Line \d of the tokens.*") as caught:
        parse("# ours\n" + line)
    assert said in str(caught.value)


def test_a_quota_fills_again() -> None:
    grant = Grant("p", frozenset({"write"}), points_per_s=10)
    assert grant.wait_s(100) == 0
    grant.charge(50)
    assert grant.wait_s(100) == pytest.approx(3)
    assert grant.wait_s(103) == 0


def test_no_project_can_starve_another() -> None:
    budget = Budget(1000)
    taken = sum(budget.take("greedy", 10) for _ in range(1000)) * 10
    assert 450 <= taken <= 550
    assert budget.take("other", 200)
    budget.give_back("greedy", taken)
    budget.give_back("other", 200)
    assert budget.used == 0
    assert new_token() != new_token()


def test_who_may_read_the_file_stays_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, link = tmp_path / "tokens", tmp_path / "link"
    assert cli.main(["token", "add", "--project=cams", f"--tokens=file:{path}"]) == 0
    path.chmod(0o640)
    link.symlink_to(path)
    assert cli.main(["token", "add", "--project=plant", f"--tokens=file:{link}"]) == 0
    assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert len(parse(path.read_text())) == 2
    assert {each.name for each in tmp_path.iterdir()} == {"tokens", "link"}
    capsys.readouterr()


def test_the_clock_that_is_stated_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5_000, 4_000, 4_000, 9_000, 1, 12_000])
    monkeypatch.setattr("time.time_ns", lambda: next(times) * 1000)
    clock = Clock()
    assert [clock.now() for _ in range(6)] == [5_000, 5_001, 5_002, 9_000, 9_001, 12_000]
