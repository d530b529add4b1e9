"""Which clients are known, and after a restart too; a fight between two of one name; a disk that is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemark.edge import sessions
from tidemark.edge.sessions import BURST, FOR_EVER_S, Key, Sessions


class Connection:
    def __init__(self) -> None:
        self.ended = False

    def taken_over(self) -> None:
        self.ended = True


def comes_and_goes(known: Sessions, key: Key, expiry_s: int = FOR_EVER_S, *, clean: bool = False) -> bool:
    """Whether its session was known."""
    connection = Connection()
    found = known.begin(key, connection, clean=clean, expiry_s=expiry_s)
    known.end(key, connection, expiry_s)
    return found


def test_a_session_is_known_as_long_as_it_lasts(tmp_path: Path) -> None:
    now = [1000.0]
    known = Sessions(tmp_path / "sessions", clock=lambda: now[0])
    assert not comes_and_goes(known, ("p", "a"), 60)
    assert comes_and_goes(known, ("p", "a"), 60)
    assert not comes_and_goes(known, ("q", "a"), 60)
    assert not comes_and_goes(known, ("p", "a"), 60, clean=True)
    now[0] += 60
    assert comes_and_goes(known, ("p", "a"), 60)
    now[0] += 61
    assert not comes_and_goes(known, ("p", "a"), 60)
    assert comes_and_goes(known, ("p", "a"), 0)
    assert not comes_and_goes(known, ("p", "a"), 0)
    known.close()


def test_it_is_known_after_a_restart_and_no_more_than_so_many_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST", 100)
    file = tmp_path / "sessions"
    for _ in range(3):
        known = Sessions(file)
        for number in range(350):
            comes_and_goes(known, ("p", f"c\n{number}"))
        assert file.stat().st_size < 201 * 40
        known.close()
    with file.open("ab") as written:
        written.write(b'["p","cut')
    known = Sessions(file)
    assert [comes_and_goes(known, ("p", f"c\n{number}")) for number in (250, 349, 0, 200)] == [True, True, False, False]
    known.close()


def test_a_client_that_comes_again_takes_over_and_its_former_end_changes_nothing() -> None:
    known, first, second = Sessions(None), Connection(), Connection()
    known.begin(("p", "a"), first, clean=False, expiry_s=60)
    assert known.begin(("p", "a"), second, clean=False, expiry_s=60)
    assert (first.ended, second.ended) == (True, False)
    known.end(("p", "a"), first, 0)
    assert known.begin(("p", "a"), Connection(), clean=False, expiry_s=60)
    assert second.ended


def test_one_client_may_connect_so_often_and_then_seldom() -> None:
    now = [0.0]
    known = Sessions(None, clock=lambda: now[0])
    assert [known.allows(("p", "a")) for _ in range(BURST + 1)] == [True] * BURST + [False]
    assert known.allows(("p", "b"))
    now[0] += 0.1
    assert [known.allows(("p", "a")) for _ in range(2)] == [True, False]
    now[0] -= 1000
    assert not known.allows(("p", "a"))


def test_while_the_disk_is_full_no_file_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST", 10)
    known = Sessions(tmp_path / "sessions")

    def full(_self: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    before = len([*Path("/proc/self/fd").iterdir()])
    for number in range(100):
        comes_and_goes(known, ("p", str(number)))
    assert len([*Path("/proc/self/fd").iterdir()]) == before
    monkeypatch.undo()
    for number in range(100):
        comes_and_goes(known, ("p", str(number)))
    known.close()
    again = Sessions(tmp_path / "sessions")
    assert comes_and_goes(again, ("p", "99"))
    again.close()
