"""Which series a selector means: as Prometheus has it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemark.query.catalogue import Series
from tidemark.query.problems import ProblemError
from tidemark.query.selectors import Matcher, parse_selector
from tidemark.query.selectors import matching as matching_in_turns
from tidemark.wire.labels import labelled

METRICS = (
    "fps",
    "fps_total",
    "a b/c",
    "größe",
    labelled("fps", {"lens": "wide"}),
    labelled("fps", {"lens": "wide", "codec": "h264"}),
    labelled("fps", {"lens": "tele"}),
    labelled("m", {"path": 'C:\\DIR\n"x"', "empty": ""}),
    labelled("m", {"path": "a{b=},c"}),
    labelled("m", {"ünï.x": "ö"}),
    labelled("m", {"path": "one\ntwo"}),
)
EVERY = [Series(number, f"gw-{number % 3}", metric) for number, metric in enumerate(METRICS)]


def matching(series: Sequence[Series], matchers: Sequence[Matcher]) -> list[Series]:
    return asyncio.run(matching_in_turns(series, matchers, asyncio.Lock()))


def found(text: str) -> set[str]:
    selector = parse_selector(text)
    return {METRICS[each.number] for each in matching(EVERY, selector.matchers)}


FPS = {METRICS[number] for number in (0, 4, 5, 6)}
M = set(METRICS[7:])
CASES: dict[str, set[str]] = {
    "fps": FPS,
    "fps{}": FPS,
    " fps { } ": FPS,
    '{__name__="fps"}': FPS,
    '{"fps"}': FPS,
    '{"a b/c"}': {"a b/c"},
    '{"größe"}': {"größe"},
    'fps{lens="wide"}': {METRICS[4], METRICS[5]},
    'fps{lens="wide",codec="h264"}': {METRICS[5]},
    'fps{lens="wide",codec=""}': {METRICS[4]},
    'fps{lens=""}': {"fps"},
    'fps{lens!=""}': FPS - {"fps"},
    'fps{lens!="wide"}': {"fps", METRICS[6]},
    'fps{lens=~"wide|tele"}': FPS - {"fps"},
    'fps{lens=~"wide|"}': {"fps", METRICS[4], METRICS[5]},
    'fps{lens=~"wid"}': set(),
    'fps{lens=~"ide"}': set(),
    'fps{lens=~".*id.*"}': {METRICS[4], METRICS[5]},
    'fps{lens!~"w.*"}': {"fps", METRICS[6]},
    'fps{lens=~"(?i)WIDE"}': {METRICS[4], METRICS[5]},
    'fps{lens=~"w(?i:IDE)"}': {METRICS[4], METRICS[5]},
    'fps{lens=~".*((?i)IDE)"}': {METRICS[4], METRICS[5]},
    'fps{lens=~"^wide$"}': {METRICS[4], METRICS[5]},
    'fps{lens=~"w|wide"}': {METRICS[4], METRICS[5]},
    "fps{lens='wide',}": {METRICS[4], METRICS[5]},
    "fps{lens=`wide`}": {METRICS[4], METRICS[5]},
    'fps{lens="wide",lens="tele"}': set(),
    'fps{nothing=""}': FPS,
    'fps{nothing=~".*"}': FPS,
    'fps{nothing=~".+"}': set(),
    'fps{nothing!~".+"}': FPS,
    'fps{source="gw-0"}': {METRICS[0], METRICS[6]},
    'fps{source!="gw-0"}': {METRICS[4], METRICS[5]},
    'fps{source=~"gw-[12]"}': {METRICS[4], METRICS[5]},
    'fps{source=""}': set(),
    '{__name__=~"fps.*"}': {*FPS, "fps_total"},
    '{__name__=~"fps"}': FPS,
    '{__name__=~"fp"}': set(),
    '{__name__!~"fps|m",__name__!=""}': {"fps_total", "a b/c", "größe"},
    '{__name__!="m",__name__!=""}': set(METRICS) - M,
    '{__name__=~"gr..e"}': {"größe"},
    r'm{path="C:\\DIR\n\"x\""}': {METRICS[7]},
    r'm{path=~"C:\\\\DIR.\"x\""}': {METRICS[7]},
    r"m{path=`a{b=},c`}": {METRICS[8]},
    'm{path="a{b=},c"}': {METRICS[8]},
    'm{"ünï.x"="ö"}': {METRICS[9]},
    'm{"ünï.x"=~"."}': {METRICS[9]},
    'm{path=~"one.two"}': {METRICS[10]},
    'm{path=~"one.*"}': {METRICS[10]},
    'm{path=~"one$.*"}': set(),
    'm{path=~"(?m)one$.*"}': {METRICS[10]},
    'm{path=~"(?-s)one.two"}': set(),
    'm{empty=""}': M,
    '{lens!~"|tele"}': {METRICS[4], METRICS[5]},
    "fps{lens=~`w.*`,lens=~'.*e',codec!~\"x\"}": {METRICS[4], METRICS[5]},
    r'm{path="a{b=},c",path=~"a\x7bb=\\}.*",path!="=~\"x\""}': {METRICS[8]},
    "fps{" + 'lens=~"wide",' * 10 + "}": {METRICS[4], METRICS[5]},
}


def test_a_label_that_is_named_as_the_source_is_has_another_name() -> None:
    series = [Series(n, f"gw-{n}", labelled("up", {"source": f"of-{n}"})) for n in range(3)]
    for text, wanted in (
        ('up{exported_source="of-1"}', [1]),
        ('up{source=~"gw-[12]"}', [1, 2]),
        ('up{source="of-1"}', []),
    ):
        assert [each.number for each in matching(series, parse_selector(text).matchers)] == wanted


REFUSED = [
    "",
    "{}",
    "{",
    "fps}",
    "1",
    "1 + 1",
    "fps + fps",
    "rate(fps[5m])",
    "fps[5m]",
    "fps offset 5m",
    "fps @ 5",
    "-fps",
    "(fps)",
    '"fps"',
    "fps{lens}",
    'fps{lens="}',
    'fps{lens=="x"}',
    'fps{=~"x"}',
    'fps{lens="a" or lens="b"}',
    'fps{__name__="m"}',
    '{lens=~".*"}',
    '{lens!="x"}',
    '{__name__!="m"}',
    'fps{lens=~"("}',
    'fps{lens=~"a)(b"}',
    'fps{lens=~"a)|(?:b"}',
    'fps{lens=~"*"}',
    'fps{lens=~"(?=x)"}',
    r'fps{lens=~"(a)\\1"}',
    'fps{lens=~"a{2000}"}',
    "fps{lens=" + '"' + "x" * 5000 + '"}',
    "{" * 2000,
    "fps{" + "(" * 4000 + "}",
    "fps{} + " + "(" * 1900 + "fps{}" + ")" * 1900 + " + fps{}",
    'fps{lens="wide"} # {}',
    r'fps{lens="\x00"}',
    r'fps{lens!="\u0000",codec=~"x"}',
    r'fps{lens="\x000",codec=~"x"}',
    r'fps{lens=~"\q"}',
    '{lens!~"x",codec=~"x*"}',
    'fps{codec=~"x"' + ',lens=~"x"' * 10 + "}",
    'fps{lens=~"(.?){1000}"}',
    r'fps{lens=~"\\pL{1000}"}',
]
SLOW = [
    "(.?){1000}",
    ".{1,1000}",
    r"\\pL{1000}",
    r"(?:\\pL?){999}",
    "[^x]{1,1000}",
    "(?i)[a-zà-ÿ]{999}",
    "(a+)+",
    "(.*a)",
]
"""What some parser or compiler takes seconds for, once or many times over."""


@pytest.mark.parametrize("text", CASES)
def test_a_selector_means_what_it_means_to_prometheus(text: str) -> None:
    assert found(text) == CASES[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_selector(text)
    assert caught.value.kind == "bad-parameter"
    assert caught.value.more == {"parameter": "match"}


def test_what_is_fixed_is_looked_up() -> None:
    for text, name, source in (
        ('fps{source="gw-0"}', "fps", "gw-0"),
        ('{__name__="a b",source=~"x"}', "a b", None),
        ('{"a b"}', "a b", None),
        ('{__name__=~"x",source="gw-1"}', None, "gw-1"),
        ('fps{source=""}', "fps", None),
    ):
        selector = parse_selector(text)
        assert (selector.name, selector.source) == (name, source)


@given(st.sampled_from(["=", "!="]), st.text(), st.text())
def test_a_value_is_compared_as_it_is(op: str, value: str, other: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    try:
        selector = parse_selector(f'm{{x{op}"{escaped}"}}')
    except ProblemError:
        assert "\0" in value or not value.isprintable()
        return
    for one in (value, other):
        there = bool(matching([Series(1, "s", labelled("m", {"x": one}))], selector.matchers))
        assert there == ((one == value) == (op == "="))


@given(st.text("ab|.*?+()[]^\n\\", max_size=12), st.text("ab\n", max_size=6))
def test_a_pattern_has_to_match_all_of_a_value(pattern: str, value: str) -> None:
    text = pattern.replace("\\", "\\\\").replace("\n", "\\n")
    try:
        selector = parse_selector(f'm{{x=~"{text}"}}')
    except ProblemError:
        return
    try:
        wanted = re.compile(pattern, re.DOTALL).fullmatch(value) is not None
    except (re.error, RecursionError):
        return
    if any(part in pattern for part in ("\\", "++", "*+", "?+", "[", "^")):
        return  # of these Python makes something else
    series = [Series(1, "s", labelled("m", {"x": value}))]
    assert bool(matching(series, selector.matchers)) == wanted


def test_no_pattern_takes_long() -> None:
    many = [Series(number, "s", labelled("m", {"x": "a" * 200 + str(number)})) for number in range(500)]
    began = time.process_time()
    for pattern in ("(a+)+$", "(a|aa)+$", "(.*)*(.*)*(.*)*x", "(a?){200}a{200}", "(?:a?b?){400}c"):
        matching(many, parse_selector(f'm{{x=~"{pattern}"}}').matchers)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("pattern", SLOW)
def test_nothing_is_read_for_long(pattern: str) -> None:
    """Nor compiled, which other requests wait for."""
    parts = [f'm{{x=~"{pattern * times}"}}' for times in (1, 3, 10, 40, 4000 // len(pattern))]
    parts.append("m{" + ",".join(f'x=~"{pattern}{number}"' for number in range(4000 // (len(pattern) + 10))) + "}")
    parts.append("m{" + ",".join(f'x=~"{pattern}{number}"' for number in range(10)) + "}")
    for text in parts:
        began = time.process_time()
        with contextlib.suppress(ProblemError):
            parse_selector(text)
        assert time.process_time() - began < 0.15, text[:100]


def test_no_value_is_looked_at_for_long() -> None:
    for pattern in [each * times for each in SLOW for times in (1, 2, 5, 30, 100)]:
        with contextlib.suppress(ProblemError):
            matchers = parse_selector(f'm{{x=~"{pattern}"}}').matchers
            for value in ("a" * 1000, "ab" * 500, "é" * 500):
                began = time.process_time()
                matching([Series(1, "s", labelled("m", {"x": value}))], matchers)
                assert time.process_time() - began < 0.2, pattern[:100]


def test_what_takes_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemark.query.selectors._SLICE_S", 0.0)
    assert found('fps{lens="wide"}')
    monkeypatch.setattr("tidemark.query.selectors._LONGEST_S", 0.0)
    with pytest.raises(ProblemError, match="too long"):
        found('fps{lens="wide"}')
