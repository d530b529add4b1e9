"""Dead letters are found, listed, counted and shown, and nothing in them does anything to a terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.operate.letters import AT_MS, NOW_US, Store, point, redrive, run, text
from tidemark.operate.dead_letters import ADVICE
from tidemark.wire.block import DeadLetter
from tidemark.wire.limits import Limits
from tidemark.wire.reasons import Reason


def test_there_is_advice_for_every_reason() -> None:
    assert set(ADVICE) == set(Reason)


HOSTILE = [
    b"\x00\x01\x1b[31mred\x1b[0m",
    b"\xff\xfe\xfd{",
    "{\u202e\x9b31m".encode(),
    b'{"project":"cams","source":"a\\u001b]0;title","x":',
    b" " * 8_000_000 + b"{",
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_what_a_sender_wrote_is_shown_and_does_nothing_to_the_terminal(store: Store, capsys: Any, number: int) -> None:
    store.take(HOSTILE[number], Limits(), evil="\x1b[2J")
    key, data = store.rows("SELECT id, data FROM dead_letters")[0]
    for command in (["list"], ["show", str(key)], ["count", "--by=reason,project,stage"]):
        status, said = run(capsys, "dead-letters", *command)
        assert status == 0
        assert not {c for c in said if not c.isprintable()} - {"\n"}
        assert len(said) < 300_000
        status, said = run(capsys, "dead-letters", *command, "--json")
        told = json.loads(said.splitlines()[0])
        assert status == 0
    status, said = run(capsys, "dead-letters", "show", str(key), "--json")
    told = json.loads(said)
    assert (bytes.fromhex(told["hex"]) if "hex" in told else told["text"].encode()) == data
    redrive(capsys)


def test_a_letter_is_shown_with_its_mistake_and_what_to_do(store: Store, capsys: Any) -> None:
    store.take(b'{"project":"cams","source":"a",!"metric":1}', Limits())
    (key,) = store.rows("SELECT id FROM dead_letters")[0]
    _, said = run(capsys, "dead-letters", "show", str(key))
    assert "project        cams" in said
    assert ADVICE[Reason.NOT_JSON] in said
    lines = said.splitlines()
    (mark,) = [at for at, line in enumerate(lines) if line.endswith("^ here")]
    assert lines[mark - 1][lines[mark].index("^")] in '!"'
    status, said = run(capsys, "dead-letters", "show", "999999")
    assert (status, said) == (2, "There is no dead letter 999999.\n")
    status, said = run(capsys, "dead-letters", "count", "--by=size")
    assert status == 2


def marked(said: str) -> str:
    """The text from the mark on."""
    lines = said.splitlines()
    (mark,) = [at for at, line in enumerate(lines) if line.endswith("^ here")]
    return lines[mark - 1][lines[mark].index("^") :]


MARKED = [
    b'{"project":"cams","source":"a","points":[{"metric":"m","event_time":1,"value":1},{"metric":"m",!"value":1}]}',
    b'\xef\xbb\xbf{"source":"a",!"value":1}',
    '{"source":"日本e\u0301\u05d0\u05d1\u200b\ufe0f\u3164é",!"value":1}'.encode(),
    b'{"source":"a","x":"' + "é".encode() * 2_000_000 + b'",!"value":1}',
    b'{"source":"a","x":"' + b"y" * 5_000_000 + b'",!"value":1}',
]


def test_the_mark_is_under_the_mistake_wherever_it_is(store: Store, capsys: Any) -> None:
    for body in MARKED:
        store.take(body, Limits())
        key = store.rows("SELECT id FROM dead_letters ORDER BY first_seen DESC, position DESC LIMIT 1")[0][0]
        _, said = run(capsys, "dead-letters", "show", str(key))
        assert marked(said).startswith('!"value":1}'), said[-300:]
        assert "as hex" not in said


def test_no_mark_is_made_for_a_byte_of_something_else(store: Store, capsys: Any) -> None:
    store.keep(DeadLetter("m", 0, b'{"a": 1}', {}, "mapping", Reason.MAPPING_FAILED, "no (byte 3)", NOW_US))
    key = store.rows("SELECT id FROM dead_letters")[0][0]
    assert "^ here" not in run(capsys, "dead-letters", "show", str(key))[1]


def test_what_cannot_be_seen_is_shown_as_an_escape(store: Store, capsys: Any) -> None:
    store.take('{"a\u200bb\u202ec\u3164d\ufe0fe\x7f\u009b": '.encode(), Limits())
    _, said = run(capsys, "dead-letters", "list")
    assert r'{"a\u200bb\u202ec\u3164d\ufe0fe\x7f\x9b":' in said
    for command in (["list"], ["show", "1"]):
        _, said = run(capsys, "dead-letters", *command, "--json")
        assert said.isascii()  # any terminal can print it, and none obeys it
        assert said.strip().isprintable()
        assert json.loads(said)["text"] == '{"a\u200bb\u202ec\u3164d\ufe0fe\x7f\u009b": '


def test_json_of_many_has_all_of_their_data(store: Store, capsys: Any) -> None:
    sizes = [10, 9_000_000, 5_000_000, 200, 4_000_000]
    for size in sizes:
        store.keep(DeadLetter(f"{size}", -1, b"x" * size, {}, "decode", Reason.NOT_JSON, "no", NOW_US))
    _, said = run(capsys, "dead-letters", "list", "--json")
    assert [len(json.loads(line)["text"]) for line in said.splitlines()] == sizes


CLUMSY = [
    (("dead-letters", "show", "9" * 30), 2, f"There is no dead letter {'9' * 30}."),
    (("dead-letters", "show", "-5"), 2, "There is no dead letter -5."),
    (("dead-letters", "show", "0"), 2, "There is no dead letter 0."),
    (("dead-letters", "list", "--limit=0"), 2, "--limit must be at least 1"),
    (("dead-letters", "list", "--limit=-1"), 2, "--limit must be at least 1"),
    (("dead-letters", "list", f"--limit={'9' * 30}"), 0, "There are none."),
    (("dead-letters", "list", f"--after={'9' * 30}"), 0, "There are none."),
    (("dead-letters", "list", f"--after=-{'9' * 30}"), 0, "There are none."),
    (("dead-letters", "list", "--from=2026-01-02T00:00:00Z", "--to=2026-01-01T00:00:00Z"), 2, "later than --from"),
    (("dead-letters", "count", "--to=9999-12-31T23:59:59-14:00"), 2, "in no year from 1 to 9999"),
    (("dead-letters", "list", "--reason=none"), 2, "not_json"),
    (("dead-letters", "list", "--stage=none"), 2, "write_raw"),
    (("dead-letters", "list", "--series_project=\udcff"), 2, "--series_project is no UTF-8"),
    (("dead-letters", "count", "--by=reason,none"), 2, "--by is of reason, project, stage, not 'none'."),
    (("redrive", "--from=0001-01-01T00:00:00+14:00"), 2, "in no year from 1 to 9999"),
    (("redrive", "--from=2026-01-02T00:00:00Z", "--to=2026-01-02T00:00:00Z"), 2, "later than --from"),
    (("redrive", "--series_project=\udcff"), 2, "--series_project is no UTF-8"),
    (("redrive", f"--limit={'9' * 30}"), 0, "0 dead letters are gone"),
    (
        ("redrive", "--mapping=gs://bucket/m.jq"),
        2,
        "gs://bucket/m.jq cannot be read: only the launch of a pipeline reads",
    ),
    (("redrive", "--mapping=/"), 2, "The mapping / cannot be read: Is a directory."),
    (("mapping", "try", "gs://b/m.jq"), 2, "copy it to this machine"),
    (("delete", "--series_project=cams", "--source=\udcff"), 2, "--source is no UTF-8"),
    (("delete", "--series_project=a", "--from=2026-01-02T00:00:00Z", "--to=2026-01-01T00:00:00Z"), 2, "later than"),
    (("rebuild", "--from=0001-01-01T00:00:00+14:00", "--to=2026-01-01T00:00:00Z"), 2, "in no year"),
    (("status", "--project=\udcff"), 2, "--project is no UTF-8"),
]


def test_a_clumsy_command_line_has_one_sentence(store: Store, capsys: Any) -> None:
    assert store.letters() == []
    for arguments, status, said in CLUMSY:
        found, text = run(capsys, *arguments)
        assert (found, len(text.splitlines())) == (status, 1), (arguments, text)
        assert said in text, arguments


def test_they_are_counted_and_listed_by_page(store: Store, capsys: Any) -> None:
    store.take(text(*(point(event_time=AT_MS + n) for n in range(30))))
    store.take(b"{", Limits())
    _, said = run(capsys, "dead-letters", "count", "--by=project,reason", "--json")
    assert [json.loads(line) for line in said.splitlines()] == [
        {"reason": "bad_name", "project": "cams", "letters": 30, "points": 30},
        {"reason": "not_json", "project": None, "letters": 1, "points": 1},
    ]
    _, said = run(capsys, "dead-letters", "list", "--limit=10", "--json")
    last = json.loads(said.splitlines()[-1])["id"]
    assert len(said.splitlines()) == 10
    _, said = run(capsys, "dead-letters", "list", f"--after={last}")
    assert len(said.splitlines()) == 21
