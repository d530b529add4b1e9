"""Bodies of any JSON become points by a jq program; what it cannot do costs one value, however it fails."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.waiting import eventually
from tests.wire.bodies import HOPELESS, POINTS, PUBLISHED_US
from tidemark.errors import MisconfiguredError, UsageError
from tidemark.mapping.mapped import STAGE, MappedDecoder
from tidemark.mapping.program import in_file, program
from tidemark.mapping.runner import AT_ONCE, Runner
from tidemark.net.listen import allow_files
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from tidemark.wire.reasons import Reason

NOW_US = PUBLISHED_US
CPU_S = 0.3
POINT_OF = '{source: .body.id, metric: "m", event_time: 1769860800000, value: .body.v}'


def message(data: bytes, number: int = 0, **attributes: str) -> Message:
    return Message(data, {"project": "p", **attributes}, PUBLISHED_US, str(number))


class Mapped:
    """A mapping, and what it made of messages."""

    def __init__(self, text: str, limits: Limits | None = None) -> None:
        self.decoder = MappedDecoder(program(text, "m.jq", CPU_S), Decoder(limits or Limits()))

    def __call__(self, *bodies: bytes, **attributes: str) -> Columns:
        into = Columns()
        messages = [message(data, number, **attributes) for number, data in enumerate(bodies)]
        self.filtered = self.decoder.decode(messages, into, NOW_US)
        return into


@pytest.fixture
def mapped(request: pytest.FixtureRequest) -> Iterator[Mapped]:
    made = Mapped(getattr(request, "param", POINT_OF))
    yield made
    made.decoder.close()


def of(text: str) -> Any:
    return pytest.mark.parametrize("mapped", [text], indirect=True)


def value(**fields: Any) -> bytes:
    return json.dumps({"id": "a", "v": 1, **fields}).encode()


def told(columns: Columns) -> list[tuple[str, float]]:
    return [(columns.keys[series].source, at) for series, at in zip(columns.series, columns.value, strict=True)]


def letters(columns: Columns) -> list[tuple[str, int, bytes, int]]:
    assert {letter.stage for letter in columns.dead_letters} <= {STAGE}
    return [(letter.reason, letter.position, letter.data, letter.points) for letter in columns.dead_letters]


# the program


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{a: ", "m.jq cannot be compiled: line 1, column 4: syntax error, unexpected end of file."),
        (".body\n| foo(1)", "m.jq cannot be compiled: line 2, column 3: foo/1 is not defined."),
        ("$x", "m.jq cannot be compiled: line 1, column 1: $x is not defined."),
        ('import "x" as x; .', "m.jq cannot be compiled: module not found: x."),
        ('include "x"; .', "m.jq cannot be compiled: module not found: x."),
        ('"\\ud800"', None),
        (
            'module {"body": "parts"}; .',
            'm.jq: its module directive may only be {"body": "whole"} or {"body": "values"}.',
        ),
        (
            'module {"Body": "whole"}; .',
            'm.jq: its module directive may only be {"body": "whole"} or {"body": "values"}.',
        ),
    ],
)
def test_a_mistake_in_the_program_is_one_sentence(text: str, sentence: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        program(text, "m.jq")
    assert "\n" not in str(refused.value)
    assert sentence is None or str(refused.value) == sentence


def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match=r"^The mapping \S+ cannot be read: No such file or directory\.$"):
        in_file(str(tmp_path / "none.jq"))
    with pytest.raises(UsageError, match="Is a directory"):
        in_file(str(tmp_path))
    (tmp_path / "latin.jq").write_bytes("# é\n.".encode("latin-1"))
    with pytest.raises(UsageError, match=r"is no UTF-8: byte 2\.$"):
        in_file(str(tmp_path / "latin.jq"))


# values


@pytest.mark.parametrize(
    "body",
    [
        b'[{"id":"a","v":1},{"id":"b","v":2}]',
        b'{"id":"a","v":1}\n{"id":"b","v":2}',
        b'\n{"id":"a","v":1}\r\n\r\n{"id":"b","v":2}\n',
        b'{"id":"a","v":1}{"id":"b","v":2}',
        b'\xef\xbb\xbf[{"id":"a","v":1},\n {"id":"b","v":2}]',
        '{"id":"a","v":1}\n{"id":"b","v":2}'.encode("utf-16"),
    ],
)
def test_a_body_is_mapped_value_by_value(mapped: Mapped, body: bytes) -> None:
    assert told(mapped(body)) == [("a", 1), ("b", 2)]
    assert told(mapped(gzip.compress(body), content_encoding="gzip")) == [("a", 1), ("b", 2)]


@of(
    'module {"body": "whole"}; .body | .[0].bn as $bn | .[] | {source: $bn, metric: .n, event_time: 1769860800000, value: .v}'
)
def test_an_array_is_one_value_where_the_program_says_so(mapped: Mapped) -> None:
    assert told(mapped(b'[{"bn":"a","n":"x","v":1},{"n":"y","v":2}]')) == [("a", 1), ("a", 2)]
    found = mapped(b'[{"bn":"a"')
    assert letters(found) == [(Reason.NOT_JSON, -1, b'[{"bn":"a"', 1)]


@of(
    '[.attributes.topic, .publish_time, .message_id, (.body | tojson)] | {source: join(" "), metric: "m", event_time: 1769860800000, value: 1}'
)
def test_it_sees_the_message(mapped: Mapped) -> None:
    assert told(mapped(b"1.5", topic="a/b")) == [("a/b 2026-01-31T12:00:10.000000Z 0 1.5", 1)]


@of("empty")
def test_no_output_is_filtered_and_no_dead_letter(mapped: Mapped) -> None:
    found = mapped(b"[1,2]", b"3")
    assert (len(found.series), found.dead_letters, mapped.filtered) == (0, [], 3)


@of('{source: "s", points: [.body[] | {metric: "m", event_time: 1769860800000, value: .}]}')
def test_an_output_may_be_a_batch_and_one_bad_point_costs_itself(mapped: Mapped) -> None:
    body = b'[[1,"x",3]]'
    found = mapped(body)
    assert told(found) == [("s", 1), ("s", 3)]
    assert letters(found) == [(Reason.BAD_VALUE, 0, b'[1,"x",3]', 1)]
    assert found.dead_letters[0].detail.startswith("output 1: ")


@of('.body[] | {source: "s", metric: "m", event_time: 1769860800000, value: .}')
def test_of_several_outputs_the_good_ones_are_kept(mapped: Mapped) -> None:
    found = mapped(b'[[1,1e200,3,"x"],[4]]')
    assert told(found) == [("s", 1), ("s", 3), ("s", 4)]
    assert letters(found) == [(Reason.BAD_VALUE, 0, b'[1,1e200,3,"x"]', 2)]
    assert found.dead_letters[0].detail.startswith("output 2: ")


def test_a_bad_value_costs_itself(mapped: Mapped) -> None:
    found = mapped(b'{"id":"a","v":1}\nnonsense\n{"id":"b","v":2}\n3\n{"id":"c","v":3}')
    assert told(found) == [("a", 1), ("b", 2), ("c", 3)]
    assert letters(found) == [
        (Reason.NOT_JSON, 1, b"nonsense", 1),
        (Reason.MAPPING_FAILED, 3, b"3", 1),
    ]
    assert found.dead_letters[1].detail == 'Cannot index number with string ("id")'


@of('if .body.id == "bad" then error("no \\(.body.id)s here") else ' + POINT_OF + " end")
def test_what_the_program_says_is_told(mapped: Mapped) -> None:
    found = mapped(value(), value(id="bad"), value(id="b"))
    assert told(found) == [("a", 1), ("b", 1)]
    assert [letter.detail for letter in found.dead_letters] == ["no bads here"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [(b"", Reason.EMPTY_MESSAGE), (b" \n", Reason.EMPTY_MESSAGE), (b"x" * 2000, Reason.MESSAGE_TOO_LARGE)],
)
def test_what_has_no_values_is_one_dead_letter(body: bytes, reason: Reason) -> None:
    mapped = Mapped(POINT_OF, Limits(max_message_bytes=1024))  # no process is begun
    assert letters(mapped(body)) == [(reason, -1, body, 1)]


@of('null, true, "x", 1, [], {}, [[]], nan, infinite')
def test_outputs_that_are_no_points_are_refused(mapped: Mapped) -> None:
    found = mapped(b"1")
    assert len(found.series) == 0
    assert [(at, data) for _, at, data, _ in letters(found)] == [(0, b"1")]


@of(".body")
@pytest.mark.parametrize(
    ("family", "size"), [(family, size) for family in {**HOPELESS, **POINTS} for size in (200, 100_000)]
)
def test_whatever_a_body_is_what_comes_out_is_what_comes_of_it_unmapped(mapped: Mapped, family: str, size: int) -> None:
    body = {**HOPELESS, **POINTS}[family](size)
    found, without = mapped(body), Columns()
    Decoder().decode(message(body), without, NOW_US)
    assert told(found) == told(without)
    assert bool(found.dead_letters) == bool(without.dead_letters)
    kept = sum(len(letter.data) + len(letter.detail) for letter in found.dead_letters)
    assert kept <= 2 * len(body) + (64 << 10)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "v", "points", "é"]), inner),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def objects() -> Iterator[MappedDecoder]:
    made = MappedDecoder(
        program(f'if (.body | type) == "object" then {POINT_OF} else empty end', "m.jq"), Decoder(Limits())
    )
    yield made
    made.close()


@settings(max_examples=200, deadline=None)
@given(st.lists(ANYTHING, min_size=1, max_size=5))
def test_each_value_is_a_point_filtered_or_a_dead_letter(objects: MappedDecoder, values: list[Any]) -> None:
    found = Columns()
    filtered = objects.decode([message(json.dumps(values).encode())], found, NOW_US)
    assert len(found.series) + filtered + sum(letter.points for letter in found.dead_letters) == len(values)
    assert filtered == sum(not isinstance(value, dict) for value in values)


# programs that do not end, or want too much

ENDLESS = """
def endless: endless; def deep: 1 + deep;
(if .body.v == 2 then deep elif .body.v == 3 then endless elif .body.v == 4 then [range(1e9)] else 1 end) as $one | """


@of(ENDLESS + POINT_OF)
def test_one_that_does_not_end_is_stopped_and_the_others_go_on(mapped: Mapped) -> None:
    began = time.monotonic()
    found = mapped(*(value(id=str(number), v=v) for number, v in enumerate([1, 3, 1, 2, 1, 4, 1])))
    assert [source for source, _ in told(found)] == ["0", "2", "4", "6"]
    assert [(letter.message_id, letter.reason) for letter in found.dead_letters] == [
        (number, Reason.MAPPING_FAILED) for number in "135"
    ]
    assert found.dead_letters[0].detail == "it took more than 0.3 s"
    assert time.monotonic() - began < 20


def test_one_that_wants_too_much_memory_is_stopped() -> None:
    with Runner(program("def deep: 1 + deep; if .body == 1 then deep else .body end", "m.jq", 60), 1000) as runner:
        one, other = runner.run([b'{"body":1}', b'{"body":2}'])
    assert (one.failed, other.outputs) == ("it needed more than 512 MiB of memory", b"2")


@of(
    '.body.text | test("^(a+)+$") | {source: "s", metric: "m", event_time: 1769860800000, value: (if . then 1 else 0 end)}'
)
def test_a_pattern_that_takes_for_ever_is_stopped(mapped: Mapped) -> None:
    found = mapped(value(text="aaa"), value(text="a" * 40 + "b"), value(text="b"))
    assert [at for _, at in told(found)] + [letter.points for letter in found.dead_letters] == [1, 0, 1]


@of('range(.body.v) | {source: ("s" * 100), metric: "m", event_time: 1769860800000, value: .}')
def test_outputs_are_bounded(mapped: Mapped) -> None:
    mapped.decoder._runner._output_bytes = 4096
    found = mapped(value(v=3), value(v=1000), value(v=2))
    assert len(found.series) == 5
    assert [letter.detail for letter in found.dead_letters] == ["its outputs have more than 4096 bytes"]


@of(
    'if .body == 1 then halt elif .body == 2 then "no" | halt_error elif .body == 3 then "no" | halt_error(5) else empty end'
)
def test_a_program_that_halts_has_failed_and_filters_nothing(mapped: Mapped) -> None:
    found = mapped(b"1 2 3 4")
    assert [letter.detail for letter in found.dead_letters] == ["it halts", "no", "no"]
    assert mapped.filtered == 1


@of('env, $ENV | tojson | {source: ., metric: "m", event_time: 1769860800000, value: 1}')
def test_it_sees_nothing_of_the_environment(mapped: Mapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMARK_DATABASE_URL", "postgresql://u:secret@h/d")
    assert {source for source, _ in told(mapped(b"1"))} <= {"{}", '{"LC_CTYPE":"C.UTF-8"}'}


@of(
    '[inputs], input_filename, (try input catch .) | tojson | {source: ., metric: "m", event_time: 1769860800000, value: 1}'
)
def test_it_sees_nothing_of_other_values(mapped: Mapped) -> None:
    found = mapped(b"1", b"2")
    assert {source for source, _ in told(found)} == {"[]", "null", '"break"'}


def test_its_process_may_die(mapped: Mapped) -> None:
    assert len(mapped(value()).series) == 1
    process = mapped.decoder._runner._process
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: process.poll() is not None)
    assert told(mapped(*[value()] * 3)) == [("a", 1)] * 3


def test_one_that_ends_its_process_for_no_known_reason_costs_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system has no memory left."""
    with Runner(program("if .body == 3 then def f: f; f else .body end", "m.jq", CPU_S), 1000) as runner:
        monkeypatch.setattr(runner, "_why", lambda _process: None)
        outcomes = runner.run([b'{"body":%d}' % number for number in range(6)])
    assert [outcome.outputs for outcome in outcomes] == [b"0", b"1", b"2", b"", b"4", b"5"]
    assert outcomes[3].failed == "jq ended by itself, twice"


def test_where_jq_cannot_run_nothing_becomes_a_dead_letter(mapped: Mapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemark.mapping.runner.sys.executable", "/bin/false")
    with pytest.raises(MisconfiguredError, match="jq cannot be run"):
        mapped(value())
    monkeypatch.setattr("tidemark.mapping.runner.sys.executable", "/nowhere/python")
    with pytest.raises(MisconfiguredError, match="cannot be started"):
        mapped(value())
    monkeypatch.undo()
    assert len(mapped(value()).series) == 1


def test_its_files_may_have_large_numbers(mapped: Mapped) -> None:
    """As beside thousands of connections."""
    allow_files(2000)
    with contextlib.ExitStack() as files:
        for _ in range(1100):
            files.enter_context(open(os.devnull, "rb"))  # noqa: PTH123
        assert told(mapped(value())) == [("a", 1)]


def test_many_values_and_large_ones_come_back_in_their_order(mapped: Mapped) -> None:
    sizes = [0, 10, 70_000, 3, 1 << 20, 2, 300_000]
    bodies = [value(v=number, text="x" * sizes[number % 7]) for number in range(40)] + [
        b"[" + b",".join(value(v=number) for number in range(40, 3 * AT_ONCE)) + b"]"
    ]
    assert [at for _, at in told(mapped(*bodies))] == list(range(3 * AT_ONCE))


def test_the_end_of_the_program_ends_its_process(mapped: Mapped) -> None:
    mapped(value())
    process = mapped.decoder._runner._process
    mapped.decoder.close()
    assert process.poll() is not None
