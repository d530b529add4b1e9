"""Topics and payloads of devices: what they mean, and that nothing else than a refusal comes of those that mean nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tidemark.edge.contract import BAD_TOPIC, FORBIDDEN
from tidemark.edge.tokens import Grant
from tidemark.edge.topics import Body, RefusedMessageError, Route, body, route
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.message import EPOCH, LAST_EVENT_TIME, LEAST_US, Message
from tidemark.wire.reasons import Reason

GRANT: Final = Grant("cams", frozenset({"write"}))
NOW_US: Final = 1_769_860_800_123_456
STATED_MS: Final = 1_769_860_000_500
STATED_US: Final = STATED_MS * 1000
METRIC: Final = route("tidemark/cams/gateway-7/fps", GRANT)
SOURCE: Final = route("tidemark/cams/gateway-7", GRANT)
PROJECT: Final = route("tidemark/cams", GRANT)


class Clock:
    """Says nothing twice, and knows what it has said."""

    def __init__(self) -> None:
        self.said: list[int] = []

    def __call__(self) -> int:
        self.said.append(NOW_US + len(self.said))
        return self.said[-1]


def decoded(text: bytes) -> Columns:
    into = Columns()
    Decoder().decode(Message(text, {"project": "cams"}, NOW_US, ""), into, NOW_US)
    return into


def points(made: Body) -> list[tuple[str, str, int, float]]:
    """All that is in a body of which nothing is refused: source, metric, time, value."""
    found = decoded(made.text)
    assert found.dead_letters == []
    keys = [found.keys[series] for series in found.series]
    assert {key.project for key in keys} == {"cams"}
    return [
        (key.source, key.metric, at, value) for key, at, value in zip(keys, found.event_time, found.value, strict=True)
    ]


def refusal(to: Route, payload: bytes) -> str:
    """Why nothing of a message is taken, by whoever refuses it."""
    try:
        made = body(to, payload, Clock())
    except RefusedMessageError as refused:
        return refused.reason
    found = decoded(made.text)
    assert not found.series
    return found.dead_letters[0].reason


def shown(of: object) -> str:
    return repr(of)[:60]


# topics


@pytest.mark.parametrize(
    ("topic", "source", "metric"),
    [
        ("tidemark/cams", None, None),
        ("tidemark/cams/gateway-7", "gateway-7", None),
        ("tidemark/cams/gateway-7/fps", "gateway-7", "fps"),
        ("tidemark/cams/gateway-7/hall/2/fps", "gateway-7", "hall/2/fps"),
        ("tidemark/cams/gateway-7/fps/", "gateway-7", "fps/"),
        ('tidemark/cams/say "hi"\\/größe\t', 'say "hi"\\', "größe\t"),
        ("tidemark/cams/ / ", " ", " "),
        ("tidemark/cams/tidemark/cams", "tidemark", "cams"),
    ],
)
def test_a_topic_says_source_and_metric(topic: str, source: str | None, metric: str | None) -> None:
    found = route(topic, GRANT)
    assert [one and json.loads(one) for one in found] == [source or b"", metric or b""]


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("", BAD_TOPIC),
        ("/", BAD_TOPIC),
        ("tidemark", BAD_TOPIC),
        ("tidemark/", BAD_TOPIC),
        ("/tidemark/cams", BAD_TOPIC),
        ("Tidemark/cams", BAD_TOPIC),
        ("tidemarks/cams/s/m", BAD_TOPIC),
        ("tidemark//s/m", BAD_TOPIC),
        ("tidemark/cams/", BAD_TOPIC),
        ("tidemark/cams//", BAD_TOPIC),
        ("tidemark/cams//m", BAD_TOPIC),
        ("tidemark/cams/s/", BAD_TOPIC),
        ("$SYS/broker", BAD_TOPIC),
        ("tidemark/other", FORBIDDEN),
        ("tidemark/cams2/s/m", FORBIDDEN),
        ("tidemark/CAMS/s/m", FORBIDDEN),
        ("tidemark/cams /s", FORBIDDEN),
    ],
)
def test_a_topic_that_means_nothing_to_its_sender_is_refused(topic: str, reason: str) -> None:
    with pytest.raises(RefusedMessageError) as caught:
        route(topic, GRANT)
    assert caught.value.reason == reason


def test_who_may_send_one_source_says_no_other() -> None:
    grant = Grant("cams", frozenset({"write"}), source="gateway-7")
    assert route("tidemark/cams/gateway-7", grant) == SOURCE
    assert route("tidemark/cams/gateway-7/fps", grant) == METRIC
    assert route("tidemark/cams", grant) == PROJECT
    for other in ("gateway-8", "gateway-77", "gateway-", "Gateway-7", " gateway-7"):
        with pytest.raises(RefusedMessageError) as caught:
            route(f"tidemark/cams/{other}/fps", grant)
        assert caught.value.reason == FORBIDDEN


# one value


VALUES: Final[list[tuple[bytes, float]]] = [
    (b"24.5", 24.5),
    (b" 24.5\n", 24.5),
    (b"\t24.5\r\n", 24.5),
    (b"0", 0),
    (b"-0", 0),
    (b"+1", 1),
    (b"-1", -1),
    (b".5", 0.5),
    (b"-.5", -0.5),
    (b"1.", 1),
    (b"007", 7),
    (b"00.50", 0.5),
    (b"0e5", 0),
    (b"1e3", 1000),
    (b"1E+3", 1000),
    (b"-2.5e-3", -0.0025),
    (b"1e-400", 0),
    (b"0.1", 0.1),
    (b"9007199254740993", 9007199254740992),
    (b"18446744073709551616", 2.0**64),
    (b"123456789012345678901234567890", 123456789012345678901234567890.0),
    (b"+" + b"1" * 100, float("1" * 100)),
    (b"0" * 200_000 + b"7", 7),
    (b"1." + b"0" * 200_000, 1),
    (b"ON", 1),
    (b"on", 1),
    (b" On\n", 1),
    (b"off", 0),
    (b"OFF", 0),
    (b"true", 1),
    (b"True", 1),
    (b"FALSE", 0),
    (b'{"value":24.5}', 24.5),
    (b'{"value":"ON"}', 1),
    (b'{"value":" off "}', 0),
    (b'{"value":true}', 1),
    (b'{"value":false,"unit":"C","nested":{"a":[1,{}]}}', 0),
    (b'{"value":18446744073709551616}', 2.0**64),
    (b'{"value":-9223372036854775809}', -(2.0**63)),
    (b'{"value":1,"value":2}', 2),
    (b'\n{ "value" : 1 }\n', 1),
    (b'{"value":1,"event_time":null}', 1),
    (b'{"value":1,"attributes":{"id":1000000000000000000000000}}', 1),
    (b'{"value":1,"source":"other","metric":"other"}', 1),
]


@pytest.mark.parametrize(("payload", "value"), VALUES, ids=shown)
def test_a_payload_is_a_value_of_now(payload: bytes, value: float) -> None:
    made = body(METRIC, payload, Clock())
    assert points(made) == [("gateway-7", "fps", NOW_US, value)]
    assert made.stamped == 1
    assert b"\n" not in made.text


@pytest.mark.parametrize(
    "stated",
    [b"1769860000500", b'"2026-01-31T11:46:40.5Z"', b'"2026-01-31T13:46:40.500000+02:00"'],
)
def test_a_time_that_is_stated_is_the_points(stated: bytes) -> None:
    made = body(METRIC, b'{"value":true,"event_time":%b}' % stated, Clock())
    assert points(made) == [("gateway-7", "fps", STATED_US, 1)]
    assert made.stamped == 0


NO_VALUES: Final[list[tuple[bytes, str]]] = [
    (b"", Reason.EMPTY_MESSAGE),
    (b" \n", Reason.EMPTY_MESSAGE),
    (b"nan", Reason.NOT_JSON),
    (b"NaN", Reason.NOT_JSON),
    (b"inf", Reason.NOT_JSON),
    (b"-Infinity", Reason.NOT_JSON),
    (b"1_000", Reason.NOT_JSON),
    (b"0x10", Reason.NOT_JSON),
    (b"24,5", Reason.NOT_JSON),
    (b"24.5 C", Reason.NOT_JSON),
    (b"1 2", Reason.NOT_JSON),
    (b"1\0", Reason.NOT_JSON),
    (b"--1", Reason.NOT_JSON),
    (b"+", Reason.NOT_JSON),
    (b".", Reason.NOT_JSON),
    (b"1e", Reason.NOT_JSON),
    (b"e5", Reason.NOT_JSON),
    ("²".encode(), Reason.NOT_JSON),
    ("٣".encode(), Reason.NOT_JSON),
    ("24.5\u00a0".encode(), Reason.NOT_JSON),
    (b"\xff\xfe1\x00", Reason.NOT_JSON),
    (b"onn", Reason.NOT_JSON),
    (b"yes", Reason.NOT_JSON),
    (b"{", Reason.NOT_JSON),
    (b'{"value":1', Reason.NOT_JSON),
    (b'{"value":1}{"value":2}', Reason.NOT_JSON),
    (b'{"value":1}\n{"value":2}', Reason.NOT_JSON),
    (b'{"value":NaN}', Reason.NOT_JSON),
    (b'{"value":"\\ud800"}', Reason.NOT_JSON),
    (b'{"value":1,"\\udfff":1}', Reason.NOT_JSON),
    (b'{"value":1,"x":"\xff"}', Reason.NOT_JSON),
    (b'{"value":1,"x":"a\0b"}', Reason.NOT_JSON),
    (b"[" * 100_000, Reason.NOT_JSON),
    (b'{"value":' * 100_000 + b"1" + b"}" * 100_000, Reason.NOT_JSON),
    (b"1" * 300_000 + b"x", Reason.BAD_VALUE),
    (b"1." + b"1" * 300_000 + b"x", Reason.NOT_JSON),
    (b"1e" + b"1" * 300_000 + b"x", Reason.BAD_VALUE),
    (b" " * 300_000 + b"x", Reason.NOT_JSON),
    (b"1" + b" " * 300_000 + b"x", Reason.NOT_JSON),
    (b"{}", Reason.BAD_VALUE),
    (b"[]", Reason.BAD_VALUE),
    (b"[1,2]", Reason.BAD_VALUE),
    (b"null", Reason.BAD_VALUE),
    (b'"ON"', Reason.BAD_VALUE),
    (b'"24.5"', Reason.BAD_VALUE),
    (b'{"temperature":21.5}', Reason.BAD_VALUE),
    (b'{"Value":1}', Reason.BAD_VALUE),
    (b'{"value":null}', Reason.BAD_VALUE),
    (b'{"value":"24.5"}', Reason.BAD_VALUE),
    (b'{"value":"warm"}', Reason.BAD_VALUE),
    (b'{"value":[1]}', Reason.BAD_VALUE),
    (b'{"value":{"value":1}}', Reason.BAD_VALUE),
    (b'{"value":1e400}', Reason.BAD_VALUE),
    (b'{"value":1e200}', Reason.BAD_VALUE),
    (b'{"value":1%b}' % (b"0" * 400), Reason.BAD_VALUE),
    (b'{"value":-1%b}' % (b"0" * 5000), Reason.BAD_VALUE),
    (b"1e400", Reason.BAD_VALUE),
    (b"-1e400", Reason.BAD_VALUE),
    (b"+1e200", Reason.BAD_VALUE),
    (b"1" + b"0" * 400, Reason.BAD_VALUE),
    (b"-1" + b"0" * 5000, Reason.BAD_VALUE),
    (b'{"value":1,"event_time":1769860000}', Reason.BAD_EVENT_TIME),
    (b'{"value":1,"event_time":"now"}', Reason.BAD_EVENT_TIME),
    (b'{"value":1,"event_time":true}', Reason.BAD_EVENT_TIME),
    (b'{"value":1,"event_time":[]}', Reason.BAD_EVENT_TIME),
    (b'{"value":1,"event_time":"2026-01-31T11:46:40"}', Reason.BAD_EVENT_TIME),
    (b'{"value":1,"event_time":1%b}' % (b"0" * 400), Reason.BAD_EVENT_TIME),
    (b'{"value":1,"event_time":1769950000000}', Reason.EVENT_TIME_IN_FUTURE),
    (b'{"value":1,"points":[{"metric":"m","event_time":1769860000500,"value":1}]}', Reason.WRONG_SHAPE),
    (b'{"value":1,"attributes":5}', Reason.BAD_ATTRIBUTES),
]


@pytest.mark.parametrize(("payload", "reason"), NO_VALUES, ids=shown)
def test_a_payload_that_is_no_value_is_refused(payload: bytes, reason: str) -> None:
    assert refusal(METRIC, payload) == reason


NUMBERS: Final = st.floats(-1e149, 1e149) | st.integers(-(10**40), 10**40)
WRITTEN: Final[dict[str, Callable[[Any], str]]] = {
    "": str,
    "plain": lambda number: f"{number:f}",
    "exponent": lambda number: f"{number:E}",
    "short": lambda number: f"{number:.3g}",
    "signed": lambda number: f"{number:+}",
    "zeros": lambda number: f"{number:050}",
}


@given(NUMBERS, st.sampled_from(sorted(WRITTEN)), st.text(" \t\r\n", max_size=3), st.text(" \t\r\n", max_size=3))
def test_a_number_is_itself_however_it_is_written(number: float, how: str, before: str, after: str) -> None:
    written = WRITTEN[how](number)
    made = body(METRIC, f"{before}{written}{after}".encode(), Clock())
    assert points(made) == [("gateway-7", "fps", NOW_US, float(written))]
    stated = {"value": number, "event_time": STATED_MS, "attributes": {"as": written}}
    assert points(body(METRIC, json.dumps(stated).encode(), Clock())) == [
        ("gateway-7", "fps", STATED_US, float(number))
    ]


# points of a source


POINTS: Final[list[tuple[bytes, list[tuple[str, int | None, float]]]]] = [
    (b'{"temperature":21.5,"humidity":40}', [("temperature", 0, 21.5), ("humidity", 0, 40)]),
    (
        b'{"pump":"ON","valve":"off","open":true,"full":false}',
        [("pump", 0, 1), ("valve", 0, 0), ("open", 0, 1), ("full", 0, 0)],
    ),
    (b'{"event_time":1769860000500,"a":1,"b":2}', [("a", None, 1), ("b", None, 2)]),
    (b'{"a":1,"event_time":null}', [("a", 0, 1)]),
    (b'{"source":"gateway-7","a":1}', [("a", 0, 1)]),
    (b'{"project":"cams","source":"gateway-7","a":1,"b":2}', [("a", 0, 1), ("b", 0, 2)]),
    (b'{"value":1}', [("value", 0, 1)]),
    (b'{"metric":1,"points":2,"attributes":3}', [("metric", 0, 1), ("points", 0, 2), ("attributes", 0, 3)]),
    (b'{"a":18446744073709551616}', [("a", 0, 2.0**64)]),
    (b'{"a":1,"a":2}', [("a", 0, 2)]),
    (b'[{"a":1},{"a":2}]', [("a", 0, 1), ("a", 1, 2)]),
    (b'{"a":1}\n{"a":2}\n', [("a", 0, 1), ("a", 1, 2)]),
    (b'\r\n{"a":1}\r\n\r\n{"a":2}', [("a", 0, 1), ("a", 1, 2)]),
    (b'{\n  "a": 1,\n  "b": 2\n}\n', [("a", 0, 1), ("b", 0, 2)]),
    (b'{"metric":"m","value":1}', [("m", 0, 1)]),
    (b'{"metric":"m","value":"ON","event_time":"2026-01-31T11:46:40.5Z"}', [("m", None, 1)]),
    (b'{"source":"gateway-7","metric":"m","value":1,"event_time":1769860000500}', [("m", None, 1)]),
    (b'[{"metric":"m","value":1},{"metric":"m","value":2}]', [("m", 0, 1), ("m", 1, 2)]),
    (b'{"points":[{"metric":"m","value":1},{"metric":"n","value":2}]}', [("m", 0, 1), ("n", 1, 2)]),
    (
        b'{"source":"gateway-7","points":[{"metric":"m","value":1,"event_time":1769860000500},{"metric":"m","value":2}]}',
        [("m", None, 1), ("m", 0, 2)],
    ),
    (
        b'{"points":[{"metric":"m","value":1}]}\n{"a":2}\n{"metric":"m","value":3}',
        [("m", 0, 1), ("a", 1, 2), ("m", 2, 3)],
    ),
]


@pytest.mark.parametrize(("payload", "expected"), POINTS, ids=shown)
def test_a_payload_is_points_of_its_topics_source(
    payload: bytes, expected: list[tuple[str, int | None, float]]
) -> None:
    made = body(SOURCE, payload, Clock())
    assert points(made) == [
        ("gateway-7", metric, STATED_US if tick is None else NOW_US + tick, value) for metric, tick, value in expected
    ]
    assert made.stamped == sum(tick is not None for _, tick, _ in expected)


NO_POINTS: Final[list[tuple[bytes, str]]] = [
    (b"", Reason.EMPTY_MESSAGE),
    (b"\n\n", Reason.EMPTY_MESSAGE),
    (b"[]", Reason.EMPTY_MESSAGE),
    (b"{}", Reason.EMPTY_MESSAGE),
    (b'{"event_time":1769860000500}', Reason.EMPTY_MESSAGE),
    (b'{"source":"gateway-7"}', Reason.EMPTY_MESSAGE),
    (b'{"points":[]}', Reason.EMPTY_MESSAGE),
    (b"24.5", Reason.WRONG_SHAPE),
    (b"null", Reason.WRONG_SHAPE),
    (b"true", Reason.WRONG_SHAPE),
    (b'"ON"', Reason.WRONG_SHAPE),
    (b'[{"a":1},5]', Reason.WRONG_SHAPE),
    (b'[[{"a":1}]]', Reason.WRONG_SHAPE),
    (b'{"a":1}\n[{"source":"other","metric":"m","value":1}]', Reason.WRONG_SHAPE),
    (b"ON", Reason.NOT_JSON),
    (b"a=1", Reason.NOT_JSON),
    (b'{"a":1}{"b":2}', Reason.NOT_JSON),
    (b'{"a":1}\n{"b":', Reason.NOT_JSON),
    (b'{"a":NaN}', Reason.NOT_JSON),
    (b'{"\\ud800":1}', Reason.NOT_JSON),
    (b'{"a":"\\ud800"}', Reason.NOT_JSON),
    (b'{"a":"\xff"}', Reason.NOT_JSON),
    (b"[" * 100_000, Reason.NOT_JSON),
    (b'{"a":' * 100_000, Reason.NOT_JSON),
    (b'{"a":1e400}', Reason.BAD_VALUE),
    (b'{"a":1%b}' % (b"0" * 400), Reason.BAD_VALUE),
    (b'{"a":"warm"}', Reason.BAD_VALUE),
    (b'{"a":null}', Reason.BAD_VALUE),
    (b'{"a":{"b":1}}', Reason.BAD_VALUE),
    (b'{"metric":"m"}', Reason.BAD_VALUE),
    (b'{"":1}', Reason.BAD_NAME),
    (b'{"a\\u0000":1}', Reason.BAD_NAME),
    (b'{"project":5,"a":1}', Reason.BAD_NAME),
    (b'{"event_time":1769860000,"a":1}', Reason.BAD_EVENT_TIME),
    (b'{"event_time":{},"a":1}', Reason.BAD_EVENT_TIME),
    (b'{"event_time":1769860000500,"points":[{"metric":"m","value":1}]}', Reason.WRONG_SHAPE),
    (b'{"points":[{"source":"other","metric":"m","value":1}]}', Reason.WRONG_SHAPE),
    (b'{"points":[{"points":[{"metric":"m","value":1}]}]}', Reason.MISSING_FIELD),
    (b'{"points":[5]}', Reason.WRONG_SHAPE),
    (b'{"source":"other","a":1}', FORBIDDEN),
    (b'{"source":"Gateway-7","a":1}', FORBIDDEN),
    (b'{"source":null,"metric":"m","value":1}', FORBIDDEN),
    (b'{"source":["gateway-7"],"points":[{"metric":"m","value":1}]}', FORBIDDEN),
    (b'[{"a":1},{"source":"other","a":1}]', FORBIDDEN),
    (b'{"source":"gateway-7","source":"other","a":1}', FORBIDDEN),
]


@pytest.mark.parametrize(("payload", "reason"), NO_POINTS, ids=shown)
def test_a_payload_that_is_no_points_of_its_topics_source_is_refused(payload: bytes, reason: str) -> None:
    assert refusal(SOURCE, payload) == reason


def test_of_a_flat_object_what_is_no_number_is_refused_alone() -> None:
    payload = b'{"model":"X-1","a":1,"gps":{"lat":1},"b":2,"none":null,"list":[],"big":1%b,"c":"on"}' % (b"0" * 400)
    made = body(SOURCE, payload, Clock())
    found = decoded(made.text)
    assert [found.keys[series].metric for series in found.series] == ["a", "b", "c"]
    assert found.value.tolist() == [1, 2, 1]
    assert found.event_time.tolist() == [NOW_US] * 3
    assert [letter.reason for letter in found.dead_letters] == [Reason.BAD_VALUE] * 5
    assert made.stamped == 8


NAMES: Final = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc",), exclude_characters="{"), min_size=1, max_size=8
)
RESERVED: Final = ("project", "source", "metric", "points", "event_time")


@given(
    NAMES.filter(lambda name: "/" not in name),
    st.dictionaries(NAMES.filter(lambda name: name not in RESERVED), NUMBERS | st.booleans(), min_size=1, max_size=5),
    st.none() | st.integers(STATED_MS, STATED_MS + 1000),
    st.booleans(),
)
def test_a_flat_object_is_a_point_a_name(source: str, values: dict[str, float], at: int | None, named: bool) -> None:
    sent: dict[str, object] = {**values}
    if at is not None:
        sent["event_time"] = at
    if named:
        sent["source"] = source
    for ascii_only in (False, True):
        text = json.dumps(sent, ensure_ascii=ascii_only).encode()
        made = body(route(f"tidemark/cams/{source}", GRANT), text, Clock())
        assert points(made) == [
            (source, name, NOW_US if at is None else at * 1000, float(value)) for name, value in values.items()
        ]
        assert made.stamped == (len(values) if at is None else 0)


@given(st.lists(st.tuples(NAMES, NUMBERS, st.none() | st.just(STATED_MS)), min_size=1, max_size=5), st.integers(0, 2))
def test_points_of_any_form_are_each_a_point(some: list[tuple[str, float, int | None]], form: int) -> None:
    each = [
        {"metric": metric, "value": value} | ({} if at is None else {"event_time": at}) for metric, value, at in some
    ]
    whole = [json.dumps(each), "\n".join(map(json.dumps, each)), json.dumps({"points": each})][form]
    clock = Clock()
    made = body(SOURCE, whole.encode(), clock)
    ticks = iter(clock.said)
    assert points(made) == [
        ("gateway-7", metric, next(ticks) if at is None else STATED_US, float(value)) for metric, value, at in some
    ]
    assert made.stamped == len(clock.said) == sum(at is None for _, _, at in some)


# a body of the contract


@pytest.mark.parametrize(
    "payload", [b'{"source":"s","metric":"m","event_time":1769860000500,"value":1}', b"", b"ON", b"\xff"]
)
def test_a_topic_without_a_source_leaves_the_body_as_it_is(payload: bytes) -> None:
    assert body(PROJECT, b" \n" + payload + b"\n", Clock()) == (payload, 0)


# whatever comes

LEAVES: Final = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(("ON", "off", "gateway-7", "other", "cams", "\ud800", "2026-01-31T11:46:40.5Z"))
    | st.sampled_from((STATED_MS, 1e400, 1e300, 2**64, -(2**63) - 1))
)
KEYS: Final = st.sampled_from((*RESERVED, "value", "attributes", "a", "\udfff", "")) | st.text(max_size=4)
JSON: Final = st.recursive(
    LEAVES, lambda some: st.lists(some, max_size=4) | st.dictionaries(KEYS, some, max_size=5), max_leaves=12
)
LIKELY: Final = st.fixed_dictionaries(
    {},
    optional={
        "source": st.just("gateway-7") | LEAVES,
        "project": st.just("cams") | LEAVES,
        "metric": st.just("m") | LEAVES,
        "value": st.just(1) | LEAVES,
        "event_time": st.just(STATED_MS) | LEAVES,
        "points": st.lists(
            st.fixed_dictionaries(
                {"metric": st.just("m")}, optional={"value": LEAVES, "event_time": LEAVES, "source": LEAVES}
            )
            | JSON,
            max_size=3,
        )
        | JSON,
        "attributes": JSON,
        "a": LEAVES,
    },
)
TEXTS: Final = st.builds(
    lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(
        "utf-8", "surrogatepass"
    ),
    LIKELY | JSON | st.lists(LIKELY, max_size=3),
    st.booleans(),
    st.sampled_from((None, 1)),
)


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """JSON, one text or several, whole or damaged, or anything."""
    text = draw(st.binary(max_size=20) | TEXTS | st.lists(TEXTS, max_size=3).map(b"\n".join))
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(text)))
        text = (
            text[:at] + draw(st.binary(max_size=2) | st.sampled_from((b"\0", b"\n", b'"', b"}", b","))) + text[at + 1 :]
        )
    return text


TOPICS: Final = st.sampled_from(
    ("tidemark/cams/gateway-7/fps", "tidemark/cams/gateway-7", "tidemark/cams")
) | st.builds(
    "{}/{}/{}".format,
    st.sampled_from(("tidemark", "tidemark/cams", "tidemark/cams/gateway-7")),
    st.sampled_from(("cams", "gateway-7", "")) | st.text(max_size=5),
    st.sampled_from(("fps", "a/b", "")) | st.text(max_size=5),
)


def times(text: bytes) -> list[object]:
    """What objects say and their points, each in its text."""
    found = []
    for line in text.split(b"\n"):
        one = json.loads(line)
        points = one.get("points")
        each = [one, *(points if isinstance(points, list) else ())]
        found += [point["event_time"] for point in each if isinstance(point, dict) and "event_time" in point]
    return found


def meant(topic: str, payload: bytes, clock: Clock) -> tuple[Route, Body] | RefusedMessageError:
    try:
        to = route(topic, GRANT)
        return to, body(to, payload, clock)
    except RefusedMessageError as refused:
        return refused


@given(TOPICS, payloads())
@example("tidemark/cams/gateway-7", b'{"points":[{"metric":"m","value":1,"source":"other"},{"metric":"m","value":1}]}')
@example("tidemark/cams/gateway-7/fps", b'{"value":1,"source":"other","metric":"other"}')
def test_whatever_comes_is_points_of_its_topics_source_or_a_refusal(topic: str, payload: bytes) -> None:
    clock = Clock()
    found = meant(topic, payload, clock)
    if isinstance(found, RefusedMessageError):
        assert found.reason in {*Reason, BAD_TOPIC, FORBIDDEN}
        assert 0 < len(found.detail) < 1000
        return
    to, made = found
    columns = decoded(made.text)
    assert columns.series or columns.dead_letters
    if not to.source:
        assert made == (payload.strip(), 0)
        return
    assert {key.source for key in columns.keys} <= {json.loads(to.source)}
    if to.metric:
        assert {key.metric for key in columns.keys} <= {json.loads(to.metric)}
    said = {stamp(us) for us in clock.said}
    assert made.stamped == sum(isinstance(at, str) and at in said for at in times(made.text))


def stamp(us: int) -> str:
    return (EPOCH + timedelta(microseconds=us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


@given(st.integers(LEAST_US, LAST_EVENT_TIME))
@example(1_769_860_800_000_000)
@example(1_769_860_800_000_001)
@example(1_769_860_799_999_999)
def test_the_time_of_a_stamp_is_the_clocks_to_the_microsecond(us: int) -> None:
    for to, payload in ((METRIC, b"1"), (METRIC, b'{"value":1}'), (SOURCE, b'{"fps":1}')):
        made = body(to, payload, lambda: us)
        assert times(made.text) == [stamp(us)]
        into = Columns()
        Decoder().decode(Message(made.text, {"project": "cams"}, us, ""), into, us)
        assert into.event_time.tolist() == [us]
